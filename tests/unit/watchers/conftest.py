"""A pool over one fake provider, with time that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from bridge.core.event import Event, Notice
from bridge.core.rate_limit import CredentialLimiter
from bridge.core.task import TaskKey
from bridge.journal.base import Journal
from bridge.journal.memory import MemoryJournal
from bridge.sources.accounts import AccountRegistry
from bridge.telemetry.metrics import Metrics
from bridge.watchers.pool import Pool
from tests.fakes.clock import FakeClock, settle
from tests.fakes.ownership import FakeEngine, FakeReplica
from tests.fakes.provider import FakeProvider, make_upstream

LINGER = 30.0


class House:
    """Pool, journal and provider."""

    def __init__(
        self,
        *,
        budget: CredentialLimiter | None = None,
        accounts: Callable[..., AccountRegistry] | None = None,
        shared: FakeReplica | None = None,
        provider: FakeProvider | None = None,
        journal: Journal | None = None,
        **more: Any,
    ) -> None:
        self.clock = FakeClock() if provider is None else provider.clock
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, ["qingbo"])
        self.provider = provider or FakeProvider(self.clock)
        self.upstream = make_upstream(self.provider, self.clock, budget=budget, metrics=self.metrics, **more)
        self.journal: Journal = shared or journal or MemoryJournal(self.clock, retention_seconds=86_400)
        self.events: list[Event] = []
        self.notices: list[tuple[str, str]] = []
        self.journal.follow(self)
        upstreams = {"qingbo": self.upstream}
        self.accounts = accounts(upstreams, self.clock) if accounts is not None else None
        self.pool = Pool(
            upstreams,
            self.journal,
            self.clock,
            self.metrics,
            random=lambda: 0.5,
            linger_seconds=LINGER,
            accounts=self.accounts,
            ownership=shared,
        )

    def recorded(self, event: Event) -> None:
        self.events.append(event)

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        self.notices.append((key.task_id, notice.code.value))

    def told(self, key: TaskKey) -> list[tuple[str, float | None]]:
        """What was recorded of a task."""
        return [(one.state.status.value, one.state.progress) for one in self.events if one.key == key]

    def count(self, name: str, **labels: str) -> float:
        """A metric of the upstream."""
        return self.registry.get_sample_value(name, {"upstream": "qingbo"} | labels) or 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The pool runs."""
        task = asyncio.ensure_future(self.pool.run())
        await settle()
        try:
            yield
            assert not task.done(), "the pool died"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self.in_flight_afterwards = self.upstream.limiter.in_flight


class Street:
    """Several houses before one provider, sharing their tasks."""

    def __init__(self, houses: int, **more: Any) -> None:
        self.clock = FakeClock()
        self.provider = FakeProvider(self.clock)
        self.engine = FakeEngine(self.clock)
        self.houses = [
            House(shared=self.engine.replica(), provider=self.provider, **more) for _ in range(houses)
        ]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All pools run."""
        async with AsyncExitStack() as stack:
            for house in self.houses:
                await stack.enter_async_context(house.running())
            yield

    def owner(self, key: TaskKey) -> House | None:
        """Who polls a task."""
        owner = self.engine.record(key).owner
        return next((house for house in self.houses if house.journal is owner), None)


@pytest.fixture
async def street() -> AsyncIterator[Street]:
    street = Street(3)
    async with street.running():
        yield street


@pytest.fixture
def build_street() -> Callable[..., Street]:
    return Street


@pytest.fixture
def build() -> Callable[..., House]:
    return House


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
async def open_house(house: House) -> AsyncIterator[House]:
    async with house.running():
        yield house
