"""uvicorn with a drain: on SIGTERM every stream is closed with a reconnect delay before the process exits.

The graceful shutdown of the process. uvicorn speaks HTTP/1.1: a proxy in front serves HTTP/2 to browsers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import resource
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from websockets import http11

from bridge.app import Bridge
from bridge.app.bridge import open_certificate
from bridge.server.acceptor import Acceptor
from bridge.server.connection import HttpConnection
from bridge.server.flow_control import FlowControlledWebSocket
from bridge.server.handshakes import Handshakes
from bridge.server.listeners import BACKLOG, LISTENERS, listen, report_listening
from bridge.server.memory import MemoryTrimmer, trim_memory
from bridge.server.peers import peer_status, silence_limit
from bridge.server.request_limits import IncomingBytes
from bridge.server.tls import TlsConnection
from bridge.server.turns import RequestTurns

GC_THRESHOLDS = (50_000, 50, 100)  # a full collection stops the event loop; let it be rare
TRIM_PERIOD_SECONDS = 5.0
SHUTDOWN_GRACE_SECONDS = 5
LAST_SECONDS = 3.0
IMMEDIATE_SECONDS = 1
FORCED_SECONDS = 0.5
MAX_WS_MESSAGE = 64 * 1024
SLICE = 1000  # connections checked before the event loop gets a turn
PEER_TURNS = 5  # rounds in which the kernel is asked about each connection once

logger = logging.getLogger(__name__)


def serve(bridge: Bridge) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit code: 0 after a clean end.
    """
    allow_descriptors()
    bridge.served_by_us = True
    bridge.certificate = open_certificate(bridge.settings)
    timeout = bridge.settings.write_timeout_seconds
    listeners = [listen(bridge.settings.host, bridge.settings.port, timeout)]
    admin = bridge.settings.admin_address
    if admin is not None:
        listeners.append(listen(*admin, timeout))
        bridge.admin_port = listeners[-1].getsockname()[1]
    server = make_server(bridge)
    server.run(sockets=listeners)
    return 0 if server.started and not bridge.dead else 1


