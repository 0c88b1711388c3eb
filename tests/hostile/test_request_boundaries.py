"""Where a request ends, over raw bytes: no byte of a body is read as a request, and nothing is guessed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from tests.e2e.bare import Bare, bare_provider
from tests.e2e.raw import connection
from tests.e2e.scene import Scene, path_of, stage
from tests.harness import PATIENCE, BridgeProcess, qingbo, qingbo_done, running_bridge

pytestmark = pytest.mark.anyio

HEADS = Path(__file__).parent / "corpus" / "heads"
REFUSED = sorted((HEADS / "refused").iterdir())
CREATED = {"task_id": "made", "status": "completed", "progress": 100}
BODY = b'{"model":"m","prompt":"GET /livez HTTP/1.1"}'
HIDDEN = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LIVEZ = b'{"status":"ok"}'
HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
UPGRADES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "two-connection-fields": b"Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    "tls": b"Upgrade: TLS/1.0, HTTP/1.1\r\nConnection: upgrade\r\n",
    "websocket-of-a-post": b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    "two-upgrades": b"Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    "upgrade-without-connection": b"Upgrade: h2c\r\n",
    "connection-without-upgrade": b"Connection: upgrade\r\n",
}
BODIES = {
    "length": b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\nT: x\r\n\r\n"
    % (BODY[:5], len(BODY) - 5, BODY[5:]),
}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(linger_seconds=0) as made:
        yield made
        assert "Traceback" not in "".join(made.bridge.log)


@pytest.fixture(scope="module")
async def submits(anyio_backend: str) -> AsyncIterator[tuple[BridgeProcess, Bare]]:
    """A bridge, and a provider that keeps the bytes it was sent."""
    async with bare_provider() as bare:
        upstream = {"preset": "qingbo", "base_url": bare.url, "api_key": "k"}
        async with running_bridge({"qingbo": upstream}) as bridge:
            yield bridge, bare


async def exchange(url: str, *parts: bytes, half_close: bool = False) -> bytes:
    """Send the parts, one packet each, and read until the bridge closes the connection."""
    async with connection(url) as (reader, writer):
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.005 if len(parts) > 1 else 0)  # or the kernel would join them
        if half_close:
            writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            return await reader.read()


def submitted(bare: Bare, before: int) -> list[bytes]:
    """The bodies of the submits that the provider got."""
    return [asked.body for asked in bare.asked[before:] if asked.line.startswith("POST ")]


def statuses(said: bytes) -> list[int]:
    """Of every response in it."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


@pytest.mark.parametrize("head", [path.read_bytes() for path in REFUSED], ids=[path.stem for path in REFUSED])
async def test_what_two_parsers_could_read_differently_is_400_and_the_end(scene: Scene, head: bytes) -> None:
    said = await exchange(scene.bridge.url, head + HIDDEN)
    assert statuses(said) == [400]
    top, _, body = said.partition(b"\r\n\r\n")
    assert b"connection: close" in top
    assert orjson.loads(body)["code"] == "invalid_request"


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_the_body_behind_an_upgrade_is_the_body(
    submits: tuple[BridgeProcess, Bare], upgrade: str, body: str
) -> None:
    bridge, bare = submits
    create = b"POST /v1/tasks/qingbo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    create += UPGRADES[upgrade] + BODIES[body]
    closing = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    end_of_head = create.index(b"\r\n\r\n") + 4
    for cut in (
        len(create),
        end_of_head,
        end_of_head - 2,
        end_of_head + 3,
        create.lower().index(b"upgrade") + 3,
    ):
        bare.answers[:] = [CREATED] * 9  # it may also be polled
        before = len(bare.asked)
        said = await exchange(bridge.url, create[:cut], create[cut:] + closing)
        assert statuses(said) == [201, 200]
        assert submitted(bare, before) == [BODY]


async def test_a_body_that_looks_like_a_request_is_not_one(scene: Scene) -> None:
    head = b"POST /v1/events HTTP/1.1\r\nHost: x\r\n" + UPGRADES["h2c"]
    head += b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(HIDDEN)
    assert statuses(await exchange(scene.bridge.url, head, HIDDEN)) == [400]  # not JSON


async def test_pipelined_requests_are_answered_in_order(scene: Scene) -> None:
    wave = HIDDEN + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    said = await exchange(
        scene.bridge.url, wave * 60 + HIDDEN.replace(b"x\r\n", b"x\r\nConnection: close\r\n")
    )
    assert statuses(said) == [200, 404] * 60 + [200]


async def test_nothing_behind_connection_close_is_answered(scene: Scene) -> None:
    last = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"
    assert statuses(await exchange(scene.bridge.url, last + HIDDEN)) == [200]


@pytest.mark.parametrize(
    "fields",
    [
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"UPGRADE: WebSocket\r\nCONNECTION: keep-alive, UPGRADE\r\n",
        b"Connection: keep-alive\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    ],
    ids=["plain", "case", "two-connection-fields"],
)
async def test_a_handshake_is_one_and_frames_behind_it_are_read(scene: Scene, fields: bytes) -> None:
    ping = b'{"type":"ping","id":7}'
    frame = bytes([0x81, 0x80 | len(ping), 0, 0, 0, 0]) + ping
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(HANDSHAKE + fields + b"\r\n" + frame)
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            assert b'"pong"' in await reader.read(100)


async def test_a_list_of_protocols_is_no_handshake(scene: Scene) -> None:
    fields = b"Upgrade: websocket, h2c\r\nConnection: Upgrade, close\r\n\r\n"
    said = await exchange(scene.bridge.url, HANDSHAKE + fields)
    assert 101 not in statuses(said)


@pytest.mark.parametrize("together", [True, False], ids=["one-packet", "later"])
async def test_a_handshake_behind_an_open_stream_ends_both(scene: Scene, together: bool) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    subscribe = b"GET %b/events HTTP/1.1\r\nHost: x\r\n\r\n" % path_of(ref).encode()
    handshake = HANDSHAKE + b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    async with connection(scene.bridge.url) as (reader, writer):
        writer.write(subscribe + (handshake if together else b""))
        async with asyncio.timeout(PATIENCE):
            said = await reader.readuntil(b'"progress":5')
            if not together:
                writer.write(handshake)
            said += await reader.read()
    assert statuses(said) == [200]
    assert said.endswith(b"0\r\n\r\n")
    await scene.reaches('bridge_connections{delivery="sse"}', 0)
    await scene.reaches('bridge_watches{source="poll",upstream="qingbo"}', 0)


@pytest.mark.parametrize("keep", [b"", b"Connection: keep-alive\r\n"], ids=["plain", "keep-alive"])
@pytest.mark.parametrize("accept", [b"text/event-stream", b"application/x-ndjson"])
async def test_http_1_0_gets_no_chunks_and_the_end_of_the_connection(
    scene: Scene, keep: bytes, accept: bytes
) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    path = path_of(ref).encode()
    stream = await exchange(
        scene.bridge.url, b"GET %b/events HTTP/1.0\r\nAccept: %b\r\n%b\r\n" % (path, accept, keep)
    )
    head, _, body = stream.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n") if b"{" in line]
    assert len([orjson.loads(line) for line in lines]) == 3
    document = await exchange(scene.bridge.url, b"GET %b HTTP/1.0\r\n%b\r\n" % (path, keep))
    head, _, body = document.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert orjson.loads(body)["status"] == "completed"


async def test_a_client_that_was_not_told_to_go_on_cannot_reuse_the_connection(scene: Scene) -> None:
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    said = await exchange(scene.bridge.url, head)
    assert statuses(said) == [404]
    assert b"connection: close" in said
