"""Flow control of WebSockets: the write buffer as the hub sees it, and the rate of a client's frames."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast
from urllib.parse import unquote

import uvicorn
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.protocol import State
from websockets.server import ServerProtocol

from bridge.server.exchange import header_line
from bridge.server.peers import own_address, peer_address
from bridge.server.upgrade import read_upgrade
from bridge.server.waiting import Inbox, Signal
from bridge.web.limits.limits import UnsentBytes

# The library spends about 10 µs on a frame, and one read may hold 40,000 frames without content.
SLICE_BYTES = 2048  # parsed before other connections have their turn
FRAMES_PER_SECOND = 200.0  # a frame counts as one, and so does a slice
BURST_FRAMES = 1000.0
MAX_FRAGMENTS = 100  # fragments of a message kept apart; they may be empty

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
)


class WebSocketFlowControl:
    """Whether the write buffer of a WebSocket is full; see `bridge.hub.subscription.FlowControl`.

    A separate object: the protocol has more attributes than CPython keeps in an inline dictionary, which
    makes reading one of its own slower.
    """

    __slots__ = ("silent", "write_paused")

    def __init__(self) -> None:
        self.write_paused = self.silent = False


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

    __slots__ = ("_accept", "_first", "_held", "_rate", "_turn", "_unread", "flow_control")

    # Of uvicorn's attributes those that are the same for all connections, or rarely set: see
    # `request_limits.TimeLimitedRequest`.
    logger = logging.getLogger("uvicorn.error")
    handshake_initiated = handshake_complete = close_sent = disconnected = read_paused = False
    close_timer = ping_timer = pong_timer = pending_ping_payload = initial_response = None
    close_timeout = 10.0
    ping_sent_at = last_ping_rtt = 0.0
    frames: Any = ()
    curr_msg_data_type = "bytes"

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        # Not uvicorn's method: it fills twice as many attributes, some of them large.
        if not config.loaded:
            config.load()
        self.config = config
        self.app = config.loaded_app
        self.loop = _loop or asyncio.get_running_loop()
        self.root_path = config.root_path
        self.asgi_version = config.asgi_version
        self.app_state = app_state
        self.connections = server_state.connections
        self.tasks = server_state.tasks
        self.default_headers = server_state.default_headers
        self.ping_interval, self.ping_timeout = config.ws_ping_interval, config.ws_ping_timeout
        self.queue = Inbox()  # type: ignore[assignment] # smaller than uvicorn's
        self.writable = Signal(is_set=True)  # type: ignore[assignment] # smaller than uvicorn's
        self.conn = ServerProtocol(max_size=config.ws_max_size, logger=self.logger)  # without compression

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Create the flow control before the handshake begins."""
        self._accept: bytes | None = None  # of a handshake read here, until its response
        self._first = b""  # that response and what leaves with it: at the latest in the next iteration
        self.flow_control = WebSocketFlowControl()
        self.unsent: UnsentBytes | None = None
        self._unread = b""
        self._held = False  # whether reading is paused
        self._turn: asyncio.Handle | None = None  # the scheduled call that continues
        self._rate = FrameRate(self.loop.time())
        # Not uvicorn's method: that asks the kernel five times, through a socket object made for it.
        self.connections.add(self)
        self.transport = cast(asyncio.Transport, transport)
        self.client, self.server = peer_address(transport), own_address(transport)
        self.scheme = "wss" if transport.get_extra_info("sslcontext") else "ws"

    def begin(self, target: bytes, fields: list[tuple[bytes, bytes]]) -> None:
        """Answer a handshake that the HTTP parser has read.

        The library would have to parse it once more, in Python. It gets those that are unusual, and the
        frames.

        Args:
            fields: With names in lower case.
        """
        upgrade = read_upgrade(target, fields)
        if upgrade is None:
            lines = [b"GET " + target + b" HTTP/1.1", *[name + b": " + value for name, value in fields]]
            self.data_received(b"\r\n".join([*lines, b"", b""]))
            return
        self.handshake_initiated = True
        self._accept = upgrade.accept
        path, _, query = target.partition(b"?")
        self.scope = {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": self.scheme,
            "server": self.server,
            "client": self.client,
            "root_path": self.root_path,
            "path": self.root_path + unquote(path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": query,
            "headers": fields,
            "subprotocols": upgrade.subprotocols,
            "state": self.app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = self.loop.create_task(self.run_asgi())
        task.add_done_callback(self.on_task_complete)
        self.tasks.add(task)

    async def run_asgi(self) -> None:
        """Run the application; close where it did not."""
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException:
            self.logger.exception("unhandled exception in the application")
            self.release()
            self.send_500_response()
        else:
            self.release()
            if not self.handshake_complete:
                self.logger.error("the application returned without a complete response")
                self.send_500_response()
        if self.close_timer is None:
            self.transport.close()

    async def send(self, message: Any) -> None:
        """Accept, reject, send or close."""
        if message["type"] != "websocket.accept" or self._accept is None:
            self.release()
            await super().send(message)
            return
        accept, self._accept = self._accept, None
        if self.disconnected:
            raise ClientDisconnected
        if self.transport.is_closing():
            return
        lines = [_SWITCHING, accept, b"\r\n"]
        lines += [header_line(name, value) for name, value in self.default_headers]
        lines += [header_line(name, value) for name, value in message.get("headers", ())]
        subprotocol = message.get("subprotocol")
        if subprotocol:
            lines.append(header_line(b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1")))
        # Each write wakes the client: the response and the first states are one.
        self._first = b"".join([*lines, b"\r\n"])
        self.loop.call_soon(self.release)
        self.handshake_complete = True
        self.conn.state = State.OPEN
        self.conn.parser = self.conn.parse()
        next(self.conn.parser)
        self.start_keepalive()

    def write_first(self, data: bytes) -> None:
        """Write `data`; together with what is held, if there is any."""
        if self._first:
            self._first += data
        else:
            self.transport.write(data)

    def release(self) -> None:
        """Write what is held."""
        first, self._first = self._first, b""
        if first and not self.transport.is_closing():
            self.transport.write(first)

    def shutdown(self) -> None:
        """Close: the server ends."""
        self.release()
        super().shutdown()

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
        self.release()  # the library may respond
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
        self.flow_control.silent |= isinstance(exc, TimeoutError)
        super().connection_lost(exc)
        if self.unsent is not None:
            self.unsent.set(0)

    def peer_silent(self) -> None:
        """The client has acknowledged nothing for too long."""
        self.flow_control.silent = True
        self.transport.abort()

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
