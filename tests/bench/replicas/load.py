"""Viewers for the benchmark: the load generator of `bench/`, one for each bridge, and streams that move."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.contenders import BUILD, MAX_SECONDS, Failed, ask_provider, build
from tests.replicas.fleet import Fleet


class Load:
    """One load generator."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def ask(self, command: str, *numbers: float, seconds: float = 120.0) -> dict[str, Any]:
        """Send a command and wait for its reply."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = f"{command} {' '.join(f'{number:.10g}' for number in numbers)}\n"
        self._process.stdin.write(line.encode())
        async with asyncio.timeout(seconds):
            answer = await self._process.stdout.readline()
        if not answer:
            raise Failed("the load generator ended")
        return dict(json.loads(answer))

    async def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(ProcessLookupError, TimeoutError):
            async with asyncio.timeout(5):
                await self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def reading(
    bridges: Fleet, path: str, viewers: int, tasks: int, *, item: str | None = None, per_conn: int = 1
) -> AsyncIterator[None]:
    """So many viewers, spread over the bridges, that read until the end."""
    build()
    async with AsyncExitStack() as stack:
        loads = []
        count = len(bridges.replicas)
        for number, one in enumerate(bridges.replicas):
            words = [str(BUILD / "load"), "--port", str(one.site.port), "--path", path]
            words += ["--tasks", str(tasks), "--per-conn", str(per_conn), "--timeout", "60"]
            words += ["--max-seconds", str(MAX_SECONDS), "--pids", str(one.site.pid)]
            words += ["--item", item] if item else []
            process = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
            load = Load(process)
            stack.push_async_callback(load.close)
            share = viewers // count + (number < viewers % count)
            loads.append((load, share))
        for answer in await asyncio.gather(
            *(load.ask("open", share, 0, 64, 0) for load, share in loads if share)
        ):
            if not answer["opened"]:
                raise Failed(f"no viewer connected: {answer}")
        yield


class Publisher:
    """Changes at the provider of `bench/`, by its control connection."""

    def __init__(self, control: int, tasks: int) -> None:
        self._control = control
        self._tasks = tasks
        self._seq = 1

    async def pace(self, per_second: float, seconds: float) -> int:
        """Publish at this rate; returns how many changes."""
        loop = asyncio.get_running_loop()
        _, writer = await asyncio.open_connection("127.0.0.1", self._control)
        begin, first = loop.time(), self._seq
        try:
            while (now := loop.time()) < begin + seconds:
                due = first + int((now - begin) * per_second)
                if due > self._seq:
                    writer.write(b"p %d %d %d\n" % (self._seq, due - self._seq, 1))
                    self._seq = due
                await asyncio.sleep(0.005)
            await writer.drain()
        finally:
            writer.close()
        return self._seq - first

    async def one(self) -> None:
        """Publish one change."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._control)
        writer.write(b"p %d 1 1\n" % self._seq)
        self._seq += 1
        await writer.drain()
        writer.close()

    async def until_streams(self, streams: int, seconds: float = 30.0) -> None:
        """Wait until the bridges together follow so many streams of the provider."""

        async def enough() -> bool:
            return (await asyncio.to_thread(ask_provider, self._control, "s"))["streams"] >= streams

        await until(enough, seconds)


@dataclass
class Hoppers:
    """Streams that move to another bridge once a second, with their cursor.

    Attributes:
        opened: Seconds from the request to the first byte of each body that came after `measure`.
    """

    addresses: Sequence[tuple[str, int]]
    refs: Sequence[str]
    opened: list[float] = field(default_factory=list)
    resets: int = 0
    failed: int = 0
    states: int = 0
    _have: set[int] = field(default_factory=set)
    _measures: bool = False

    def measure(self) -> None:
        """From now on."""
        self._measures = True
        self.resets = self.failed = self.states = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """They move until the end."""
        tasks = [asyncio.create_task(self._hop(number, ref)) for number, ref in enumerate(self.refs)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until_all(self, seconds: float) -> None:
        """Wait until each has had a state."""

        async def all_have() -> bool:
            return len(self._have) == len(self.refs)

        await until(all_have, seconds)

    def numbers(self) -> dict[str, float]:
        """What was measured."""
        ordered = sorted(self.opened) or [0.0]
        return {
            "resumes": len(self.opened),
            "p50_ms": ordered[len(ordered) // 2] * 1000,
            "p99_ms": ordered[int(len(ordered) * 0.99)] * 1000 if len(ordered) > 1 else ordered[0] * 1000,
            "resets": self.resets,
            "failed": self.failed,
            "states": self.states,
        }

    async def _hop(self, number: int, ref: str) -> None:
        chance = random.Random(number)
        cursor: str | None = None
        await asyncio.sleep(chance.uniform(0, 1))
        at = chance.randrange(len(self.addresses))
        while True:
            at = (at + 1) % len(self.addresses)
            try:
                cursor = await self._one(number, self.addresses[at], ref, cursor)
            except (OSError, asyncio.IncompleteReadError):
                self.failed += 1
                await asyncio.sleep(0.1)

    async def _one(self, number: int, address: tuple[str, int], ref: str, cursor: str | None) -> str | None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        reader, writer = await asyncio.open_connection(*address)
        try:
            lines = [f"GET /v1/tasks/{ref}/events HTTP/1.1", "Host: bridge", "Accept: text/event-stream"]
            lines += [f"Last-Event-ID: {cursor}"] if cursor else []
            writer.write("\r\n".join([*lines, "", ""]).encode())
            await reader.readuntil(b"\r\n\r\n")
            data = await reader.readuntil(b"\n")  # the size of a chunk, then its first line
            data += await reader.readuntil(b"\n")
            if self._measures and cursor is not None:
                self.opened.append(loop.time() - began)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(began + 1.0 - loop.time(), 0.05)):
                    while chunk := await reader.read(65_536):
                        data += chunk
                        if b"event: reset" in chunk:
                            self.resets += 1
                        if cursor is None and b"\nid: " in data:
                            self._have.add(number)
        finally:
            writer.transport.abort()
        self.states += data.count(b'"status":')
        ids = [line[4:] for line in data.split(b"\n") if line.startswith(b"id: ")]
        if ids:
            self._have.add(number)
        return ids[-1].decode() if ids else cursor


async def until(true: Callable[[], Awaitable[bool]], seconds: float) -> None:
    """Ask again and again."""
    async with asyncio.timeout(seconds):
        while not await true():  # noqa: ASYNC110 - what is waited for is in other processes
            await asyncio.sleep(0.05)
