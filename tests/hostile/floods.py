"""Floods: what strangers send to cost the others. Each runs against a host and port until it is told to stop.

Nothing here reads more of an answer than it must, and no flood minds how it is turned away.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

UPSTREAM = "qingbo"
FAT = f"{UPSTREAM}/fat"  # a task whose provider document is large
GOOD = f"{UPSTREAM}/good"
HANGS = b'{"model":"m","prompt":"hangs"}'  # a submit the provider takes its time for

Flood = Callable[[str, int, asyncio.Event], Awaitable[int]]
_READ = 64 * 1024


def request(method: str, path: str, *fields: str, body: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of one request.

    Args:
        length: What `Content-Length` claims; that of `body` if None.
    """
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *fields]
    if body or length is not None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def frame(payload: bytes, *, opcode: int = 1) -> bytes:
    """A WebSocket frame of a client, masked with zeros."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + struct.pack("!H", size) if size < 65_536 else b"\xff" + struct.pack("!Q", size)
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


HANDSHAKE = request(
    "GET",
    "/v1/ws",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


@dataclass
class Line:
    """One connection of a stranger."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Send all of it; raises `OSError` when the bridge has closed the connection."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> bytes:
        """The next head, and its body if it has a length."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                await self.reader.readexactly(int(line.partition(b":")[2]))
        return head

    def stop_reading(self) -> None:
        """Take no further byte."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined] # of a socket

    def abort(self) -> None:
        """Close with a reset."""
        self.writer.transport.abort()


@asynccontextmanager
async def connected(host: str, port: int) -> AsyncIterator[Line]:
    """One connection, aborted at the end."""
    reader, writer = await asyncio.open_connection(host, port, limit=256 * 1024)
    line = Line(reader, writer)
    try:
        yield line
    finally:
        line.abort()


async def _reopen(
    host: str,
    port: int,
    stop: asyncio.Event,
    talk: Callable[[Line], Awaitable[None]],
    number: int,
    *,
    seconds: float,
) -> int:
    """So many connections at a time, each new one for one `talk` of at most `seconds`."""

    async def one() -> int:
        opened = 0
        while not stop.is_set():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with connected(host, port) as line, asyncio.timeout(seconds):
                    opened += 1
                    await talk(line)
        return opened

    return sum(await asyncio.gather(*(one() for _ in range(number))))


async def _hold(host: str, port: int, stop: asyncio.Event, first: bytes, number: int, *, reads: bool) -> int:
    """Open connections that send `first` and then wait; one that is closed is opened again."""

    async def one() -> int:
        opened = 0
        while not stop.is_set():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with connected(host, port) as line:
                    opened += 1
                    if not reads:
                        line.stop_reading()
                    async with asyncio.timeout(10):
                        await line.send(first)
                    while not stop.is_set() and not line.reader.at_eof():
                        if reads:
                            await _first(line.reader.read(_READ), stop)
                        else:
                            await _first(asyncio.sleep(1), stop)
            await _first(asyncio.sleep(0.2), stop)
        return opened

    return sum(await asyncio.gather(*(one() for _ in range(number))))


async def _repeat(
    host: str, port: int, stop: asyncio.Event, make: Callable[[], bytes], number: int, *, batch: int = 1
) -> int:
    """Send requests one after another on some connections, `batch` at a time, and read their answers."""

    async def one() -> int:
        sent = 0
        while not stop.is_set():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
                async with connected(host, port) as line, asyncio.timeout(30):
                    while not stop.is_set():
                        await line.send(b"".join(make() for _ in range(batch)))
                        for _ in range(batch):
                            await line.answer()
                            sent += 1
            await _first(asyncio.sleep(0.02), stop)
        return sent

    return sum(await asyncio.gather(*(one() for _ in range(number))))


