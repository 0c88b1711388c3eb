"""A load balancer of the simplest kind: one address, and the first instance that says it is ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.chaos.proxy import Proxy
from tests.chaos.site import Site

CHECK_SECONDS = 0.05


class Balancer:
    """Asks `/readyz` of each instance and sends newcomers to the first that is."""

    def __init__(self, front: Proxy, instances: Sequence[Site]) -> None:
        self.front = front
        self.instances = instances
        self.chosen = instances[0]

    async def check_for_ever(self) -> None:
        """Choose again and again."""
        while True:
            for instance in self.instances:
                if await is_ready(instance):
                    self.chosen = instance
                    self.front.target = instance.address
                    break
            await asyncio.sleep(CHECK_SECONDS)


@asynccontextmanager
async def balanced(*instances: Site) -> AsyncIterator[Balancer]:
    """A balancer in front of instances, the first of which is ready."""
    front = Proxy(instances[0].address)
    await front.listen()
    made = Balancer(front, instances)
    checking = asyncio.create_task(made.check_for_ever())
    try:
        yield made
    finally:
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)
        await front.close()


async def is_ready(instance: Site) -> bool:
    """Whether it takes traffic, within a second."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(*instance.address)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n")
                return (await reader.readuntil(b"\r\n")).split()[1] == b"200"
            finally:
                writer.transport.abort()
    return False
