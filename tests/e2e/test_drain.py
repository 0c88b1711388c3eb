"""SIGTERM loses nobody: newcomers get an answer they survive, those inside are told and ended."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import orjson
import pytest
import websockets

from tests.e2e.raw import connection
from tests.e2e.scene import EVENT_STREAM, Scene, stage, until
from tests.harness import PATIENCE, qingbo

pytestmark = pytest.mark.anyio

# So many connections are ended over so long; what is asked meanwhile meets a bridge that drains.
MANY, DRAIN_SECONDS = 400, 3


async def _all(socket: websockets.ClientConnection) -> AsyncIterator[str | bytes]:
    with contextlib.suppress(websockets.ConnectionClosed):
        while True:
            async with asyncio.timeout(PATIENCE):
                yield await socket.recv()


async def _ref(scene: Scene) -> str:
    task = scene.id()
    return await scene.script("qingbo", task, qingbo(task, "processing", 5))


async def test_open_streams_are_told_and_ended_cleanly_and_the_exit_code_is_0() -> None:
    async with stage() as scene, AsyncExitStack() as stack:
        ref = await _ref(scene)
        streams = [await stack.enter_async_context(scene.events(ref)) for _ in range(5)]
        for stream in streams:
            await stream.state()
        url = scene.bridge.url.replace("http", "ws") + f"/v1/ws?task={ref}"
        socket = await stack.enter_async_context(websockets.connect(url, compression=None))
        ending = asyncio.ensure_future(scene.bridge.stop())
        for stream in streams:
            blocks = await stream.rest()
            last = blocks[-1]
            assert (last.event, last.data["code"], last.data["reason"]) == ("notice", "closing", "drain")
            assert (last.data["task"], last.data["retriable"]) == (None, True)
            assert int(last.fields["retry"]) >= 1000
            assert stream.ended_cleanly
            assert "end" not in [block.event for block in blocks]
        said = [orjson.loads(text) async for text in _all(socket)]
        assert socket.close_code == 1012
        assert (said[-1]["type"], said[-1]["code"], said[-1]["reason"]) == ("notice", "closing", "drain")
        assert await ending == 0
        retries = {stream.blocks[-1].fields["retry"] for stream in streams}
        assert len(retries) > 1, "those who come back must come spread"
        assert "Traceback" not in "".join(scene.bridge.log)


async def test_while_it_drains_it_is_unready_and_turns_newcomers_away_survivably() -> None:
    async with stage(drain_seconds=DRAIN_SECONDS) as scene, AsyncExitStack() as stack:
        ref = await _ref(scene)
        opening = (stack.enter_async_context(scene.events(ref)) for _ in range(MANY))
        await asyncio.gather(*opening)
        ending = asyncio.ensure_future(scene.bridge.stop())
        await until(lambda: _ready(scene), 503)
        reply = await scene.get("/readyz")
        assert (reply.json["ready"], reply.json["reasons"]) == (False, ["drain"])
        assert (await scene.get("/livez")).status == 200
        async with scene.events(ref) as stream:
            assert (stream.status, stream.headers["content-type"]) == (200, EVENT_STREAM)
            (only,) = await stream.rest()
            assert only.comments == [b": ok"]
            assert (only.event, only.data["code"], only.data["reason"]) == ("notice", "closing", "drain")
            assert int(only.fields["retry"]) >= 3000
            assert stream.ended_cleanly
        async with scene.events(ref, headers={"Accept": "application/x-ndjson"}) as stream:
            (line,) = (await stream.body()).splitlines()
            assert orjson.loads(line)["reason"] == "drain"
        url = scene.bridge.url.replace("http", "ws") + f"/v1/ws?task={ref}"
        async with websockets.connect(url, compression=None) as socket:
            with pytest.raises(websockets.ConnectionClosed):
                await socket.recv()
            assert socket.close_code == 1012
        assert await ending == 0


async def _ready(scene: Scene) -> int:
    return (await scene.get("/readyz")).status


async def test_a_drain_that_meets_a_stream_waiting_for_its_first_look_answers_it_whole() -> None:
    async with stage(first_state_timeout_seconds=1.0) as scene:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "queued") | {"delay": 1})
        opening = asyncio.ensure_future(_opened(scene, ref))
        await scene.ledger.reach("qingbo", task, 1)
        assert await scene.bridge.stop() == 0
        status, reason, clean = await opening
        assert (status, reason, clean) == (200, "drain", True)
        assert "Traceback" not in "".join(scene.bridge.log)


async def _opened(scene: Scene, ref: str) -> tuple[int, str, bool]:
    async with scene.events(ref) as stream:
        blocks = await stream.rest()
        return stream.status, blocks[-1].data["reason"], stream.ended_cleanly


async def test_a_second_signal_stops_at_once() -> None:
    async with stage(drain_seconds=3600) as scene, AsyncExitStack() as stack:
        ref = await _ref(scene)
        await asyncio.gather(*(stack.enter_async_context(scene.events(ref)) for _ in range(MANY)))
        scene.bridge.process.send_signal(signal.SIGTERM)
        await until(lambda: _ready(scene), 503)
        loop = asyncio.get_running_loop()
        began = loop.time()
        await scene.bridge.stop()
        assert loop.time() - began < 3.0  # draining 400 streams would take four seconds


async def test_a_client_that_does_not_read_does_not_hold_up_the_end() -> None:
    async with stage() as scene:
        ref = await _ref(scene)
        async with connection(scene.bridge.url) as (_, writer):
            writer.write(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            async with scene.events(ref) as stream:
                await stream.state()
                assert await scene.bridge.stop() == 0


async def test_without_anybody_inside_the_end_is_quick_and_sigint_does_the_same() -> None:
    async with stage() as scene:
        assert await scene.bridge.stop(signal.SIGINT) == 0
