"""A hub with a journal before it and writers behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from bridge.core.event import Event
from bridge.core.task import State, TaskKey
from bridge.hub.hub import Hub
from bridge.hub.subscription import Backlog, Subscription
from bridge.journal.memory import MemoryJournal
from bridge.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock, settle
from tests.fakes.writers import RecordingWriter


class Interests:
    """Counts who wants what."""

    def __init__(self) -> None:
        self.wanted: Counter[TaskKey] = Counter()

    def want(self, key: TaskKey, by: object = None, *, resumes: bool = False) -> None:
        """One more."""
        self.wanted[key] += 1

    def unwant(self, key: TaskKey) -> None:
        """One less."""
        assert self.wanted[key] > 0, "unwanted more often than wanted"
        self.wanted[key] -= 1

    @property
    def total(self) -> int:
        """All of them."""
        return self.wanted.total()


class Scene:
    """Hub, journal, clock, and the few steps tests take with them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, ["qingbo", "vapi"])
        self.interests = Interests()
        self.journal = MemoryJournal(self.clock, retention_seconds=86_400)
        self.hub = Hub(self.interests, self.journal, self.metrics, self.clock)
        self.journal.follow(self.hub)

    async def record(self, key: TaskKey, known: State, **more: Any) -> Event:
        """The journal takes in a state; the turn is not over."""
        return await self.journal.append(key, known, **more)

    async def tell(self, key: TaskKey, known: State, **more: Any) -> Event:
        """The same, and the turn ends."""
        event = await self.record(key, known, **more)
        await settle()
        return event

    def place(self, writer: RecordingWriter) -> Subscription:
        """A connection that asks for nothing yet."""
        subscription = self.hub.reserve(writer.fmt, ends_at=self.clock.monotonic() + 600)
        subscription.begin(writer, writer.fmt)
        return subscription

    async def join(
        self, keys: Sequence[TaskKey], writer: RecordingWriter | None = None, **more: Any
    ) -> tuple[Subscription, RecordingWriter]:
        """A connection that asks for `keys` and is told what is known."""
        writer = writer or RecordingWriter()
        subscription = self.place(writer)
        await self.subscribe(subscription, keys, **more)
        return subscription, writer

    async def subscribe(self, subscription: Subscription, keys: Sequence[TaskKey], **more: Any) -> None:
        """An open connection asks for `keys`."""
        self.hub.join(subscription, keys)
        latest = await self.journal.latest(keys)
        self.begin(subscription, [one for one in latest if one is not None], keys, **more)

    def begin(
        self,
        subscription: Subscription,
        events: Sequence[Event],
        keys: Sequence[TaskKey],
        *,
        after: int = -1,
        **more: Any,
    ) -> None:
        """It is sent what was read of them."""
        newest = {one.key: one for one in events}
        backlogs = {key: Backlog(newest.get(key), after) for key in keys}
        self.hub.begin(subscription, backlogs, **more)

    def count(self, name: str, **labels: str) -> float:
        """A metric."""
        return self.registry.get_sample_value(name, labels) or 0.0
