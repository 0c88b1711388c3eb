"""The real bridge and the simulator on real sockets, and a test between them that scripts and counts."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from bridge.simulator.calls import CallCounts
from bridge.simulator.server import Running
from tests.e2e import raw
from tests.harness import (
    PATIENCE,
    PROVIDERS,
    BridgeProcess,
    Provider,
    running_bridge,
    running_simulator,
    upstreams_of,
)

EVENT_STREAM = "text/event-stream; charset=utf-8"
QUICK = {"poll_min_seconds": 0.05, "poll_max_seconds": 0.1}


class Ledger:
    """The simulator's own counts of calls, with the time of each and a way to wait for one."""

    def __init__(self, calls: CallCounts) -> None:
        self.times: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        self._calls = calls
        self._pass_on = calls.count
        self._news = asyncio.Event()
        calls.count = self._count  # type: ignore[method-assign]

    def _count(self, provider: str, call: str, task_id: str) -> None:
        self._pass_on(provider, call, task_id)
        self.times[provider, call, task_id].append(asyncio.get_running_loop().time())
        news, self._news = self._news, asyncio.Event()
        news.set()

    def of(self, provider: str, task_id: str, call: str = "status") -> int:
        """How often a call was made."""
        return len(self.times[provider, call, task_id])

    def gaps(self, provider: str, task_id: str, call: str = "status") -> list[float]:
        """Seconds between each call and the one before."""
        times = self.times[provider, call, task_id]
        return [after - before for before, after in pairwise(times)]

    async def reach(self, provider: str, task_id: str, number: int, call: str = "status") -> None:
        """Wait until a call was made so often."""
        async with asyncio.timeout(PATIENCE):
            while self.of(provider, task_id, call) < number:
                await self._news.wait()


@dataclass
class Reply:
    """An answer of the bridge, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Scene:
    """A bridge, the simulator it looks at, and what a test does with both."""

    simulator: Running
    bridge: BridgeProcess
    http: aiohttp.ClientSession
    ledger: Ledger
    trust: ssl.SSLContext | None = None
    _numbers: Any = field(default_factory=count)

    def id(self, name: str = "task") -> str:
        """A task id nobody has used."""
        return f"{name}-{next(self._numbers)}"

    def provider(self, name: str) -> Provider:
        return Provider(self.simulator, name, self.http)

    async def script(self, provider: str, task_id: str, *answers: dict[str, Any], **more: Any) -> str:
        """Make a task that answers so. Returns its ref under the upstream of the provider's name."""
        return await self.provider(provider).script(task_id, *answers, **more)

    async def then(self, provider: str, task_id: str, *answers: dict[str, Any]) -> None:
        """From now on the task answers so."""
        await self.provider(provider).then(task_id, *answers)

    async def submit(self, provider: str, path: str, body: dict[str, Any], **sim: Any) -> str:
        """Submit a task to the simulator itself. Returns the task id."""
        headers = {"Authorization": "Bearer test-key"}
        url = f"{self.simulator.url}/{provider}{path}"
        async with self.http.post(url, json=body | {"sim": sim}, headers=headers) as answer:
            assert answer.status < 300, await answer.text()
            said = await answer.json()
        return str(said.get("task_id") or said["data"]["task_id"])

    def advance(self, seconds: float) -> None:
        """Move the clock of the simulator."""
        self.simulator.world.clock.advance(seconds)  # type: ignore[attr-defined]

    async def faults(self, **by_provider: list[Any]) -> None:
        """Set faults for everybody."""
        async with self.http.put(f"{self.simulator.url}/_sim/faults", json=by_provider) as answer:
            assert answer.status < 300, await answer.text()

    def stream(self, path: str, **more: Any) -> AbstractAsyncContextManager[raw.RawStream]:
        """One request to the bridge over a plain socket."""
        return raw.request(self.bridge.url, path, trust=self.trust, **more)

    def events(self, ref: str, query: str = "", **more: Any) -> AbstractAsyncContextManager[raw.RawStream]:
        """The stream of one task."""
        return self.stream(f"{path_of(ref)}/events{query}", **more)

    async def call(self, method: str, path: str, **more: Any) -> Reply:
        """One request to the bridge, answered whole."""
        url = URL(self.bridge.url + path, encoded=True)
        async with self.http.request(method, url, allow_redirects=False, **more) as answer:
            return Reply(answer.status, answer.headers, await answer.read())

    async def get(self, path: str, **headers: str) -> Reply:
        """`GET`, with header names written with underscores."""
        wanted = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.call("GET", path, headers=wanted)

    async def metric(self, series: str) -> float:
        """The value of one series of `/metrics`."""
        text = (await self.get("/metrics")).body.decode()
        found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
        assert found, f"no series {series}"
        return float(found[1])

    async def reaches(self, series: str, value: float) -> None:
        """Wait until a series has that value."""
        await until(lambda: self.metric(series), value)


async def until(read: Callable[[], Awaitable[Any]], value: Any) -> None:
    """Ask until the answer is `value`; for counters that nobody can wait for."""
    found: Any = None
    try:
        async with asyncio.timeout(PATIENCE):
            while (found := await read()) != value:  # noqa: ASYNC110 - nobody tells us from outside
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"still {found!r}, not {value!r}") from None


def path_of(ref: str) -> str:
    """Where the bridge serves the state of a task."""
    upstream, _, task_id = ref.partition("/")
    return f"/v1/tasks/{upstream}/{quote(task_id, safe='')}"


@asynccontextmanager
async def stage(
    *,
    each: Mapping[str, Any] | None = None,
    also: Mapping[str, Mapping[str, Any]] | None = None,
    simulator: Mapping[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    trust: ssl.SSLContext | None = None,
    **settings: Any,
) -> AsyncIterator[Scene]:
    """A simulator whose clock stands and a bridge that looks at it quickly.

    Args:
        each: Settings of every upstream, over the quick ones.
        trust: Of the clients, if the settings make the bridge speak TLS.
        also: Further upstreams by name; `preset` says which provider of the simulator they reach.
    """
    wishes = QUICK | dict(each or {})
    async with running_simulator(**(simulator or {})) as running:
        upstreams = upstreams_of(running, **wishes)
        for name, more in (also or {}).items():
            upstreams[name] = upstreams[more["preset"]] | dict(more)
        async with (
            running_bridge(upstreams, environment=environment, **settings) as bridge,
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=PATIENCE),
                connector=aiohttp.TCPConnector(limit=0, ssl=trust or True),
                auto_decompress=False,
            ) as http,
        ):
            yield Scene(running, bridge, http, Ledger(running.world.calls), trust)


__all__ = ["PROVIDERS", "QUICK", "Ledger", "Reply", "Scene", "path_of", "stage", "until"]
