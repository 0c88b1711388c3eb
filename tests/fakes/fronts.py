"""What stands between a page and a bridge, and is worse than a line that breaks: it speaks HTTP itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDictProxy
from yarl import URL

HOST = "127.0.0.1"
ALLOWED = {"Access-Control-Allow-Origin": "*"}
BAD_GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 26\r\nConnection: close\r\n"
    b"Access-Control-Allow-Origin: *\r\n\r\n<html>502 Bad Gateway\n\n\n\n\n"
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
    b"Access-Control-Allow-Origin: *\r\n\r\n"
)


@dataclass
class Script:
    """A server that says what it was told to say, one answer a request; the last one repeats.

    Args:
        answers: Each in pieces, which are written one by one.

    Attributes:
        heads: What each request said.
    """

    answers: Sequence[Sequence[bytes]]
    url: str = ""
    heads: list[bytes] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            answer = self.answers[min(len(self.heads), len(self.answers)) - 1]
            for piece in answer:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if answer and answer[-1] == b"":  # stays open
                await reader.read()
        writer.close()


@asynccontextmanager
async def scripted(*answers: Sequence[bytes]) -> AsyncIterator[Script]:
    """Answers at an address of their own. An answer whose last piece is empty stays open after it."""
    script = Script(answers)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            await script.serve(reader, writer)

    server = await asyncio.start_server(serve, HOST, 0)
    script.url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    try:
        yield script
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Holder:
    """A reverse proxy that passes an answer on when it is complete, and not a byte before.

    Attributes:
        asked: The path and the headers of each request.
    """

    def __init__(self, target: str, http: aiohttp.ClientSession) -> None:
        self.target = target
        self.url = ""
        self.asked: list[tuple[str, CIMultiDictProxy[str]]] = []
        self._http = http

    async def serve(self, request: web.Request) -> web.Response:
        """One request."""
        self.asked.append((request.raw_path, request.headers))
        url = URL(self.target + request.raw_path, encoded=True)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with self._http.request(request.method, url, headers=headers) as answer:
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in {"transfer-encoding", "content-length", "connection", "date", "server"}
            }
            return web.Response(status=answer.status, headers=kept, body=await answer.read())


@asynccontextmanager
async def holding(target: str) -> AsyncIterator[Holder]:
    """Such a proxy in front of an http address."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as http:
        made = Holder(target, http)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", made.serve)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, 0).start()
            made.url = f"http://{HOST}:{runner.addresses[0][1]}"
            yield made
        finally:
            await runner.cleanup()
