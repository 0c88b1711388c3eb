"""Our own server: uvicorn, run by us, with a drain that loses nobody."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import resource
import socket
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from bridge.app import Bridge

BACKLOG = 4096
SEND_BUFFER = 64 * 1024
GC_THRESHOLDS = (50_000, 50, 100)
COLLECT_AFTER_ENDED = 5_000
COLLECT_PERIOD_SECONDS = 5.0
COLLECT_FULL_HOUSE_SECONDS = 30.0
LAST_GRACE_SECONDS = 5
AT_ONCE_SECONDS = 1
MAX_WS_MESSAGE = 64 * 1024
MAX_HEAD = 256 * 1024

logger = logging.getLogger(__name__)


def serve(bridge: Bridge) -> int:
    """Serve until told to stop.

    Returns:
        The exit code: 0 after a clean end.
    """
    _raise_descriptor_limit()
    listener = listen(bridge.settings.host, bridge.settings.port)
    server = DrainingServer(bridge, _config(bridge))
    server.run(sockets=[listener])
    return 0 if server.started and not bridge.dead else 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections have small kernel buffers.

    Without that the kernel takes megabytes for a client that is gone before anybody notices.

    Raises:
        OSError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


class DrainingServer(uvicorn.Server):
    """Keeps listening while it drains, so that newcomers get an answer they survive."""

    def __init__(self, bridge: Bridge, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._bridge = bridge
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._housekeeping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then keep the collector away from what lives as long as we do."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=sockets)
        self._bridge.died = self._stop
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            print(f"bridge listening on http://{_bracketed(host)}:{port}", flush=True)  # noqa: T201 - scripts read it
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._housekeeping = asyncio.ensure_future(self._collect())

    async def _collect(self) -> None:
        """Once many connections have ended, free their circles, and give their memory back to the system.

        The WebSocket library makes a circle of each connection; under our thresholds they would stay.
        A full collection stops everybody, for some 30 µs a connection that is open: in a full house it
        comes less often.
        """
        assert self._loop is not None
        ended, last = 0, 0.0
        while True:
            await asyncio.sleep(COLLECT_PERIOD_SECONDS)
            gone = self._bridge.ended_streams - ended
            began = self._loop.time()
            empty = self._bridge.open_streams < gone
            if gone >= COLLECT_AFTER_ENDED and (empty or began - last >= COLLECT_FULL_HOUSE_SECONDS):
                ended, last = self._bridge.ended_streams, began
                found = gc.collect()
                _release_memory()
                took = self._loop.time() - began
                logger.debug("collected", extra={"objects": found, "seconds": round(took, 4)})

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: stop at once."""
        del sig, frame
        if self._loop is None or self._drain is not None:
            self.force_exit = self.should_exit = True
            return
        self._loop.call_soon_threadsafe(self._begin_drain)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End. Told to stop at once, we close what is open: to be cancelled would look like a bug."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
        if self.force_exit:
            for connection in self.server_state.connections:
                if isinstance(connection, HttpToolsProtocol):  # WebSockets are closed by the server itself
                    connection.transport.close()
        await super().shutdown(sockets=sockets)
        if self.force_exit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.lifespan.shutdown(), AT_ONCE_SECONDS)

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


class BoundedHead(HttpToolsProtocol):
    """Takes no head of a request without end; the parser itself would keep all of it."""

    _in_head = False
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Count what comes while a head has not ended."""
        had_begun = self._in_head
        super().data_received(data)
        if had_begun and self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD:
                self.send_400_response("The head of the request is too large.")

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End to count."""
        self._in_head = False
        super().on_headers_complete()


class SocketGate:
    """Whether a WebSocket's client takes what it is sent; see `bridge.hub.subscription.Gate`.

    An object of its own, because the protocol has more attributes than Python keeps at hand.
    """

    __slots__ = ("write_paused",)

    def __init__(self) -> None:
        self.write_paused = False


class GatedSocket(WebSocketsSansIOProtocol):
    """Says with an attribute whether the client takes what it is sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A handshake begins."""
        self.gate = SocketGate()
        super().connection_made(transport)

    def pause_writing(self) -> None:
        """The transport's buffer is above its mark."""
        self.gate.write_paused = True
        super().pause_writing()

    def resume_writing(self) -> None:
        """There is room again."""
        self.gate.write_paused = False
        super().resume_writing()


def _config(bridge: Bridge) -> uvicorn.Config:
    return uvicorn.Config(
        bridge,
        http=BoundedHead,
        ws=GatedSocket,
        ws_per_message_deflate=False,
        ws_max_size=MAX_WS_MESSAGE,
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=LAST_GRACE_SECONDS,
        lifespan="on",
    )


def _release_memory() -> None:
    """The C library keeps what was freed in the middle of its heap until it is told not to (glibc only)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _raise_descriptor_limit() -> None:
    """Each connection is a descriptor; take as many as we may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
