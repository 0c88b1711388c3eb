"""Several real bridges on one real engine, behind a balancer that picks at random.

Each bridge reaches the engine through a proxy of its own, which can cut, delay and stall.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.chaos.balancer import is_ready
from tests.chaos.proxy import GOOD, HOLE, HOST, Manners, Proxy
from tests.chaos.site import Site, get
from tests.replicas.engines import EngineProcess

CHECK_SECONDS = 0.1
LEASE = 3.0
SECRET = "a-secret-of-the-tests-of-32-bytes"
SETTINGS: dict[str, Any] = {"engine_lease_seconds": LEASE, "drain_seconds": 2.0, "linger_seconds": 5.0}


@dataclass(eq=False)
class Replica:
    """One bridge, and its way to the engine."""

    site: Site
    way: Proxy | None
    stopped: bool = False

    @property
    def name(self) -> str:
        return f"{self.site.port}"


class Fleet:
    """All of them.

    Attributes:
        front: The balancer: one address, another bridge for each connection.
    """

    def __init__(self, replicas: Sequence[Replica], engine: EngineProcess | None, seed: int) -> None:
        self.replicas = list(replicas)
        self.engine = engine
        self.chance = random.Random(seed)
        self.ready: set[Replica] = set(replicas)
        self.front = Proxy(self._pick)

    @property
    def address(self) -> tuple[str, int]:
        return HOST, self.front.port

    @property
    def url(self) -> str:
        return self.front.url

    def _pick(self) -> tuple[str, int]:
        there = [one for one in self.replicas if one in self.ready] or self.replicas
        return self.chance.choice(there).site.address

    async def check_for_ever(self) -> None:
        """Ask each bridge whether it is ready, again and again."""
        await asyncio.gather(*(self._check(one) for one in self.replicas))

    async def _check(self, replica: Replica) -> None:
        while True:
            if await is_ready(replica.site):
                self.ready.add(replica)
            else:
                self.ready.discard(replica)
            await asyncio.sleep(CHECK_SECONDS)

    # What can be done to them

    async def kill(self, replica: Replica) -> None:
        """kill -9; its connections break."""
        self.ready.discard(replica)
        await replica.site.end(signal.SIGKILL)

    async def start(self, replica: Replica) -> None:
        """Start it again on its port."""
        await replica.site.start()

    async def drain(self, replica: Replica) -> None:
        """SIGTERM, as a rolling deploy does; returns when it has ended."""
        code = await replica.site.end(signal.SIGTERM)
        if code != 0:
            raise AssertionError(f"SIGTERM ended with {code}: {''.join(replica.site.logs[-1][-5:])}")

    async def stop_for(self, replica: Replica, seconds: float) -> None:
        """SIGSTOP, then SIGCONT."""
        os.kill(replica.site.pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(replica.site.pid, signal.SIGCONT)

    def cut(self, *replicas: Replica) -> None:
        """Nothing passes between them and the engine, and nobody is told."""
        for replica in replicas:
            assert replica.way is not None
            replica.way.behave(HOLE)

    def refuse(self, *replicas: Replica) -> None:
        """The engine's address refuses them, and what is open is reset."""
        for replica in replicas:
            assert replica.way is not None
            replica.way.refuse()
            replica.way.reset_all()

    def delay(self, seconds: float, *replicas: Replica) -> None:
        """Each way to the engine takes longer."""
        for replica in replicas:
            assert replica.way is not None
            replica.way.behave(Manners(latency=seconds))

    async def heal(self, *replicas: Replica) -> None:
        """The way is good again; connections that lost bytes are reset."""
        for replica in replicas:
            assert replica.way is not None
            lossy = [line for line in replica.way.lines if line.manners.hole]
            replica.way.behave(GOOD)
            for line in lossy:
                line.reset()
            if not replica.way.listening:
                await replica.way.listen()

    # What they say

    async def status(self, http: aiohttp.ClientSession, replica: Replica) -> dict[str, Any]:
        """`/status` of one."""
        code, document = await get(http, f"{replica.site.url}/status")
        assert code == 200, document
        return dict(document)

    def complaints(self) -> list[str]:
        """What their logs say of bugs."""
        return [line for one in self.replicas for line in one.site.complaints()]


@asynccontextmanager
async def fleet(
    base_url: str,
    engine: EngineProcess | None,
    *,
    count: int = 3,
    seed: int = 0,
    name: str = "qingbo",
    upstream: dict[str, Any] | None = None,
    journal: Path | None = None,
    under: Sequence[str] = (),
    **settings: Any,
) -> AsyncIterator[Fleet]:
    """Bridges that run.

    Args:
        engine: None for one bridge with a journal of its own.
        name: Of the upstream.
        under: A command that becomes the bridge in the end.
    """
    async with AsyncExitStack() as stack:
        replicas = []
        for _ in range(count):
            way, shared = None, dict(settings)
            if engine is not None:
                way = Proxy(engine.address)
                await way.listen()
                stack.push_async_callback(way.close)
                shared = SETTINGS | {"engine": f"redis://{HOST}:{way.port}"} | shared
            site = Site(base_url, journal, name=name, upstream=upstream, under=under, **shared)
            replicas.append(Replica(site, way))
            stack.push_async_callback(site.close)
        await asyncio.gather(*(one.site.start() for one in replicas))
        made = Fleet(replicas, engine, seed)
        await made.front.listen()
        stack.push_async_callback(made.front.close)
        checking = asyncio.create_task(made.check_for_ever())
        try:
            yield made
        finally:
            checking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await checking
    complaints = made.complaints()
    assert not complaints, "".join(complaints)


def described(document: Any) -> str:
    """A document in one line."""
    return orjson.dumps(document).decode()
