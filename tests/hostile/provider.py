"""A provider that floods: each task id names a kind of flood.

`good*` is a task that behaves, `fat*` one with a large document.

In a process of its own (`python -m tests.hostile.provider`, which prints its port), because a flood must not
take the time of the program that measures. ByteSpike's paths: a status call, and a stream of each task.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache

BLOCK = 64 * 1024
FAT_BYTES = 200_000
HANG_SECONDS = 60.0
_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}"
_JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
_CHUNKED_STREAM_HEAD = _STREAM_HEAD[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"


def state(task_id: str, number: int, **more: object) -> bytes:
    """A state document that differs for each number."""
    body = {
        "task_id": task_id,
        "status": "processing",
        "model": f"m{number}",
        "progress": number % 90,
        **more,
    }
    return json.dumps(body).encode()


def _answer(body: bytes, more: bytes = b"") -> bytes:
    return _JSON_HEAD + more + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _filled(unit: bytes) -> bytes:
    return unit * max(BLOCK // len(unit), 1)


def _states(task_id: str) -> bytes:
    return b"".join(b"data: %b\n\n" % state(task_id, number) for number in range(600))


@cache
def _bomb(unit: bytes, size: int) -> bytes:
    body = gzip.compress(unit * (size // len(unit)), 1)
    return _JSON_HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def _stream_bomb() -> tuple[bytes, bytes]:
    """A compressed stream that never ends: 64 KiB of it are 60 MB of tiny events."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = packer.compress(b": ok\n\n") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"data:1\n\n" * 500_000) + packer.flush(zlib.Z_FULL_FLUSH)
    return _STREAM_HEAD[:-2] + b"Content-Encoding: gzip\r\n\r\n" + head, block


# What each kind sends on the stream: a head once, then a block again and again.
STREAMS: dict[str, Callable[[str], tuple[bytes, bytes]]] = {
    "events": lambda _: (_STREAM_HEAD, _filled(b"data:1\n\n")),
    "documents": lambda _: (_STREAM_HEAD, _filled(b"data:{}\n\n")),
    "states": lambda task_id: (_STREAM_HEAD, _states(task_id)),
    "comments": lambda _: (_STREAM_HEAD, _filled(b":\n")),
    "blank": lambda _: (_STREAM_HEAD, _filled(b"\n")),
    "fields": lambda _: (_STREAM_HEAD, _filled(b"id:1\nretry:1\nevent:x\n")),
    "lines": lambda _: (_STREAM_HEAD, _filled(b"data:x\n")),
    "line": lambda _: (_STREAM_HEAD + b"data:", _filled(b"x")),
    "escapes": lambda _: (_STREAM_HEAD, b'data:{"a":"' + rb"\u0041%41&#65;" * 150_000 + b'"}\n\n'),
    "wide": lambda _: (_STREAM_HEAD, b'data:{"a":[' + b"{}," * 300_000 + b"1]}\n\n"),
    "chunks": lambda _: (_CHUNKED_STREAM_HEAD, _filled(b"1\r\n:\r\n1\r\n\n\r\n")),
    "compressed": lambda _: _stream_bomb(),
}

