"""A worker process: the ordinary server, on listeners that its supervisor lends it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from uvicorn.loops.auto import auto_loop_factory

from bridge.app import Bridge
from bridge.app.bridge import open_certificate
from bridge.config.load import load
from bridge.config.settings import Settings, secrets_of
from bridge.errors import ConfigError
from bridge.server.acceptor import Acceptor
from bridge.server.server import DrainingServer, allow_descriptors, server_config
from bridge.server.workers.control import ControlChannel, Message
from bridge.server.workers.link import WorkerLink
from bridge.telemetry.logs import configure

BAD_CONFIGURATION = 2
ORPHANED = 1
ORPHAN_SECONDS = 0.8  # for the last answers once the supervisor is gone
KEEPER_SECONDS = 20.0
KEEPER_POLL_SECONDS = 0.01
_PR_SET_PDEATHSIG = 1

logger = logging.getLogger("bridge")


def main(arguments: Sequence[str]) -> None:
    """Serve as a worker until the supervisor says otherwise, or is gone.

    Args:
        arguments: Its number, the supervisor's process id, the descriptor of the control channel, and that of
            the connection to the keeper if there is one.
    """
    number, parent, control, *keeper = map(int, arguments)
    _end_with(parent)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal sends it to all; the supervisor decides
    ends = [socket.socket(fileno=descriptor) for descriptor in (control, *keeper)]
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        code = runner.run(_serve(number, *ends))
    logging.shutdown()
    # Threads that still wait for a slow disk or name server must not hold up the end.
    os._exit(code)


def _end_with(parent: int) -> None:
    """Let the kernel end this process with its supervisor, even if it hangs or is stopped."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it was gone before
        os._exit(ORPHANED)


async def _serve(number: int, control: socket.socket, keeper: socket.socket | None = None) -> int:
    channel = await ControlChannel.open(control)
    start = await channel.receive()
    if start is None or start.kind != "start":
        return ORPHANED
    try:
        settings = _settings(start.fields)
        configure(settings.log_level, settings.log_format, secrets=secrets_of(settings), worker=number)
        bridge = Bridge(settings)
        bridge.certificate = open_certificate(settings)
    except ConfigError as error:
        channel.send("failed", reason=str(error), code=BAD_CONFIGURATION)
        await channel.flush()
        return BAD_CONFIGURATION
    allow_descriptors()
    bridge.served_by_us, bridge.worker, bridge.keeper = True, number, keeper
    listeners = [socket.socket(fileno=descriptor) for descriptor in start.fields["listeners"]]
    admin = start.fields["admin"]
    server = WorkerServer(bridge, channel, listeners, None if admin is None else socket.socket(fileno=admin))
    return await server.serve_until_stopped()


def _settings(fields: dict[str, Any]) -> Settings:
    path = fields["path"]
    # The text that the supervisor read: a worker that is started again has the settings of the others.
    return load(None if path is None else Path(path), text=fields["text"], **fields["overrides"])


class WorkerServer(DrainingServer):
    """The server of one worker: accepts from the listeners it is lent, and drains by order or by a signal.

    Args:
        listeners: Those of all workers. It accepts from its own, and from those of a worker that does not.
        admin: The separate admin listener, which all workers share; None without one.
    """

    def __init__(
        self,
        bridge: Bridge,
        channel: ControlChannel,
        listeners: Sequence[socket.socket],
        admin: socket.socket | None,
    ) -> None:
        super().__init__(bridge, server_config(bridge))
        self._channel = channel
        self._listeners = listeners
        self._admin = admin
        self._acceptors: dict[int, Acceptor] = {}
        self._link = bridge.workers = WorkerLink(channel, bridge)
        self._signals = 0
        if admin is not None:
            bridge.admin_port = admin.getsockname()[1]

    async def serve_until_stopped(self) -> int:
        """Serve; the exit code of the process."""
        tasks = [asyncio.ensure_future(self._obey()), asyncio.ensure_future(self._link.report())]
        try:
            await self.serve(sockets=[])
        except SystemExit as error:  # the app could not start
            reason = self._bridge.journal_error
            self._channel.send("failed", reason="" if reason is None else str(reason), code=error.code)
        for task in tasks:
            task.cancel()
        await self._link.report_last()
        await self._channel.flush()
        return 0 if self.started and not self._bridge.dead else 1

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start and report it; the supervisor then sends the listeners."""
        await super().startup(sockets)
        if self._admin is not None:
            self.accept_from(self._admin, plain_too=True)
        await self._reach_keeper()
        logger.info("worker started", extra={"pid": os.getpid()})
        self._channel.send("ready")

    async def _reach_keeper(self) -> None:
        """Wait until this worker knows what the others own: else it would poll for its clients alone."""
        replica = self._bridge.replica
        if self._bridge.keeper is None or replica is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEPER_SECONDS):
                while not (replica.connection.up or self.should_exit):  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(KEEPER_POLL_SECONDS)

    def drain_once(self) -> None:
        """As the server's; kept connections end after their next response, and are opened again."""
        if self._drain is not None:
            return
        super().drain_once()
        self.config.encoded_headers.append((b"connection", b"close"))
        self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]

    async def _obey(self) -> None:
        while (message := await self._channel.receive()) is not None:
            try:
                self._handle(message)
            except Exception:
                logger.exception("unhandled exception in worker", extra={"kind": message.kind})
        # The supervisor is gone, and with it the keeper. Where the kernel does not end this process, we do.
        logger.error("supervisor has ended")
        self.stop_now()
        asyncio.get_running_loop().call_later(ORPHAN_SECONDS, os._exit, ORPHANED)

    def _handle(self, message: Message) -> None:
        match message.kind:
            case "accept":
                self._accept_only(message.fields["listeners"])
            case "drain":
                self._bridge.replaced = message.fields["replaced"]
                self.drain_once()
            case "stop":
                self.stop_now()
            case _:
                self._link.handle(message)

    def _accept_only(self, numbers: Sequence[int]) -> None:
        for number in set(self._acceptors) - set(numbers):
            acceptor = self._acceptors.pop(number)
            acceptor.close()
            self.servers.remove(acceptor)  # type: ignore[arg-type]
        for number in set(numbers) - set(self._acceptors):
            self._acceptors[number] = self.accept_from(self._listeners[number], plain_too=False)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As the server's; before the server runs, end at once."""
        if self._loop is None:
            os._exit(0)
        super().handle_exit(sig, frame)

    def _on_signal(self) -> None:
        # A supervisor of services signals every process of the group, and ours orders the same: that is one
        # stop, not two.
        self._signals += 1
        if self._signals > 1:
            self.stop_now()
        elif self._drain is None:
            self._channel.send("leaving")
            self._bridge.replaced = True
            self.drain_once()
