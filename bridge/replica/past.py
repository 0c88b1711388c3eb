"""The recorded states of a task before the newest, for clients that ask for its history.

What `history` has read is kept for the `read` that follows it, up to a bound.
"""

from __future__ import annotations

from collections.abc import Sequence

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.engine.base import Past
from bridge.errors import EngineUnavailable, JournalError
from bridge.journal.base import Recorded
from bridge.journal.sqlite.codec import decode
from bridge.replica.connection import Connection
from bridge.replica.memory import TaskMemory

HISTORY_BYTES = 8 * 1024 * 1024


class PastStates:
    """Reads them from the engine; while it is away there are none."""

    def __init__(self, connection: Connection, memory: TaskMemory) -> None:
        self._connection = connection
        self._memory = memory
        self._past: dict[tuple[TaskKey, int], Past] = {}
        self._bytes = 0

    def clear(self) -> None:
        """Another epoch: offsets are of other states."""
        self._past.clear()
        self._bytes = 0

    def forget(self, key: TaskKey) -> None:
        """A task was deleted."""
        for name in [name for name in self._past if name[0] == key]:
            self._drop(name)

    async def history(self, keys: Sequence[TaskKey], after: int) -> Sequence[Recorded]:
        """See `Journal`."""
        received = self._connection.received
        recorded: list[Recorded] = []
        for key in keys:
            held = self._memory.get(key)
            if held is not None and held.settled and held.held_at and held.held_at <= after:
                continue  # the common case of a reconnect is a task without news
            recorded += [
                Recorded(key, past.offset, len(past.document) + len(past.raw or b""))
                for past in await self._retained(key, after)
                if past.offset <= received
            ]
        return sorted(recorded, key=lambda one: one.offset)

    async def _retained(self, key: TaskKey, after: int) -> Sequence[Past]:
        try:
            retained = await self._connection.call("history", lambda engine: engine.history(key, after))
        except EngineUnavailable:
            return ()
        for past in retained:
            size = len(past.document) + len(past.raw or b"")
            if (key, past.offset) not in self._past:
                self._bytes += size
                self._past[key, past.offset] = past
        while self._bytes > HISTORY_BYTES and self._past:
            self._drop(next(iter(self._past)))
        return retained

    def _drop(self, name: tuple[TaskKey, int]) -> Past | None:
        past = self._past.pop(name, None)
        if past is not None:
            self._bytes -= len(past.document) + len(past.raw or b"")
        return past

    async def read(self, recorded: Sequence[Recorded]) -> Sequence[Event]:
        """See `Journal`."""
        events: list[Event] = []
        for one in recorded:
            past = self._drop((one.key, one.offset))
            if past is None:
                await self._retained(one.key, one.offset - 1)
                past = self._drop((one.key, one.offset))
            if past is not None:
                try:
                    state = decode(past.document, past.raw)
                except JournalError:
                    continue  # written by another version
                events.append(Event(one.key, Cursor(self._connection.epoch, past.offset), state))
        return events
