"""Journals with their ledgers: in memory, in a file, and in every engine that replicas share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bridge.clock import SystemClock
from bridge.core.details import TaskDetails
from bridge.core.task import State, TaskKey
from bridge.engine.base import Engine, Job
from bridge.engine.ledger import Ledger
from bridge.journal.base import Journal
from bridge.journal.memory import MemoryJournal
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.replica.connection import EngineTimes
from bridge.replica.ledger import SharedLedger
from bridge.replica.replica import Replica
from tests.fakes.engines import ENGINES, EngineMaker, require

QUEUE = "hook"


@dataclass
class JobPlans:
    """A planner: one job for each state, or what `makes` returns.

    Attributes:
        planned: The arguments of each call.
        wrote: What was reported as written.
    """

    makes: Callable[[TaskKey, State], Sequence[Job]] | None = None
    planned: list[tuple[TaskKey, State | None, State, TaskDetails]] = field(default_factory=list)
    wrote: list[tuple[TaskKey, Sequence[Job], int]] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def plan(self, key: TaskKey, previous: State | None, state: State, details: TaskDetails) -> Sequence[Job]:
        """See `JobPlanner`."""
        self.planned.append((key, previous, state, details))
        return self.makes(key, state) if self.makes is not None else [job_of(key, state)]

    def written(self, key: TaskKey, jobs: Sequence[Job], dropped: int) -> None:
        """See `JobPlanner`."""
        self.wrote.append((key, jobs, dropped))
        self.news.set()

    async def reported(self, count: int) -> None:
        """Wait for so many reports: the log may be faster than the answer of an engine."""
        async with asyncio.timeout(10):
            while len(self.wrote) < count:
                self.news.clear()
                await self.news.wait()


def job_of(key: TaskKey, state: State, *, queue: str = QUEUE) -> Job:
    """The job of one state, named after it."""
    return Job(queue, job_id(key, state), b"\xff" + state.status.value.encode(), ordering=key.ref)


def job_id(key: TaskKey, state: State) -> str:
    """Its id."""
    return f"{key.task_id}-{state.status.value}-{state.progress}"


class NoWatches:
    """Of a replica that polls nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: None


@dataclass
class Remembering:
    """A journal with its ledger."""

    journal: Journal
    ledger: Ledger


class RememberingMaker(Protocol):
    """Opens journals of one kind."""

    __name__: str

    def __call__(self, path: Path) -> AbstractAsyncContextManager[Remembering]:
        """One that holds nothing yet."""


@asynccontextmanager
async def in_memory(path: Path) -> AsyncIterator[Remembering]:
    """One process alone, without a file."""
    journal = MemoryJournal(SystemClock(), retention_seconds=3600)
    yield Remembering(journal, journal.ledger)
    await journal.close()


@asynccontextmanager
async def in_a_file(path: Path) -> AsyncIterator[Remembering]:
    """One process alone."""
    journal = await SqliteJournal.open(path / "journal.db", SystemClock(), retention_seconds=3600)
    yield Remembering(journal, journal.ledger)
    await journal.close()


def in_an_engine(maker: EngineMaker) -> RememberingMaker:
    """One of several processes."""

    @asynccontextmanager
    async def make(path: Path) -> AsyncIterator[Remembering]:
        del path
        require(maker)
        async with (
            maker.open(lambda: round(SystemClock().time() * 1e6)) as engine,
            replica_on(engine) as replica,
        ):
            yield Remembering(replica.journal, SharedLedger(replica, SystemClock()))

    make.__name__ = maker.name
    return make


def _microseconds() -> int:
    return round(SystemClock().time() * 1e6)


@asynccontextmanager
async def replica_on(engine: Engine) -> AsyncIterator[Replica]:
    """A replica that runs, and is up."""

    async def connect() -> Engine:
        return engine

    times = EngineTimes(lease=10.0, timeout=10.0)
    replica = Replica(connect, SystemClock(), times, linger=30.0, closes=False)
    replica.ownership.report_to(NoWatches())  # type: ignore[arg-type] # nothing is polled
    up = asyncio.Event()
    replica.on_up.append(up.set)
    running = asyncio.create_task(replica.run())
    await up.wait()
    try:
        yield replica
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


MAKERS: list[RememberingMaker] = [in_memory, in_a_file, *map(in_an_engine, ENGINES)]