# What each kind sends to a status call: a head, then a block again and again; without a block, once.
ANSWERS: dict[str, Callable[[str], tuple[bytes, bytes]]] = {
    "informational": lambda _: (b"", _filled(b"HTTP/1.1 103 Early Hints\r\n\r\n")),
    "informational-fields": lambda _: (
        b"",
        b"HTTP/1.1 103 X\r\n" + b"Link: <a>\r\n" * 900 + b"\r\n",
    ),
    "head": lambda _: (b"HTTP/1.1 200 OK\r\n", _filled(b"X: y\r\n")),
    "header": lambda _: (b"HTTP/1.1 200 OK\r\nX: ", _filled(b"y")),
    "body-chunks": lambda _: (_JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", _filled(b"1\r\n \r\n")),
    "extensions": lambda _: (
        _JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        _filled(b"1;" + b"x" * 500 + b"\r\n \r\n"),
    ),
    "trailers": lambda _: (
        _JSON_HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n",
        _filled(b"X: y\r\n"),
    ),
    "bomb": lambda _: (_bomb(b" ", 64_000_000), b""),
    "bomb-wide": lambda _: (_bomb(b'{"a":[],"b":{}},', 20_000_000), b""),
    "wide-document": lambda task_id: (
        _answer(state(task_id, 1)[:-1] + b',"x":[' + b'{"a":[]},' * 2_000_000 + b"1]}"),
        b"",
    ),
    "deep-document": lambda _: (_answer(b"[" * 4_000_000), b""),
    "escaped-document": lambda _: (_answer(b'{"x":"' + rb"\u0041%41&#65;" * 600_000 + b'"}'), b""),
    "pipelined": lambda task_id: (b"", _filled(_answer(state(task_id, 1)))),
}


class FloodingProvider:
    """One server.

    Attributes:
        calls: How many requests came for each task id.
        streams: How many of them asked for its stream.
        sent: Bytes handed to the kernel for each kind.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.streams: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.port = 0
        self._ready: dict[tuple[str, str], tuple[bytes, bytes]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                at = head.lower().find(b"content-length:")
                size = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
                body = await reader.readexactly(size)
                path = head.split(b" ", 2)[1].decode()
                await self._answered(path, body, writer)
        writer.close()

    async def _answered(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        is_stream = "/stream/" in path
        if path == "/v1/tasks":
            await self._submitted(body, writer)
            return
        is_query = path == "/v1/tasks/query"
        task_id = str(json.loads(body).get("task_id")) if is_query else path.rpartition("/")[2]
        self.calls[task_id] += 1
        self.streams[task_id] += is_stream
        kind = task_id.rpartition("-")[0]
        table = STREAMS if is_stream else ANSWERS
        if kind in table:
            head, block = self._of(kind, task_id, table[kind])
            await self._flood(kind, head, block, writer)
        elif is_stream:
            writer.write(_NOT_FOUND)
        else:
            await self._tell(task_id, writer)
        await writer.drain()

    async def _tell(self, task_id: str, writer: asyncio.StreamWriter) -> None:
        """A new state of a task that behaves; nobody has the others."""
        number = self.calls[task_id]
        if task_id.startswith("good"):
            # The moment of the answer, from which the delivery is measured.
            moment = time.monotonic_ns() / 1e6
            writer.write(_answer(state(task_id, number, model=f"at-{moment:.3f}")))
        elif task_id.startswith("fat"):
            writer.write(_answer(state(task_id, number, prompt="x" * FAT_BYTES)))
        else:
            writer.write(_NOT_FOUND)

    async def _submitted(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        if b"hangs" in body:
            await asyncio.sleep(HANG_SECONDS)
        writer.write(_answer(b'{"task_id":"good-submitted","status":"queued"}'))
        await writer.drain()

    def _of(self, kind: str, task_id: str, make: Callable[[str], tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
        if (kind, task_id) not in self._ready:
            if not any(known == kind for known, _ in self._ready):
                self._ready = {}
            self._ready[kind, task_id] = make(task_id)
        return self._ready[kind, task_id]

    async def _flood(self, kind: str, head: bytes, block: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        while block and not writer.is_closing():
            writer.write(block)
            await writer.drain()
            self.sent[kind] += len(block)
            await asyncio.sleep(0)


@asynccontextmanager
async def flooding_provider() -> AsyncIterator[FloodingProvider]:
    """The server on a free port of this process."""
    provider = FloodingProvider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.port = server.sockets[0].getsockname()[1]
    try:
        yield provider
    finally:
        server.close()


@asynccontextmanager
async def provider_process() -> AsyncIterator[str]:
    """The server in a process of its own; its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hostile.provider", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        port = int(await process.stdout.readline())
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _main() -> None:
    forever: Awaitable[object] = asyncio.Event().wait()
    async with flooding_provider() as provider:
        (
            ANSWERS["bomb"](""),
            ANSWERS["bomb-wide"](""),
        )  # compressed once: they must not keep the good ones waiting
        sys.stdout.write(f"{provider.port}\n")
        sys.stdout.flush()
        await forever


if __name__ == "__main__":
    asyncio.run(_main())
