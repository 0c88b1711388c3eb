"""One maker per engine: the contract tests run over all of them, with the time in the test's hands.

A maker that needs a server starts it once per test process, ends it by its pid, and gives each `open` a name
of its own on it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest

from bridge.core.task import TaskKey
from bridge.engine.base import (
    DEFAULT_JOB_LIMITS,
    Applied,
    Apply,
    End,
    Engine,
    Entry,
    Job,
    JobLimits,
    Mode,
    Owner,
    Record,
    SessionState,
    Stamp,
    Want,
    Welcome,
)
from bridge.engine.embedded import EmbeddedEngine
from bridge.engine.keeper.client import KeeperEngine
from bridge.engine.keeper.server import Keeper
from bridge.engine.store import Store, StoreLimits
from tests.fakes.redis_engines import RedisMaker

START = 1_800_000_000_000_000  # microseconds


class VirtualTime:
    """The engine's clock, in microseconds; it stands still until a test advances it."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1_000_000)


class EngineMaker(Protocol):
    """Opens engines of one kind."""

    name: str

    def unavailable(self) -> str:
        """Why it cannot run here (its server is not installed); empty if it can."""

    def open(self, now: Callable[[], int], **limits: int) -> AbstractAsyncContextManager[Engine]:
        """An engine that holds nothing yet.

        Args:
            limits: Of those that `StoreLimits` and `EngineLimits` have in common.
        """


class EmbeddedMaker:
    name = "embedded"

    def unavailable(self) -> str:
        return ""

    @asynccontextmanager
    async def open(self, now: Callable[[], int], **limits: int) -> AsyncIterator[Engine]:
        engine = EmbeddedEngine(now, limits=StoreLimits(**limits))
        try:
            yield engine
        finally:
            await engine.close()


class KeeperMaker:
    """The engine of a worker, over a socket pair, with the keeper on the same event loop."""

    name = "keeper"

    def unavailable(self) -> str:
        return ""

    @asynccontextmanager
    async def open(self, now: Callable[[], int], **limits: int) -> AsyncIterator[Engine]:
        store = Store(StoreLimits(**limits))
        keeper = Keeper(store, now)
        engine = await KeeperEngine.open(keeper.connect())
        try:
            yield engine
        finally:
            await engine.close()
            keeper.close()


ENGINES: list[EngineMaker] = [
    EmbeddedMaker(),
    KeeperMaker(),
    *map(RedisMaker, ("valkey", "redis7", "redis62")),
]


def require(maker: EngineMaker) -> None:
    """Skip the test where the engine's server is missing; fail in CI, where it must not be."""
    reason = maker.unavailable()
    if reason and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)


class EngineUse:
    """An engine, its clock, and what tests say to it again and again.

    Attributes:
        engine: The engine.
        time: Its clock.
    """

    def __init__(self, engine: Engine, time: VirtualTime) -> None:
        self.engine = engine
        self.time = time

    async def session(
        self,
        name: str,
        *,
        ttl: float = 10.0,
        known_head: int = 0,
        epoch: str = "e1",
        about: bytes = b"",
        opens: bool = True,
    ) -> Welcome:
        return await self.engine.session(
            name, ttl=ttl, known_head=known_head, new_epoch=epoch, about=about, opens=opens
        )

    async def renew(self, *names: str, ttl: float = 10.0) -> None:
        for name in names:
            assert (await self.session(name, ttl=ttl, opens=False)).state is SessionState.RENEWED

    async def want(
        self, session: str, *keys: TaskKey, may_own: bool = True, linger: float = 30.0
    ) -> list[Owner]:
        wants = [Want(key, may_own) for key in keys]
        return [wanted.owner for wanted in await self.engine.want(session, wants, linger=linger)]

    async def apply(
        self, session: str, *states: Apply, limits: JobLimits = DEFAULT_JOB_LIMITS
    ) -> list[Applied]:
        return await self.engine.apply(session, states, limits=limits)

    async def record(self, key: TaskKey) -> Record:
        (record,) = await self.engine.records([key])
        return record

    async def log(self, after: int = 0) -> list[Entry]:
        """All entries after an offset."""
        return await self.engine.read(after, block=0, limit=100_000)

    async def head(self) -> int:
        """The newest offset; opens a session of its own if need be."""
        return (await self.session("reader")).head


def state_of(
    key: TaskKey,
    version: int,
    session: str = "a",
    *,
    mode: Mode = Mode.OWNER,
    end: End = End.OPEN,
    content: str = "",
    raw: bytes | None = None,
    jobs: Sequence[Job] = (),
    details: bytes | None = None,
    document: bytes | None = None,
) -> Apply:
    """A state that builds on the version before; its content differs from every other one's."""
    content = content or f"{session}-{version}"
    return Apply(
        key,
        mode,
        version - 1,
        Stamp(version, session),
        end,
        hashlib.blake2b(content.encode(), digest_size=16).digest(),
        content.encode() if document is None else document,
        raw,
        jobs,
        details,
    )
