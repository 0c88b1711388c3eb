"""What may go wrong in the long run, each as one act; after it everything is well again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable

from tests.chaos.crowd import Crowd
from tests.chaos.proxy import DEAF, GOOD, HOLE, Manners, Proxy
from tests.chaos.site import Site
from tests.e2e.raw import connection

CROWD = 500
NONSENSE = 30


class Disasters:
    """Acts on a running scene.

    Args:
        way: The proxy between bridge and provider.
        front: The proxy between clients and bridge.
    """

    def __init__(self, bridge: Site, way: Proxy, front: Proxy, chance: random.Random) -> None:
        self._bridge = bridge
        self._way = way
        self._front = front
        self._chance = chance
        self._acts: dict[str, Callable[[], Awaitable[None]]] = {
            "kill -9": self._kill,
            "SIGTERM": self._restart,
            "kill -9, journal deleted": self._lose_journal,
            "provider refuses": self._provider_refuses,
            "provider misbehaves": self._provider_misbehaves,
            "clients cut": self._clients_cut,
            "clients misbehave": self._clients_misbehave,
            "crowd vanishes": self._crowd,
            "nonsense": self._nonsense,
        }

    async def next(self) -> str:
        """One act, by chance; its name."""
        name = self._chance.choice(list(self._acts))
        await self._acts[name]()
        return name

    async def _kill(self) -> None:
        await self._bridge.end(signal.SIGKILL)
        await asyncio.sleep(self._chance.uniform(0, 2))
        await self._bridge.start()

    async def _restart(self) -> None:
        code = await self._bridge.end(signal.SIGTERM)
        if code != 0:
            raise AssertionError(f"SIGTERM ended with {code}")
        await self._bridge.start()

    async def _lose_journal(self) -> None:
        await self._bridge.end(signal.SIGKILL)
        self._bridge.forget()
        await self._bridge.start()

    async def _provider_refuses(self) -> None:
        self._way.refuse()
        self._way.reset_all()
        await self._while()
        await self._way.listen()

    async def _provider_misbehaves(self) -> None:
        cut = self._chance.randrange(1, 600)
        bad = [
            HOLE,
            DEAF,
            Manners(split=True, delay=0.05),
            Manners(reset_after=cut),
            Manners(half_close_after=cut),
            Manners(delay=0.5),
        ]
        self._way.behave(self._chance.choice(bad))
        await self._while()
        self._way.behave(GOOD)

    async def _clients_cut(self) -> None:
        for line in list(self._front.lines):
            if self._chance.random() < 0.7:
                line.reset()

    async def _clients_misbehave(self) -> None:
        lines = list(self._front.lines)
        for line in self._chance.sample(lines, len(lines) // 3):
            line.behave(self._chance.choice([HOLE, DEAF, Manners(split=True), Manners(delay=0.2)]))

    async def _crowd(self) -> None:
        crowd = Crowd(self._bridge.address, "/v1/tasks/qingbo/task-nobody-made/events")
        with contextlib.suppress(ConnectionError):  # 404s; what matters is that they came and went
            await crowd.come(CROWD)
        crowd.vanish()

    async def _nonsense(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(NONSENSE):
                _, writer = await stack.enter_async_context(connection(self._bridge.url))
                writer.write(
                    self._chance.choice([os.urandom(3000), b"GET /v1/tas", b"GET / HTTP/1.1\r\nX: " * 900])
                )
            await asyncio.sleep(0.5)

    async def _while(self) -> None:
        await asyncio.sleep(self._chance.uniform(1, 5))
