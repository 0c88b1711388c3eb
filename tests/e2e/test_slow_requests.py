"""Clients that keep the bridge waiting for their request are hung up on; those it answers never are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.e2e.raw import connection
from tests.e2e.scene import Scene, path_of, stage
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

HEADER_SECONDS, BODY_SECONDS = 0.6, 0.8
HALF_A_BODY = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(
        request_header_timeout_seconds=HEADER_SECONDS, request_body_timeout_seconds=BODY_SECONDS
    ) as made:
        yield made
        assert "Traceback" not in "".join(made.bridge.log)


async def _said(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(PATIENCE):
        try:
            return await reader.read()
        except ConnectionError:  # what we still sent was thrown away
            return b""


def _is_408(said: bytes) -> bool:
    head, _, body = said.partition(b"\r\n\r\n")
    problem = orjson.loads(body)
    assert b"application/problem+json" in head
    assert (problem["status"], problem["code"]) == (408, "invalid_request")
    return head.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "sent",
    [b"G", b"GET /livez", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ", HALF_A_BODY],
    ids=["letter", "line", "headers", "body"],
)
async def test_half_a_request_gets_408(scene: Scene, sent: bytes) -> None:
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(sent)
        assert _is_408(await _said(reader))


async def test_a_connection_that_never_speaks_is_closed_without_a_word(scene: Scene) -> None:
    async with connection(scene.bridge.url) as (reader, _):
        assert await _said(reader) == b""


async def _drip(writer: asyncio.StreamWriter, data: bytes) -> None:
    for number in range(len(data)):
        writer.write(data[number : number + 1])
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("begin", [b"GET /livez HTTP/1.1\r\nX-Slow: ", HALF_A_BODY], ids=["head", "body"])
async def test_a_byte_now_and_then_buys_no_time(scene: Scene, begin: bytes) -> None:
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(begin)
        dripping = asyncio.ensure_future(_drip(writer, b"y" * 10_000))
        try:
            said = await _said(reader)
            assert said == b"" or _is_408(said)
        finally:
            dripping.cancel()


async def test_line_breaks_between_requests_buy_no_time(scene: Scene) -> None:
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b'{"status":"ok"}')).startswith(b"HTTP/1.1 200")
        writer.write(b"\r\n")
        assert await _said(reader) == b""


async def test_a_body_that_comes_slowly_and_steadily_is_read_to_its_end(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    body = orjson.dumps({"tasks": [ref], "padding": "y" * 20_000})
    head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(head.encode())
        parts = [body[at : at + 1000] for at in range(0, len(body), 1000)]
        for part in parts:  # in all over twice as long as the body may stall
            writer.write(part)
            await asyncio.sleep(3 * BODY_SECONDS / len(parts))
        said = await _said(reader)
    assert said.startswith(b"HTTP/1.1 200")
    assert b"event: end" in said


async def test_a_stream_is_never_touched_whatever_its_client_sends(scene: Scene) -> None:
    async def stays(owed: bytes) -> None:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
        async with scene.events(ref) as stream:
            await stream.state()
            stream.writer.write(owed)
            await asyncio.sleep(2 * max(HEADER_SECONDS, BODY_SECONDS))
            await scene.then("qingbo", task, qingbo_done(task))
            assert [block.event for block in await stream.rest()][-2:] == ["done", "end"], owed

    await asyncio.gather(*map(stays, (b"", b"GET /half", b"\r\n")))


async def test_a_stream_whose_request_announced_a_body_nobody_needs_is_not_touched(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with scene.stream(f"{path_of(ref)}/events", headers={"Content-Length": "5"}) as stream:
        await stream.state()
        await asyncio.sleep(2 * BODY_SECONDS)
        await scene.then("qingbo", task, qingbo_done(task))
        assert [block.event for block in await stream.rest()][-2:] == ["done", "end"]


async def test_a_longpoll_may_wait_longer_than_a_request_may_take(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    first = await scene.get(path_of(ref))
    wish = {"If-None-Match": first.headers["ETag"], "Prefer": "wait=2"}
    assert (await scene.call("GET", path_of(ref), headers=wish)).status == 304


async def test_heads_longer_than_allowed_are_400() -> None:
    async with stage(max_request_head_bytes=2048) as scene:
        async with scene.stream("/livez", headers={"X-Long": "y" * 1000}) as stream:
            assert stream.status == 200
        async with scene.stream("/livez", headers={f"X-{n}": "y" * 500 for n in range(6)}) as stream:
            assert stream.status == 400
        async with scene.stream("/livez?" + "y" * 3000) as stream:
            assert stream.status == 400


async def test_bodies_longer_than_allowed_are_413() -> None:
    async with stage(max_body_bytes=1024, max_submission_bytes=2048) as scene:
        long = await scene.call("POST", "/v1/events", json={"tasks": ["qingbo/x"], "padding": "y" * 2000})
        assert (long.status, long.json["code"]) == (413, "too_large")
        fits = await scene.call("POST", "/v1/tasks/qingbo", data=b"y" * 2000)
        assert fits.status != 413
        submit = await scene.call("POST", "/v1/tasks/qingbo", data=b"y" * 3000)
        assert submit.status == 413
