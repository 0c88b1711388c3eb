"""Clients that close their half of the connection, or leave: they are answered, and their place is free."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.e2e.raw import connection
from tests.e2e.scene import Scene, path_of, stage, until
from tests.harness import PATIENCE, qingbo
from tests.hostile.test_request_boundaries import exchange, statuses

pytestmark = pytest.mark.anyio

SOON = 1.0  # seconds until a place is free
SYNC = b'{"model":"m","prompt":"p"}'


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(linger_seconds=0) as made:
        yield made
        assert "Traceback" not in "".join(made.bridge.log)


async def _open(scene: Scene) -> bytes:
    """The path of a task that is in progress and has been polled."""
    task = scene.id()
    path = path_of(await scene.script("qingbo", task, qingbo(task, "processing", 5)))
    await scene.get(path)
    return path.encode()


def _get(path: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % path, b"Host: x", *fields, b"", b""])


@contextlib.asynccontextmanager
async def _following(
    scene: Scene, *fields: bytes
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection whose stream has sent its first state."""
    path = await _open(scene)
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(_get(path + b"/events", *fields))
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b'"progress":5')
        yield reader, writer


async def _places(scene: Scene) -> int:
    kinds = ("sse", "ndjson", "longpoll", "websocket")
    return int(sum([await scene.metric(f'bridge_connections{{delivery="{kind}"}}') for kind in kinds]))


async def _waiting(scene: Scene, path: bytes) -> bytes:
    """A long-poll that has nothing new to get."""
    tag = (await scene.get(path.decode())).headers["ETag"].encode()
    return _get(path, b"If-None-Match: " + tag, b"Prefer: wait=60")


async def test_a_document_is_sent_whole(scene: Scene) -> None:
    said = await exchange(scene.bridge.url, _get(await _open(scene)), half_close=True)
    assert statuses(said) == [200]
    assert orjson.loads(said.partition(b"\r\n\r\n")[2])["progress"] == 5


async def test_all_requests_that_were_sent_are_answered(scene: Scene) -> None:
    path = await _open(scene)
    said = await exchange(scene.bridge.url, _get(path) * 3 + _get(path + b"/events") * 2, half_close=True)
    assert statuses(said) == [200] * 5
    assert said.count(b": ok\n") == 2


async def test_half_a_request_is_not_answered(scene: Scene) -> None:
    assert await exchange(scene.bridge.url, _get(b"/livez")[:-3], half_close=True) == b""
    create = b"POST /v1/tasks/qingbo HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n{"
    before = sum(key[1] == "submit" for key in scene.ledger.times)
    assert await exchange(scene.bridge.url, create, half_close=True) == b""
    assert sum(key[1] == "submit" for key in scene.ledger.times) == before


@pytest.mark.parametrize("accept", [b"text/event-stream", b"application/x-ndjson"])
@pytest.mark.parametrize("later", [False, True], ids=["at-once", "later"])
async def test_a_stream_gets_what_is_known_and_its_end(scene: Scene, accept: bytes, later: bool) -> None:
    path = await _open(scene)
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(_get(path + b"/events", b"Accept: " + accept))
        said = b""
        async with asyncio.timeout(PATIENCE):
            if later:
                said = await reader.readuntil(b'"progress":5')
            writer.write_eof()
            async with asyncio.timeout(SOON):
                said += await reader.read()
    assert statuses(said) == [200]
    assert b'"progress":5' in said
    assert said.endswith(b"\r\n0\r\n\r\n")
    await until(lambda: _places(scene), 0)


async def test_a_stream_of_a_task_nobody_knew_gets_its_first_state(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 7))
    said = await exchange(scene.bridge.url, _get(path_of(ref).encode() + b"/events"), half_close=True)
    assert b'"progress":7' in said


@pytest.mark.parametrize(
    ("suffix", "field"),
    [(b"/events", b"Accept: */*"), (b"", b"Prefer: wait=60")],
    ids=["stream", "long-poll"],
)
async def test_a_provider_that_does_not_respond_holds_no_place_of_a_client_that_left(
    scene: Scene, suffix: bytes, field: bytes
) -> None:
    await scene.faults(qingbo=[{"name": "slow", "seconds": 3}])
    try:
        async with connection(scene.bridge.url) as (reader, writer):
            writer.write(_get(path_of(f"qingbo/{scene.id()}").encode() + suffix, field))
            writer.write_eof()
            async with asyncio.timeout(SOON):
                said = await reader.read()
    finally:
        await scene.faults(qingbo=[])
    assert statuses(said) == [200]
    assert b'"status":"unknown"' in said


@pytest.mark.parametrize("leaves", ["half", "whole", "reset"])
async def test_a_long_poll_frees_its_place_when_the_client_leaves(scene: Scene, leaves: str) -> None:
    wait = await _waiting(scene, await _open(scene))
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(wait)
        await until(lambda: _places(scene), 1)
        async with asyncio.timeout(SOON):
            if leaves == "half":
                writer.write_eof()
                assert statuses(await reader.read()) == [304]
            elif leaves == "whole":
                writer.close()
            else:
                writer.transport.abort()
            await until(lambda: _places(scene), 0)


async def test_a_sync_call_frees_its_connection_when_the_client_leaves(scene: Scene) -> None:
    head = b"POST /proxy/qingbo/v1/tasks/sync HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(SYNC)
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(head + SYNC)
        await asyncio.sleep(0.2)
        writer.write_eof()
        async with asyncio.timeout(SOON):
            said = await reader.read()
    assert statuses(said) == [200]
    assert b"poll_url" in said


async def test_requests_behind_an_open_stream_do_not_hide_that_its_client_left(scene: Scene) -> None:
    async with _following(scene) as (_, writer):
        writer.write(_get(b"/livez") * 100)
        await writer.drain()
        writer.transport.abort()
    async with asyncio.timeout(SOON):
        await until(lambda: _places(scene), 0)


async def test_a_client_that_sends_without_end_behind_a_stream_is_let_go(scene: Scene) -> None:
    async with _following(scene) as (reader, writer):
        async with asyncio.timeout(PATIENCE):
            writer.write(_get(b"/livez") * 10_000)
            with contextlib.suppress(ConnectionError):  # what was not read of it is thrown away
                assert b"HTTP/1.1" not in await reader.read()
    await until(lambda: _places(scene), 0)


async def test_the_body_of_a_stream_is_not_kept(scene: Scene) -> None:
    async with _following(scene, b"Content-Length: 100000000") as (_, writer):
        async with asyncio.timeout(PATIENCE):
            for _ in range(40):
                writer.write(b"x" * 100_000)
                await writer.drain()
        writer.transport.abort()
    async with asyncio.timeout(SOON):
        await until(lambda: _places(scene), 0)
