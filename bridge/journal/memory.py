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
from bridge.journal.feed import Feed

EVENTS_PER_TASK = 256
FORGET_BATCH = 64


class MemoryJournal(Feed):
    """Keeps the newest events of each task until the task has not changed for `retention_seconds`.

    Satisfies `bridge.journal.base.Journal`.

    Args:
        max_tasks: Above this, the task unchanged for longest is deleted.
    """

    def __init__(self, clock: Clock, *, retention_seconds: float, max_tasks: int = 200_000) -> None:
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

    async def append(self, key: TaskKey, state: State, *, observed_at: float = 0.0) -> Event:
        """Record a state and pass the event to the followers; never waits."""
        self.head += 1
        event = Event(key, Cursor(self.epoch, self.head), state, observed_at)
        events = self._tasks.get(key)
        if events is None:
            events = self._tasks[key] = deque(maxlen=EVENTS_PER_TASK)
        events.append(event)
        self._appended_at[key] = self._clock.monotonic()
        self._tasks.move_to_end(key)  # the first task is always the one unchanged for longest
        self._forget()
        self.publish(event)
        return event

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """The newest event of each task."""
        return [events[-1] if (events := self._tasks.get(key)) else None for key in keys]

    async def since(self, key: TaskKey, offset: int) -> Sequence[Event]:
        """The retained events of a task after `offset`."""
        return [event for event in self._tasks.get(key, ()) if event.cursor.offset > offset]

    async def unfinished(self) -> Sequence[Event]:
        """The newest event of every task whose state is not final."""
        return [events[-1] for events in self._tasks.values() if not events[-1].state.status.final]

    async def lost(self, limit: int) -> Sequence[Event]:
        """The newest event of the newest lost tasks."""
        newest = (events[-1] for events in reversed(self._tasks.values()))
        lost = (event for event in newest if event.state.status is Status.LOST)
        return list(itertools.islice(lost, limit))

    async def close(self) -> None:
        """Do nothing: there is no storage."""

    def _forget(self) -> None:
        """Delete a bounded number of expired tasks.

        Bounded, because after a quiet night the next append would otherwise delete thousands at once.
        """
        oldest = self._clock.monotonic() - self._retention
        for _ in range(FORGET_BATCH):
            if len(self._tasks) == 1:
                return
            key = next(iter(self._tasks))
            expired = self._appended_at[key] < oldest
            # The order is by last append: if this task stays, so do all after it.
            if not expired and len(self._tasks) <= self._max_tasks:
                return
            del self._tasks[key], self._appended_at[key]
