"""The bridge as a process that was forked instead of started anew: see `tests.zygote`."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio import StreamReader
from collections.abc import Mapping
from functools import cache
from pathlib import Path

ASKED = b"?"
CAN_FORK = hasattr(os, "pidfd_open")


class Forked:
    """What `asyncio.subprocess.Process` shows of a process, as far as tests ask."""

    def __init__(self, pid: int, said: StreamReader, stdout: StreamReader, stderr: StreamReader) -> None:
        self.pid = pid
        self.stdout, self.stderr = stdout, stderr
        self.returncode: int | None = None
        self._end = asyncio.create_task(self._learn_end(said))

    async def wait(self) -> int:
        """The exit code; minus the signal that ended it."""
        return await asyncio.shield(self._end)

    def send_signal(self, number: int) -> None:
        """Raises ProcessLookupError when the process has ended, and its end is known."""
        if self.returncode is not None:
            raise ProcessLookupError
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    async def _learn_end(self, said: StreamReader) -> int:
        self.returncode = int(await said.readline())
        return self.returncode


class Lines:
    """The ends of the pipes that are ours."""

    def __init__(self) -> None:
        self._transports: list[asyncio.BaseTransport] = []

    async def reader(self, fd: int) -> StreamReader:
        """Read what comes from there."""
        stream = StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(fd, "rb", 0)
        )
        self._transports.append(transport)
        return stream

    def close(self) -> None:
        """Let go of them."""
        for transport in self._transports:
            transport.close()


async def fork(words: list[str], environment: Mapping[str, str], lines: Lines) -> Forked:
    """`bridge WORDS` with this environment, in this folder.

    Args:
        lines: What is open because of it; for the caller to close.
    """
    ours, theirs = socket.socketpair()
    (out, its_out), (err, its_err) = os.pipe(), os.pipe()
    with theirs:
        socket.send_fds(_zygote(), [ASKED], [its_out, its_err, theirs.fileno()])
    os.close(its_out)
    os.close(its_err)
    wish = {"words": words, "environment": dict(environment), "folder": str(Path.cwd())}
    ours.sendall(json.dumps(wish).encode() + b"\n")
    said = await lines.reader(ours.detach())
    return Forked(int(await said.readline()), said, await lines.reader(out), await lines.reader(err))


@cache
def _zygote() -> socket.socket:
    """One for each process that runs tests, for as long as that lives."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote"], stdin=theirs, stdout=subprocess.DEVNULL
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours
