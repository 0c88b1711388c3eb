"""What one stranger costs the others: counts and bytes of a real process, one flood a test."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest

from tests.e2e.raw import RawStream
from tests.e2e.scene import Scene, path_of, stage, until
from tests.harness import PATIENCE, qingbo
from tests.hostile import floods

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024
LARGE = "x" * 300_000
PADDING = "x" * 60_000


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    fast = {"poll_min_seconds": 0.01, "poll_max_seconds": 0.02, "callback_secret": "s" * 20}
    async with stage(each=fast, limits="exposed") as made:
        yield made


def _place(scene: Scene) -> tuple[str, int]:
    return "127.0.0.1", int(scene.bridge.url.rsplit(":", 1)[1])


def _resident(scene: Scene) -> int:
    """Bytes of memory of the bridge's process."""
    return int(Path(f"/proc/{scene.bridge.process.pid}/statm").read_text("ascii").split()[1]) * 4096


async def _refused(stack: AsyncExitStack, scene: Scene, data: bytes, number: int, wanted: int) -> None:
    """Send `data` on so many connections that stay open, until so many of them are answered 429."""
    lines = [await stack.enter_async_context(floods.connected(*_place(scene))) for _ in range(number)]
    refused = asyncio.Semaphore(0)

    async def one(line: floods.Line) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await line.send(data)
            assert (await line.reader.readuntil(b"\r\n\r\n"))[9:12] == b"429"
        refused.release()

    waiting = [asyncio.ensure_future(one(line)) for line in lines]
    try:
        async with asyncio.timeout(PATIENCE):
            for _ in range(wanted):
                await refused.acquire()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _closing(stream: RawStream) -> str | None:
    """The reason of the closing notice that the stream consists of; None for a state."""
    data = (await stream.block()).data
    return str(data["reason"]) if "reason" in data else None


async def test_a_stranger_follows_200_tasks_and_behind_an_unknown_proxy_everybody_does(scene: Scene) -> None:
    task = scene.id()
    known = await scene.script("qingbo", task, qingbo(task, "processing", 5))

    async def follow(name: str, **fields: str) -> str | None:
        query = f"task={known}&" + "&".join(f"task=qingbo/{name}-{number}" for number in range(149))
        stream = await stack.enter_async_context(scene.stream(f"/v1/events?{query}", headers=fields))
        return await _closing(stream)

    async with AsyncExitStack() as stack:
        relayed = [await follow(name, **{"X-Forwarded-For": "192.0.2.1"}) for name in "abc"]
        assert relayed == [None, None, None]
        assert [await follow(name) for name in "de"] == [None, "over_capacity"]
        await until(lambda: _lines_with(scene, "unknown proxy"), 1)


async def _lines_with(scene: Scene, text: str) -> int:
    return sum(text in line for line in scene.bridge.log)


async def test_bodies_that_are_half_sent_are_refused_or_not_read_on(scene: Scene) -> None:
    before = _resident(scene)
    data = floods.request("POST", "/v1/tasks/qingbo", body=b"{" + b" " * 300_000, length=15_000_000)
    async with AsyncExitStack() as stack:
        await _refused(stack, scene, data, 150, wanted=20)
        assert _resident(scene) - before < 40 * MEGABYTE
        assert (await scene.get("/livez")).status == 200


async def test_heads_that_never_end_are_refused_together(scene: Scene) -> None:
    before = _resident(scene)
    data = floods.request("GET", "/livez", "X-Padding: " + "x" * 100_000)[:-2]
    async with AsyncExitStack() as stack:
        await _refused(stack, scene, data, 150, wanted=60)
        assert _resident(scene) - before < 20 * MEGABYTE


async def test_a_callback_with_the_wrong_secret_is_refused_before_its_body(scene: Scene) -> None:
    async with floods.connected(*_place(scene)) as line, asyncio.timeout(PATIENCE):
        await line.send(floods.request("POST", "/v1/callbacks/qingbo/wrong", length=1_000_000))
        assert (await line.reader.readuntil(b"\r\n\r\n"))[9:12] == b"403"


async def test_documents_and_streams_that_nobody_reads_are_let_wait_up_to_two_megabytes(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5, pad=LARGE * 3))
    assert (await scene.get(path_of(ref))).status == 200
    before = _resident(scene)
    ask = floods.request("GET", f"{path_of(ref)}?include=raw")
    stream = floods.request("GET", f"{path_of(ref)}/events?include=raw")
    async with AsyncExitStack() as stack:
        for data in [ask] * 20 + [stream] * 20:
            line = await stack.enter_async_context(floods.connected(*_place(scene)))
            line.stop_reading()
            await line.send(data)
        await until(lambda: _status(scene, f"{path_of(ref)}?include=raw"), 429)
        assert (await scene.get(path_of(ref))).status == 200, "what is small never waits"
        assert _resident(scene) - before < 30 * MEGABYTE


async def _status(scene: Scene, path: str) -> int:
    return (await scene.get(path)).status


async def test_a_history_is_read_as_the_client_reads_and_is_complete() -> None:
    fast = {"poll_min_seconds": 0.01, "poll_max_seconds": 0.02}
    async with stage(each=fast, journal_cache_bytes=64 * MEGABYTE) as scene:
        task = scene.id()
        states = [qingbo(task, "processing", number, pad=PADDING) for number in range(16)]
        ref = await scene.script("qingbo", task, *states)
        async with scene.events(ref) as live:
            await live.state_with(progress=15)
        before = _resident(scene)
        async with AsyncExitStack() as stack:
            for _ in range(20):
                line = await stack.enter_async_context(floods.connected(*_place(scene)))
                line.stop_reading()
                path = f"{path_of(ref)}/events?history=1&include=raw"
                await line.send(floods.request("GET", path))
            async with scene.events(ref, "?history=1&include=raw") as stream:
                replayed = [await stream.state() for _ in range(16)]
            assert [state["progress"] for state in replayed] == list(range(16))
            assert all(len(orjson.dumps(state["raw"])) > len(PADDING) for state in replayed)
            assert _resident(scene) - before < 12 * MEGABYTE, "twenty histories are 20 MB"
        async with scene.events(ref, "?history=1", headers={"Last-Event-ID": replayed[10]["cursor"]}) as rest:
            assert [(await rest.state())["progress"] for _ in range(5)] == list(range(11, 16))


@pytest.mark.extended  # the rate is 20 a second
async def test_random_ids_on_a_socket_are_read_at_the_rate_of_their_address(scene: Scene) -> None:
    async with floods.connected(*_place(scene)) as line, asyncio.timeout(PATIENCE):
        await line.send(floods.HANDSHAKE)
        await line.reader.readuntil(b"\r\n\r\n")
        for number in range(5):
            refs = [f"qingbo/random-{number}-{one}" for one in range(200)]
            await line.send(floods.frame(orjson.dumps({"type": "subscribe", "id": number, "tasks": refs})))
            leave = {"type": "unsubscribe", "id": number, "tasks": refs}
            await line.send(floods.frame(orjson.dumps(leave)))
        # A burst of 200 at once, and 200 that are owed; then there is none for ten seconds.
        await line.reader.readuntil(b'"unsubscribed","id":1')
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await line.reader.readuntil(b'"subscribed","id":2')
