"""Shared by publishers, servers and load generator: the token in a state, the task of a sequence number.

The load generator reads the token from the bytes of any server, so it is in a field that every server
forwards unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

MARK = "@~"
TOKEN_LENGTH = 26


def token(seq: int, *, now_ns: int | None = None) -> str:
    """Return monotonic nanoseconds of the publisher and the sequence number; both 0 before the first."""
    at = 0 if seq == 0 else (time.monotonic_ns() if now_ns is None else now_ns)
    return f"{MARK}{at:016x}{seq:08x}"


def pick(seq: int, tasks: int) -> int:
    """Return the task of a sequence number; the same function as in load.c and limit.c."""
    h = (seq * 0x9E3779B1) & 0xFFFFFFFF
    h ^= h >> 16
    h = (h * 0x85EBCA6B) & 0xFFFFFFFF
    h ^= h >> 13
    return h % tasks


def document(task: str, mark: str) -> bytes:
    """Return a state document in our format, for servers that forward any body."""
    return (
        b'{"task":"bytespike/%b","upstream":"bytespike","task_id":"%b","alias":null,"status":"processing",'
        b'"upstream_status":"running","progress":42,"eta_seconds":null,"eta_at":null,"eta_by":null,'
        b'"queue_position":null,"model":"%b",'
        b'"action":null,"created_at":null,"completed_at":null,"outputs":[],"error":null,"cost":null,'
        b'"changed_at":"2026-11-21T10:00:00.000Z","observed_at":"2026-11-21T10:00:00.000Z","source":"stream",'
        b'"cursor":"abcd1234-123456","raw":null}'
    ) % (task.encode(), task.encode(), mark.encode())


def sse_frame(body: bytes) -> bytes:
    """Return one event as our server sends it, including the HTTP chunk."""
    event = b"id: abcd1234-123456\ndata: %b\n\n" % body
    return b"%x\r\n%b\r\n" % (len(event), event)


def websocket_frame(body: bytes) -> bytes:
    """Return one event as our server sends it on a WebSocket."""
    message = b'{"type":"state","cursor":"abcd1234-123456","state":%b}' % body
    return b"\x81\x7e" + len(message).to_bytes(2, "big") + message


class Lines:
    """Splits a control connection into commands."""

    def __init__(self, handle: Callable[[str, list[int]], Awaitable[None]]) -> None:
        self._handle = handle
        self._rest = b""

    async def feed(self, data: bytes) -> None:
        """Handle every complete line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, *numbers = line.decode().split()
            await self._handle(word, [int(number) for number in numbers])
