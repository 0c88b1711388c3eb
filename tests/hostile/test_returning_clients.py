"""Clients that come back, with any cursor and whatever they are told: none is lost, none comes for ever."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.e2e.raw import Block, RawStream
from tests.e2e.scene import Scene, path_of, stage
from tests.e2e.test_websocket import connected
from tests.harness import answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

NOT_FOUND = answer({"error": {"code": "task_not_found", "message": "no such task"}}, status=404)
DAY = "86400000"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


async def finished(scene: Scene) -> str:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    assert (await scene.get(path_of(ref))).status == 200
    return ref


async def missing(scene: Scene) -> str:
    return await scene.script("qingbo", scene.id("nobody"), NOT_FOUND)


def many(*refs: str) -> str:
    return "/v1/events?" + "&".join(f"task={ref}" for ref in refs)


def last_id(stream: RawStream) -> str:
    return [block.id for block in stream.blocks if block.id][-1] or ""


def told(blocks: list[Block]) -> list[str]:
    return [block.data["task"] for block in blocks if block.event is None]


async def told_again(scene: Scene, path: str, cursor: str, **more: Any) -> list[str]:
    async with scene.stream(path, headers={"Last-Event-ID": cursor}, **more) as stream:
        assert stream.status == 200
        blocks = await stream.rest()
        assert "reset" not in [block.event for block in blocks]
        return told(blocks)


async def test_an_id_of_many_tasks_carries_the_mark_of_their_set(scene: Scene) -> None:
    one, two = await finished(scene), await finished(scene)
    ids = set()
    for path in (many(one, two), many(two, one, two)):
        async with scene.stream(path) as stream:
            blocks = await stream.rest()
        ids.add(last_id(stream).partition(".")[2])
        assert all("." not in block.data["cursor"] for block in blocks if block.event is None)
        assert blocks[-1].fields["retry"] == DAY
    assert [len(mark) for mark in ids] == [8]
    async with scene.stream(many(one)) as stream:
        await stream.rest()
    assert "." not in last_id(stream)


async def test_a_cursor_of_another_list_gets_every_task_on_every_delivery(scene: Scene) -> None:
    old, other = await finished(scene), await finished(scene)
    async with scene.events(other) as stream:
        await stream.rest()
        single = last_id(stream)
    async with scene.stream(many(old, other)) as stream:
        await stream.rest()
        marked = last_id(stream)
    third = await finished(scene)
    refs = sorted([old, other, third])
    for cursor in (single, marked):
        assert sorted(await told_again(scene, many(*refs), cursor)) == refs
        body = orjson.dumps({"tasks": refs})
        assert sorted(await told_again(scene, "/v1/events", cursor, method="POST", body=body)) == refs
        lines = {"Accept": "application/x-ndjson", "Last-Event-ID": cursor}
        async with scene.stream(many(*refs), headers=lines) as stream:
            documents = [orjson.loads(line) for line in (await stream.body()).splitlines()]
        assert sorted(one["task"] for one in documents if "event" not in one) == refs
        async with connected(scene) as client:
            await client.say(type="subscribe", id=1, tasks=refs, after=cursor)
            heard = [await client.hear_type("state") for _ in refs]
        assert sorted(one["state"]["task"] for one in heard) == refs
    assert await told_again(scene, f"{path_of(old)}/events", marked) == [old]


async def test_who_has_seen_everything_or_asks_for_what_is_missing_is_told_to_stop(scene: Scene) -> None:
    ref, nobody, no_one = await finished(scene), await missing(scene), await missing(scene)
    async with scene.stream(many(ref, nobody)) as stream:
        blocks = await stream.rest()
        cursor = last_id(stream)
    assert (blocks[-1].event, blocks[-1].fields["retry"]) == ("end", DAY)
    looks = scene.ledger.of("qingbo", nobody.partition("/")[2])
    async with scene.stream(many(ref, nobody), headers={"Last-Event-ID": cursor}) as stream:
        assert stream.status == 204
    # without the cursor the end is told again, and the provider is not asked again
    async with scene.stream(many(nobody, ref)) as stream:
        assert [block.event for block in await stream.rest()][-1] == "end"
    assert scene.ledger.of("qingbo", nobody.partition("/")[2]) == looks
    # none exists: 404 to who comes first, 204 to who comes back with any cursor
    assert (await scene.get(many(nobody, no_one))).status == 404
    for path in (many(nobody, no_one), f"{path_of(nobody)}/events"):
        for token in (cursor, "other-7", "other-7.abcdefgh", "garbage"):
            async with scene.stream(path, headers={"Last-Event-ID": token}) as stream:
                assert stream.status == 204
        assert (await scene.get(path)).status == 404
    assert scene.ledger.of("qingbo", nobody.partition("/")[2]) == looks


async def test_a_cursor_of_the_future_is_answered_as_a_foreign_one(scene: Scene) -> None:
    ref = await finished(scene)
    async with scene.events(ref) as stream:
        epoch = (await stream.state())["cursor"].partition("-")[0]
    answers = []
    for token in (f"{epoch}-999999", "other-1", f"{epoch}-999999.abcdefgh"):
        async with scene.events(ref, headers={"Last-Event-ID": token}) as stream:
            blocks = await stream.rest()
        answers.append([(block.event, block.fields["data"]) for block in blocks])
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0][0] == "reset"


async def test_after_unsubscribed_a_socket_hears_nothing_of_that_subscribe(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, NOT_FOUND)
    async with connected(scene) as client:
        for number, kind in enumerate(["subscribe", "unsubscribe", "subscribe", "subscribe"], start=1):
            await client.say(type=kind, id=number, tasks=[ref])
        heard = []
        while not heard or heard[-1]["type"] != "error":
            heard.append(await client.hear())
        await client.say(type="ping", id=9)
        heard.append(await client.hear())
    assert [(one["type"], one["id"]) for one in heard] == [
        ("subscribed", 1),
        ("unsubscribed", 2),
        ("subscribed", 3),
        ("subscribed", 4),
        ("error", 4),
        ("pong", 9),
    ]


async def test_a_socket_hears_the_end_again_whatever_its_cursor(scene: Scene) -> None:
    ref = await finished(scene)
    async with connected(scene) as client:
        await client.say(type="subscribe", id=1, tasks=[ref])
        cursor = (await client.hear_type("done"))["cursor"]
        await client.say(type="subscribe", id=2, tasks=[ref], after=cursor)
        assert (await client.hear())["id"] == 2
        assert [(await client.hear())["type"] for _ in range(2)] == ["state", "done"]


# `qingbo` is what a running task is made of
async def test_a_state_cut_off_before_its_id_comes_again(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with scene.events(ref) as stream:
        first = await stream.block()
        await scene.then("qingbo", task, qingbo_done(task))
        await stream.rest()
    assert first is not None
    for block in stream.blocks[:-1]:
        lines = block.raw.split(b"\n")
        assert [line.partition(b":")[0] for line in lines][-2:] == [b"data", b"id"]
    async with scene.events(ref, headers={"Last-Event-ID": first.id or ""}) as stream:
        assert told(await stream.rest()) == [ref]
