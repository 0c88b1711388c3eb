"""`/bridge.js` with any bytes that a bridge, or a server in its place, may send."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import orjson
import pytest

from tests.contract.clients.helper_js import Helper, helper
from tests.fakes.fronts import BAD_GATEWAY, STREAM_HEAD, scripted

pytestmark = pytest.mark.anyio

REF = "qingbo/a"
PATH = "/v1/tasks/qingbo/a/events"
MANY = "/v1/events?task=qingbo/a&task=qingbo/b"


@pytest.fixture
async def anyio_backend() -> str:
    return "asyncio"


def state(place: int, status: str = "processing", *, epoch: str = "e", task: str = REF, **more: Any) -> bytes:
    """A state document on one line."""
    fields = {"task": task, "status": status, "progress": place, "cursor": f"{epoch}-{place}"} | more
    return orjson.dumps(fields)


def event(data: bytes, *, cursor: str = "", name: str = "") -> bytes:
    """An event as the bridge frames it."""
    head = (f"id: {cursor}\n" if cursor else "") + (f"event: {name}\n" if name else "")
    return head.encode() + b"data: " + data + b"\n\n"


def told_states(*places: int, end: bool = True) -> bytes:
    """States one after the other, and the end."""
    events = [event(state(place), cursor=f"e-{place}") for place in places]
    if end:
        events += [event(state(99, "completed"), cursor="e-99"), event(b'{"tasks":1}', name="end")]
    return b"".join(events)


def answer(status: str, body: Any, **headers: str) -> bytes:
    """A whole answer in JSON."""
    text = orjson.dumps(body)
    named = {"Content-Type": "application/problem+json", "Content-Length": str(len(text))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = [
        f"HTTP/1.1 {status}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in named.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text


def in_pieces(pieces: Sequence[bytes]) -> AbstractAsyncContextManager[Helper]:
    """The helper on a stream that comes in exactly these."""
    return helper(
        "http://bridge.example" + PATH, plan={"pieces": [b64encode(one).decode() for one in pieces]}
    )


SPOKEN = b": ok\n" + told_states(1, 2)
ODD = event(
    orjson.dumps(
        {
            "task": REF,
            "status": "processing",
            "progress": 5,
            "cursor": "e-5",
            "model": "ü\u2028\u2029\x85 data: x",
        }
    ),
    cursor="e-5",
)
SHAPES = {
    "as the bridge says it": [SPOKEN],
    "byte for byte": [bytes([one]) for one in SPOKEN],
    "with CRLF": [SPOKEN.replace(b"\n", b"\r\n")],
    "with CRLF, byte for byte": [bytes([one]) for one in SPOKEN.replace(b"\n", b"\r\n")],
    "with CR": [SPOKEN.replace(b"\n", b"\r") + b":"],
    "with a BOM": [b"\xef\xbb\xbf" + SPOKEN.removeprefix(b": ok\n")],
    "with comments everywhere": [
        SPOKEN.replace(b"\n", b"\n:\n: a comment\n").replace(b"a comment\n\n", b"a comment\n\n:\n")
    ],
    "without spaces": [SPOKEN.replace(b": ", b":")],
    "with data on many lines": [SPOKEN.replace(b',"', b'\ndata: ,"')],
    "with fields and events of a later version": [
        event(b'{"a":1}', name="news")
        + b"__proto__: x\nconstructor\nfuture: 1\n"
        + SPOKEN
        + event(b"1", name="x")
    ],
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_same_is_heard_however_it_is_framed(shape: str) -> None:
    async with in_pieces(SHAPES[shape]) as told:
        await told.to_the_end()
    assert told.shown == [("processing", 1), ("processing", 2), ("completed", 99)]
    assert told.notices == ["connected"]


async def test_letters_split_anywhere_are_whole() -> None:
    spoken = ODD + told_states()
    async with in_pieces([bytes([one]) for one in spoken]) as told:
        await told.to_the_end()
    assert told.of("state")[0]["model"] == "ü\u2028\u2029\x85 data: x"


async def test_an_event_cut_off_is_not_heard_and_not_resumed_from() -> None:
    half = event(state(2), cursor="e-2").rstrip(b"\n") + b"\n"
    async with scripted(
        [STREAM_HEAD, told_states(1, end=False), half], [STREAM_HEAD, told_states(2)]
    ) as server:
        async with helper(server.url + PATH) as told:
            await told.to_the_end()
        assert b"Last-Event-ID: e-1\r\n" in server.heads[1]
    assert told.shown == [("processing", 1), ("processing", 2), ("completed", 99)]


async def test_nothing_is_told_twice_nothing_goes_back_and_an_end_is_an_end() -> None:
    spoken = [
        told_states(3, 3, 2, 4, end=False),
        event(b'{"reason":"new_epoch"}', name="reset"),
        event(state(1, "queued", epoch="f"), cursor="f-1"),
        event(state(2, "lost", epoch="f"), cursor="f-2"),
        event(state(3, "processing", epoch="f"), cursor="f-3"),
        event(state(4, "completed", epoch="f"), cursor="f-4"),
        event(state(5, "failed", epoch="f"), cursor="f-5"),
        event(b'{"task":"qingbo/a","status":"completed"}', cursor="f-5", name="done"),
    ]
    async with scripted([STREAM_HEAD, *spoken, b""]) as server, helper(server.url + PATH) as told:
        await told.to_the_end()
    assert told.shown == [
        ("processing", 3),
        ("processing", 4),
        ("queued", 1),
        ("lost", 2),
        ("completed", 4),
    ]
    assert [one["status"] for one in told.of("done")] == ["lost", "completed"]
    assert told.notices == ["connected", "reset"]


async def test_places_are_compared_as_numbers() -> None:
    spoken = b"".join(event(state(place), cursor=f"e-{place}") for place in (9, 10, 8)) + told_states()
    async with scripted([STREAM_HEAD, spoken]) as server, helper(server.url + PATH) as told:
        await told.to_the_end()
    assert [progress for _, progress in told.shown] == [9, 10, 99]


@pytest.mark.parametrize(
    "rubbish",
    [
        b"data: {not json\n\n",
        b"data: null\n\n",
        b"data: " + b"x" * (9 << 20) + b"\n\n",
        b"".join(b"data: " + b"x" * (1 << 16) + b"\n" for _ in range(140)),
    ],
    ids=["no JSON", "no object", "a huge line", "a huge event"],
)
async def test_rubbish_costs_a_connection_and_not_the_watch(rubbish: bytes) -> None:
    first = [STREAM_HEAD, told_states(1, end=False), rubbish, b""]
    async with scripted(first, [STREAM_HEAD, told_states(2)]) as server, helper(server.url + PATH) as told:
        await told.to_the_end()
    assert told.shown == [("processing", 1), ("processing", 2), ("completed", 99)]
    assert told.notices == ["connected", "reconnecting", "connected"]


async def test_an_id_that_no_header_could_carry_is_not_sent_back() -> None:
    first = [STREAM_HEAD, event(state(1), cursor="e-1"), event(state(2), cursor="e 2\x00ü")]
    async with scripted(first, [STREAM_HEAD, told_states()]) as server:
        async with helper(server.url + PATH) as told:
            await told.to_the_end()
        assert b"Last-Event-ID: e-1\r\n" in server.heads[1]


async def test_a_full_bridge_is_asked_again_when_it_says() -> None:
    full = {"code": "closing", "task": None, "retriable": True, "message": "full", "reason": "over_capacity"}
    notice = b"retry: 7000\n" + event(orjson.dumps(full), name="notice")
    async with (
        scripted([STREAM_HEAD, b": ok\n" + notice], [STREAM_HEAD, told_states()]) as server,
        helper(server.url + PATH) as told,
    ):
        await told.to_the_end()
    assert told.of("wait") == [7000]
    assert told.of("notice")[1]["reason"] == "over_capacity"


async def test_waits_grow_by_chance_up_to_half_a_minute_and_begin_again_after_an_event() -> None:
    failing = [[BAD_GATEWAY]] * 6
    async with (
        scripted(*failing, [STREAM_HEAD, told_states(1, end=False)], [STREAM_HEAD, told_states()]) as server,
        helper(server.url + PATH, plan={"random": 0.999999, "faster": 500}) as told,
    ):
        await told.to_the_end()
    waits = [round(wait, -2) for wait in told.of("wait")]
    assert waits == [1500, 4500, 13500, 30000, 30000, 30000, 1500]


async def test_who_asks_for_patience_gets_it_within_reason() -> None:
    busy = {"code": "too_many_requests", "detail": "slowly", "retriable": True}
    answers = [
        answer("429 Too Many Requests", busy, Retry_After=seconds) for seconds in ("20", "99999", "soon")
    ]
    async with (
        scripted(*([one] for one in answers), [STREAM_HEAD, told_states()]) as server,
        helper(server.url + PATH, plan={"faster": 2000}) as told,
    ):
        await told.to_the_end()
    assert told.of("wait") == [20_000, 300_000, 1000]
    assert [one["message"] for one in told.of("notice")][:1] == ["slowly"]


HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>"
NOT_FOUND_HTML = HTML.replace(b"200 OK", b"404 Not Found")


async def test_an_address_that_is_no_stream_is_an_error_at_once() -> None:
    for reply, status in ((HTML, None), (NOT_FOUND_HTML, 404)):
        async with scripted([reply]) as server, helper(server.url + PATH) as told:
            failure = await told.to_the_end("failed")
        assert (failure["ours"], failure.get("status"), len(server.heads)) == (True, status, 1)


async def test_once_it_worked_a_page_in_its_place_is_trouble_that_passes() -> None:
    async with (
        scripted(
            [STREAM_HEAD, told_states(1, end=False)], [HTML], [NOT_FOUND_HTML], [STREAM_HEAD, told_states()]
        ) as server,
        helper(server.url + PATH) as told,
    ):
        await told.to_the_end()
    assert len(told.of("wait")) == 3


async def test_a_refusal_by_the_provider_is_final_although_it_is_a_502() -> None:
    refused = answer(
        "502 Bad Gateway", {"code": "upstream_refused", "detail": "no such model", "retriable": False}
    )
    async with scripted([refused]) as server, helper(server.url + PATH) as told:
        failure = await told.to_the_end("failed")
    assert (failure["code"], failure["message"], failure["status"]) == (
        "upstream_refused",
        "no such model",
        502,
    )


async def test_a_busy_loop_skips_to_the_newest_and_never_an_end() -> None:
    first, *later = told_states(*range(1, 50)).split(b"\n\n")[:-2]  # without the end
    both = event(state(60, "failed", task="qingbo/b"), cursor="e-60") + event(b'{"tasks":2}', name="end")
    pieces = [first + b"\n\n", *(one + b"\n\n" for one in later), both]
    async with (
        scripted([STREAM_HEAD, *pieces]) as server,
        helper(server.url + MANY, mode="states", plan={"slow": 300}) as told,
    ):
        await told.to_the_end()
    assert told.shown[-2:] == [("completed", 99), ("failed", 60)]
    assert len(told.shown) < 20


async def test_an_error_comes_after_what_was_waiting() -> None:
    gone = answer("403 Forbidden", {"code": "forbidden", "detail": "no more", "retriable": False})
    spoken = told_states(1, 2).replace(event(b'{"tasks":1}', name="end"), b"")
    async with (
        scripted([STREAM_HEAD, spoken], [gone]) as server,
        helper(server.url + MANY, mode="states", plan={"slow": 300, "faster": 1000}) as told,
    ):
        failure = await told.to_the_end("failed")
    assert failure["code"] == "forbidden"
    assert told.shown[-1] == ("completed", 99)


async def test_an_address_of_ones_own_works_as_long_as_it_speaks_like_a_bridge() -> None:
    first = [STREAM_HEAD, event(state(1, "completed"), cursor="e-1")]
    second = [
        STREAM_HEAD,
        event(state(2, "failed", task="qingbo/b"), cursor="e-2"),
        event(b'{"tasks":2}', name="end"),
    ]
    async with scripted(first, second) as server, helper(server.url + "/api/renders/42/live") as told:
        newest = await told.to_the_end()
    assert len(newest) == 2


async def test_once_closed_it_says_nothing_of_what_came_along() -> None:
    async with (
        scripted([STREAM_HEAD, told_states(1, 2, 3)]) as server,
        helper(server.url + PATH, plan={"hasty": True}) as told,
    ):
        await told.to_the_end()
    assert told.shown == [("processing", 1)]
    assert told.of("done") == []
