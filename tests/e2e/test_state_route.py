"""`GET /v1/tasks/...`: the state now, or as soon as it differs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from tests.e2e.scene import Scene, path_of, stage
from tests.harness import qingbo, qingbo_done

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(first_state_timeout_seconds=0.4) as made:
        yield made


async def test_the_etag_is_the_cursor_and_a_known_one_is_304_without_a_body(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 3))
    first = await scene.get(path_of(ref))
    assert (first.status, first.headers["Content-Type"]) == (200, "application/json")
    assert first.headers["ETag"] == f'"{first.json["cursor"]}"'
    for known in (
        first.headers["ETag"],
        f"W/{first.headers['ETag']}",
        f'"x-1", {first.headers["ETag"]}',
        "*",
    ):
        again = await scene.get(path_of(ref), If_None_Match=known)
        assert (again.status, again.body) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
    assert (await scene.get(path_of(ref), If_None_Match='"other-1"')).status == 200
    assert (await scene.get(path_of(ref), If_None_Match="garbage")).status == 200


async def test_a_wait_answers_as_soon_as_the_state_differs(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 3))
    first = await scene.get(path_of(ref))
    waiting = asyncio.ensure_future(
        scene.get(path_of(ref), If_None_Match=first.headers["ETag"], Prefer="wait=25")
    )
    await scene.reaches('bridge_connections{delivery="longpoll"}', 1)
    assert not waiting.done()
    await scene.then("qingbo", task, qingbo(task, "processing", 4))
    later = await waiting
    assert (later.status, later.json["progress"]) == (200, 4)
    assert later.headers["ETag"] != first.headers["ETag"]
    assert later.headers["Preference-Applied"] == "wait=25"
    await scene.reaches('bridge_connections{delivery="longpoll"}', 0)


async def test_a_wait_that_sees_no_change_is_304_and_says_that_it_waited(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 3))
    first = await scene.get(path_of(ref))
    loop = asyncio.get_running_loop()
    began = loop.time()
    later = await scene.get(path_of(ref), If_None_Match=first.headers["ETag"], Prefer="wait=1")
    assert loop.time() - began >= 1.0
    assert (later.status, later.body) == (304, b"")
    assert later.headers["Preference-Applied"] == "wait=1"


async def test_a_wait_longer_than_a_minute_is_cut_to_one(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 3))
    assert (await scene.get(path_of(ref), Prefer="wait=3600")).headers["Preference-Applied"] == "wait=60"


async def test_a_wait_on_a_finished_task_answers_at_once(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    first = await scene.get(path_of(ref))
    later = await scene.get(path_of(ref), If_None_Match=first.headers["ETag"], Prefer="wait=60")
    assert later.status == 304


async def test_a_cold_task_reads_unknown_and_its_etag_can_be_waited_on(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 3) | {"delay": 1})
    first = await scene.get(path_of(ref))
    assert (first.status, first.json["status"]) == (200, "unknown")
    waiting = asyncio.ensure_future(
        scene.get(path_of(ref), If_None_Match=first.headers["ETag"], Prefer="wait=30")
    )
    await scene.reaches('bridge_connections{delivery="longpoll"}', 1)
    scene.advance(1)
    assert (await waiting).json["progress"] == 3


async def test_observed_at_moves_while_the_state_stays(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 3))
    async with scene.events(ref) as stream:
        first = await stream.state()
        await scene.ledger.reach("qingbo", task, scene.ledger.of("qingbo", task) + 3)
        later = (await scene.get(path_of(ref))).json
    assert later["cursor"] == first["cursor"]
    assert later["changed_at"] == first["changed_at"]
    assert later["observed_at"] > first["observed_at"]


IDS = [
    "operations/veo 3/abc",
    "100%",
    "\u4efb\u52a1-\u00fc",
    "a?b#c&d=e",
    "a..b/..c/d",
    "+ +",
    "x" * 1024,
]


@pytest.mark.parametrize("task", IDS)
async def test_an_id_of_any_characters_is_one_task_on_every_route(scene: Scene, task: str) -> None:
    await scene.script("qingbo", task, qingbo(task, "processing", 3))
    ref = f"qingbo/{task}"
    reply = await scene.get(path_of(ref))
    assert (reply.status, reply.json["task"], reply.json["task_id"]) == (200, ref, task)
    async with scene.events(ref) as stream:
        assert (await stream.state())["task"] == ref
    async with scene.stream(f"/v1/events?task={quote(ref, safe='')}") as stream:
        assert (await stream.state())["task"] == ref
    assert scene.ledger.of("qingbo", task) >= 1


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tasks/qingbo/" + "x" * 1025,
        "/v1/tasks/qingbo/a%00b",
        "/v1/tasks/qingbo/%FF",
        "/v1/tasks/qingbo/a%0Ab",
        "/v1/tasks/qingbo/a%2F..%2Fc",
        "/v1/tasks/qingbo/a%252F..%252Fc",
        "/v1/tasks/qingbo/a%5Cb",
    ],
)
async def test_an_id_that_is_none_is_400(scene: Scene, path: str) -> None:
    reply = await scene.get(path)
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")
    assert (await scene.get(f"{path}/events")).status == 400
