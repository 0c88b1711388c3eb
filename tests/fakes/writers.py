"""Where bytes go in tests: a writer that remembers, a transport that fills up, a server that stalls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from bridge.core.event import Closing
from bridge.wire.document import Include
from bridge.wire.formats import NdjsonFormat, SseFormat, WebSocketFormat
from bridge.wire.frames import Format, format_of
from bridge.wire.sse import Decoder, ServerSentEvent

RAW = Include(raw=True)
SSE = format_of(SseFormat)
NDJSON = format_of(NdjsonFormat)
SOCKET = format_of(WebSocketFormat)
CHUNKED = format_of(SseFormat, framed=True)
FRAMED = format_of(WebSocketFormat, framed=True)


class RecordingWriter:
    """Keeps every write; takes no more while a test says so."""

    def __init__(self, form: Format = SSE) -> None:
        self.fmt = form
        self.writes: list[bytes] = []
        self.write_paused = False
        self.unsent = 0
        self.finished: Closing | None = None
        self.aborted = self.half_closed = False
        self._waiting: list[Callable[[], None]] = []

    @property
    def flow(self) -> RecordingWriter:
        """Itself."""
        return self

    @property
    def gone(self) -> bool:
        """Whether it was dropped."""
        return self.aborted

    @property
    def left(self) -> bool:
        """Whether it was dropped, or the client sends nothing more."""
        return self.aborted or self.half_closed

    @property
    def sent(self) -> bytes:
        """Everything written."""
        return b"".join(self.writes)

    @property
    def events(self) -> list[ServerSentEvent]:
        """Everything written, as a browser reads it."""
        return Decoder().feed(self.sent)

    def write(self, data: bytes) -> None:
        """Remember."""
        assert self.finished is None, "written after the end"
        assert not self.aborted, "written after the connection was dropped"
        self.writes.append(data)

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when the gate is open again."""
        if self.write_paused:
            self._waiting.append(resume)
        else:
            asyncio.get_running_loop().call_soon(resume)

    def pause(self) -> None:
        """From now on the client takes nothing."""
        self.write_paused = True

    def wake(self) -> None:
        """The client reads again; as with a real transport, whoever waits hears of it a turn later."""
        self.write_paused = False
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            asyncio.get_running_loop().call_soon(resume)

    def finish(self, closing: Closing) -> None:
        """The end."""
        assert self.finished is None, "ended twice"
        self.finished = closing

    def abort(self) -> None:
        """The end, at once."""
        self.aborted = True


class FakeTransport:
    """A socket that takes nothing while it is full, and the two ways servers tell of it."""

    def __init__(self, *, closed_raises: bool = False) -> None:
        self.taken = b""
        self.buffered = b""
        self.closing = self.aborted = False
        self.write_paused = False
        self.writable = asyncio.Event()
        self.writable.set()
        self._closed_raises = closed_raises

    def write(self, data: bytes) -> None:
        """Take, or keep."""
        if self.closing:
            if self._closed_raises:
                raise RuntimeError("unable to perform operation on a closed transport")
            return
        if self.write_paused:
            self.buffered += data
        else:
            self.taken += data

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closing

    def get_write_buffer_size(self) -> int:
        """What was not taken."""
        return len(self.buffered)

    def close(self) -> None:
        """No more writes; what is kept still leaves."""
        self.closing = True

    def abort(self) -> None:
        """At once."""
        self.closing = self.aborted = True
        self.buffered = b""

    def fill(self) -> None:
        """The client stops reading."""
        self.write_paused = True
        self.writable.clear()

    def empty(self) -> None:
        """The client has read everything."""
        self.taken, self.buffered = self.taken + self.buffered, b""
        self.write_paused = False
        self.writable.set()

    async def drain(self) -> None:
        """Wait until there is room: uvicorn's flow control."""
        await self.writable.wait()


class FakeServer:
    """An ASGI server's `send`: waits while its buffer is full, before it takes the message."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.messages: list[dict[str, Any]] = []
        self.fails: Exception | None = None
        self.chunked_encoding = True
        self.flow = self.transport
        self.writable = self.transport.writable

    async def send(self, message: Any) -> None:
        """Take a message."""
        await self.transport.writable.wait()
        if self.fails is not None:
            raise self.fails
        self.messages.append(dict(message))
