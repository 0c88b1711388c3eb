"""Connection writers: straight to the transport under our own server, through ASGI `send` under any other."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import lru_cache
from typing import Any, Protocol, cast

from starlette.types import Message, Scope, Send

from bridge.core.event import Closing
from bridge.delivery.handoff import server_of
from bridge.hub.subscription import FlowControl
from bridge.wire.document import Include
from bridge.wire.frames import Format, Rewrite, Transport, Variant

_LAST_CHUNK = b"0\r\n\r\n"


class _Flow(Protocol):
    """uvicorn's flow control of one connection."""

    write_paused: bool

    async def drain(self) -> None:
        """Wait until writing is no longer paused."""


class _Cycle(Protocol):
    """The attributes of uvicorn's HTTP request cycle used here; ASGI `send` is its method."""

    transport: asyncio.Transport
    flow: _Flow
    chunked_encoding: bool | None


class TransportWriter:
    """Bypasses the server and writes to the transport. The response must have begun.

    ASGI `send` would cost each write a coroutine, a message and the checks of both.
    """

    __slots__ = ("_send", "_transport", "flow", "fmt", "write")

    ended = None  # `receive` returns when the response has ended

    def __init__(self, cycle: _Cycle, fmt: Format) -> None:
        self._send: Send | None = None
        self._transport = cycle.transport
        self.flow = cycle.flow
        self.write = cycle.transport.write
        self.fmt = fmt

    def attach(self, send: Send) -> None:
        """Set the server's `send`, used to end the body."""
        self._send = send

    @property
    def gone(self) -> bool:
        """Whether the transport is closed or closing."""
        return self._transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes in the transport's write buffer."""
        return self._transport.get_write_buffer_size()

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once the buffer has drained; only a slow client costs an asyncio task."""
        _after(self.flow.drain(), resume)

    def finish(self, closing: Closing) -> None:  # noqa: ARG002 - a response body ends the same way for every reason
        """End the body; the connection stays usable for the next request."""
        if self.gone:
            return
        if self.flow.write_paused or self._send is None:
            # The server's `send` would wait for the client. The last chunk goes behind the buffered bytes;
            # the transport closes once all of it has left.
            self.write(_LAST_CHUNK)
            self._transport.close()
            return
        drive(self._send({"type": "http.response.body", "body": b"", "more_body": False}))

    def abort(self) -> None:
        """Close immediately and discard the write buffer."""
        self._transport.abort()


class WebSocketWriter:
    """Writes frames to the transport of a WebSocket whose handshake the server has completed."""

    __slots__ = ("_protocol", "_send", "_transport", "fmt", "write")

    ended = None  # `receive` returns when the response has ended

    def __init__(self, protocol: Any, send: Send, fmt: Format) -> None:
        self._protocol = protocol
        self._send = send
        self._transport: asyncio.Transport = protocol.transport
        self.write = self._transport.write
        self.fmt = fmt

    @property
    def flow(self) -> FlowControl:
        """The server's own object if it has one, as ours does."""
        return cast(FlowControl, getattr(self._protocol, "flow_control", self))

    @property
    def write_paused(self) -> bool:
        """Whether the write buffer is above its high-water mark."""
        return not self._protocol.writable.is_set()

    @property
    def gone(self) -> bool:
        """Whether the transport is closed or closing."""
        return self._transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes in the transport's write buffer."""
        return self._transport.get_write_buffer_size()

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once the buffer has drained; only a slow client costs an asyncio task."""
        _after(self._protocol.writable.wait(), resume)

    def finish(self, closing: Closing) -> None:
        """Close with a code that says whether to reconnect."""
        drive(
            self._send({"type": "websocket.close", "code": closing.websocket_code, "reason": closing.value})
        )

    def abort(self) -> None:
        """Close immediately and discard the write buffer."""
        self._transport.abort()


class UnopenedWriter:
    """Placeholder until the response status is known: no byte may precede the response head.

    If the connection is closed meanwhile, only `Subscription.closing` is set; the response reads it.
    """

    __slots__ = ("fmt",)

    write_paused = True
    gone = False
    unsent = 0

    def __init__(self, fmt: Format) -> None:
        self.fmt = fmt

    @property
    def flow(self) -> FlowControl:
        """Always paused, so that the hub keeps everything pending."""
        return self

    def write(self, data: bytes) -> None:
        pass

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Do nothing: `Hub.begin` sends everything once there is a real writer."""

    def finish(self, closing: Closing) -> None:
        pass

    def abort(self) -> None:
        pass


