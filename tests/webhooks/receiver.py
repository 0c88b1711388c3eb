"""A receiver of webhooks on a real socket: it does what a test says, and keeps every request as it came."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from tests.chaos.proxy import LINGER_0
from tests.harness import PATIENCE

HEAD_BYTES = 64 * 1024
CHUNK = b"x" * 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """How one request is answered.

    Args:
        delay: Seconds before the first byte.
        hang: Whether nothing is answered at all, until the sender gives up.
        drip: Seconds between the bytes of the answer; 0 sends them at once.
        reset: Whether the connection is reset instead.
        size: Bytes of the body, if `body` is not given.
        keep: Whether the connection may be used again.
    """

    status: int = 204
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    delay: float = 0.0
    hang: bool = False
    drip: float = 0.0
    reset: bool = False
    size: int = 0
    keep: bool = True


OK = Reply()
BROKEN = Reply(status=500)
GONE = Reply(status=410)
HANG = Reply(hang=True)
RESET = Reply(reset=True)


@dataclass(eq=False, slots=True)
class Request:
    """One request, as it came.

    Attributes:
        at: When it was read whole, on the event loop's clock.
        peer: Address and port it came from.
        status: What it was answered; None while it is not, or if it never was.
        over_at: When it was answered, or its connection ended.
        verified: The secrets with which the `standardwebhooks` package verified it.
    """

    at: float
    peer: tuple[str, int]
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    status: int | None = None
    over_at: float | None = None
    verified: tuple[str, ...] = ()
    why: str = ""
    _document: dict[str, Any] | None = None

    def header(self, name: str) -> str | None:
        """The only value of a header."""
        values = [value for key, value in self.headers if key.lower() == name]
        assert len(values) <= 1, f"{name} {len(values)} times"
        return values[0] if values else None

    @property
    def id(self) -> str:
        return self.header("webhook-id") or ""

    @property
    def document(self) -> dict[str, Any]:
        if self._document is None:
            self._document = json.loads(self.body)
        assert self._document is not None
        return self._document

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.document["data"]
        return data

    @property
    def arrived(self) -> bool:
        """Whether the sender was told that it did."""
        return self.status is not None and 200 <= self.status < 300


Answering = Callable[[Request], "Reply | Awaitable[Reply]"]


@dataclass(eq=False)
class Receiver:
    """Answers by `answer`; a test may replace it at any time.

    Attributes:
        requests: All of them, in the order they came.
        secrets: That a request may be signed with, for the requests to come.
        connections: How many were accepted.
    """

    host: str = "127.0.0.1"
    trust: ssl.SSLContext | None = None
    answer: Answering = lambda _: OK
    secrets: list[str] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _listener: socket.socket | None = None
    _accepting: asyncio.Task[None] | None = None
    _gate: asyncio.Event = field(default_factory=asyncio.Event)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"{'https' if self.trust else 'http'}://{self.host}:{self.port}"

    async def listen(self) -> None:
        """Accept connections, on the port it had."""
        self._listener = socket.create_server((self.host, self.port), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._gate.set()
        self._accepting = asyncio.create_task(self._accept_for_ever(self._listener))

    async def refuse(self) -> None:
        """Connections are refused from now on; those that are open are reset."""
        if self._accepting is not None:
            self._accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._accepting
        if self._listener is not None:
            self._listener.close()
        self._accepting = self._listener = None
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def accept_nobody(self) -> None:
        """The system completes connections, and nobody reads them."""
        self._gate.clear()

    def accept_again(self) -> None:
        """Those that wait are served, too."""
        self._gate.set()

    def of(self, task: str, kind: str | None = None) -> list[Request]:
        """The requests about a task, of one type."""
        return [
            one
            for one in self.requests
            if one.data.get("task") == task and kind in (None, one.document["type"])
        ]

    async def until(self, ready: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Wait for requests and answers until it is ready."""
        async with asyncio.timeout(seconds):
            while not ready():
                news = self._news
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), 0.5)

    async def next_of(self, task: str, number: int = 1) -> Request:
        """The request number so many about a task."""
        await self.until(lambda: len(self.of(task)) >= number)
        return self.of(task)[number - 1]

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _accept_for_ever(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gate.wait()
            connection, _ = await loop.sock_accept(listener)
            try:
                await self._gate.wait()
            except asyncio.CancelledError:
                connection.close()
                raise
            self.connections += 1
            task = asyncio.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader(limit=HEAD_BYTES)
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.connect_accepted_socket(
                lambda: asyncio.StreamReaderProtocol(reader), connection, ssl=self.trust
            )
        except OSError:
            connection.close()
            return
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                while await self._exchange(reader, writer):
                    pass
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        body = await reader.readexactly(length)
        loop = asyncio.get_running_loop()
        peer = writer.get_extra_info("peername")[:2]
        request = Request(loop.time(), peer, method, target, headers, body)
        request.verified, request.why = self._verify(request)
        self.requests.append(request)
        self._tell()
        try:
            reply = self.answer(request)
            if inspect.isawaitable(reply):
                reply = await reply
            return await self._reply(request, reply, reader, writer)
        finally:
            request.over_at = loop.time()
            self._tell()

    async def _reply(
        self, request: Request, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.hang:
            await reader.read(1)  # until the sender closes
            return False
        if reply.reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            return False
        size = reply.size or len(reply.body)
        lines = [f"HTTP/1.1 {reply.status} Said", *(f"{name}: {value}" for name, value in reply.headers)]
        if reply.status != 204:
            lines.append(f"Content-Length: {size}")
        if not reply.keep:
            lines.append("Connection: close")
        data = ("\r\n".join(lines) + "\r\n\r\n").encode() + reply.body
        if reply.drip:
            for byte in data:
                writer.write(bytes((byte,)))
                await writer.drain()
                await asyncio.sleep(reply.drip)
        else:
            writer.write(data)
            await writer.drain()
        for _ in range(0, reply.size, len(CHUNK)):
            writer.write(CHUNK)
            await writer.drain()
        request.status = reply.status
        return reply.keep

    def _verify(self, request: Request) -> tuple[tuple[str, ...], str]:
        headers = {name.lower(): value for name, value in request.headers}
        good, why = [], "no secret is known"
        for secret in self.secrets:
            try:
                Webhook(secret).verify(request.body, headers)
            except (WebhookVerificationError, ValueError) as error:
                why = str(error)
            else:
                good.append(secret)
        return tuple(good), why


@asynccontextmanager
async def receiver(*secrets: str, **more: Any) -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    made = Receiver(secrets=list(secrets), **more)
    await made.listen()
    try:
        yield made
    finally:
        made.accept_again()
        await made.refuse()


def by_turns(*replies: Reply) -> Answering:
    """Each request about one content gets the next of these; the last repeats."""
    seen: dict[str, int] = {}

    def answer(request: Request) -> Reply:
        number = seen.get(request.id, 0)
        seen[request.id] = number + 1
        return replies[min(number, len(replies) - 1)]

    return answer


def ids(requests: Sequence[Request]) -> list[str]:
    """Of deliveries, in the order of their first attempts."""
    return list(dict.fromkeys(one.id for one in requests))
