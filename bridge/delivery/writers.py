"""Connection writers: straight to the transport under our own server, through ASGI `send` under any other."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Protocol, cast

from starlette.types import Message, Scope, Send

from bridge.core.event import Closing
from bridge.delivery.handoff import server_of
from bridge.hub.subscription import FlowControl

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

    __slots__ = ("_cycle", "_send", "_transport", "flow", "framed", "write")

    ended = None  # `receive` returns when the response has ended

    def __init__(self, cycle: _Cycle) -> None:
        self._send: Send | None = None
        # False for HTTP/1.0: the body ends with the connection.
        self.framed = bool(cycle.chunked_encoding)
        self._cycle = cycle
        self._transport = cycle.transport
        self.flow = cycle.flow
        # Our own server holds the head back until there is something to write with it.
        self.write: Callable[[bytes], None] = getattr(cycle, "write_first", cycle.transport.write)

    def begun(self) -> None:
        """What the stream begins with was written: from now on nothing is held back."""
        if self.write != self._transport.write:
            cast(Any, self._cycle).release()
            self.write = self._transport.write

    def attach(self, send: Send) -> None:
        """Set the server's `send`, used to end the body."""
        self._send = send

    @property
    def gone(self) -> bool:
        """Whether the transport is closed or closing."""
        return self._transport.is_closing()

    @property
    def left(self) -> bool:
        """Whether the client has closed its half of the connection too, where the server reports it."""
        return self.gone or getattr(self._cycle, "left", False)

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
            if self.framed:
                self.write(_LAST_CHUNK)
            self.begun()
            self._transport.close()
            return
        drive(self._send({"type": "http.response.body", "body": b"", "more_body": False}))

    def abort(self) -> None:
        """Close immediately and discard the write buffer."""
        self._transport.abort()


class WebSocketWriter:
    """Writes frames to the transport of a WebSocket whose handshake the server has completed."""

    __slots__ = ("_protocol", "_send", "_transport", "write")

    ended = None  # `receive` returns when the response has ended
    framed = True

    def __init__(self, protocol: Any, send: Send) -> None:
        self._protocol = protocol
        self._send = send
        self._transport: asyncio.Transport = protocol.transport
        # Our own server holds the response to the handshake back until there is something to write with it.
        self.write: Callable[[bytes], None] = getattr(protocol, "write_first", self._transport.write)

    def begun(self) -> None:
        """What the connection begins with was written: from now on nothing is held back."""
        if self.write != self._transport.write:
            self._protocol.release()
            self.write = self._transport.write

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
    def left(self) -> bool:
        """The same: the server closes a WebSocket whose client has closed its half."""
        return self.gone

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


class AsgiWriter:
    """Writes through ASGI `send` in an asyncio task, which lasts until everything written has been sent.

    A server's `send` may be any awaitable, and may need to run in a task: of another server nothing else is
    known.

    Ordering: messages are sent in the order they were written.

    Attributes:
        ended: Set when the last message has been sent, or one could not be. Only this writer has one: an
            `asyncio.Event` takes a tenth of the memory of a connection.
    """

    __slots__ = ("_messages", "_resumes", "_send", "_sending", "ended")

    framed = False
    gone = False

    def __init__(self, send: Send | None = None) -> None:
        self._send = send
        self._sending: asyncio.Task[None] | None = None
        self._messages: deque[Message] = deque()
        self._resumes: list[Callable[[], None]] = []
        self.ended = asyncio.Event()

    def attach(self, send: Send) -> None:
        """Set the server's `send`; nothing is written before."""
        self._send = send

    def begun(self) -> None:
        """Nothing was held back."""

    @property
    def left(self) -> bool:
        """Whether a message could not be sent; before that, `gone` is all that is known."""
        return self.ended.is_set()

    @property
    def flow(self) -> FlowControl:
        """This object: see `write_paused`."""
        return self

    @property
    def write_paused(self) -> bool:
        """Whether something written has not been sent yet."""
        return self._sending is not None

    @property
    def unsent(self) -> int:
        """Queued messages, including the one being sent; ASGI does not report bytes."""
        return len(self._messages) + (self._sending is not None)

    def write(self, data: bytes) -> None:
        """Send `data`, after everything written before."""
        self._put(self._messages_of(data))

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` when everything written has been sent."""
        if self._sending is None:
            asyncio.get_running_loop().call_soon(resume)
        else:
            self._resumes.append(resume)

    def finish(self, closing: Closing) -> None:
        """End the response after what was written."""
        self._put([self._last_message(closing)])

    def abort(self) -> None:
        """Stop sending and let the connection's coroutine end; ASGI has no abort."""
        self._messages.clear()
        if self._sending is not None:
            self._sending.cancel()
        self.ended.set()

    def _messages_of(self, data: bytes) -> list[Message]:
        return [{"type": "http.response.body", "body": data, "more_body": True}]

    def _last_message(self, closing: Closing) -> Message:  # noqa: ARG002 - a body ends the same way for every reason
        return {"type": "http.response.body", "body": b"", "more_body": False}

    def _put(self, messages: list[Message]) -> None:
        if self.ended.is_set():
            return
        self._messages.extend(messages)
        if self._sending is None and self._messages:
            self._sending = asyncio.ensure_future(self._send_all())
            self._sending.add_done_callback(self._sent)

    async def _send_all(self) -> None:
        assert self._send is not None
        while self._messages:
            message = self._messages.popleft()
            await self._send(message)
            if message["type"] == "websocket.close" or message.get("more_body") is False:
                self.ended.set()

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending = None
        if task.cancelled() or task.exception() is not None:
            # The client is gone. The server reports that by `receive`, or not at all.
            self._messages.clear()
            self.ended.set()
        resumes, self._resumes = self._resumes, []
        for resume in resumes:
            resume()


class AsgiSocketWriter(AsgiWriter):
    """The same for a WebSocket."""

    __slots__ = ()

    def _messages_of(self, data: bytes) -> list[Message]:
        # One write may join several messages; the format separates them by a line break.
        lines = data.split(b"\n")
        return [{"type": "websocket.send", "text": line.decode()} for line in lines if line]

    def _last_message(self, closing: Closing) -> Message:
        return {"type": "websocket.close", "code": closing.websocket_code, "reason": closing.value}


def http_writer(scope: Scope) -> TransportWriter | AsgiWriter:
    """The fastest writer for an HTTP response that has begun; `attach` it first."""
    server = server_of(scope)
    # Without this attribute it is unknown whether the server chunks; the body would be framed twice or never.
    if server is not None and hasattr(server, "chunked_encoding"):
        return TransportWriter(server)
    return AsgiWriter()


def websocket_writer(server: Any | None, send: Send) -> WebSocketWriter | AsgiSocketWriter:
    """The fastest writer for an accepted WebSocket."""
    if server is not None and hasattr(getattr(server, "writable", None), "wait"):
        return WebSocketWriter(server, send)
    return AsgiSocketWriter(send)


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
