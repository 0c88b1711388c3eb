"""`watch({ tag })` and `watch({ group })` in Node: tasks that nobody named appear, and a group ends."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
import pytest

from tests.contract.clients.helper_js import helper
from tests.contract.clients.test_bridge_js_bytes import answer, event, state
from tests.fakes.fronts import BAD_GATEWAY, STREAM_HEAD, scripted

pytestmark = pytest.mark.anyio

A, B = "qingbo/a", "qingbo/b"
NOTHING_MORE = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
GROUP_DONE = event(
    b'{"group":"g","counts":{"completed":1,"failed":1}}', name="group_done", cursor="e-9.abcdefgh"
)


@pytest.fixture
async def anyio_backend() -> str:
    return "asyncio"


def shown(task: str, place: int, status: str = "processing") -> bytes:
    """A state as on a stream of many tasks: its id has the mark of the selection."""
    return event(state(place, status, task=task), cursor=f"e-{place}.abcdefgh")


def done(task: str, place: int, status: str = "completed") -> bytes:
    return event(orjson.dumps({"task": task, "status": status}), name="done", cursor=f"e-{place}.abcdefgh")


def end(tasks: int) -> bytes:
    return event(b'{"tasks":%d}' % tasks, name="end")


def following(url: str, selection: dict[str, str], *, mode: str = "watch", **options: Any) -> Any:
    """The helper, which is given a tag or group and the address of the bridge."""
    return helper("", mode=mode, plan={"url": selection, "options": options | {"url": url}})


@pytest.mark.parametrize(
    ("selection", "query"), [({"tag": "user:7"}, "tag=user%3A7"), ({"group": "batch-1"}, "group=batch-1")]
)
@pytest.mark.parametrize("path", ["", "/", "/bridge/"])
async def test_a_tag_or_group_is_an_address_of_the_bridge(
    selection: dict[str, str], query: str, path: str
) -> None:
    async with (
        scripted([STREAM_HEAD, shown(A, 1), GROUP_DONE, end(1)]) as server,
        following(server.url + path, selection) as told,
    ):
        await told.to_the_end()
    head = server.heads[0].partition(b"\r\n")[0].decode()
    assert head == f"GET {path.rstrip('/')}/v1/events?{query} HTTP/1.1"


async def test_a_group_ends_with_group_done_and_not_with_the_tasks_seen_so_far() -> None:
    states = [shown(A, 1), shown(A, 2, "completed"), done(A, 2), shown(B, 3, "failed"), done(B, 3, "failed")]
    async with (
        scripted([STREAM_HEAD, *states, GROUP_DONE, b""]) as server,  # it ends without waiting for `end`
        following(server.url, {"group": "g"}) as told,
    ):
        newest = await told.to_the_end()
    assert [(one["task"], one["status"]) for one in newest] == [(A, "completed"), (B, "failed")]
    assert [one["task"] for one in told.of("done")] == [A, B]
    assert told.notices == ["connected", "group_done"]
    assert told.of("notice")[-1] == {
        "code": "group_done",
        "task": None,
        "retriable": True,
        "message": None,
        "group": "g",
        "counts": {"completed": 1, "failed": 1},
    }


async def test_a_tag_goes_on_where_it_was_and_shows_what_came_meanwhile() -> None:
    first = [STREAM_HEAD, b": ok\n", shown(A, 1), shown(A, 2, "completed"), done(A, 2)]
    second = [STREAM_HEAD, shown(A, 1), shown(B, 3), b""]
    async with (
        scripted(first, [BAD_GATEWAY], second) as server,
        following(server.url, {"tag": "t"}) as told,
    ):
        await told.until_state("processing", 3)
        told.say(do="close")
        newest = await told.to_the_end()
    # What is final stays so, even if an older state of it is repeated.
    assert [(one["task"], one["status"]) for one in newest] == [(A, "completed"), (B, "processing")]
    assert told.shown == [("processing", 1), ("completed", 2), ("processing", 3)]
    assert b"last-event-id: e-2.abcdefgh\r\n" in server.heads[2].lower()


async def test_a_group_that_is_over_is_not_asked_for_again() -> None:
    cut = [STREAM_HEAD, shown(A, 2, "completed"), done(A, 2)]  # before `group_done`
    async with scripted(cut, [NOTHING_MORE]) as server:
        async with following(server.url, {"group": "g"}) as told:
            newest = await told.to_the_end()
        assert len(server.heads) == 2
    assert [one["status"] for one in newest] == ["completed"]


async def test_a_tag_without_tasks_is_no_buffering_proxy() -> None:
    async with (
        scripted([STREAM_HEAD, b": ok\n", b""]) as server,
        following(server.url, {"tag": "t"}) as told,
    ):
        await told.until_told("notice")
        assert told.notices == ["connected"]
        told.say(do="close")
        assert await told.to_the_end() == []
        assert len(server.heads) == 1


async def test_a_new_ticket_is_asked_for_and_the_place_is_kept() -> None:
    expired = event(
        b'{"code":"closing","task":null,"retriable":true,"message":"","reason":"expired"}', name="notice"
    )
    first = [STREAM_HEAD, shown(A, 1), expired]
    refused = [answer("401 Unauthorized", {"code": "unauthenticated", "detail": "expired", "status": 401})]
    third = [STREAM_HEAD, shown(B, 2), GROUP_DONE]
    async with scripted(first, refused, third) as server, helper("ask") as told:
        for number in (1, 2, 3):
            await told.until_told("url", number)
            told.say(given=f"{server.url}/v1/events?tag={quote('user:7')}&ticket=t{number}")
        await told.to_the_end()
    assert told.of("url") == [False, False, True]
    assert [b"ticket=t%d" % number in head for number, head in enumerate(server.heads, 1)] == [True] * 3
    assert b"last-event-id: e-1.abcdefgh\r\n" in server.heads[2].lower()
    assert told.shown == [("processing", 1), ("processing", 2)]


async def test_what_is_rejected_is_one_error() -> None:
    refused = answer("403 Forbidden", {"code": "forbidden", "detail": "not for you", "status": 403})
    async with scripted([refused]) as server, following(server.url, {"tag": "t"}) as told:
        failure = await told.to_the_end("failed")
    assert (failure["name"], failure["code"], failure["message"]) == (
        "BridgeError",
        "forbidden",
        "not for you",
    )


@pytest.mark.parametrize("mode", ["loop", "states"])
async def test_a_loop_yields_each_task_that_appears_and_ends_with_the_group(mode: str) -> None:
    states = [shown(f"qingbo/{number}", number, "completed") for number in range(500)]
    async with (
        scripted([STREAM_HEAD, *states, GROUP_DONE, end(500)]) as server,
        following(server.url, {"group": "g"}, mode=mode) as told,
    ):
        await told.to_the_end()
    assert [one["task"] for one in told.of("state")] == [f"qingbo/{number}" for number in range(500)]


async def test_only_the_newest_ten_thousand_tasks_are_kept() -> None:
    states = b"".join(shown(f"qingbo/{number}", number, "completed") for number in range(10_003))
    async with (
        scripted([STREAM_HEAD, states, GROUP_DONE]) as server,
        following(server.url, {"group": "g"}) as told,
    ):
        newest = await told.to_the_end()
    assert (len(newest), newest[0]["task"], newest[-1]["task"]) == (10_000, "qingbo/3", "qingbo/10002")
    assert len(told.of("done")) == 10_003
