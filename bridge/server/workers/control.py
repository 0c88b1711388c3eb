"""The messages between the supervisor and a worker, over a socket pair without a name."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any, NamedTuple, Self

import orjson

MAX_BODY = 64 * 1024 * 1024
MAX_UNSENT = 8 * 1024 * 1024  # to a process that does not read, because it is stopped

_HEAD = struct.Struct("!II")


class Message(NamedTuple):
    """One message: what it is about, small fields, and bytes that are handed on as they are."""

    kind: str
    fields: dict[str, Any]
    body: bytes = b""


class ControlChannel:
    """One end. A message is the length of its fields and of its body, the fields as JSON, and the body."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> Self:
        """The channel over one end of a socket pair."""
        end.setblocking(False)
        return cls(*await asyncio.open_connection(sock=end))

    def send(self, kind: str, body: bytes = b"", **fields: Any) -> bool:
        """Send a message without waiting; False if the other process does not read, and it was dropped."""
        transport = self._writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > MAX_UNSENT:
            return False
        head = orjson.dumps({"kind": kind, **fields})
        self._writer.write(_HEAD.pack(len(head), len(body)) + head + body)
        return True

    async def receive(self) -> Message | None:
        """The next message; None once the other process has ended, or sent something else."""
        try:
            head_size, body_size = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            if max(head_size, body_size) > MAX_BODY:
                return None
            fields = orjson.loads(await self._reader.readexactly(head_size))
            body = await self._reader.readexactly(body_size)
            return Message(str(fields.pop("kind")), fields, body)
        except (OSError, EOFError, ValueError, KeyError, AttributeError):
            return None

    async def flush(self) -> None:
        """Wait until what was sent is in the kernel's hands, for at most a second."""
        try:
            self._writer.transport.set_write_buffer_limits(0)
            async with asyncio.timeout(1.0):
                await self._writer.drain()
        except (OSError, TimeoutError):
            pass

    def close(self) -> None:
        """Close this end; the other one notices. Idempotent."""
        self._writer.close()
