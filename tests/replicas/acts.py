"""What may happen to several bridges and their engine, each as one act; after it everything is well again."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.replicas.engines import EngineProcess
from tests.replicas.fleet import Fleet, Replica

STALE_SECONDS = 2.5
REPLICA_ACTS = ("kill", "stop", "rolling", "slow", "very slow")
ENGINE_ACTS = ("engine restart", "wipe", "stale", "outage", "stall", "cut one")
ON_DEMAND = ("long outage", "split", "engine without AOF")
HISTORY_CHANGES = frozenset({"engine restart", "wipe", "stale", "split", "engine without AOF"})
"""After these a client may be told `reset`."""

PARTITIONS = frozenset({*ENGINE_ACTS, *ON_DEMAND})
"""While these last, a task may be polled by two bridges."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One act that was done, on the event loop's clock."""

    name: str
    since: float
    until: float


class Acts:
    """Acts on a running fleet.

    Args:
        begins: Called with the name of an act before it is done.
    """

    def __init__(
        self, fleet: Fleet, chance: random.Random, begins: Callable[[str], None] = lambda _: None
    ) -> None:
        self._fleet = fleet
        self._chance = chance
        self._begins = begins
        self.done: list[Fault] = []
        self._which: int | None = None
        self._acts: dict[str, Callable[[], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "rolling": self._rolling,
            "slow": lambda: self._slow(0.05),
            "very slow": lambda: self._slow(0.2),
            "engine restart": lambda: self._restart_engine(durable=True),
            "engine without AOF": lambda: self._restart_engine(durable=False),
            "wipe": self._wipe,
            "stale": self._stale,
            "outage": lambda: self._outage(self._chance.uniform(4, 9)),
            "long outage": lambda: self._outage(60.0),
            "stall": self._stall,
            "cut one": self._cut_one,
            "split": self._split,
        }

    @property
    def names(self) -> list[str]:
        return list(self._acts)

    async def do(self, name: str, which: int | None = None) -> Fault:
        """One act.

        Args:
            which: Of the bridges, where it is done to one; by chance without.
        """
        loop = asyncio.get_running_loop()
        self._which = which
        self._begins(name)
        since = loop.time()
        await self._acts[name]()
        self.done.append(Fault(name, since, loop.time()))
        return self.done[-1]

    @property
    def _engine(self) -> EngineProcess:
        assert self._fleet.engine is not None
        return self._fleet.engine

    def _one(self) -> Replica:
        if self._which is not None:
            return self._fleet.replicas[self._which]
        return self._chance.choice(self._fleet.replicas)

    async def _kill(self) -> None:
        one = self._one()
        await self._fleet.kill(one)
        await asyncio.sleep(self._chance.uniform(0.0, 6.0))
        await self._fleet.start(one)

    async def _stop(self) -> None:
        await self._fleet.stop_for(self._one(), self._chance.uniform(1, 7))

    async def _rolling(self) -> None:
        for one in self._chance.sample(self._fleet.replicas, len(self._fleet.replicas)):
            await self._fleet.drain(one)
            await self._fleet.start(one)

    async def _slow(self, seconds: float) -> None:
        self._fleet.delay(seconds, *self._fleet.replicas)
        await asyncio.sleep(self._chance.uniform(4, 8))
        await self._fleet.heal(*self._fleet.replicas)

    async def _restart_engine(self, *, durable: bool) -> None:
        """An engine that keeps its data loses at most the second that was not synced."""
        kept, self._engine.durable = self._engine.durable, durable
        await self._engine.kill()
        if not durable:
            self._engine.forget()
        await asyncio.sleep(self._chance.uniform(0.3, 1.5))
        await self._engine.start()
        self._engine.durable = kept

    async def _wipe(self) -> None:
        await self._engine.kill()
        self._engine.forget()
        await self._engine.start()

    async def _stale(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            await self._engine.copy(Path(folder))
            await asyncio.sleep(STALE_SECONDS)
            await self._engine.kill()
            await self._engine.become(Path(folder))

    async def _outage(self, seconds: float) -> None:
        self._fleet.refuse(*self._fleet.replicas)
        await asyncio.sleep(seconds)
        await self._fleet.heal(*self._fleet.replicas)

    async def _stall(self) -> None:
        self._engine.pause()
        try:
            await asyncio.sleep(self._chance.uniform(1.5, 6))
        finally:
            self._engine.go_on()

    async def _cut_one(self) -> None:
        one = self._one()
        self._fleet.cut(one)
        await asyncio.sleep(self._chance.uniform(3, 8))
        await self._fleet.heal(one)

    async def _split(self) -> None:
        """One bridge goes on with a copy of the engine, the others with the engine."""
        one = self._one()
        assert one.way is not None
        with tempfile.TemporaryDirectory() as folder:
            copied, place = Path(folder, "copy"), Path(folder, "data")
            await self._engine.copy(copied)
            other = EngineProcess(self._engine.name, place, durable=False)
            await other.become(copied)
            try:
                one.way.target = other.address
                one.way.reset_all()
                await asyncio.sleep(5.0)
            finally:
                one.way.target = self._engine.address
                one.way.reset_all()
                await other.kill()
