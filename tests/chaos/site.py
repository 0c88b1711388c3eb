"""Where it all happens: a provider that tells the truth, and a bridge that is ended and started again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from bridge.simulator.files import file_url
from bridge.simulator.lifecycle import Stage
from bridge.simulator.tasks import Task
from tests.chaos.judge import Ending
from tests.chaos.proxy import HOST, free_port
from tests.harness import PATIENCE, BridgeProcess, running_bridge, running_simulator

LISTENING = "0A"  # a state in /proc/net/tcp

KEY = "test-key"
QUICK = {"poll_min_seconds": 0.05, "poll_max_seconds": 0.2}
_AT_ONCE = 32


@dataclass
class Studio:
    """A provider whose tasks live by its own clock, and who says how each of them ended.

    Attributes:
        looks: When each status call came, by task id, on this process's own clock.
    """

    running: Any
    http: aiohttp.ClientSession
    name: str = "qingbo"
    looks: list[tuple[float, str]] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        calls = self.running.world.calls
        pass_on = calls.count

        def count(provider: str, call: str, task_id: str) -> None:
            pass_on(provider, call, task_id)
            if call == "status":
                self.looks.append((asyncio.get_running_loop().time(), task_id))
                news, self._news = self._news, asyncio.Event()
                news.set()

        calls.count = count

    @property
    def url(self) -> str:
        return f"{self.running.url}/{self.name}"

    async def submit(self, lives: Iterable[dict[str, Any]]) -> list[str]:
        """Make tasks that live like this; their refs."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one(life: dict[str, Any]) -> str:
            body = {"model": "wan2.7", "prompt": "a cat", "sim": life}
            headers = {"Authorization": f"Bearer {KEY}"}
            async with at_once, self.http.post(f"{self.url}/v1/tasks", json=body, headers=headers) as answer:
                assert answer.status < 300, await answer.text()
                return f"{self.name}/{(await answer.json())['task_id']}"

        return list(await asyncio.gather(*(one(life) for life in lives)))

    def task(self, ref: str) -> Task:
        """The provider's own record of a task."""
        found = self.running.world.store.find(self.name, ref.partition("/")[2], KEY)
        assert isinstance(found, Task), ref
        return found

    def stage(self, ref: str) -> Stage:
        """Where a task is now."""
        return self.task(ref).view(self.running.world.clock.now()).stage

    def open(self, refs: Iterable[str]) -> list[str]:
        """The tasks that have not ended."""
        return [ref for ref in refs if not self.stage(ref).final]

    def truth(self, refs: Iterable[str]) -> dict[str, Ending]:
        """How each task ended."""
        return {ref: self._ending(ref) for ref in refs}

    def forget(self, refs: Iterable[str]) -> None:
        """Answer 404 from now on."""
        for ref in refs:
            self.task(ref).gone = True

    def advance(self, seconds: float) -> None:
        """Let the provider's time pass."""
        self.running.world.clock.advance(seconds)

    def polled_since(self, since: float) -> list[tuple[float, str]]:
        """The status calls since a moment."""
        return [(at, f"{self.name}/{task_id}") for at, task_id in self.looks if at >= since]

    async def look(self) -> None:
        """Wait for the next status call."""
        await self._news.wait()

    def _ending(self, ref: str) -> Ending:
        stage = self.stage(ref)
        return Ending(stage.value, file_url(self.task(ref)) if stage is Stage.COMPLETED else None)


