"""How bytes leave: through the transport under our own server, through ASGI `send` under any other."""

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
from bridge.wire.frames import Format, Transport, Variant

_LAST_CHUNK = b"0\r\n\r\n"


class _Flow(Protocol):
    """What uvicorn knows of a client's appetite."""

    write_paused: bool

    async def drain(self) -> None:
        """Wait until there is room."""


class _Cycle(Protocol):
    """What uvicorn's HTTP request cycle shows of itself; `send` is its method."""

    transport: asyncio.Transport
    flow: _Flow
    chunked_encoding: bool | None


class TransportWriter:
    """Writes past the server, straight to the transport. The response must have begun."""

    __slots__ = ("_send", "_transport", "fmt", "gate", "write")

    ended = None  # the server tells

    def __init__(self, cycle: _Cycle, fmt: Format) -> None:
        self._send: Send | None = None
        self._transport = cycle.transport
        self.gate = cycle.flow
        self.write = cycle.transport.write
        self.fmt = fmt

    def attach(self, send: Send) -> None:
        """The server's `send`, which ends the body."""
        self._send = send

    @property
    def gone(self) -> bool:
        """Whether the transport is closed, or about to be."""
        return self._transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes in the transport's buffer."""
        return self._transport.get_write_buffer_size()

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Only a client that is behind costs a task."""
        _after(self.gate.drain(), resume)

    def finish(self, closing: Closing) -> None:  # noqa: ARG002 - a body has one way to end
        """End the body; the connection may carry the next request."""
        if self.gone:
            return
        if self.gate.write_paused or self._send is None:
            self.write(_LAST_CHUNK)
            self._transport.close()
            return
        drive(self._send({"type": "http.response.body", "body": b"", "more_body": False}))

    def abort(self) -> None:
        """Drop the connection and what it holds."""
        self._transport.abort()


class WebSocketWriter:
    """The same for a WebSocket whose handshake the server has done."""

    __slots__ = ("_protocol", "_send", "_transport", "fmt", "write")

    ended = None  # the server tells

    def __init__(self, protocol: Any, send: Send, fmt: Format) -> None:
        self._protocol = protocol
        self._send = send
        self._transport: asyncio.Transport = protocol.transport
        self.write = self._transport.write
        self.fmt = fmt

    @property
    def gate(self) -> FlowControl:
        """That of the server where it has one, as ours does."""
        return cast(FlowControl, getattr(self._protocol, "gate", self))

    @property
    def write_paused(self) -> bool:
        """Whether the transport's buffer is above its mark."""
        return not self._protocol.writable.is_set()

    @property
    def gone(self) -> bool:
        """Whether the transport is closed, or about to be."""
        return self._transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes in the transport's buffer."""
        return self._transport.get_write_buffer_size()

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Only a client that is behind costs a task."""
        _after(self._protocol.writable.wait(), resume)

    def finish(self, closing: Closing) -> None:
        """Close with the code that tells whether to come back."""
        drive(
            self._send({"type": "websocket.close", "code": closing.websocket_code, "reason": closing.value})
        )

    def abort(self) -> None:
        """Drop the connection and what it holds."""
        self._transport.abort()


class UnopenedWriter:
    """Stands in while the status of the answer is not known: before the head nothing may be written.

    Whoever ends the connection meanwhile leaves word in `Subscription.closing`.
    """

    __slots__ = ("fmt",)

    write_paused = True
    gone = False
    unsent = 0

    def __init__(self, fmt: Format) -> None:
        self.fmt = fmt

    @property
    def gate(self) -> FlowControl:
        """Itself."""
        return self

    def write(self, data: bytes) -> None:
        """Nothing may leave yet."""

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Nothing is owed yet."""

    def finish(self, closing: Closing) -> None:
        """The response sees to it."""

    def abort(self) -> None:
        """There is nothing to drop."""


