"""The newest event of each task in memory: open tasks while there is room, finished ones while requested."""

from __future__ import annotations

from collections import OrderedDict

from bridge.core.event import Event
from bridge.core.task import TaskKey

OVERHEAD_BYTES = 1500  # memory of a small event besides its encoded state
FINISHED_SHARE = 32  # a final state is read soon or rarely: about 4,000 in the default 256 MiB


class LatestCache:
    """The newest event of each task, bounded by memory. A task that is missing here may be on disk.

    Attributes:
        evictions: Grows with each task evicted or forgotten: an event read from disk before that may be
            outdated.

    Args:
        max_bytes: Above this, finished tasks are evicted, then open ones, least recently used first.
            Finished tasks take at most one thirty-second of it, so that memory stays flat.
    """

    def __init__(self, max_bytes: int) -> None:
        self.evictions = 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._final_bytes = 0
        self._open: OrderedDict[TaskKey, tuple[Event, int]] = OrderedDict()
        self._final: OrderedDict[TaskKey, tuple[Event, int]] = OrderedDict()

    def get(self, key: TaskKey) -> Event | None:
        """The newest event of a task, if it is cached."""
        for events in (self._open, self._final):
            if key in events:
                events.move_to_end(key)
                return events[key][0]
        return None

    def put(self, event: Event, size: int) -> None:
        """Store the newest event of its task.

        Args:
            size: Bytes of the encoded state.
        """
        self._remove(event.key)  # it may move from the open to the finished ones
        size += OVERHEAD_BYTES
        self._bytes += size
        if event.state.status.final:
            self._final[event.key] = (event, size)
            self._final_bytes += size
            while self._final and self._final_bytes > self._max_bytes / FINISHED_SHARE:
                self._evict(self._final)
        else:
            self._open[event.key] = (event, size)
        # Open tasks go last: clients join them at any moment, while a finished task is soon read no more.
        while self._bytes > self._max_bytes and (self._final or self._open):
            self._evict(self._final or self._open)

    def forget(self, key: TaskKey, offset: int) -> None:
        """Remove a deleted task, unless it has an event newer than `offset`."""
        # Counted even if nothing is cached: a read from disk may be on its way with the deleted event.
        self.evictions += 1
        for events in (self._open, self._final):
            if key in events and events[key][0].cursor.offset <= offset:
                self._remove(key)

    def _evict(self, events: OrderedDict[TaskKey, tuple[Event, int]]) -> None:
        self.evictions += 1
        self._remove(next(iter(events)))

    def _remove(self, key: TaskKey) -> None:
        entry = self._open.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]
        elif (entry := self._final.pop(key, None)) is not None:
            self._bytes -= entry[1]
            self._final_bytes -= entry[1]
