"""Floods over WebSockets: what costs the server more than the client, frame by frame."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable

Flood = Callable[[str, int, asyncio.Event], Awaitable[int]]

_HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    """A masked frame of a client; the mask is zero."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return bytes([0x80 * final | opcode]) + length + bytes(4) + payload


async def _sent(host: str, port: int, stop: asyncio.Event, first: bytes, block: bytes) -> int:
    """Send `block` again and again on one connection, opened again when it is closed; bytes sent."""
    sent = 0
    while not stop.is_set():
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(host, port, limit=2**16)
            reading = asyncio.ensure_future(_drained(reader))
            try:
                writer.write(_HANDSHAKE + first)
                while not stop.is_set() and not reading.done():
                    writer.write(block)
                    async with asyncio.timeout(1):
                        await writer.drain()
                    sent += len(block)
            finally:
                reading.cancel()
                writer.transport.abort()
        await asyncio.sleep(0.05)
    return sent


async def _drained(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(2**16):
            pass


def _flood(first: bytes, block: bytes) -> Flood:
    async def flood(host: str, port: int, stop: asyncio.Event) -> int:
        return await _sent(host, port, stop, first, block)

    return flood


WEBSOCKET_FLOODS: dict[str, tuple[Flood, int]] = {
    "websocket_pings": (_flood(b"", frame(9) * 5000), 150),
    "websocket_pongs": (_flood(b"", frame(10, b"x" * 125) * 2000), 150),
    "websocket_fragments": (_flood(frame(1, b"{", final=False), frame(0, final=False) * 5000), 150),
    "websocket_fragments_of_a_byte": (
        _flood(frame(1, b"{", final=False), frame(0, b"x", final=False) * 5000),
        150,
    ),
    "websocket_messages": (_flood(b"", frame(1, b'{"type":"ping","id":1}') * 1000), 150),
    "websocket_messages_of_60_kb": (
        _flood(b"", frame(1, b'{"type":"ping","id":"' + b"x" * 60_000 + b'"}')),
        150,
    ),
    "websocket_invalid_text": (_flood(b"", frame(1, b"\xff" * 100)), 150),
}
