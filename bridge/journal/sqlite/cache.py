"""The newest events, at hand: open tasks as long as there is room, finished ones while they are asked for."""

from __future__ import annotations

from collections import OrderedDict

from bridge.core.event import Event
from bridge.core.task import TaskKey

OVERHEAD_BYTES = 1500  # what a small event costs beside its encoded state
FINISHED_SHARE = 32  # the end of a task is asked for soon, or seldom: some 4,000 of the usual 256 MiB


class LatestCache:
    """A bounded memory of the newest event of each task. What is not here may still be on disk.

    Attributes:
        losses: Grows whenever a task is let go: what was read from disk before that may be old.

    Args:
        max_bytes: Above this finished tasks are let go, then open ones, unused for longest first;
            finished ones take no more than a thirty-second of it, so that memory stays flat.
    """

    def __init__(self, max_bytes: int) -> None:
        self.losses = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._final_bytes = 0
        self._open: OrderedDict[TaskKey, tuple[Event, int]] = OrderedDict()
        self._final: OrderedDict[TaskKey, tuple[Event, int]] = OrderedDict()

    def get(self, key: TaskKey) -> Event | None:
        """The newest event of a task, if it is at hand."""
        for events in (self._open, self._final):
            if key in events:
                events.move_to_end(key)
                return events[key][0]
        return None

    def put(self, event: Event, size: int) -> None:
        """Remember an event that is the newest of its task.

        Args:
            size: Bytes of the encoded state.
        """
        self._remove(event.key)
        final = event.state.status.final
        size += OVERHEAD_BYTES
        (self._final if final else self._open)[event.key] = (event, size)
        self._count(event, size)
        while self._final and self._full:
            self._let_go(self._final)
        while self._open and self._bytes > self._max_bytes:
            self._let_go(self._open)

    @property
    def _full(self) -> bool:
        return self._bytes > self._max_bytes or self._final_bytes > self._max_bytes / FINISHED_SHARE

    def _let_go(self, events: OrderedDict[TaskKey, tuple[Event, int]]) -> None:
        self.losses += 1
        _, (event, freed) = events.popitem(last=False)
        self._count(event, -freed)

    def _count(self, event: Event, size: int) -> None:
        self._bytes += size
        if event.state.status.final:
            self._final_bytes += size

    def forget(self, key: TaskKey, offset: int) -> None:
        """Let a task go, unless something newer than `offset` came."""
        self.losses += 1
        for events in (self._open, self._final):
            if key in events and events[key][0].cursor.offset <= offset:
                self._remove(key)

    def _remove(self, key: TaskKey) -> None:
        for events in (self._open, self._final):
            entry = events.pop(key, None)
            if entry is not None:
                self._count(entry[0], -entry[1])
