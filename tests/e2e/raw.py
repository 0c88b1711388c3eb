"""A plain socket that reads a response as it comes, and sees what a library would hide."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson

from tests.harness import PATIENCE


@dataclass
class Block:
    """What stands between two blank lines of an event stream."""

    raw: bytes
    comments: list[bytes] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: bytes) -> Block:
        assert b"\r" not in raw, raw
        block = cls(raw)
        for line in raw.split(b"\n"):
            if line.startswith(b":"):
                block.comments.append(line)
                continue
            name, colon, value = line.decode().partition(": ")
            assert colon, f"a field without a value: {line!r}"
            assert name in {"id", "event", "data", "retry"}, line
            assert name not in block.fields, raw
            block.fields[name] = value
        return block

    @property
    def event(self) -> str | None:
        return self.fields.get("event")

    @property
    def id(self) -> str | None:
        return self.fields.get("id")

    @property
    def data(self) -> Any:
        return orjson.loads(self.fields["data"])


class RawStream:
    """One response on its own connection; `blocks` keeps everything that was read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.head: list[tuple[str, str]] = []
        self.blocks: list[Block] = []
        self.ended_cleanly = False
        self._held = b""
        self._left: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.head}

    async def read_head(self) -> None:
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")[:-2]
        self.status = int(first.split()[1])
        self.head = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        if (length := self.headers.get("content-length")) is not None:
            self._left = int(length)
        elif self.status in {204, 304}:
            self._left = 0

    async def piece(self) -> bytes:
        """The next bytes of the body, as the server framed them; empty at the end."""
        async with asyncio.timeout(PATIENCE):
            if self._left is not None:
                data = await self.reader.read(self._left) if self._left else b""
                self._left -= len(data)
                self.ended_cleanly = self._left == 0
                return data
            size = int((await self.reader.readuntil(b"\r\n"))[:-2], 16)
            data = (await self.reader.readexactly(size + 2))[:-2]
            self.ended_cleanly = size == 0
            return data

    async def body(self) -> bytes:
        """Everything up to the end."""
        parts = [self._held]
        self._held = b""
        while part := await self.piece():
            parts.append(part)
        return b"".join(parts)

    async def block(self) -> Block | None:
        """The next block; None when the server has ended the stream, and ended it cleanly."""
        patience = asyncio.get_running_loop().time() + PATIENCE  # keepalives must not renew it
        while b"\n\n" not in self._held:
            assert asyncio.get_running_loop().time() < patience, f"nothing after {self.blocks[-3:]}"
            part = b"" if self.ended_cleanly else await self.piece()
            if not part:
                assert self.ended_cleanly
                assert self._held.strip(b":\n") == b"", self._held
                return None
            self._held += part
        raw, _, self._held = self._held.partition(b"\n\n")
        self.blocks.append(Block.parse(raw))
        return self.blocks[-1]

    async def rest(self) -> list[Block]:
        """All blocks from here to the end."""
        found = []
        while (block := await self.block()) is not None:
            found.append(block)
        return found

    async def event(self, name: str | None) -> Any:
        """The data of the next event of that name; None is a state."""
        while (block := await self.block()) is not None:
            if block.event == name:
                return block.data
        raise AssertionError(f"ended before {name or 'a state'}: {[one.raw for one in self.blocks]}")

    async def state(self) -> Any:
        """The next state."""
        return await self.event(None)

    async def state_with(self, **wanted: Any) -> Any:
        """The next state in which these keys have these values."""
        while True:
            state = await self.state()
            if all(state[key] == value for key, value in wanted.items()):
                return state

    async def notice(self, code: str) -> Any:
        """The next notice of that code."""
        while True:
            notice = await self.event("notice")
            if notice["code"] == code:
                return notice


@asynccontextmanager
async def request(
    base: str,
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    trust: ssl.SSLContext | None = None,
) -> AsyncIterator[RawStream]:
    """Send one request and read the head of the answer."""
    place = urlsplit(base)
    assert place.hostname is not None
    lines = [f"{method} {path} HTTP/1.1", f"Host: {place.netloc}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    async with connection(base, trust) as (reader, writer):
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        stream = RawStream(reader, writer)
        await stream.read_head()
        yield stream


@asynccontextmanager
async def connection(
    base: str, trust: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A bare TCP connection; TLS if it says whom to trust."""
    place = urlsplit(base)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=2**20, ssl=trust)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