def allow_descriptors() -> None:
    """Raise the soft limit of file descriptors to the hard one: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def server_config(bridge: Bridge) -> uvicorn.Config:
    """The configuration of uvicorn, by the settings of the bridge."""
    return _config(
        bridge,
        max_head_bytes=bridge.settings.max_request_head_bytes,
        idle_seconds=bridge.settings.idle_connection_timeout_seconds,
    )


def make_server(bridge: Bridge) -> DrainingServer:
    """The server of a bridge, with its settings."""
    return DrainingServer(bridge, server_config(bridge))


class DrainingServer(uvicorn.Server):
    """Keeps listening while it drains: a new client gets a response that makes it reconnect later.

    With the socket closed, it would get a refused connection, which some client libraries treat as final.

    Attributes:
        announces: Whether its addresses are printed when it listens.
    """

    def __init__(self, bridge: Bridge, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.announces = True
        self._bridge = bridge
        self._drain: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._housekeeping: list[asyncio.Task[None]] = []
        self._handshakes: Handshakes | None = None  # None without TLS

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start serving, then exempt everything loaded so far from garbage collection."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets=[])
        certificate = self._bridge.certificate
        if certificate is not None:
            self._handshakes = Handshakes(lambda: certificate.current.context, self._protocol)
        self._bridge.died = self._stop
        if self._bridge.dead:
            self._stop()  # it died between its start and this moment
        for listener, name in zip(sockets or [], LISTENERS, strict=False):
            plain_too = name != "bridge"
            self.accept_from(listener, plain_too=plain_too)
            tls = certificate is not None and not plain_too
            report_listening(listener, name, tls=tls, announces=self.announces)
        # Modules and settings live as long as the process; a full collection need not scan them.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._housekeeping = [
            asyncio.ensure_future(self._trim_memory()),
            asyncio.ensure_future(self._check_connections()),
        ]

    def accept_from(self, listener: socket.socket, *, plain_too: bool) -> Acceptor:
        """Serve the connections of a listening socket, until its acceptor is closed or the server ends."""
        acceptor = Acceptor(listener, self._accepting(plain_too=plain_too))
        self.servers.append(acceptor)  # type: ignore[arg-type]
        return acceptor

    def _accepting(self, *, plain_too: bool) -> Callable[[], asyncio.Protocol]:
        """What makes the protocol of an accepted socket.

        Args:
            plain_too: Whether plain HTTP is served beside TLS. Prometheus and probes reach the admin listener
                by addresses that are in no certificate, most often from the same machine.
        """
        if self._handshakes is None:
            return self._protocol
        return partial(TlsConnection, self._handshakes, plain_too=plain_too)

    def _protocol(self) -> HttpConnection:
        return self.config.http_protocol_class(  # type: ignore[call-arg, return-value] # see `_config`
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def _trim_memory(self) -> None:
        """Free the memory of ended connections. The WebSocket library leaves a reference cycle for each."""
        assert self._loop is not None
        trimmer = MemoryTrimmer()
        while True:
            await asyncio.sleep(TRIM_PERIOD_SECONDS)
            started_at, bridge = self._loop.time(), self._bridge
            if trimmer.should_trim(
                ended=bridge.ended_streams, still_open=bridge.open_streams, now=started_at
            ):
                objects = trim_memory()
                seconds = self._loop.time() - started_at
                logger.debug("memory trimmed", extra={"objects": objects, "seconds": round(seconds, 4)})

    async def _check_connections(self) -> None:
        """Close connections whose client is too slow or has left, in one periodic scan."""
        settings = self._bridge.settings
        head, body = settings.request_header_timeout_seconds, settings.request_body_timeout_seconds
        silence = silence_limit(settings.write_timeout_seconds)
        assert self._loop is not None
        for turn in itertools.count():
            await asyncio.sleep(min(1.0, head / 4, body / 4))
            now = self._loop.time()
            if self._handshakes is not None:
                self._handshakes.check_timeout(now, head)
            # A copy, because connections come and go while the loop has its turn.
            for number, connection in enumerate(list(self.server_state.connections), start=1):
                if isinstance(connection, HttpConnection) and connection.waiting_since is not None:
                    connection.check_timeout(now, head, body)
                if (turn + number) % PEER_TURNS == 0:
                    _check_peer(connection, silence)
                if number % SLICE == 0:
                    await asyncio.sleep(0)
                    now = self._loop.time()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second signal: answer what is open, and stop immediately."""
        del sig, frame
        if self._loop is None:
            self.force_exit = self.should_exit = True
            return
        # A signal handler may run between any two bytecodes; only this call is safe there.
        self._loop.call_soon_threadsafe(self._on_signal)

    def _on_signal(self) -> None:
        if self._drain is None:
            self.drain_once()
        else:
            self.stop_now()

    def drain_once(self) -> None:
        """Begin to drain, unless it has begun."""
        if self._drain is None:
            self._drain = asyncio.ensure_future(self._run_drain())

    def stop_now(self) -> None:
        """Answer what is open, and stop."""
        self.force_exit = self.should_exit = True
        self._bridge.interrupt_requests(FORCED_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close everything and end."""
        for task in self._housekeeping:
            task.cancel()
        grace, last = (0, FORCED_SECONDS) if self.force_exit else (SHUTDOWN_GRACE_SECONDS, LAST_SECONDS)
        await self._bridge.finish_requests(grace, last)
        if self._handshakes is not None:
            self._handshakes.close()
        if self.force_exit:
            # Otherwise uvicorn cancels the handlers of open connections, each with a traceback in the log.
            for connection in self.server_state.connections:
                if isinstance(connection, HttpToolsProtocol):  # the server closes WebSockets itself
                    connection.transport.close()
        await super().shutdown(sockets=sockets)
        if self.force_exit:
            # uvicorn skips the lifespan on a forced exit, and the journal would not be closed.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.lifespan.shutdown(), IMMEDIATE_SECONDS)

    @property
    def stopping(self) -> bool:
        """Whether a signal, or a failure of the bridge, has begun to end it."""
        return self._drain is not None or self.should_exit

    def _stop(self) -> None:
        self.should_exit = True

    async def _run_drain(self) -> None:
        logger.info("draining", extra={"streams": self._bridge.open_streams})
        try:
            await self._bridge.drain()
        except Exception:
            logger.exception("unhandled exception in drain")
        self.should_exit = True  # after a failed drain too, or the process would never end


def _check_peer(connection: Any, silence: float) -> None:
    """End a connection whose client has vanished, or has left while we do not read from it."""
    if connection.transport.is_closing():
        return
    has_closed, silent_seconds = peer_status(connection.transport)
    if silent_seconds >= silence:
        connection.peer_silent()
    elif has_closed:
        if isinstance(connection, HttpConnection):
            connection.peer_closed()
        else:
            connection.transport.abort()


def _config(app: ASGIApp, *, max_head_bytes: int, idle_seconds: float = 75.0) -> uvicorn.Config:
    # The library allows 8 KiB per line, which a ticket in the URL can exceed. `TimeLimitedRequest` checked
    # the size of the head before a handshake gets here.
    http11.MAX_LINE_LENGTH = max_head_bytes
    limits = {
        "__slots__": (),
        "max_head_bytes": max_head_bytes,
        "incoming": IncomingBytes(),
        "turns": RequestTurns(),
    }
    return uvicorn.Config(
        app,
        http=type("Bounded", (HttpConnection,), limits),
        ws=FlowControlledWebSocket,
        ws_per_message_deflate=False,
        ws_max_size=MAX_WS_MESSAGE,
        access_log=False,
        log_config=None,
        backlog=BACKLOG,
        timeout_keep_alive=idle_seconds,  # type: ignore[arg-type] # a number of seconds for `call_later`
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
        lifespan="on",
    )
