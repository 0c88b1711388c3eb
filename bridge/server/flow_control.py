"""Flow control of WebSockets: the write buffer as the hub sees it, and the rate of a client's frames."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from bridge.web.limits.limits import UnsentBytes

# The library spends about 10 µs on a frame, and one read may hold 40,000 frames without content.
SLICE_BYTES = 2048  # parsed before other connections have their turn
FRAMES_PER_SECOND = 200.0  # a frame counts as one, and so does a slice
BURST_FRAMES = 1000.0
MAX_FRAGMENTS = 100  # fragments of a message kept apart; they may be empty


class WebSocketFlowControl:
    """Whether the write buffer of a WebSocket is full; see `bridge.hub.subscription.FlowControl`.

    A separate object: the protocol has more attributes than CPython keeps in an inline dictionary, which
    makes reading one of its own slower.
    """

    __slots__ = ("write_paused",)

    def __init__(self) -> None:
        self.write_paused = False


class FrameRate:
    """How many frames of one client may be read now: a token bucket.

    Args:
        now: Monotonic seconds, as in `wait`.
    """

    __slots__ = ("_at", "_left")

    def __init__(self, now: float) -> None:
        self._left = BURST_FRAMES
        self._at = now

    def spend(self, frames: int, now: float) -> float:
        """Count `frames` that were read; seconds until the next may be."""
        refilled = min(BURST_FRAMES, self._left + (now - self._at) * FRAMES_PER_SECOND)
        self._left, self._at = refilled - frames, now
        return max(0.0, -self._left / FRAMES_PER_SECOND)


class FlowControlledWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with `flow_control`, and with a limited rate of frames.

    Above the rate, and while the client does not read, nothing more is read from it; nothing is closed.
    """

    __slots__ = ("_held", "_rate", "_turn", "_unread", "flow_control")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Create the flow control before the handshake begins."""
        self.flow_control = WebSocketFlowControl()
        self.unsent: UnsentBytes | None = None
        self._unread = b""
        self._held = False  # whether reading is paused
        self._turn: asyncio.Handle | None = None  # the scheduled call that continues
        self._rate = FrameRate(self.loop.time())
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Process `data`, in slices if it is long."""
        if not self.handshake_initiated:
            self._shake_hands(data)
        elif self._unread or not self.handshake_complete:
            self._unread += data
            self._read_on()
        else:
            self._unread = data
            self._read()

    def _shake_hands(self, data: bytes) -> None:
        """Pass the handshake on; send the error response of one that the library rejects."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            # The library prepares the response and uvicorn never sends it: the client would wait forever.
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def start_keepalive(self) -> None:
        """The handshake is complete: read what the client has sent behind it."""
        super().start_keepalive()
        self._read_on()

    def _read(self) -> None:
        """Process one slice."""
        data, self._unread = self._unread[:SLICE_BYTES], self._unread[SLICE_BYTES:]
        self.conn.receive_data(data)
        wait = self._rate.spend(1 + len(self.conn.events), self.loop.time())
        if self.conn.parser_exc is not None:
            self._unread = b""
            self.handle_parser_exception()
            return
        self.handle_events()
        if wait and not self.transport.is_closing():
            self._hold()
            self._turn = self.loop.call_later(wait, self._turn_comes)
        else:
            self._read_on()

    def _read_on(self) -> None:
        """Continue once others had their turn; a message or the write buffer may have to come first."""
        if self._turn is not None:
            self._hold()
        elif self.transport.is_closing():
            self._unread = b""
        elif self.read_paused or self.flow_control.write_paused or not self.handshake_complete:
            if self._unread:
                self._hold()
        elif self._unread:
            self._hold()
            self._turn = self.loop.call_soon(self._turn_comes)
        elif self._held:
            self._held = False
            self.transport.resume_reading()

    def _hold(self) -> None:
        if not self._held:
            self._held = True
            self.transport.pause_reading()

    def _turn_comes(self) -> None:
        self._turn = None
        if self._unread and not (
            self.read_paused or self.flow_control.write_paused or self.transport.is_closing()
        ):
            self._read()
        else:
            self._read_on()

    def handle_cont(self, event: Any) -> None:
        """Add a fragment to its message."""
        super().handle_cont(event)
        if len(self.frames) > MAX_FRAGMENTS:
            self.frames = [b"".join(self.frames)]

    def keepalive_timeout(self) -> None:
        """The client has not answered a ping in time, unless its answer waits for us to read it."""
        if self._turn is not None or self._unread:
            assert self.ping_timeout is not None
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()

    async def receive(self) -> Any:
        """The next message."""
        message = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.read_paused, self._held = False, True  # uvicorn paused it at the message
            self._read_on()
        return message

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, and what it has not taken with it."""
        super().connection_lost(exc)
        if self.unsent is not None:
            self.unsent.set(0)

    def pause_writing(self) -> None:
        """The transport's buffer is above its high-water mark."""
        self.flow_control.write_paused = True
        super().pause_writing()
        if self.unsent is not None:
            self.unsent.set(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """The transport's buffer is below its low-water mark."""
        self.flow_control.write_paused = False
        super().resume_writing()
        if self.unsent is not None:
            self.unsent.set(0)
        if self._held:
            self._read_on()