@asynccontextmanager
async def studio(*, name: str = "qingbo", **options: Any) -> AsyncIterator[Studio]:
    """A simulator, whose clock stands unless told otherwise."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with running_simulator(**options) as running, aiohttp.ClientSession(timeout=timeout) as http:
        yield Studio(running, http, name)


class Site:
    """One bridge on one port, whatever happens to its process.

    Args:
        journal: The journal's file; None for the memory, or for a shared engine among the settings.
        upstream: What `qingbo` is beside its quick pace.
        others: Base URLs of further upstreams, by name.

    Attributes:
        under: A command that becomes the bridge in the end, at its next start.
    """

    def __init__(
        self,
        base_url: str,
        journal: Path | None = None,
        *,
        name: str = "qingbo",
        port: int | None = None,
        under: Sequence[str] = (),
        upstream: dict[str, Any] | None = None,
        others: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.port = free_port() if port is None else port
        self.logs: list[list[str]] = []
        self._journal = journal
        self.under = under
        self._upstreams = {name: {"base_url": base_url, "api_key": KEY} | QUICK | (upstream or {})}
        for other, url in (others or {}).items():
            self._upstreams[other] = {"base_url": url, "api_key": KEY} | QUICK
        self._settings = {"keepalive_seconds": 1.0, "log_level": "warning"} | settings
        if journal is not None:
            self._settings["journal"] = f"sqlite:{journal}"
        self._running: AbstractAsyncContextManager[BridgeProcess] | None = None
        self._bridge: BridgeProcess | None = None

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.port

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def bridge(self) -> BridgeProcess:
        assert self._bridge is not None
        return self._bridge

    @property
    def pid(self) -> int:
        return self.bridge.process.pid

    async def start(self) -> None:
        """Start the process; returns once it listens."""
        running = running_bridge(self._upstreams, port=self.port, under=self.under, **self._settings)
        self._bridge = await running.__aenter__()
        self._running = running
        self.logs.append(self._bridge.log)

    async def end(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        code = await self.bridge.stop(sig)
        await self.close()
        return code

    async def close(self) -> None:
        """End the process by force, if it still runs."""
        running, self._running, self._bridge = self._running, None, None
        if running is not None:
            await running.__aexit__(None, None, None)

    def forget(self) -> None:
        """Delete the journal."""
        assert self._journal is not None
        for path in self._journal.parent.glob(f"{self._journal.name}*"):
            path.unlink()

    def complaints(self) -> list[str]:
        """What the log says of bugs."""
        lines = [line for log in self.logs for line in log]
        return [line for line in lines if "Traceback" in line or "unhandled exception" in line]

    def rss(self) -> int:
        """Resident memory in bytes."""
        (line,) = (one for one in self._proc("status").read_text().splitlines() if one.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def descriptors(self) -> int:
        """How many files and sockets are open."""
        return sum(1 for _ in self._proc("fd").iterdir())

    def own_descriptors(self) -> int:
        """How many are open without those of clients, which may be idle connections for a minute."""
        port = f":{self.port:04X}"
        rows = [line.split() for line in self._proc("net/tcp").read_text().splitlines()[1:]]
        accepted = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] != LISTENING}
        own = 0
        for path in self._proc("fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                own += str(path.readlink()) not in accepted
        return own

    def cpu_seconds(self) -> float:
        """How long the process has computed."""
        fields = self._proc("stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _proc(self, name: str) -> Path:
        return Path("/proc", str(self.pid), name)


@asynccontextmanager
async def site(base_url: str, journal: Path | None = None, **more: Any) -> AsyncIterator[Site]:
    """A bridge that runs; at the end its log must not tell of a bug."""
    made = Site(base_url, journal, **more)
    await made.start()
    try:
        yield made
    finally:
        await made.close()
    assert not made.complaints(), "".join(made.complaints())


async def get(http: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    """One answer, read whole: status and JSON, or text."""
    async with http.get(url) as answer:
        body = await answer.read()
        is_json = "json" in answer.headers.get("Content-Type", "")
        return answer.status, orjson.loads(body) if is_json else body.decode()


async def metric(http: aiohttp.ClientSession, base: str, series: str) -> float:
    """The value of one series."""
    _, text = await get(http, base + "/metrics")
    for line in str(text).splitlines():
        if line.startswith(series + " "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no series {series}")
