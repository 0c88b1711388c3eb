"""A provider whose tasks are done and whose files are what a test says, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import orjson

Answer = Callable[["Head", asyncio.StreamWriter], Awaitable[None]]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
MP4 = b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + bytes(range(256)) * 2000


class Head:
    """The head of a request, parsed as far as tests look at it."""

    def __init__(self, raw: bytes) -> None:
        lines = raw.decode("latin-1").split("\r\n")
        self.method, self.target, _ = lines[0].split(" ")
        self.headers = {
            name.lower(): value.strip()
            for name, colon, value in (line.partition(":") for line in lines[1:])
            if colon
        }


def head_of(status: str = "200 OK", **headers: object) -> bytes:
    """A response head; underscores in names are dashes."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


class Origin:
    """Answers on loopback, one request per connection.

    Attributes:
        asked: The heads of all requests for files.
        links: The links of each task, by its id; None for a task whose document has no link.
        answers: What is answered, by path; `None` is never answered.
    """

    def __init__(self) -> None:
        self.asked: list[Head] = []
        self.links: dict[str, list[str] | None] = {}
        self.answers: dict[str, Answer | bytes | None] = {}
        self.port = 0
        self.gone = asyncio.Event()

    def url(self, path: str = "", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def serve(self, path: str, body: bytes, media_type: str = "video/mp4", **headers: object) -> None:
        """A file of a well-behaved server: ranges, and nothing for `HEAD`."""

        async def answer(head: Head, writer: asyncio.StreamWriter) -> None:
            if head.method != "GET":
                writer.write(head_of("403 Forbidden", content_length=0))
                return
            fields = {"content_type": media_type, "accept_ranges": "bytes"} | headers
            if headers.get("etag") is not None and head.headers.get("if-none-match") == headers["etag"]:
                writer.write(head_of("304 Not Modified", **fields))
                return
            asked = head.headers.get("range", "").removeprefix("bytes=")
            condition = head.headers.get("if-range")
            if not asked or (condition is not None and condition != headers.get("etag")):
                writer.write(head_of(content_length=len(body), **fields) + body)
                return
            first, _, last = asked.partition("-")
            start = int(first) if first else max(len(body) - int(last), 0)
            end = min(int(last) + 1 if first and last else len(body), len(body))
            if start >= end:
                writer.write(head_of("416 Bad", content_range=f"bytes */{len(body)}", content_length=0))
                return
            span = f"bytes {start}-{end - 1}/{len(body)}"
            size = end - start
            writer.write(head_of("206 Part", content_length=size, content_range=span, **fields))
            writer.write(body[start:end])

        self.answers[path] = answer

    def redirect(self, path: str, location: str) -> None:
        self.answers[path] = head_of("302 Found", location=location, content_length=0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = Head(await reader.readuntil(b"\r\n\r\n"))
            await self._answer(head, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone.set()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, head: Head, writer: asyncio.StreamWriter) -> None:
        path = head.target.partition("?")[0]
        task_id = path.removeprefix("/v1/videos/")
        if task_id in self.links:
            links = self.links[task_id]
            document: dict[str, object] = {"id": task_id, "status": "completed"}
            if links is not None:
                document["urls"] = links
            body = orjson.dumps(document)
            writer.write(head_of(content_type="application/json", content_length=len(body)) + body)
            return
        self.asked.append(head)
        answer = self.answers.get(path, head_of("404 Not Found", content_length=0))
        if answer is None:
            await self.gone.wait()
        elif isinstance(answer, bytes):
            writer.write(answer)
        else:
            await answer(head, writer)


@asynccontextmanager
async def serving_origin() -> AsyncIterator[Origin]:
    origin = Origin()
    server = await asyncio.start_server(origin._serve, "127.0.0.1", 0)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        origin.gone.set()
        server.close()
        await server.wait_closed()
