"""A provider on a plain socket: keeps every byte it was sent; answers, hangs or hangs up as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson

from tests.harness import PATIENCE

Answer = dict[str, object] | None


@dataclass
class Asked:
    """One request, as it came."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Bare:
    """Answers each request with the next of `answers`; None hangs up after reading, and so does their end."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    hangs: bool = False
    headers: bytes = b"content-type: application/json\r\n"
    connections: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def asked_for(self, start: str) -> list[Asked]:
        """The requests whose first line begins so."""
        return [one for one in self.asked if one.line.startswith(start)]

    async def reach(self, number: int) -> None:
        """Wait until so many requests came."""
        async with asyncio.timeout(PATIENCE):
            while len(self.asked) < number:
                self._news.clear()
                await self._news.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.asked.append(await _request(reader))
                self._news.set()
                if self.hangs:
                    await reader.read()
                    return
                answer = self.answers.pop(0) if self.answers else None
                if answer is None:
                    return
                body = orjson.dumps(answer)
                head = b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n"
                writer.write(head % (self.headers, len(body)) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.split(":", 1) for line in head[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    return Asked(head[0], headers, await _body(reader, headers))


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    parts = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        parts.append(await reader.readexactly(size))
        await reader.readexactly(2)
    await reader.readexactly(2)
    return b"".join(parts)


@asynccontextmanager
async def bare_provider() -> AsyncIterator[Bare]:
    """Such a provider on a free port."""
    bare = Bare()
    server = await asyncio.start_server(bare.serve, "127.0.0.1", 0, limit=1 << 20)
    bare.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield bare
    finally:
        server.close()
