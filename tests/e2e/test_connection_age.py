"""Connections end before they are old, and say so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
import websockets

from tests.e2e.scene import Scene, stage
from tests.harness import PATIENCE, qingbo

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(max_connection_age_seconds=1.0) as made:
        yield made


async def test_a_stream_ends_with_closing_age_a_retry_and_a_clean_end_and_can_be_resumed(
    scene: Scene,
) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    async with scene.events(ref) as stream:
        blocks = await stream.rest()
    assert stream.ended_cleanly
    last = blocks[-1]
    assert (last.event, last.data["code"], last.data["reason"]) == ("notice", "closing", "age")
    assert last.data["task"] is None
    assert 1000 <= int(last.fields["retry"]) <= 3000
    assert "end" not in [block.event for block in blocks]
    await scene.then("qingbo", task, qingbo(task, "processing", 2))
    async with scene.events(ref, headers={"Last-Event-ID": blocks[0].id or ""}) as stream:
        assert (await stream.state())["progress"] == 2


async def test_a_websocket_ends_with_4002(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
    url = scene.bridge.url.replace("http", "ws") + f"/v1/ws?task={ref}"
    async with asyncio.timeout(PATIENCE), websockets.connect(url, compression=None) as socket:
        said = [orjson.loads(text) async for text in _all(socket)]
    assert socket.close_code == 4002
    assert (said[-1]["type"], said[-1]["code"], said[-1]["reason"]) == ("notice", "closing", "age")


async def _all(socket: websockets.ClientConnection) -> AsyncIterator[str | bytes]:
    try:
        while True:
            yield await socket.recv()
    except websockets.ConnectionClosed:
        return