async def _first(waiting: Coroutine[Any, Any, Any], stop: asyncio.Event) -> None:
    """Wait for one of the two."""
    tasks = [asyncio.ensure_future(waiting), asyncio.ensure_future(stop.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _id() -> str:
    return f"{UPSTREAM}/{secrets.token_hex(8)}"


# Connections that are all a flood has


async def idle_connections(host: str, port: int, stop: asyncio.Event) -> int:
    """Connections without a byte."""
    return await _hold(host, port, stop, b"", 3000, reads=True)


async def half_sent_heads(host: str, port: int, stop: asyncio.Event) -> int:
    """Heads of 100 KB that never end."""
    head = request("GET", f"/v1/tasks/{GOOD}", "X-Padding: " + "x" * 100_000)[:-2]
    return await _hold(host, port, stop, head, 500, reads=True)


async def half_sent_bodies(host: str, port: int, stop: asyncio.Event) -> int:
    """Submits of 16 MB of which the first 300 KB come."""
    start = request("POST", f"/v1/tasks/{UPSTREAM}", body=b"{" + b" " * 300_000, length=16_000_000)
    return await _hold(host, port, stop, start, 500, reads=True)


async def half_sent_large_bodies(host: str, port: int, stop: asyncio.Event) -> int:
    """Submits of 16 MB of which all but one byte comes."""
    start = request("POST", f"/v1/tasks/{UPSTREAM}", body=b"{" + b" " * 15_900_000, length=16_000_000)
    return await _hold(host, port, stop, start, 20, reads=True)


async def refused_credentials(host: str, port: int, stop: asyncio.Event) -> int:
    """A new key or token with every request."""

    def make() -> bytes:
        return request("GET", f"/v1/tasks/{GOOD}", f"Authorization: Bearer {secrets.token_hex(2000)}")

    return await _repeat(host, port, stop, make, 8, batch=20)


async def resets(host: str, port: int, stop: asyncio.Event) -> int:
    """Connections that ask for a stream and are reset at once."""
    ask = request("GET", f"/v1/tasks/{GOOD}/events", "Accept: text/event-stream")

    async def one() -> int:
        opened = 0
        while not stop.is_set():
            with contextlib.suppress(OSError):
                async with connected(host, port) as line:
                    linger = struct.pack("ii", 1, 0)
                    line.writer.get_extra_info("socket").setsockopt(
                        socket.SOL_SOCKET, socket.SO_LINGER, linger
                    )
                    line.writer.write(ask)
                    opened += 1
            await asyncio.sleep(0)
        return opened

    return sum(await asyncio.gather(*(one() for _ in range(8))))


# Bodies


async def bodies_with_wrong_secrets(host: str, port: int, stop: asyncio.Event) -> int:
    """Callbacks of 1 MB whose address is wrong."""
    body = b'{"task_id":"good","x":"' + b"x" * 1_000_000 + b'"}'

    def make() -> bytes:
        return request("POST", f"/v1/callbacks/{UPSTREAM}/{secrets.token_hex(8)}", body=body)

    return await _repeat(host, port, stop, make, 16)


async def large_bodies(host: str, port: int, stop: asyncio.Event) -> int:
    """Submits of 16 MB, forty at once."""
    body = b'{"prompt":"' + b"x" * 16_000_000 + b'"}'
    data = request("POST", f"/v1/tasks/{UPSTREAM}", "Content-Type: application/json", body=body)
    return await _repeat(host, port, stop, lambda: data, 40)


async def large_proxied_bodies(host: str, port: int, stop: asyncio.Event) -> int:
    """Calls of 16 MB below /proxy that no provider has."""
    data = request("POST", f"/proxy/{UPSTREAM}/no/such/call", body=b"x" * 16_000_000)
    return await _repeat(host, port, stop, lambda: data, 20)


async def ticket_lists(host: str, port: int, stop: asyncio.Event) -> int:
    """Tickets without end, each for 200 tasks."""
    refs = ",".join(f'"{_id()}"' for _ in range(200))
    data = request("POST", "/v1/tickets", body=f'{{"tasks":[{refs}]}}'.encode())
    return await _repeat(host, port, stop, lambda: data, 16)


# Bytes that nobody takes


async def unread_streams(host: str, port: int, stop: asyncio.Event) -> int:
    """Streams of a task with large documents that take no byte."""
    ask = request("GET", f"/v1/tasks/{FAT}/events?include=raw", "Accept: text/event-stream")
    return await _hold(host, port, stop, ask, 300, reads=False)


async def unread_lists(host: str, port: int, stop: asyncio.Event) -> int:
    """Streams of 50 tasks with large documents each, that take no byte."""
    query = "&".join(f"task={FAT}{number}" for number in range(50))
    ask = request("GET", f"/v1/events?{query}&include=raw", "Accept: text/event-stream")
    return await _hold(host, port, stop, ask, 30, reads=False)


async def unread_websockets(host: str, port: int, stop: asyncio.Event) -> int:
    """WebSockets on a task with large documents that take no byte."""
    ask = HANDSHAKE.replace(b"/v1/ws", f"/v1/ws?task={FAT}&include=raw".encode())
    return await _hold(host, port, stop, ask, 300, reads=False)


async def unread_documents(host: str, port: int, stop: asyncio.Event) -> int:
    """Large documents asked for a hundred times in one go, and no answer taken."""
    ask = request("GET", f"/v1/tasks/{FAT}?include=raw") * 100
    return await _hold(host, port, stop, ask, 200, reads=False)


async def unread_pipelines(host: str, port: int, stop: asyncio.Event) -> int:
    """Small documents asked for without end, and no answer taken."""
    return await _hold(host, port, stop, request("GET", f"/v1/tasks/{GOOD}") * 5_000, 100, reads=False)


async def histories(host: str, port: int, stop: asyncio.Event) -> int:
    """The history of a task with large documents, again and again, and no byte taken."""
    ask = request("GET", f"/v1/tasks/{FAT}/events?history=1&include=raw", "Accept: text/event-stream")
    return await _hold(host, port, stop, ask, 50, reads=False)


# Crowds


async def many_requests(host: str, port: int, stop: asyncio.Event) -> int:
    """A thousand connections that read a document again and again."""
    data = request("GET", f"/v1/tasks/{GOOD}")
    return await _repeat(host, port, stop, lambda: data, 1000)


async def new_connections(host: str, port: int, stop: asyncio.Event) -> int:
    """A document from a new connection each time, from two hundred at once."""
    ask = request("GET", f"/v1/tasks/{GOOD}", "Connection: close")

    async def talk(line: Line) -> None:
        await line.send(ask)
        await line.answer()

    return await _reopen(host, port, stop, talk, 200, seconds=10)


async def probes(host: str, port: int, stop: asyncio.Event) -> int:
    """The probe of orchestrators, from five hundred connections."""
    return await _repeat(host, port, stop, lambda: request("GET", "/livez"), 500)


# Ids that nobody has


async def random_documents(host: str, port: int, stop: asyncio.Event) -> int:
    """Reads of random tasks."""
    return await _repeat(host, port, stop, lambda: request("GET", f"/v1/tasks/{_id()}"), 32)


async def random_streams(host: str, port: int, stop: asyncio.Event) -> int:
    """Streams of random tasks, each on a new connection."""

    async def talk(line: Line) -> None:
        path = f"/v1/tasks/{_id()}/events"
        await line.send(request("GET", path, "Accept: text/event-stream"))
        await line.reader.read(_READ)

    return await _reopen(host, port, stop, talk, 100, seconds=2)


async def random_lists(host: str, port: int, stop: asyncio.Event) -> int:
    """Streams of 200 random tasks each, in a query and in a body."""
    numbers = itertools.count()

    def make() -> bytes:
        refs = [_id() for _ in range(200)]
        if next(numbers) % 2:
            body = ('{"tasks":["' + '","'.join(refs) + '"]}').encode()
            return request("POST", "/v1/events", "Accept: text/event-stream", body=body)
        return request("GET", "/v1/events?" + "&".join(f"task={ref}" for ref in refs))

    async def talk(line: Line) -> None:
        await line.send(make())
        while await line.reader.read(_READ):
            pass

    return await _reopen(host, port, stop, talk, 20, seconds=2)


async def subscribe_churn(host: str, port: int, stop: asyncio.Event) -> int:
    """WebSockets that subscribe to random tasks and leave them again."""

    async def one() -> int:
        sent = 0
        while not stop.is_set():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with connected(host, port) as line:
                    await line.send(HANDSHAKE)
                    await line.reader.readuntil(b"\r\n\r\n")
                    reading = asyncio.ensure_future(_drained(line.reader))
                    try:
                        while not stop.is_set() and not reading.done():
                            refs = '","'.join(_id() for _ in range(200))
                            for kind in ("subscribe", "unsubscribe"):
                                text = f'{{"type":"{kind}","id":1,"tasks":["{refs}"]}}'
                                async with asyncio.timeout(5):
                                    await line.send(frame(text.encode()))
                                sent += 200
                    finally:
                        reading.cancel()
        return sent

    return sum(await asyncio.gather(*(one() for _ in range(2))))


async def _drained(reader: asyncio.StreamReader) -> None:
    while await reader.read(_READ):
        pass


async def aliases(host: str, port: int, stop: asyncio.Event) -> int:
    """Lookups of random aliases."""

    def make() -> bytes:
        return request("GET", f"/v1/aliases/{UPSTREAM}/{secrets.token_hex(8)}")

    return await _repeat(host, port, stop, make, 32)


async def cancels(host: str, port: int, stop: asyncio.Event) -> int:
    """Cancels of random tasks."""
    return await _repeat(host, port, stop, lambda: request("POST", f"/v1/tasks/{_id()}/cancel", length=0), 32)


async def longpolls(host: str, port: int, stop: asyncio.Event) -> int:
    """Long-polls of a task without end, each from a new connection."""
    cursor = os.urandom(4).hex()
    ask = request("GET", f"/v1/tasks/{GOOD}", "Prefer: wait=60", f'If-None-Match: "{cursor}-1"')
    return await _repeat(host, port, stop, lambda: ask, 200)


async def hanging_submits(host: str, port: int, stop: asyncio.Event) -> int:
    """Submits that the provider takes its time for."""
    data = request("POST", f"/v1/tasks/{UPSTREAM}", "Content-Type: application/json", body=HANGS)
    return await _hold(host, port, stop, data, 300, reads=True)


SMALL = 40
LARGE = 150

FLOODS: dict[str, tuple[Flood, int]] = {
    flood.__name__: (flood, megabytes)
    for megabytes, floods in {
        SMALL: (
            idle_connections,
            half_sent_heads,
            half_sent_bodies,
            half_sent_large_bodies,
            refused_credentials,
            resets,
            bodies_with_wrong_secrets,
        ),
        LARGE: (
            large_bodies,
            large_proxied_bodies,
            ticket_lists,
            unread_streams,
            unread_lists,
            unread_websockets,
            unread_documents,
            unread_pipelines,
            histories,
            many_requests,
            new_connections,
            probes,
            random_documents,
            random_streams,
            random_lists,
            subscribe_churn,
            aliases,
            cancels,
            longpolls,
            hanging_submits,
        ),
    }.items()
    for flood in floods
}
"""Every flood, with the megabytes it may add to the process."""
