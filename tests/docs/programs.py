"""Third-party programs, started as a reader of the documentation would: their output and exit code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness import PATIENCE


@dataclass
class Program:
    """A running program.

    Attributes:
        out, err: The lines it has written so far.
    """

    process: Process
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        """Take down what it writes."""
        while line := await stream.readline():
            lines.append(line.decode().rstrip("\n"))
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def says(self, wanted: Callable[[str], bool]) -> str:
        """Wait for a line, on either output."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for line in (*self.out, *self.err):
                    if wanted(line):
                        return line
                await self._news.wait()

    async def line(self, part: str) -> str:
        """Wait for a line that has this in it."""
        try:
            return await self.says(lambda line: part in line)
        except TimeoutError:
            raise AssertionError(f"it never said {part!r}, but {self.out} and {self.err}") from None

    async def ends(self) -> int:
        """Wait for its end; the exit code."""
        async with asyncio.timeout(PATIENCE):
            return await self.process.wait()

    async def told(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return await self.ends()


@asynccontextmanager
async def started(
    *command: str | Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> AsyncIterator[Program]:
    """Start a program, and end it with everything it started."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        cwd=cwd,
        env=inherited | dict(environment or {}),
        start_new_session=True,
        limit=1 << 20,
    )
    program = Program(process)
    reading = [
        asyncio.create_task(program.read(stream, lines))
        for stream, lines in ((process.stdout, program.out), (process.stderr, program.err))
    ]
    try:
        yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await asyncio.gather(*reading)
        process._transport.close()  # else its end is noticed after the loop's, as a warning


async def ran(
    *command: str | Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> tuple[int, Sequence[str], Sequence[str]]:
    """Run a program to its end: exit code, output, complaints."""
    async with started(*command, environment=environment, cwd=cwd) as program:
        code = await program.ends()
    return code, program.out, program.err
