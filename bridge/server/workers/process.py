"""One worker process, as the supervisor sees it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from bridge.server.workers.control import ControlChannel, Message

LAUNCH = Path(__file__).with_name("launch.py")
ALONE_SECONDS = 1.0  # a worker has so long to end once it has closed its channel

logger = logging.getLogger(__name__)


class WorkerState(StrEnum):
    """Of one process; only forwards."""

    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"  # drains, by order or by a signal of its own
    ENDED = "ended"


class WorkerProcess:
    """A started worker.

    Attributes:
        number: Its place among the workers, from 1; its successor has the same.
        heard_at: When its last message came, by the event loop's time.
        metrics: Its newest metrics, encoded; empty before the first.
        status: What it said last of itself, encoded; empty if it was not asked yet.
        watches: What it said last of its watches, likewise.
        silent: Whether it has not reported for a while.
        reason: Why it did not start, in its own words; empty if it said nothing.
        code: The exit code for that; 0 if it said nothing.
        was_ready: Whether it ever served.
        listeners: From which it accepts by order, by their places.
    """

    def __init__(self, number: int, process: Process, channel: ControlChannel) -> None:
        self.number = number
        self.state = WorkerState.STARTING
        self.metrics = b""
        self.status = b""
        self.watches = b""
        self.silent = False
        self.reason = ""
        self.code = 0
        self.was_ready = False
        self.listeners: list[int] = []
        self.heard_at = self.started_at = asyncio.get_running_loop().time()
        self._process = process
        self._channel = channel
        self._over = asyncio.Event()  # leaving or ended
        self._ready = asyncio.Event()  # or ended
        self._ended = asyncio.Event()

    @classmethod
    async def start(cls, number: int, descriptors: Sequence[int], keeper: socket.socket | None) -> Self:
        """Start the process.

        Args:
            descriptors: Files it inherits: the listeners.
            keeper: Its end of the connection to the keeper; closed here. None without a keeper.
        """
        ours, its = socket.socketpair()
        inherited = [its.fileno(), *descriptors]
        arguments = [str(number), str(os.getpid()), str(its.fileno())]
        if keeper is not None:
            inherited.append(keeper.fileno())
            arguments.append(str(keeper.fileno()))
        # `-P`: no module of the working directory may replace one of ours.
        command = (sys.executable, "-P", str(LAUNCH), *arguments)
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, pass_fds=inherited)
        except BaseException:
            ours.close()
            raise
        finally:
            its.close()
            if keeper is not None:
                keeper.close()
        return cls(number, process, await ControlChannel.open(ours))

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Of the process; negative for the signal that ended it; None while it runs."""
        return self._process.returncode

    async def run(self, handle: Callable[[WorkerProcess, Message], None]) -> None:
        """Handle its messages, until the process has ended."""
        while (message := await self._channel.receive()) is not None:
            self.heard_at = asyncio.get_running_loop().time()
            match message.kind:
                case "ready" if self.state is WorkerState.STARTING:
                    self.state, self.was_ready = WorkerState.READY, True
                    self._ready.set()
                case "leaving" if self.state is not WorkerState.ENDED:
                    self.state = WorkerState.LEAVING
                    self._over.set()
                case "failed":
                    self.reason = str(message.fields.get("reason", ""))[:2000]
                    self.code = int(message.fields.get("code", 0))
                case "metrics":
                    self.metrics = message.body or self.metrics
            try:
                handle(self, message)
            except Exception:
                # A worker of another version, or a broken one: it must not end the others.
                logger.exception("unhandled exception in supervisor", extra={"worker": self.number})
        self._channel.close()
        # Without the channel it has nothing left to do, and must not keep its connections.
        try:
            async with asyncio.timeout(ALONE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        self.state = WorkerState.ENDED
        self._ready.set()
        self._over.set()
        self._ended.set()

    def send(self, kind: str, body: bytes = b"", **fields: Any) -> bool:
        """Send it a message; False if it does not read."""
        return self._channel.send(kind, body, **fields)

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)

    async def started(self) -> bool:
        """Wait until it serves, or has ended; whether it serves."""
        await self._ready.wait()
        return self.state is not WorkerState.ENDED

    async def over(self) -> None:
        """Wait until it leaves, or has ended."""
        await self._over.wait()

    async def ended_within(self, seconds: float) -> None:
        """Wait until it has ended; after so many seconds kill it."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            self.kill()
            await self._ended.wait()

    def how_ended(self) -> str:
        """The exit code or the signal, in words."""
        code = self._process.returncode
        if code is None:
            return "still running"
        return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"

    def leave(self, *, replaced: bool) -> None:
        """Make it drain.

        Args:
            replaced: Another worker takes its place: it accepts no more, and stays ready for what it has.
        """
        if self.state is WorkerState.READY:
            self.state = WorkerState.LEAVING
            self._over.set()
        self.send("drain", replaced=replaced)
