"""A model of replicas on one log: real hubs and real decisions about cursors, before a log that a test moves.

Every state of a task has a progress of its own, so that a state is known by it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from bridge.config.settings import Settings
from bridge.core.cursor import Cursor, new_epoch
from bridge.core.event import Confirmation, Event
from bridge.core.resume import Relation, compare, unrecorded
from bridge.core.task import State, TaskKey
from bridge.delivery.subscriptions import Subscriptions
from bridge.hub.hub import Hub
from bridge.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock
from tests.fakes.hub import Interests
from tests.fakes.tasks import WALL, state

KEYS = [TaskKey("qingbo", f"task-{number}") for number in range(3)]
LAST = 8  # versions of a task; the last is its end


def version(number: int) -> State:
    """The state of a task after so many changes."""
    status = "completed" if number == LAST else "processing" if number > 1 else "queued"
    return state(status, 100.0 if number == LAST else float(number * 10), changed_at=WALL + number)


def number_of(known: State) -> int:
    """The other way round."""
    return LAST if known.status.final else int((known.progress or 0) / 10)


@dataclass(slots=True)
class Engine:
    """One log, one record for each task, and what each epoch's history was."""

    clock: int = 1_795_905_000_000_000
    epoch: str = ""
    log: list[Event] = field(default_factory=list)
    histories: dict[str, list[Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin_epoch()

    def begin_epoch(self, *, forgets: int = 0) -> None:
        """Another history: without the newest entries; offsets go on growing."""
        self.clock += 1000
        self.epoch = new_epoch(self.clock / 1e6, self.clock)
        kept = self.log[: max(0, len(self.log) - forgets)]
        self.log = [Event(one.key, Cursor(self.epoch, one.cursor.offset), one.state) for one in kept]
        self.histories[self.epoch] = self.log

    def promoted(self) -> Engine:
        """A copy that goes on as an engine of its own, in a later epoch: the other side of a split."""
        copy = Engine(self.clock, log=list(self.log))
        copy.histories |= self.histories
        return copy

    @property
    def head(self) -> int:
        """The newest offset."""
        return self.log[-1].cursor.offset if self.log else 0

    def record(self, key: TaskKey) -> Event | None:
        """The newest state of a task."""
        return next((one for one in reversed(self.log) if one.key == key), None)

    def append(self, key: TaskKey, known: State) -> None:
        """Record what goes beyond the record."""
        before = self.record(key)
        if before is None or number_of(before.state) < number_of(known):
            self.clock += 10
            self.log.append(Event(key, Cursor(self.epoch, self.clock), known))


class NoPool:
    """A pool that polls nothing."""

    def known_missing(self, key: TaskKey) -> None:
        """No task is missing."""

    def watcher(self, key: TaskKey) -> None:
        """Nothing is watched."""


class Replica:
    """A process: the log tells it of its tasks, and it holds what it saw while the engine was away."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.epoch = engine.epoch
        self.heard = len(engine.log)
        self.head = engine.head
        self.up = True
        self.unsettled: set[TaskKey] = set()
        self.awaited = 0
        self.held: dict[TaskKey, Event] = {}
        metrics = Metrics(CollectorRegistry(), ["qingbo"])
        self.clock = FakeClock()
        self.hub = Hub(Interests(), self, metrics, self.clock)
        self.hub.share(self)
        arguments: Any = (self.hub, NoPool(), self, self.clock, metrics)
        waits = Settings.model_construct(first_state_timeout_seconds=0.0, max_connection_age_seconds=600.0)
        self.subscriptions = Subscriptions(*arguments, random=lambda: 0.5, settings=waits)

    # As a journal

    def settled(self, keys: Collection[TaskKey]) -> bool:
        """See `Journal`."""
        # Of what the engine answered, the log has not told yet what came before.
        return self.up and self.unsettled.isdisjoint(keys) and self.head >= self.awaited

    @property
    def reconciled(self) -> bool:
        """See `SharedHistory`."""
        return self.up and not self.unsettled

    async def caught_up(self, cursor: Cursor) -> bool:
        """The wait is over before it begins: the test decides what is heard meanwhile."""
        if cursor.epoch != self.epoch:
            return self.reconciled
        return cursor.offset <= self.head or (self.up and cursor.offset > self.engine.head)

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """What is held, or asked for."""
        for key in keys:
            if self.up and key in self.unsettled:
                self.ask(key)
        return [self.held.get(key) for key in keys]

    def confirmation(self, key: TaskKey) -> Confirmation | None:
        """See `Journal`."""
        return None

    # What happens to it

    def report_to(self, event: Event) -> None:
        """A recorded state is heard: it is held, unless what is held goes beyond it."""
        held = self.held.get(event.key)
        if held is not None and held.cursor.epoch == event.cursor.epoch and not held.cursor.shown:
            if event.cursor.offset > held.cursor.offset:
                self.held[event.key] = event
        elif held is None or compare(held.state, event.state) is not Relation.BEHIND:
            self.held[event.key] = event
        else:
            self.held[event.key] = unrecorded(held, self.epoch, event.cursor.offset)
        self.hub.recorded(event)

    def ask(self, key: TaskKey) -> None:
        """What `want` answers."""
        self.unsettled.discard(key)
        record = self.engine.record(key)
        if record is not None:
            self.awaited = max(self.awaited, record.cursor.offset)
            self.report_to(record)
        held = self.held.get(key)
        if held is not None and (held.cursor.shown or held.cursor.epoch != self.epoch):
            known = 0 if record is None else record.cursor.offset
            self.held[key] = unrecorded(held, self.epoch, known)
            self.hub.recorded(self.held[key])
            self.engine.append(key, held.state)

    def hear(self, entries: int) -> None:
        """Some of the log."""
        if self.up and not self.unsettled:
            for event in self.engine.log[self.heard : self.heard + entries]:
                self.head = event.cursor.offset
                self.report_to(event)
            self.heard = min(len(self.engine.log), self.heard + entries)

    def see(self, key: TaskKey, known: State) -> None:
        """It polls a task."""
        held = self.held.get(key)
        if held is not None and number_of(held.state) >= number_of(known):
            return
        if self.up and not self.unsettled:
            self.engine.append(key, known)
        elif not self.up:
            same = held is not None and held.cursor.epoch == self.epoch
            base = held.cursor.offset if held is not None and same else 0
            self.held[key] = unrecorded(Event(key, Cursor(self.epoch, 0), known), self.epoch, base)
            self.hub.recorded(self.held[key])

    def wait(self, seconds: float = 1.0) -> None:
        """Time passes, and the connections are looked after."""
        self.clock.skip(seconds)
        self.hub.catch_up()

    def connect(self) -> None:
        """The engine is reached again, perhaps another one: what is known has to be asked for."""
        self.up = True
        self.unsettled, self.awaited = set(KEYS), 0
        self.heard, self.head = len(self.engine.log), self.engine.head
        if self.epoch != self.engine.epoch:
            self.epoch = self.engine.epoch
            self.hub.new_epoch()
