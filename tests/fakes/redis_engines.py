"""The engine on real servers, for the contract tests: one server of each kind in a test process."""

from __future__ import annotations

import atexit
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bridge.engine.address import parse_address
from bridge.engine.base import Engine
from bridge.engine.redis.connect import ServerAccess
from bridge.engine.redis.engine import RedisEngine
from bridge.engine.redis.link import EngineLimits
from tests.fakes.redis_servers import RedisServer, unavailable

PATIENCE = 20.0
"""Seconds an answer may take in tests that are not about that."""

NORMAL = EngineLimits()

_names = itertools.count(1)


def engine_on(
    server: RedisServer,
    *,
    name: str = "bridge",
    now: Callable[[], int] | None = None,
    limits: EngineLimits = NORMAL,
    timeout: float = PATIENCE,
) -> RedisEngine:
    """An engine on a server, over its Unix socket, not connected yet."""
    access = ServerAccess(address=parse_address(f"unix://{server.socket}"), timeout=timeout)
    return RedisEngine(access, name=name, limits=limits, now=now)


class RedisMaker:
    """See `EngineMaker`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._server: RedisServer | None = None

    def unavailable(self) -> str:
        return unavailable(self.name)

    @property
    def server(self) -> RedisServer:
        """The one server of this kind, ended with the process."""
        if self._server is None:
            self._server = RedisServer(self.name).start()
            atexit.register(self._server.close)
        return self._server

    @asynccontextmanager
    async def open(self, now: Callable[[], int], **limits: int) -> AsyncIterator[Engine]:
        kept = EngineLimits(**limits)
        engine = engine_on(self.server, name=f"test-{next(_names)}", now=now, limits=kept)
        await engine.connect()
        try:
            yield engine
        finally:
            await engine.close()
