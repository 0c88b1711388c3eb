"""What publishers, servers and load agree on: the token inside a state, and whose turn it is.

Load reads it back from the bytes of any server, so it sits in a field that every server carries unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

MARK = "@~"
LONGEST_TOKEN = 26


def token(seq: int, *, now_ns: int | None = None) -> str:
    """Monotonic nanoseconds of the publisher, then the sequence number; nothing is 0 before the first."""
    at = 0 if seq == 0 else (time.monotonic_ns() if now_ns is None else now_ns)
    return f"{MARK}{at:016x}{seq:08x}"


def pick(seq: int, tasks: int) -> int:
    """The task of a sequence number; the same in load.c and limit.c."""
    h = (seq * 0x9E3779B1) & 0xFFFFFFFF
    h ^= h >> 16
    h = (h * 0x85EBCA6B) & 0xFFFFFFFF
    h ^= h >> 13
    return h % tasks


def document(task: str, mark: str) -> bytes:
    """A state as our wire has it, for those who carry what they are given."""
    return (
        b'{"task":"bytespike/%b","upstream":"bytespike","task_id":"%b","alias":null,"status":"processing",'
        b'"upstream_status":"running","progress":42,"eta_seconds":null,"queue_position":null,"model":"%b",'
        b'"action":null,"created_at":null,"completed_at":null,"outputs":[],"error":null,"cost":null,'
        b'"changed_at":"2026-11-21T10:00:00.000Z","observed_at":"2026-11-21T10:00:00.000Z","source":"stream",'
        b'"cursor":"abcd1234-123456","raw":null}'
    ) % (task.encode(), task.encode(), mark.encode())


def sse_frame(body: bytes) -> bytes:
    """One event as our server sends it, the HTTP chunk included."""
    event = b"id: abcd1234-123456\ndata: %b\n\n" % body
    return b"%x\r\n%b\r\n" % (len(event), event)


def websocket_frame(body: bytes) -> bytes:
    """One event as our server sends it on a WebSocket."""
    message = b'{"type":"state","cursor":"abcd1234-123456","state":%b}' % body
    return b"\x81\x7e" + len(message).to_bytes(2, "big") + message


class Lines:
    """Splits a control connection into commands."""

    def __init__(self, obey: Callable[[str, list[int]], Awaitable[None]]) -> None:
        self._obey = obey
        self._rest = b""

    async def feed(self, data: bytes) -> None:
        """Obey every whole line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            word, *numbers = line.decode().split()
            await self._obey(word, [int(number) for number in numbers])
