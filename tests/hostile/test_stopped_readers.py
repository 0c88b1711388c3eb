"""Clients that stop reading are told apart from those that leave, also where the kernel ends them."""

from __future__ import annotations

import asyncio
import socket
import sys
from urllib.parse import urlsplit

import pytest

from tests.e2e.scene import path_of, stage
from tests.harness import qingbo

pytestmark = pytest.mark.anyio

LARGE = 60_000  # more than the client takes, less than the kernel keeps for it
HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.extended
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel ends them there")
@pytest.mark.parametrize("delivery", ["sse", "ndjson", "websocket"])
async def test_a_client_that_takes_nothing_is_slow_although_the_kernel_ends_it(delivery: str) -> None:
    async with stage(write_timeout_seconds=2.0, keepalive_seconds=60.0) as scene:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 5, note="x" * LARGE))
        path, fields = f"{path_of(ref)}/events?include=raw", ""
        if delivery == "ndjson":
            fields = "Accept: application/x-ndjson\r\n"
        elif delivery == "websocket":
            path, fields = f"/v1/ws?task={ref}&include=raw", HANDSHAKE
        place = urlsplit(scene.bridge.url)
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            await loop.sock_connect(client, (place.hostname, place.port))
            await loop.sock_sendall(client, f"GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
            assert (await loop.sock_recv(client, 12)).startswith(b"HTTP/1.1 ")
            await scene.reaches(f'bridge_disconnects_total{{delivery="{delivery}",reason="slow"}}', 1)
            assert await scene.metric(f'bridge_disconnects_total{{delivery="{delivery}",reason="left"}}') == 0
