"""A journal in memory: its history ends with the process."""

from __future__ import annotations

import itertools
import secrets
from collections import OrderedDict, deque
from collections.abc import Sequence

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import State, Status, TaskKey
from bridge.journal.base import Recorded
from bridge.journal.feed import Feed

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
        self._tasks: OrderedDict[TaskKey, deque[Event]] = OrderedDict()
        # Monotonic seconds of the last append: the clock on the wall may be set while the bridge runs.
        self._appended_at: dict[TaskKey, float] = {}
        self._max_bytes = max_bytes
        self._bytes = 0
        self._with_history: OrderedDict[TaskKey, None] = OrderedDict()
        self._first_seen: dict[TaskKey, float] = {}
        # Of each upstream and account: the open tasks and the ended ones, unchanged for longest first.
        self._by_account: dict[tuple[str, str], tuple[dict[TaskKey, None], dict[TaskKey, None]]] = {}

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
        if events is None:
            events = self._tasks[key] = deque()
            self._first_seen[key] = state.changed_at
        else:
            self._bytes += _size(events[-1])
            self._with_history[key] = None
            self._with_history.move_to_end(key)
        events.append(event)
        now = self._appended_at[key] = self._clock.monotonic()
        if len(events) > EVENTS_PER_TASK:
            self._bytes -= _size(events.popleft())
        self._sort(key, final=state.status.final)
        self._tasks.move_to_end(key)  # the first task is always the one unchanged for longest
        self._forget(now)
        while self._bytes > self._max_bytes and self._with_history:
            self._forget_oldest_event()
        self.publish(event)
        return event

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
        keys = self._by_account.get((upstream, account), ({}, {}))[final]
        return list(itertools.islice(reversed(keys), limit))

    async def first_seen(self, keys: Sequence[TaskKey]) -> list[float | None]:
        """When the first state of each task was recorded."""
        return [self._first_seen.get(key) for key in keys]

    async def close(self) -> None:
        """Do nothing: there is no storage."""

    def _sort(self, key: TaskKey, *, final: bool | None) -> None:
        """Move a task to the end of the open or of the ended ones of its account; None if it is deleted."""
        account = (key.upstream, key.account)
        by_end = self._by_account.get(account)
        if by_end is None:
            by_end = self._by_account[account] = ({}, {})
        for keys in by_end:
            keys.pop(key, None)
        if final is not None:
            by_end[final][key] = None
        elif not any(by_end):
            del self._by_account[account]

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
            self._with_history.pop(key, None)
            self._bytes -= sum(
                _size(event) for event in itertools.islice(self._tasks[key], len(self._tasks[key]) - 1)
            )
            del self._tasks[key], self._appended_at[key], self._first_seen[key]
            self._sort(key, final=None)

    def _forget_oldest_event(self) -> None:
        key = next(iter(self._with_history))
        events = self._tasks[key]
        self._bytes -= _size(events.popleft())
        if len(events) == 1:
            del self._with_history[key]


def _size(event: Event) -> int:
    """Bytes of an event in memory, roughly."""
    state = event.state
    size = EVENT_BYTES + len(state.raw or b"") + len(state.result or b"")
    for output in state.outputs:
        size += len(output.url or "")
    return size
