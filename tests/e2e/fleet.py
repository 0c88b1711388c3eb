"""Several bridges on one engine in this process, each on a socket of its own, before one simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvicorn

from bridge.app.bridge import Bridge
from bridge.config.load import load
from bridge.engine.embedded import EmbeddedEngine
from bridge.errors import EngineUnavailable
from bridge.server.listeners import listen
from bridge.server.server import _config
from tests.e2e.scene import QUICK, Ledger, Scene
from tests.harness import PATIENCE, running_simulator, upstreams_of

LEASE = 3.0


class Access:
    """The way of one bridge to the engine; a connection of its own each time.

    Attributes:
        cut: Whether there is none.
    """

    def __init__(self, engine: EmbeddedEngine) -> None:
        self._engine = engine
        self.cut = False

    async def connect(self) -> Any:
        """As a client library does.

        Raises:
            EngineUnavailable: There is no way.
        """
        if self.cut:
            raise EngineUnavailable("connection refused")
        return _Connection(self._engine, self)


class _Connection:
    def __init__(self, engine: EmbeddedEngine, access: Access) -> None:
        self._engine, self._access = engine, access

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            if self._access.cut:
                raise EngineUnavailable("connection reset")
            answer = await getattr(self._engine, name)(*args, **options)
            if self._access.cut:
                raise EngineUnavailable("connection reset")
            return answer

        return call

    async def close(self) -> None:
        """The engine goes on for the others."""


@dataclass
class Served:
    """A bridge, and where it is reached."""

    url: str
    bridge: Bridge
    access: Access
    server: uvicorn.Server


@dataclass
class Fleet:
    """The bridges, each as a scene before the one simulator."""

    scenes: list[Scene]
    served: list[Served]
    engine: EmbeddedEngine

    def __iter__(self) -> Iterator[Scene]:
        return iter(self.scenes)

    def owner(self, ref: str) -> Scene | None:
        """Who polls a task."""
        for scene, served in zip(self.scenes, self.served, strict=True):
            parts: Any = served.bridge._parts
            watchers = {key.ref: watcher for key, watcher in parts.pool._watchers.items()}
            if ref in watchers and watchers[ref].polls_here:
                return scene
        return None

    async def polls(self, ref: str) -> list[float]:
        """How often each bridge asked for a task's upstream."""
        upstream = ref.partition("/")[0]
        series = 'bridge_upstream_requests_total{{call="status",outcome="ok",upstream="{}"}}'
        return [await scene.metric(series.format(upstream)) for scene in self.scenes]


@asynccontextmanager
async def fleet(
    number: int = 3, *, each: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Fleet]:
    """Bridges on one engine.

    Args:
        each: Settings of every upstream, over the quick ones.
    """
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(running_simulator())
        http = await stack.enter_async_context(
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=PATIENCE),
                connector=aiohttp.TCPConnector(limit=0),
                auto_decompress=False,
            )
        )
        ledger, engine = Ledger(simulator.world.calls), EmbeddedEngine()
        wishes = {
            "engine": "redis://127.0.0.1:1",
            "engine_lease_seconds": LEASE,
            "upstreams": upstreams_of(simulator, **(QUICK | (each or {}))),
        } | settings
        served = [await stack.enter_async_context(_serving(engine, wishes)) for _ in range(number)]
        scenes = [Scene(simulator, one, http, ledger) for one in served]  # type: ignore[arg-type] # its address
        yield Fleet(scenes, served, engine)


@asynccontextmanager
async def _serving(engine: EmbeddedEngine, wishes: dict[str, Any]) -> AsyncIterator[Served]:
    bridge, access = Bridge(load(None, environment={}, **wishes)), Access(engine)
    bridge.connect = access.connect
    server = uvicorn.Server(_config(bridge, max_head_bytes=65_536))
    listener = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server._serve([listener]))
    try:
        async with asyncio.timeout(PATIENCE):
            while not server.started:
                await asyncio.sleep(0.01)
                assert not serving.done(), serving.exception()
        host, port = listener.getsockname()[:2]
        yield Served(f"http://{host}:{port}", bridge, access, server)
    finally:
        server.should_exit = server.force_exit = True
        await serving