class AsgiWriter:
    """Drives `send` by hand: it ends at once unless the server's buffer is full.

    Attributes:
        ended: Set when the last message has left; they leave in the order they were written. An event is as
            large as a tenth of a connection, so there is one only here.
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
        """The server's `send`; nothing is written before."""
        self._send = send

    gone = False

    @property
    def gate(self) -> FlowControl:
        """Itself."""
        return self

    @property
    def write_paused(self) -> bool:
        """Whether a `send` has not come back."""
        return self._sending is not None

    @property
    def unsent(self) -> int:
        """Messages that wait, and the one being sent: bytes are the server's secret."""
        return len(self._messages) + (self._sending is not None)

    def write(self, data: bytes) -> None:
        """Send now, or after what is being sent."""
        if self.fmt.transport is Transport.WEBSOCKET:
            self._messages.extend(
                {"type": "websocket.send", "text": one.decode()} for one in data.splitlines()
            )
        else:
            self._messages.append({"type": "http.response.body", "body": data, "more_body": True})
        self._pump()

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` when everything written has been taken."""
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
        """ASGI knows no abort: stop sending, and let the connection's coroutine end."""
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
            self._messages.clear()
        self._pump()
        if self._sending is None:
            resumes, self._resumes = self._resumes, []
            for resume in resumes:
                resume()


_form = lru_cache(64)(Format)  # there are few, and to find one by itself is quicker than by what it says


def http_format(
    scope: Scope, transport: Transport, include: Include, variant: Variant = Variant.BRIDGE
) -> Format:
    """How bytes for this HTTP request must look."""
    # without this attribute we cannot know that the server chunks, and would frame twice or not at all
    return _form(transport, include, hasattr(server_of(scope), "chunked_encoding"), False, variant)


def http_writer(scope: Scope, fmt: Format) -> TransportWriter | AsgiWriter:
    """The cheapest way out for an HTTP response; `attach` it once the response has begun."""
    server = server_of(scope)
    if server is not None and fmt.chunked:
        return TransportWriter(server, fmt)
    return AsgiWriter(fmt)


def websocket_writer(server: Any | None, send: Send, include: Include) -> WebSocketWriter | AsgiWriter:
    """The cheapest way out for an accepted WebSocket."""
    if server is not None and isinstance(getattr(server, "writable", None), asyncio.Event):
        return WebSocketWriter(server, send, _form(Transport.WEBSOCKET, include, False, True))
    return AsgiWriter(Format(Transport.WEBSOCKET, include), send)


def drive(coroutine: Awaitable[None]) -> asyncio.Task[None] | None:
    """Run a coroutine as far as it goes without waiting; the rest, if any, becomes a task."""
    started = cast("Coroutine[Any, None, None]", coroutine)
    try:
        waited_for = started.send(None)
    except StopIteration:
        return None
    except OSError:
        return None  # the peer is gone; the disconnect comes by its own way
    task = asyncio.ensure_future(_continue(started, waited_for))
    _running.add(task)
    task.add_done_callback(_settle)
    return task


async def _continue(started: Coroutine[Any, None, None], waited_for: Any) -> None:
    await _Rest(started, waited_for)


class _Rest:
    """The rest of a coroutine that was started by hand and waits for `waited_for`."""

    def __init__(self, started: Coroutine[Any, None, None], waited_for: Any) -> None:
        self._started = started
        self._waited_for = waited_for

    def __await__(self) -> Generator[Any, Any, None]:
        waited_for = self._waited_for
        with contextlib.suppress(StopIteration):
            while True:
                try:
                    value = yield waited_for
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the coroutine
                    waited_for = self._started.throw(error)
                else:
                    waited_for = self._started.send(value)


_running: set[asyncio.Future[Any]] = set()


def _settle(task: asyncio.Future[Any]) -> None:
    _running.discard(task)
    if not task.cancelled():
        task.exception()  # a client that left in the middle is no error of ours


def _after(awaitable: Awaitable[Any], resume: Callable[[], None]) -> None:
    async def wait() -> None:
        await awaitable
        resume()

    task = asyncio.ensure_future(wait())
    _running.add(task)
    task.add_done_callback(_settle)
