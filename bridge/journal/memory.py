"""A journal in memory: its history ends with the process."""

from __future__ import annotations

import itertools
import secrets
from collections import OrderedDict
from collections.abc import Sequence

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.details import NO_DETAILS, TaskDetails, decode_details
from bridge.core.event import Event
from bridge.core.merge import is_ended
from bridge.core.task import State, Status, TaskKey
from bridge.engine.base import Job
from bridge.engine.store.listings import Listings
from bridge.journal.base import Amend, Listed, Recorded
from bridge.journal.feed import Feed
from bridge.journal.ledger import StoreLedger

EVENTS_PER_TASK = 256
EVENT_BYTES = 1500  # without documents and links
MAX_BYTES = 64 * 1024 * 1024
FORGET_BATCH = 64


class MemoryJournal(Feed):
    """Keeps the newest events of each task until the task has not changed for `retention_seconds`.

    Satisfies `bridge.journal.base.Journal`.

    Args:
        max_tasks: Above this, the task unchanged for longest is deleted.
        max_bytes: Memory for the events that are not the newest of their task; above it the oldest events of
            the task unchanged for longest are deleted.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        retention_seconds: float,
        max_tasks: int = 200_000,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__()
        self.epoch = secrets.token_hex(4)
        self.head = 0
        self.usable = True
        self._clock = clock
        self._retention = retention_seconds
        self._max_tasks = max_tasks
        # Lists, though the oldest go first: an empty deque takes as much memory as all else of an open task.
        self._tasks: OrderedDict[TaskKey, list[Event]] = OrderedDict()
        # Monotonic seconds of the last append: the clock on the wall may be set while the bridge runs.
        self._appended_at: dict[TaskKey, float] = {}
        self._max_bytes = max_bytes
        self._bytes = 0
        self.ledger = StoreLedger(clock)
        self._with_history: OrderedDict[TaskKey, None] = OrderedDict()
        self._first_seen: dict[TaskKey, float] = {}
        self._listings = Listings()
        self._places: dict[TaskKey, int] = {}  # the offset of its first state
        self._undescribed: set[TaskKey] = set()
        self._listed: dict[TaskKey, bytes] = {}  # the details by which it is listed, encoded

    async def append(
        self,
        key: TaskKey,
        state: State,
        *,
        observed_at: float = 0.0,
        free: bool = False,  # noqa: ARG002
    ) -> Event:
        """Record a state and pass the event to the followers; never waits."""
        self.head += 1
        event = Event(key, Cursor(self.epoch, self.head), state, observed_at)
        events = self._tasks.get(key)
        jobs: Sequence[Job] = ()
        if self.planner is not None:
            jobs = self.plan(key, events[-1].state if events else None, state)
        if events is None:
            events = self._tasks[key] = []
            self._first_seen[key], self._places[key] = state.changed_at, self.head
            self._listings.add(key, self.head, None)
        else:
            self._bytes += _size(events[-1])
            self._with_history[key] = None
            self._with_history.move_to_end(key)
        events.append(event)
        now = self._appended_at[key] = self._clock.monotonic()
        if len(events) > EVENTS_PER_TASK:
            self._bytes -= _size(events.pop(0))
        self._listings.change(key, final=state.status.final)
        self._tasks.move_to_end(key)  # the first task is always the one unchanged for longest
        self._forget(now)
        while self._bytes > self._max_bytes and self._with_history:
            self._forget_oldest_event()
        if jobs:
            self.report_jobs(key, jobs, self.ledger.add(jobs, event.cursor.offset))
        if self._undescribed and key in self._undescribed:  # without any there is no hash to compute
            self._undescribed.discard(key)
            self._list(key, self._details[key])
        if self._details and is_ended(state):
            self._details.pop(key, None)
        self.publish(event)
        return event

    async def amend(self, key: TaskKey, amend: Amend) -> Event | None:
        """See `Journal.amend`; never waits."""
        events = self._tasks.get(key)
        event = events[-1] if events else None
        if events is None or event is None or not is_ended(event.state):
            return None
        state = amend(event.state)
        if state is None:
            return None
        jobs = self.plan_amendment(key, event.state, state, self._details_of(key))
        # The newest event of a task is not counted in `_bytes`.
        events[-1] = amended = event._replace(state=state)
        if jobs:
            self.report_jobs(key, jobs, self.ledger.add(jobs, event.cursor.offset))
        self.publish_amended(amended)
        return amended

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """The newest event of each task."""
        return [events[-1] if (events := self._tasks.get(key)) else None for key in keys]

    async def history(self, keys: Sequence[TaskKey], after: int) -> Sequence[Recorded]:
        """What is retained of some tasks after `after`, in journal order."""
        recorded = (
            Recorded(key, event.cursor.offset, _size(event))
            for key in keys
            for event in self._tasks.get(key, ())
        )
        return sorted((one for one in recorded if one.offset > after), key=lambda one: one.offset)

    async def read(self, recorded: Sequence[Recorded], *, raw: bool = True) -> Sequence[Event]:
        """The events of some records that still exist."""
        del raw  # they are in memory as they are
        wanted = {(one.key, one.offset) for one in recorded}
        events = [
            event
            for key in {one.key for one in recorded}
            for event in self._tasks.get(key, ())
            if (key, event.cursor.offset) in wanted
        ]
        return sorted(events, key=lambda event: event.cursor.offset)

    async def unfinished(self) -> Sequence[Event]:
        """The newest event of every task whose state is not final."""
        return [events[-1] for events in self._tasks.values() if not events[-1].state.status.final]

    async def lost(self, limit: int) -> Sequence[Event]:
        """The newest event of the newest lost tasks."""
        newest = (events[-1] for events in reversed(self._tasks.values()))
        lost = (event for event in newest if event.state.status is Status.LOST)
        return list(itertools.islice(lost, limit))

    async def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> Sequence[TaskKey]:
        """The tasks of one account that are open, or that have ended, newest change first."""
        return self._listings.newest(upstream, account, final=final, limit=limit)

    async def listing(
        self,
        upstream: str,
        account: str,
        *,
        tag: str = "",
        group: str = "",
        before: int = 0,
        limit: int = 100,
    ) -> list[Listed]:
        """Tasks of one account, those first seen last come first."""
        found = self._listings.first_seen(upstream, account, tag=tag, group=group, before=before, limit=limit)
        return [Listed(place, key, self._details_of(key)) for place, key in found]

    def describe(self, key: TaskKey, details: TaskDetails) -> None:
        """Set what a task was submitted with; it is recorded with the next state."""
        if details != self.details(key):
            self._undescribed.add(key)
        super().describe(key, details)

    async def places(self, keys: Sequence[TaskKey]) -> list[int]:
        """The place of each task in listings."""
        return [self._places.get(key, 0) for key in keys]

    async def details_of(self, keys: Sequence[TaskKey]) -> list[TaskDetails]:
        """What each task was submitted or registered with."""
        return [self._details_of(key) for key in keys]

    async def register(self, key: TaskKey, details: TaskDetails) -> None:
        """Replace what a task is known by."""
        if key in self._tasks:
            details = details._replace(since=self.head)
            self._undescribed.discard(key)  # what was to be recorded with the next state is replaced too
            status = self._tasks[key][-1].state.status
            if not status.final or status is Status.LOST:
                self._details[key] = details
            self._list(key, details)

    async def forget(self, key: TaskKey) -> bool:
        """Delete a task with all its states."""
        if key not in self._tasks:
            return False
        self._delete(key)
        return True

    async def first_seen(self, keys: Sequence[TaskKey]) -> list[float | None]:
        """When the first state of each task was recorded."""
        return [self._first_seen.get(key) for key in keys]

    async def close(self) -> None:
        """Do nothing: there is no storage."""

    def _details_of(self, key: TaskKey) -> TaskDetails:
        listed = self._listed.get(key)
        return NO_DETAILS if listed is None else decode_details(listed)

    def _list(self, key: TaskKey, details: TaskDetails) -> None:
        """List a task by its tags and group, if they are not those that it is listed by."""
        encoded, before = details.encode(), self._listed.get(key)
        if encoded == before:
            return
        self._listings.relist(key, self._places[key], before, encoded)
        self._listed[key] = encoded
        self.publish_details(key, details)

    def _delete(self, key: TaskKey) -> None:
        self._with_history.pop(key, None)
        events = self._tasks.pop(key)
        self._bytes -= sum(_size(event) for event in itertools.islice(events, len(events) - 1))
        del self._appended_at[key], self._first_seen[key]
        self._details.pop(key, None)
        self._undescribed.discard(key)
        self._confirmations.pop(key, None)
        self._listings.remove(key, self._places.pop(key), self._listed.pop(key, None))
        self._listings.change(key, final=None)
        self.publish_forgotten(key)

    def _forget(self, now: float) -> None:
        """Delete a bounded number of expired tasks.

        Bounded, because after a quiet night the next append would otherwise delete thousands at once.
        """
        oldest = now - self._retention
        for _ in range(FORGET_BATCH):
            if len(self._tasks) == 1:
                return
            key = next(iter(self._tasks))
            expired = self._appended_at[key] < oldest
            # The order is by last append: if this task stays, so do all after it.
            if not expired and len(self._tasks) <= self._max_tasks:
                return
            self._delete(key)

    def _forget_oldest_event(self) -> None:
        key = next(iter(self._with_history))
        events = self._tasks[key]
        self._bytes -= _size(events.pop(0))
        if len(events) == 1:
            del self._with_history[key]


def _size(event: Event) -> int:
    """Bytes of an event in memory, roughly."""
    state = event.state
    size = EVENT_BYTES + len(state.raw or b"") + len(state.result or b"")
    for output in state.outputs:
        size += len(output.url or "")
    return size