class AsgiWriter:
    """Writes through ASGI `send`, without a task while the server's buffer has room.

    Ordering: messages are sent in the order they were written.

    Attributes:
        ended: Set when the last message has been sent. Only this writer has one: an `asyncio.Event` takes a
            tenth of the memory of a connection.
    """

    __slots__ = ("_finishing", "_messages", "_resumes", "_send", "_sending", "ended", "fmt")

    def __init__(self, fmt: Format, send: Send | None = None) -> None:
        self._send = send
        self._sending: asyncio.Task[None] | None = None
        self._messages: deque[Message] = deque()
        self._resumes: list[Callable[[], None]] = []
        self._finishing = False
        self.ended = asyncio.Event()
        self.fmt = fmt

    def attach(self, send: Send) -> None:
        """Set the server's `send`; nothing is written before."""
        self._send = send

    gone = False

    @property
    def flow(self) -> FlowControl:
        """This object: see `write_paused`."""
        return self

    @property
    def write_paused(self) -> bool:
        """Whether a `send` is still waiting."""
        return self._sending is not None

    @property
    def unsent(self) -> int:
        """Queued messages, including the one being sent; ASGI does not report bytes."""
        return len(self._messages) + (self._sending is not None)

    def write(self, data: bytes) -> None:
        """Send `data`, after everything written before."""
        if self.fmt.transport is Transport.WEBSOCKET:
            # One write may join several messages; the encoder separates them by a line break.
            self._messages.extend(
                {"type": "websocket.send", "text": line.decode()} for line in data.splitlines()
            )
        else:
            self._messages.append({"type": "http.response.body", "body": data, "more_body": True})
        self._pump()

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` when everything written has been sent."""
        if self._sending is None:
            asyncio.get_running_loop().call_soon(resume)
        else:
            self._resumes.append(resume)

    def finish(self, closing: Closing) -> None:
        """End the response after what was written."""
        if self.fmt.transport is Transport.WEBSOCKET:
            code = closing.websocket_code
            self._messages.append({"type": "websocket.close", "code": code, "reason": closing.value})
        else:
            self._messages.append({"type": "http.response.body", "body": b"", "more_body": False})
        self._finishing = True
        self._pump()

    def abort(self) -> None:
        """Stop sending and let the connection's coroutine end; ASGI has no abort."""
        self._messages.clear()
        if self._sending is not None:
            self._sending.cancel()
        self.ended.set()

    def _pump(self) -> None:
        assert self._send is not None
        while self._messages and self._sending is None:
            self._sending = drive(self._send(self._messages.popleft()))
            if self._sending is not None:
                self._sending.add_done_callback(self._sent)
        if self._finishing and self._sending is None:
            self.ended.set()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        if task.cancelled() or task.exception() is not None:
            # The client is gone. The server reports that by `receive`, so nothing is raised here.
            self._messages.clear()
        self._pump()
        if self._sending is None:
            resumes, self._resumes = self._resumes, []
            for resume in resumes:
                resume()


_format = lru_cache(64)(Format)  # few exist, and a lookup by identity is faster than by value


def http_format(
    scope: Scope,
    transport: Transport,
    include: Include,
    variant: Variant = Variant.BRIDGE,
    rewrite: Rewrite | None = None,
) -> Format:
    """The format of the body of this HTTP response."""
    # Without this attribute it is unknown whether the server chunks; the body would be framed twice or never.
    chunked = hasattr(server_of(scope), "chunked_encoding") and scope.get("http_version") != "1.0"
    if rewrite is not None:  # one for each connection: not worth a place in the cache
        return Format(transport, include, chunked, False, variant, rewrite)
    return _format(transport, include, chunked, False, variant)


def http_writer(scope: Scope, fmt: Format) -> TransportWriter | AsgiWriter:
    """The fastest writer for an HTTP response; `attach` it once the response has begun."""
    server = server_of(scope)
    if server is not None and fmt.chunked:
        return TransportWriter(server, fmt)
    return AsgiWriter(fmt)


def websocket_writer(server: Any | None, send: Send, include: Include) -> WebSocketWriter | AsgiWriter:
    """The fastest writer for an accepted WebSocket."""
    if server is not None and isinstance(getattr(server, "writable", None), asyncio.Event):
        return WebSocketWriter(server, send, _format(Transport.WEBSOCKET, include, False, True))
    return AsgiWriter(Format(Transport.WEBSOCKET, include), send)


def drive(coroutine: Awaitable[None]) -> asyncio.Task[None] | None:
    """Run a coroutine until it first waits; the rest, if any, becomes a task.

    Python 3.12 has `asyncio.Task(eager_start=True)` for this; the oldest supported version is 3.11.
    """
    started = cast("Coroutine[Any, None, None]", coroutine)
    try:
        waited_for = started.send(None)
    except StopIteration:
        return None
    except OSError:
        return None  # the client is gone; `receive` reports the disconnect
    return _keep(asyncio.ensure_future(_continue(started, waited_for)))


async def _continue(started: Coroutine[Any, None, None], waited_for: Any) -> None:
    await _Rest(started, waited_for)


class _Rest:
    """Continues a coroutine that was started by hand and waits for the future `waited_for`."""

    def __init__(self, started: Coroutine[Any, None, None], waited_for: Any) -> None:
        self._started = started
        self._waited_for = waited_for

    def __await__(self) -> Generator[Any, Any, None]:
        waited_for = self._waited_for
        with contextlib.suppress(StopIteration):
            while True:
                try:
                    value = yield waited_for
                except BaseException as error:  # noqa: BLE001 - cancellation included, the coroutine handles it
                    waited_for = self._started.throw(error)
                else:
                    waited_for = self._started.send(value)


_running: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references


def _keep(task: asyncio.Task[None]) -> asyncio.Task[None]:
    _running.add(task)
    task.add_done_callback(_settle)
    return task


def _settle(task: asyncio.Task[None]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # read, or asyncio would log it: a client that disconnects is not an error


def _after(awaitable: Awaitable[Any], resume: Callable[[], None]) -> None:
    async def wait() -> None:
        await awaitable
        resume()

    _keep(asyncio.ensure_future(wait()))
