"""Webhooks without a network: receivers that answer as a test says, and all that delivers around them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from yarl import URL

from bridge.core.details import TaskDetails
from bridge.core.task import Source, State, Status, TaskKey
from bridge.journal.memory import MemoryJournal
from bridge.sources.guard import check_url, private_hosts_of
from bridge.webhooks.attempts import AttemptResult, DeliveryLog
from bridge.webhooks.deliverer import Deliverer
from bridge.webhooks.endpoint import EventType, Webhook
from bridge.webhooks.planner import DeliveryPlanner
from bridge.webhooks.registry import Webhooks
from bridge.webhooks.sender import ATTEMPT_SECONDS, Answered
from bridge.webhooks.signature import new_secret
from bridge.webhooks.submits import SubmitReceivers
from tests.fakes.clock import FakeClock, settle

RECEIVER = "https://receiver.example/hook"
TASK = TaskKey("video", "one")
HANGS = 0

Answer = Callable[["SentAttempt"], "int | None"]


class SentAttempt(NamedTuple):
    """One attempt, as it was sent; `at` in seconds since the first test second."""

    url: str
    id: str
    at: float
    body: bytes
    secrets: tuple[str, ...]

    @property
    def data(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class FakeSender:
    """Satisfies what is used of `bridge.webhooks.sender.Sender`.

    Attributes:
        answer: The status for an attempt; `HANGS` answers nothing for ten seconds, None refuses a connection.
        seconds: How long each answer takes.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.sent: list[SentAttempt] = []
        self.answer: Answer = lambda _: 204
        self.seconds = 0.0
        self.in_flight = self.most_in_flight = 0
        self._clock = clock
        self._began = clock.monotonic()

    async def send(self, url: str, delivery: str, body: bytes, secrets: Iterable[str]) -> Answered:
        """See `Sender`."""
        attempt = SentAttempt(url, delivery, self._clock.monotonic() - self._began, body, tuple(secrets))
        self.sent.append(attempt)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            status = self.answer(attempt)
            if status == HANGS:
                await self._clock.sleep(ATTEMPT_SECONDS)
                return Answered(None, ATTEMPT_SECONDS, "it did not respond in time", late=True)
            if self.seconds:
                await self._clock.sleep(self.seconds)
        finally:
            self.in_flight -= 1
        if status is None:
            return Answered(None, self.seconds, "no connection could be made")
        error = None if 200 <= status < 300 else f"the receiver answered {status}"
        return Answered(status, self.seconds, error)


class FakeCounts:
    """Counts what a deliverer reports."""

    def __init__(self) -> None:
        self.results: list[AttemptResult] = []
        self.drops = 0

    def attempted(self, result: AttemptResult, seconds: float) -> None:
        """See `DeliveryCounts`."""
        assert seconds >= 0
        self.results.append(result)

    def dropped(self, number: int) -> None:
        """See `DeliveryCounts`."""
        self.drops += number


class Delivering:
    """A journal in memory, its ledger, and everything that delivers from it.

    Args:
        journal: Of another one, which it continues with.
    """

    def __init__(
        self,
        *static: Webhook,
        clock: FakeClock | None = None,
        journal: MemoryJournal | None = None,
        sender: FakeSender | None = None,
        hosts: tuple[str, ...] = (),
        check_seconds: float = 600.0,
    ) -> None:
        self.clock = clock or FakeClock()
        self.journal = journal or MemoryJournal(self.clock, retention_seconds=86_400)
        self.ledger = self.journal.ledger
        self.sender = sender or FakeSender(self.clock)
        self.counts = FakeCounts()
        self.submit_secret = new_secret()
        self.log = DeliveryLog(self.ledger)
        self.webhooks = Webhooks(
            static,
            submits=SubmitReceivers(hosts, self.submit_secret if hosts else None, checked),
            check_url=checked,
            ledger=self.ledger,
            sender=self.sender,  # type: ignore[arg-type] # what is used of it
            log=self.log,
            clock=self.clock,
        )
        self.deliverer = Deliverer(
            self.webhooks,
            self.ledger,
            self.sender,  # type: ignore[arg-type] # what is used of it
            self.clock,
            random=lambda: 0.5,
            counts=self.counts,
            check_seconds=check_seconds,
        )
        self.journal.planner = DeliveryPlanner(
            self.webhooks,
            epoch=lambda: self.journal.epoch,
            clock=self.clock,
            now=self.ledger.now,
            wrote=self.deliverer.wrote,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver."""
        task = asyncio.ensure_future(self.deliverer.run())
        await settle()
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def record(self, state: State, key: TaskKey = TASK, details: TaskDetails | None = None) -> None:
        """Record a state."""
        if details is not None:
            self.journal.describe(key, details)
        await self.journal.append(key, state)
        await settle()

    @property
    def waiting(self) -> int:
        """Deliveries that are not finished."""
        return len(self.ledger.store.jobs)

    @property
    def times(self) -> list[float]:
        """When each attempt was made."""
        return [round(one.at, 1) for one in self.sender.sent]


def checked(url: str) -> URL:
    """As the guard of a bridge checks it."""
    return check_url(url, private_hosts_of(["127.0.0.1"]))


def endpoint(
    name: str = "mine", *events: EventType, url: str = RECEIVER, tags: tuple[str, ...] = ()
) -> Webhook:
    """One of the configuration."""
    kinds = events or (EventType.FINAL,)
    return Webhook(id=name, url=url, events=kinds, secret=new_secret(), static=True, tags=tags)


def state(status: Status = Status.COMPLETED, at: float = 1_800_000_000.0, **fields: Any) -> State:
    """A state that was seen then."""
    return State(status=status, changed_at=at, observed_at=at, source=Source.POLL, **fields)
