"""The journal that lives and dies with the process."""

from __future__ import annotations

import secrets
from collections import OrderedDict, deque
from collections.abc import Sequence

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.event import Event, Notice
from bridge.core.task import State, TaskKey
from bridge.journal.base import Follower

EVENTS_PER_TASK = 256
FORGET_BATCH = 64


class MemoryJournal:
    """Keeps the newest events of each task, until it was quiet for `retention_seconds`.

    Args:
        max_tasks: Above this the task quiet for longest is forgotten.
    """

    def __init__(self, clock: Clock, *, retention_seconds: float, max_tasks: int = 200_000) -> None:
        self.epoch = secrets.token_hex(4)
        self.head = 0
        self.usable = True
        self._clock = clock
        self._retention = retention_seconds
        self._max_tasks = max_tasks
        self._tasks: OrderedDict[TaskKey, deque[Event]] = OrderedDict()
        self._followers: list[Follower] = []

    async def append(self, key: TaskKey, state: State, *, seen: float = 0.0) -> Event:
        """Record a state and tell the followers; never waits."""
        self.head += 1
        event = Event(key, Cursor(self.epoch, self.head), state, seen)
        events = self._tasks.get(key)
        if events is None:
            events = self._tasks[key] = deque(maxlen=EVENTS_PER_TASK)
        events.append(event)
        self._tasks.move_to_end(key)
        self._forget()
        for follower in self._followers:
            follower.recorded(event)
        return event

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """The newest event of each task."""
        return [events[-1] if (events := self._tasks.get(key)) else None for key in keys]

    async def since(self, key: TaskKey, offset: int) -> Sequence[Event]:
        """What is kept of a task after `offset`."""
        return [event for event in self._tasks.get(key, ()) if event.cursor.offset > offset]

    async def unfinished(self) -> Sequence[Event]:
        """The newest event of every open task."""
        return [events[-1] for events in self._tasks.values() if not events[-1].state.status.final]

    def follow(self, follower: Follower) -> None:
        """Tell `follower` everything from now on."""
        self._followers.append(follower)

    def announce(self, key: TaskKey, notice: Notice) -> None:
        """Tell the followers; nothing is remembered."""
        for follower in self._followers:
            follower.noticed(key, notice)

    def confirm(self, key: TaskKey, wall: float) -> None:
        """Tell the followers."""
        for follower in self._followers:
            follower.confirmed(key, wall)

    async def close(self) -> None:
        """Nothing to flush."""

    def _forget(self) -> None:
        """Drop a bounded number of outlived tasks, so that no append pays for a long pause.

        The newest task stays, whatever its state says of its age.
        """
        oldest = self._clock.time() - self._retention
        for _ in range(FORGET_BATCH):
            if len(self._tasks) == 1:
                return
            key = next(iter(self._tasks))
            newest = self._tasks[key][-1].state
            outlived = newest.changed_at < oldest
            if not outlived and len(self._tasks) <= self._max_tasks:
                return
            del self._tasks[key]
