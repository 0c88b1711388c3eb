"""Clients at their worst: gone all at once, talking nonsense, never reading. Nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import orjson
import pytest
import websockets
from websockets.asyncio.client import connect

from tests.chaos.crowd import Crowd
from tests.chaos.site import Site, Studio, get, metric, site, studio
from tests.e2e.raw import connection, request
from tests.e2e.scene import until
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

MANY = 2000
STUCK = 20
SLOW_SECONDS = 1.0
MIB = 1024 * 1024


@dataclass
class Scene:
    provider: Studio
    bridge: Site

    async def task(self) -> str:
        (ref,) = await self.provider.submit(
            [{"queue_seconds": 0, "run_seconds": 100, "outcome": "completed"}]
        )
        return ref

    async def value(self, series: str) -> float:
        return await metric(self.provider.http, self.bridge.url, series)

    async def well(self) -> None:
        """Somebody else follows a task to its end and notices nothing."""
        ref = await self.task()
        async with request(self.bridge.url, f"/v1/tasks/{ref}/events") as stream:
            await stream.state()
            self.provider.advance(200)
            said = [block.event for block in await stream.rest()]
        assert [event for event in said if event != "notice"][-2:] == ["done", "end"]


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with studio() as provider, site(provider.url, write_timeout_seconds=SLOW_SECONDS) as bridge:
        yield Scene(provider, bridge)


async def test_thousands_vanish_at_once_and_one_that_stays_notices_nothing(scene: Scene) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < MANY + 500:
        pytest.skip(f"{hard} open files are not enough for {MANY} clients")
    ref = await scene.task()
    path = f"/v1/tasks/{ref}/events"
    async with request(scene.bridge.url, path) as stream:
        first = await stream.state()
        with Crowd(scene.bridge.address, path) as crowd:
            await crowd.come(MANY)
            assert await scene.value('bridge_connections{delivery="sse"}') == MANY + 1
            crowd.vanish()
            scene.provider.advance(10)
            assert (await stream.state())["progress"] > first["progress"]
            await until(lambda: scene.value('bridge_connections{delivery="sse"}'), 1.0)
            assert await scene.value('bridge_interests{upstream="qingbo"}') == 1
            resting = scene.bridge.rss()
            await crowd.come(MANY)
            crowd.vanish()
            await until(lambda: scene.value('bridge_connections{delivery="sse"}'), 1.0)
            assert scene.bridge.rss() < resting + 10 * MIB  # what the first crowd took serves the second


@pytest.mark.parametrize(
    "data",
    [
        os.urandom(5000),
        b"GET /v1/tasks/qingbo/x/ev",
        b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 64 * 1024 + b"\r\n\r\n",
    ],
    ids=["garbage", "half a request", "half a body", "64 KiB of headers"],
)
async def test_nonsense_on_many_connections_at_once_hurts_nobody(scene: Scene, data: bytes) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(50):
            _, writer = await stack.enter_async_context(connection(scene.bridge.url))
            writer.write(data)
        await scene.well()


async def test_a_body_without_end_is_refused_before_it_is_kept(scene: Scene) -> None:
    before = scene.bridge.rss()
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(5):
                for _ in range(1024):  # 64 MiB
                    writer.write(chunk)
                    await writer.drain()
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionError):
                said = await reader.read(100)
                assert said == b"" or said.startswith(b"HTTP/1.1 4"), said
    assert scene.bridge.rss() < before + 16 * MIB
    await scene.well()


@pytest.mark.parametrize("text", ["{" * 5000, "[]", '{"type":"dance"}', '{"type":"subscribe","tasks":[7]}'])
async def test_malformed_messages_are_answered_and_the_socket_stays(scene: Scene, text: str) -> None:
    async with _socket(scene) as ws:
        for _ in range(20):
            await ws.send(text)
        for _ in range(20):
            said = orjson.loads(await asyncio.wait_for(ws.recv(), PATIENCE))
            assert (said["type"], said["code"]) == ("error", "invalid_request")
        await ws.send('{"type":"ping","id":3}')
        assert orjson.loads(await asyncio.wait_for(ws.recv(), PATIENCE))["type"] == "pong"


async def test_a_message_too_big_closes_with_1009(scene: Scene) -> None:
    async with _socket(scene) as ws:
        await ws.send("x" * 65_537)
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(ws.recv(), PATIENCE)
        assert ws.close_code == 1009
    await scene.well()


async def test_too_many_messages_from_one_who_never_reads_are_not_kept(scene: Scene) -> None:
    before = scene.bridge.rss()
    async with _socket(scene) as ws:
        ws.transport.pause_reading()
        text = orjson.dumps({"type": "dance", "id": "x" * 1000}).decode()
        with contextlib.suppress(TimeoutError, websockets.ConnectionClosed, OSError):
            async with asyncio.timeout(3):
                for _ in range(30_000):  # 30 MB, each answered with a sentence
                    await ws.send(text)
        assert scene.bridge.rss() < before + 16 * MIB
        await scene.well()
        ws.transport.abort()


@pytest.mark.extended
async def test_those_who_stop_reading_are_let_go_as_slow_while_others_go_on(scene: Scene) -> None:
    (task,) = await scene.provider.submit(
        [{"queue_seconds": 0, "run_seconds": 10_000, "outcome": "completed"}]
    )
    path = f"/v1/tasks/{task}/events?include=raw"
    scene.provider.task(task).body["model"] = "m" * 60_000  # a document that fills buffers
    before_slow = await scene.value('bridge_disconnects_total{delivery="sse",reason="slow"}')
    with Crowd(scene.bridge.address, path, receive_buffer=4096) as stuck:
        async with request(scene.bridge.url, path) as stream:
            await stream.state()
            await stuck.come(STUCK)
            before = scene.bridge.rss()
            progress, loop, worst = -1.0, asyncio.get_running_loop(), 0.0
            for _ in range(30):
                scene.provider.advance(200)
                began = loop.time()
                state = await stream.state()
                worst = max(worst, loop.time() - began)
                assert state["progress"] > progress
                progress = state["progress"]
            assert scene.bridge.rss() < before + STUCK * MIB // 2
            assert worst < 5.0
            series = 'bridge_disconnects_total{delivery="sse",reason="slow"}'
            await until(lambda: scene.value(series), before_slow + STUCK)
            scene.provider.advance(20_000)
            said = [block.event for block in await stream.rest()]
            assert said[-1] == "end"
        stuck.vanish()
        status, _ = await get(scene.provider.http, scene.bridge.url + "/readyz")
        assert status == 200


def _socket(scene: Scene) -> connect:
    url = scene.bridge.url.replace("http", "ws", 1) + "/v1/ws"
    return connect(url, compression=None, proxy=None, family=socket.AF_INET)
