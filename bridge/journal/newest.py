"""The newest events, at hand: open tasks as long as there is room, finished ones while they are asked for."""

from __future__ import annotations

from collections import OrderedDict

from bridge.core.event import Event
from bridge.core.task import TaskKey

OVERHEAD_BYTES = 1500  # what a small event costs beside its encoded state


class Newest:
    """A bounded memory of the newest event of each task. What is not here may still be on disk.

    Attributes:
        losses: Grows whenever a task is let go: what was read from disk before that may be old.

    Args:
        max_bytes: Above this finished tasks are let go, then open ones, unused for longest first.
    """

    def __init__(self, max_bytes: int) -> None:
        self.losses = 0
        self._max_bytes = max_bytes
        self._bytes = 0
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
        events = self._final if event.state.status.final else self._open
        size += OVERHEAD_BYTES
        events[event.key] = (event, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self.losses += 1
            quiet = self._final or self._open
            _, (_, freed) = quiet.popitem(last=False)
            self._bytes -= freed

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
                self._bytes -= entry[1]
