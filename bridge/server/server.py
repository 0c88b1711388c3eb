"""Our own server: uvicorn, run by us, with a drain that loses nobody."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets import http11

from bridge.app import Bridge
from bridge.config.settings import admin_address
from bridge.errors import TooLarge
from bridge.server.memory import MemoryTrimmer, free

BACKLOG = 4096
SEND_BUFFER = 64 * 1024
GC_THRESHOLDS = (50_000, 50, 100)
COLLECT_PERIOD_SECONDS = 5.0
SHUTDOWN_GRACE_SECONDS = 5
IMMEDIATE_SECONDS = 1
MAX_WS_MESSAGE = 64 * 1024
MIN_BODY_RATE = 1000.0
SLICE = 1000
_TOO_SLOW_PROBLEM = (
    b'{"type":"about:blank","title":"invalid request","status":408,"code":"invalid_request",'
    b'"detail":"the request did not come in time","retriable":true}'
)
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_TOO_SLOW_PROBLEM), _TOO_SLOW_PROBLEM)
)

logger = logging.getLogger(__name__)


def serve(bridge: Bridge) -> int:
    """Serve until told to stop.

    Returns:
        The exit code: 0 after a clean end.
    """
    _raise_descriptor_limit()
    bridge.served_by_us = True
    listeners = [listen(bridge.settings.host, bridge.settings.port)]
    apart = admin_address(bridge.settings)
    if apart is not None:
        listeners.append(listen(*apart))
        bridge.admin_port = listeners[-1].getsockname()[1]
    server = DrainingServer(bridge, _config(bridge, max_head_bytes=bridge.settings.max_request_head_bytes))
    server.run(sockets=listeners)
    return 0 if server.started and not bridge.dead else 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections have small kernel buffers.

    Without that the kernel takes megabytes for a client that is gone before anybody notices.

    Raises:
        OSError: The address cannot be had; its `filename` is the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from error
    listener.setblocking(False)
    return listener


class DrainingServer(uvicorn.Server):
    """Keeps listening while it drains, so that newcomers get an answer they survive."""

    def __init__(self, bridge: Bridge, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._bridge = bridge
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._housekeeping: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then keep the collector away from what lives as long as we do."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        self._bridge.died = self._stop
        for listener, what in zip(sockets or [], ("bridge", "bridge operations"), strict=False):
            host, port = listener.getsockname()[:2]
            _announce(f"{what} listening on http://{_bracketed(host)}:{port}")
            logger.info("listening", extra={"what": what, "address": f"{_bracketed(host)}:{port}"})
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._housekeeping = [
            asyncio.ensure_future(self._collect()),
            asyncio.ensure_future(self._hurry()),
        ]

    async def _collect(self) -> None:
        """Free what a crowd has left. The WebSocket library makes a circle of each connection, for one."""
        assert self._loop is not None
        crowd = MemoryTrimmer()
        while True:
            await asyncio.sleep(COLLECT_PERIOD_SECONDS)
            began, bridge = self._loop.time(), self._bridge
            if crowd.should_trim(ended=bridge.ended_streams, still_open=bridge.open_streams, now=began):
                found = free()
                took = self._loop.time() - began
                logger.debug("collected", extra={"objects": found, "seconds": round(took, 4)})

    async def _hurry(self) -> None:
        """Give up requests that do not come: one round over all connections, so that none needs a timer."""
        settings = self._bridge.settings
        period = min(
            1.0, settings.request_header_timeout_seconds / 4, settings.request_body_timeout_seconds / 4
        )
        assert self._loop is not None
        while True:
            await asyncio.sleep(period)
            for number, connection in enumerate(list(self.server_state.connections), start=1):
                if isinstance(connection, TimeLimitedRequest):
                    connection.check_timeout(
                        self._loop.time(),
                        settings.request_header_timeout_seconds,
                        settings.request_body_timeout_seconds,
                    )
                if number % SLICE == 0:
                    await asyncio.sleep(0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: stop at once."""
        del sig, frame
        if self._loop is None or self._drain is not None:
            self.force_exit = self.should_exit = True
            return
        self._loop.call_soon_threadsafe(self._begin_drain)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End. Told to stop at once, we close what is open: to be cancelled would look like a bug."""
        for task in self._housekeeping:
            task.cancel()
        if self.force_exit:
            for connection in self.server_state.connections:
                if isinstance(connection, HttpToolsProtocol):  # WebSockets are closed by the server itself
                    connection.transport.close()
        await super().shutdown(sockets=sockets)
        if self.force_exit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.lifespan.shutdown(), IMMEDIATE_SECONDS)

    def _stop(self) -> None:
        self.should_exit = True

    def _begin_drain(self) -> None:
        if self._drain is None:
            self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        logger.info("draining", extra={"streams": self._bridge.open_streams})
        try:
            await self._bridge.drain()
        except Exception:
            logger.exception("the drain failed")
        self.should_exit = True


class TimeLimitedRequest(HttpToolsProtocol):
    """Takes no request without end, in bytes or in time; the parser itself would keep and wait for all of it.

    Attributes:
        max_head_bytes: The longest head, its URL included.
    """

    # beside the server's own thirty attributes more would cost each connection a kilobyte
    __slots__ = ("_field_bytes", "_head_bytes", "_in_body", "_in_head", "_waits_since")

    max_head_bytes = 256 * 1024

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._in_head = self._in_body = False
        self._head_bytes = self._field_bytes = 0
        self._waits_since: float | None = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Count what comes while a head has not ended."""
        had_begun = self._in_head
        super().data_received(data)
        if had_begun and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self.send_400_response("The head of the request is too large.")
        elif self._waits_since is None and self._is_idle():  # line breaks, which end the server's own timer
            self._waits_since = self.loop.time()

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._in_head = True
        self._head_bytes = self._field_bytes = 0
        self._waits_since = self.loop.time()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End to count; the body may begin."""
        self._in_head, self._in_body = False, True
        self._waits_since = self.loop.time()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Each byte buys time, but never more than a stall may last."""
        if self._waits_since is not None:
            self._waits_since = min(self._waits_since + len(body) / MIN_BODY_RATE, self.loop.time())
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole: from here it is our turn."""
        self._in_body = False
        self._waits_since = None
        super().on_message_complete()

    def check_timeout(self, now: float, header_seconds: float, body_seconds: float) -> None:
        """Hang up on a client that keeps us waiting for its request.

        A response that has begun is never touched, whatever the client still owes.

        Args:
            now: The event loop's time.
            header_seconds: For the head, from when the connection was made or its first byte came.
            body_seconds: For the body to go on.
        """
        if self._waits_since is None or self.transport.is_closing():
            return
        if self._in_body and self.flow.read_paused:
            self._waits_since = now  # it is us who do not read
            return
        patience = body_seconds if self._in_body else header_seconds
        if now - self._waits_since >= patience and not self._is_our_turn():
            self._give_up()

    def _is_our_turn(self) -> bool:
        """Whether something else goes on than to wait for the client."""
        if self._in_body:
            return self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        return not self._is_idle()

    def _is_idle(self) -> bool:
        """Whether no request is being answered, and the server does not wait for the next by itself."""
        answering = self.cycle is not None and not self.cycle.response_complete
        return not answering and self.timeout_keep_alive_task is None

    def _count(self, number: int) -> None:
        self._field_bytes += number
        if self._field_bytes > self.max_head_bytes:
            raise TooLarge  # the parser ends the connection with 400

    def _give_up(self) -> None:
        """Say why, where somebody may still listen; a connection that never spoke is just closed."""
        answered = self.cycle is not None and self.cycle.response_started
        if self._in_head or (self._in_body and not answered):
            self.transport.write(TOO_SLOW)
        self.transport.close()


class WebSocketFlowControl:
    """Whether a WebSocket's client takes what it is sent; see `bridge.hub.subscription.Gate`.

    An object of its own, because the protocol has more attributes than Python keeps at hand.
    """

    __slots__ = ("write_paused",)

    def __init__(self) -> None:
        self.write_paused = False


class FlowControlledWebSocket(WebSocketsSansIOProtocol):
    """Says with an attribute whether the client takes what it is sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A handshake begins."""
        self.gate = WebSocketFlowControl()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what comes. The answer to a handshake the library itself refuses is sent by nobody else."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    def pause_writing(self) -> None:
        """The transport's buffer is above its mark."""
        self.gate.write_paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        """There is room again."""
        self.gate.write_paused = False
        super().resume_writing()


def _config(app: ASGIApp, *, max_head_bytes: int) -> uvicorn.Config:
    # of a line the library takes 8 KiB, which a ticket may have alone; we have measured the head before
    http11.MAX_LINE_LENGTH = max_head_bytes
    return uvicorn.Config(
        app,
        http=type("Bounded", (TimeLimitedRequest,), {"__slots__": (), "max_head_bytes": max_head_bytes}),
        ws=FlowControlledWebSocket,
        ws_per_message_deflate=False,
        ws_max_size=MAX_WS_MESSAGE,
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
        lifespan="on",
    )


def _raise_descriptor_limit() -> None:
    """Each connection is a descriptor; take as many as we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _announce(sentence: str) -> None:
    """On standard output, where scripts read it; without one we serve all the same."""
    try:
        print(sentence, flush=True)  # noqa: T201 - see above
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer would fail again at the end


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
