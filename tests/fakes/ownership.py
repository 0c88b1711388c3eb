"""Replicas of one bridge in memory: what they share, and the journal and ownership of each.

Rule 1: every replica hears of a state, its own included, in the order of the log.
Rule 2: who polls a task is decided in one place; the answers come later, at a turn of the event loop of their
        own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.event import Confirmation, Event, Notice, NoticeCode
from bridge.core.merge import beyond
from bridge.core.task import State, Status, TaskKey
from bridge.engine.ownership import KnownTask, Watches
from bridge.errors import NotOwner, Superseded
from bridge.journal.base import Recorded
from bridge.journal.feed import Feed

EPOCH = "shared"


@dataclass
class FakeRecord:
    """What is shared of one task."""

    events: list[Event] = field(default_factory=list)
    owner: FakeReplica | None = None
    due: float | None = None
    polled_at: float = float("-inf")
    persistent: bool = False
    called_back: bool = False
    notices: dict[NoticeCode, Notice] = field(default_factory=dict)
    confirmation: Confirmation | None = None
    wanted_by: list[FakeReplica] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nobody owns it any more."""
        return bool(self.events) and _ended(self.events[-1].state)


class FakeEngine:
    """What replicas share."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.head = 0
        self.records: dict[TaskKey, FakeRecord] = {}
        self.replicas: list[FakeReplica] = []

    def replica(self) -> FakeReplica:
        """One more replica."""
        self.replicas.append(FakeReplica(self))
        return self.replicas[-1]

    def record(self, key: TaskKey) -> FakeRecord:
        """What is shared of a task."""
        return self.records.setdefault(key, FakeRecord())

    def take(self, key: TaskKey, state: State, by: FakeReplica | None, observed_at: float) -> Event:
        """Record a state; everybody hears it."""
        record = self.record(key)
        self.head += 1
        event = Event(key, Cursor(EPOCH, self.head), state, observed_at)
        record.events.append(event)
        for code in (NoticeCode.STALLED, NoticeCode.TASK_NOT_FOUND):
            record.notices.pop(code, None)
        if record.ended:
            record.owner, record.persistent = None, False
        for replica in self.replicas:
            replica.enqueue(lambda replica=replica: replica.heard(event, ours=replica is by))
        return event

    def sweep(self, *, spacing: float = 0.0) -> None:
        """Give every task whose owner is dead to one that lives, if somebody wants it or it is kept."""
        alive = [one for one in self.replicas if one.alive]
        number = 0
        for key, record in self.records.items():
            owned = record.owner is not None and record.owner.alive
            wanting = [one for one in record.wanted_by if one.alive]
            if owned or record.ended or not (wanting or record.persistent) or not alive:
                continue
            record.owner = (wanting or alive)[0]
            record.due = max(record.due or 0.0, self.clock.monotonic() + spacing * number)
            number += 1
            record.owner.tell_standing(key)


class FakeReplica(Feed):
    """The journal and the ownership of one replica. Satisfies `Journal` and `Ownership`.

    Attributes:
        alive: Whether its session lives.
        held: Whether what it would hear waits.
    """

    shared = True

    def __init__(self, engine: FakeEngine) -> None:
        super().__init__()
        self.engine = engine
        self.epoch = EPOCH
        self.usable = True
        self.alive = True
        self.connected = True
        self.held = False
        self.watches: Watches
        self.unrecorded: dict[TaskKey, Event] = {}
        self._newest: dict[TaskKey, Event] = {}
        self._granting: TaskKey | None = None
        self.wanted: list[TaskKey] = []
        self.dropped: list[TaskKey] = []
        self.calls: list[tuple[TaskKey, bool]] = []
        self._inbox: deque[Callable[[], None]] = deque()

    # What it hears

    def enqueue(self, what: Callable[[], None]) -> None:
        """Hear something at a later turn of the event loop."""
        self._inbox.append(what)
        if not self.held:
            asyncio.get_running_loop().call_soon(self.hear_all)

    def hear_all(self) -> None:
        """Hear what has come, in order."""
        while self._inbox and self.connected:
            self._inbox.popleft()()

    def heard(self, event: Event, *, ours: bool) -> None:
        """A state is in the log."""
        self._newest[event.key] = event
        self.publish(event)
        if not ours:
            self.watches.recorded_elsewhere(event)

    def tell_standing(self, key: TaskKey) -> None:
        """Tell who polls a task, as it is when it is heard."""

        def answer() -> None:
            record = self.engine.record(key)
            notices = [one for one in record.notices.values() if not record.events or _concerns_seen(one)]
            known_task = KnownTask(
                record.events[-1] if record.events else None,
                record.due,
                record.polled_at,
                record.persistent,
                record.called_back,
                record.confirmation,
                notices,
            )
            granted = record.owner is self
            if not granted:
                for notice in notices:
                    super(FakeReplica, self).announce(key, notice)
            self._granting = key if granted else None
            (self.watches.granted if granted else self.watches.attends)(key, known_task)
            self._granting = None

        self.enqueue(answer)

    # Journal

    @property
    def head(self) -> int:
        """The newest offset."""
        return self.engine.head

    async def append(
        self, key: TaskKey, state: State, *, observed_at: float = 0.0, free: bool = False
    ) -> Event:
        """Record a state as the owner, or on top of the newest one."""
        record = self.engine.record(key)
        newest = record.events[-1].cursor.offset if record.events else 0
        if not self.connected:
            heard = self._newest.get(key)
            event = Event(key, heard.cursor if heard else Cursor(EPOCH, 0), state, observed_at)
            self.unrecorded[key] = event
            self.publish(event)
            return event
        if not free and (record.owner is not self or not self.alive):
            self.hear_all()
            raise NotOwner
        known = self._known(key)
        if known != newest or record.ended:
            self.hear_all()
            raise Superseded
        event = self.engine.take(key, state, self, observed_at)
        self.hear_all()
        return event

    def _known(self, key: TaskKey) -> int:
        """The newest offset that its watch was told."""
        events = self.engine.record(key).events
        waiting = len(self._inbox) if self.held else 0
        return events[-1].cursor.offset if events and not waiting else (0 if not events else -1)

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """The newest event of each task."""
        self.hear_all()
        if not self.connected:
            return [self.unrecorded.get(key, self._newest.get(key)) for key in keys]
        return [(self.engine.record(key).events or [None])[-1] for key in keys]

    async def history(self, keys: Sequence[TaskKey], after: int) -> Sequence[Recorded]:
        """What is recorded of some tasks."""
        return [
            Recorded(key, event.cursor.offset, 1)
            for key in keys
            for event in self.engine.record(key).events
            if event.cursor.offset > after
        ]

    async def read(self, recorded: Sequence[Recorded], *, raw: bool = True) -> Sequence[Event]:
        """Those events."""
        wanted = {(one.key, one.offset) for one in recorded}
        return [
            event
            for key in {one.key for one in recorded}
            for event in self.engine.record(key).events
            if (key, event.cursor.offset) in wanted
        ]

    async def unfinished(self) -> Sequence[Event]:
        """Nothing: tasks are granted."""
        return ()

    async def lost(self, limit: int) -> Sequence[Event]:
        """Nothing: tasks are granted."""
        return ()

    async def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> Sequence[TaskKey]:
        """Not needed here."""
        return ()

    async def first_seen(self, keys: Sequence[TaskKey]) -> list[float | None]:
        """Not needed here."""
        return [None for _ in keys]

    def announce(self, key: TaskKey, notice: Notice, *, here: bool = False) -> None:
        """The owner's notices reach everybody."""
        super().announce(key, notice)
        record = self.engine.record(key)
        if here or record.owner is not self or not self.connected:
            return
        if notice.code is NoticeCode.FRESH:
            record.notices.clear()
        else:
            record.notices[notice.code] = notice
        for other in self.engine.replicas:
            if other is not self:
                other.enqueue(lambda other=other: other._noticed(key, notice))

    def _noticed(self, key: TaskKey, notice: Notice) -> None:
        super().announce(key, notice)
        self.watches.noticed_elsewhere(key, notice)

    def confirm(self, key: TaskKey, confirmation: Confirmation) -> None:
        """The owner's confirmations reach everybody."""
        super().confirm(key, confirmation)
        record = self.engine.record(key)
        if record.owner is not self or not self.connected:
            return
        record.confirmation = confirmation
        for other in self.engine.replicas:
            if other is not self:
                other.enqueue(lambda other=other: other._confirmed(key, confirmation))

    def _confirmed(self, key: TaskKey, confirmation: Confirmation) -> None:
        super().confirm(key, confirmation)
        self.watches.confirmed_elsewhere(key, confirmation)

    async def close(self) -> None:
        """There is nothing to close."""

    # Ownership

    def report_to(self, watches: Watches) -> None:
        """Answer to these watches."""
        self.watches = watches

    def want(self, key: TaskKey) -> None:
        """Own it if nobody alive does."""
        self.wanted.append(key)
        record = self.engine.record(key)
        if self not in record.wanted_by:
            record.wanted_by.append(self)
        self.enqueue(lambda: self._decide(key))

    def _decide(self, key: TaskKey) -> None:
        record = self.engine.record(key)
        nobody = record.owner is None or not record.owner.alive
        if nobody and self.alive and not record.ended:
            record.owner = self
        self.tell_standing(key)

    def drop(self, key: TaskKey) -> None:
        """Its owner goes on if others want it."""
        self.dropped.append(key)
        record = self.engine.record(key)
        if self in record.wanted_by:
            record.wanted_by.remove(self)
        if record.owner is not self:
            return
        if self._granting == key:
            record.owner = None  # it cannot be polled here: for others
        elif record.wanted_by or record.persistent:
            self.tell_standing(key)
        else:
            record.owner = None

    def keep(self, key: TaskKey, *, called_back: bool) -> None:
        """It is watched until its end."""
        record = self.engine.record(key)
        record.persistent = not record.ended
        record.called_back |= called_back

    def may_poll(self, key: TaskKey) -> bool:
        """Whether its lease has not run out; alone for a while without the engine."""
        return self.alive and (not self.connected or self.engine.record(key).owner is self)

    def polls(self, key: TaskKey) -> None:
        """A poll starts."""
        self.engine.record(key).polled_at = self.engine.clock.monotonic()

    def planned(self, key: TaskKey, due: float | None) -> None:
        """What a successor begins with."""
        self.engine.record(key).due = due

    def call(self, key: TaskKey, *, called_back: bool = False) -> None:
        """Ask the owner."""
        self.calls.append((key, called_back))
        self.enqueue(lambda: self._ask(key, called_back=called_back))

    def _ask(self, key: TaskKey, *, called_back: bool) -> None:
        ends = [one for one in self.engine.records if one.task_id.endswith(f"/{key.task_id}")]
        known = key if self.engine.record(key).owner or not ends else ends[0]
        record = self.engine.record(known)
        owner = record.owner
        if owner is not None and owner.alive:
            owner.enqueue(lambda: owner.watches.called(known, called_back=called_back))
        elif record.wanted_by or record.persistent:
            record.due = self.engine.clock.monotonic()
            self.engine.sweep()
        elif called_back:
            self.watches.called(known, called_back=True)

    # What happens to it

    def lose_lease(self) -> None:
        """Its session is dead: nobody told it yet."""
        self.alive = False

    def cut_off(self) -> None:
        """It hears the engine no more."""
        self.connected = False
        self.watches.cut_off(since=self.engine.clock.monotonic())

    def come_back(self) -> None:
        """It hears the engine again: what it missed first, then who polls what."""
        self.connected = self.alive = True
        unrecorded, self.unrecorded = self.unrecorded, {}
        for key, event in unrecorded.items():
            self._record_again(key, event)
        self.hear_all()
        self.watches.cut_off(since=None)
        for key, record in self.engine.records.items():
            if self in record.wanted_by or record.owner is self:
                self._decide(key)

    def _record_again(self, key: TaskKey, event: Event) -> None:
        """As it was if nothing newer is recorded, else what it adds to that."""
        record = self.engine.record(key)
        newest = record.events[-1] if record.events else None
        if record.ended:
            return
        if newest is None or newest.cursor == event.cursor:
            self.engine.take(key, event.state, self, event.observed_at)
        elif (merged := beyond(newest.state, event.state)) is not None:
            self.engine.take(key, merged, None, event.observed_at)

    def transfer(self) -> None:
        """A drain: it gives up what it owns, each task with its due."""
        for key, record in self.engine.records.items():
            if record.owner is self:
                record.owner = None
                self.tell_standing(key)


def _ended(state: State) -> bool:
    return state.status.final and state.status is not Status.LOST


def _concerns_seen(notice: Notice) -> bool:
    return notice.code is not NoticeCode.TASK_NOT_FOUND
