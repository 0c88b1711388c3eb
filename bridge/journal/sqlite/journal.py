"""A journal in one SQLite file: its history survives the process."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from bridge.clock import Clock
from bridge.core.event import Event
from bridge.core.learned import Run
from bridge.core.task import State, TaskKey
from bridge.errors import JournalError
from bridge.journal.base import Recorded
from bridge.journal.feed import Feed
from bridge.journal.sqlite.cache import LatestCache
from bridge.journal.sqlite.database import Connect, connect, explain
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.storage import Reader, make_entry
from bridge.journal.sqlite.writer import Append, Writer

NEWEST_BYTES = 64 * 1024 * 1024
MAX_WAITING = 50_000  # appends; beyond that the disk is too slow and memory would fill up
STUCK_SECONDS = 5.0  # without progress while an append waits: `usable` turns False

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


def _nothing(upstream: str, runs: Sequence[Run]) -> None:
    """Default of `SqliteJournal.runs_forgotten`."""


class SqliteJournal(Feed):
    """Keeps recorded states through kills and power failures. Satisfies `bridge.journal.base.Journal`, and
    `bridge.journal.learned.LearnedStore`.

    One thread writes, another reads; the event loop keeps only the most requested data, the newest event of
    each task. Readers see exactly the events that the followers were passed, never more.

    Intentional: an append whose commit failed may still be found if the process is killed before the next
    commit overwrites it. The provider did report that state; only the followers were not called.
    """

    def __init__(self, path: Path, clock: Clock, newest_bytes: int) -> None:
        super().__init__()
        self.epoch = ""
        self.head = 0
        self._path = path
        self._clock = clock
        self._cache = LatestCache(newest_bytes)
        self._failure: str | None = None
        self._waiting = 0
        self._progress_at = clock.monotonic()
        self._writer: Writer
        self._reader: Reader
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
        self._closed = False
        self._learned: Mapping[str, Sequence[Run]] = {}
        self.runs_forgotten: Callable[[str, Sequence[Run]], None] = _nothing

    @classmethod
    async def open(
        cls,
        path: str | Path,
        clock: Clock,
        *,
        retention_seconds: float,
        max_events: int = 1_000_000,
        newest_bytes: int = NEWEST_BYTES,
        connect: Connect = connect,
    ) -> Self:
        """Open the file; create it if it does not exist.

        Cancellation: the file is released a moment later.

        Args:
            retention_seconds: Time since its newest state after which a task is deleted.
            max_events: Above this, the tasks finished longest ago are deleted.
            newest_bytes: Memory for the newest event of each task.
            connect: Opens the connection that writes.

        Raises:
            JournalError: The file cannot be used; the message names it and says what to do.
        """
        retention = Retention(seconds=retention_seconds, max_events=max_events)
        journal = cls(Path.cwd() / path, clock, newest_bytes)
        journal._writer = Writer(journal._path, clock, retention, connect, journal)
        try:
            result = await asyncio.wrap_future(journal._writer.opened)
        except BaseException:
            journal._writer.stop()
            raise
        journal.epoch, journal.head, journal._reader = (
            result.history.epoch,
            result.history.head,
            result.reader,
        )
        journal._learned = result.learned
        for event, size in result.unfinished:
            journal._cache.put(event, size)
        return journal

    @property
    def usable(self) -> bool:
        """Whether appends can be expected to succeed: the last write did, and none waits for long."""
        stuck = self._waiting > 0 and self._clock.monotonic() - self._progress_at > STUCK_SECONDS
        return not self._closed and self._failure is None and not stuck

    async def append(
        self,
        key: TaskKey,
        state: State,
        *,
        observed_at: float = 0.0,
        free: bool = False,  # noqa: ARG002
    ) -> Event:
        """Record a state durably, then pass the event to the followers.

        Cancellation: the state is recorded and passed on nevertheless, unless recording fails.
        """
        if self._closed:
            raise JournalError(f"the journal {self._path} is closed")
        if self._failure is not None:
            raise JournalError(self._failure)
        if self._waiting >= MAX_WAITING:
            raise JournalError(
                f"the journal {self._path} is too slow: {self._waiting} states are waiting for its disk"
            )
        append = Append(make_entry(key, state, observed_at), asyncio.get_running_loop().create_future())
        if not self._waiting:
            self._progress_at = self._clock.monotonic()
        self._waiting += 1
        self._writer.put(append)
        return await append.done

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """The newest event of each task."""
        events = {key: self._cache.get(key) for key in keys}
        missing = [key for key, event in events.items() if event is None]
        if missing:
            evictions, head = self._cache.evictions, self.head
            rows = await self._read(lambda: self._reader.latest(missing, head))
            for key, row in zip(missing, rows, strict=True):
                events[key] = self._cache.get(key)  # it may have been appended meanwhile
                if events[key] is None and row is not None:
                    events[key] = row[0]
                    # If anything was evicted meanwhile, this may be a task that got a newer event and lost it
                    # again: caching the row would serve an old state as the newest.
                    if evictions == self._cache.evictions:
                        self._cache.put(*row)
        return [events[key] for key in keys]

    async def history(self, keys: Sequence[TaskKey], after: int) -> Sequence[Recorded]:
        """What is retained of some tasks after `after`, in journal order."""
        head = self.head
        newest = [self._cache.get(key) for key in keys]
        # The common case of a reconnect is a task without news: it needs no read from disk.
        unread = [
            key
            for key, event in zip(keys, newest, strict=True)
            if event is None or event.cursor.offset > after
        ]
        return await self._read(lambda: self._reader.history(unread, after, head)) if unread else []

    async def read(self, recorded: Sequence[Recorded], *, raw: bool = True) -> Sequence[Event]:
        """The events of some records that still exist."""
        return await self._read(lambda: self._reader.read(recorded, raw=raw))

    async def unfinished(self) -> Sequence[Event]:
        """The newest event of every task whose state is not final."""
        head = self.head
        return [event for event, _ in await self._read(lambda: self._reader.unfinished(head))]

    async def lost(self, limit: int) -> Sequence[Event]:
        """The newest event of the newest lost tasks."""
        head = self.head
        return await self._read(lambda: self._reader.lost(head, limit))

    async def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> Sequence[TaskKey]:
        """The tasks of one account that are open, or that have ended, newest change first."""
        head = self.head
        return await self._read(
            lambda: self._reader.newest(upstream, account, final=final, head=head, limit=limit)
        )

    async def first_seen(self, keys: Sequence[TaskKey]) -> list[float | None]:
        """When the first state of each task was recorded."""
        return await self._read(lambda: self._reader.first_seen(keys)) if keys else []

    def learned(self, upstream: str) -> Sequence[Run]:
        """What the ended tasks of an upstream had taught when the file was opened, oldest first."""
        return self._learned.get(upstream, ())

    def learn(self, upstream: str, run: Run) -> None:
        """Store what an ended task taught, in the next seconds, and at the end at the latest."""
        self._writer.learned.put(upstream, run)

    async def tidy(self) -> None:
        """Run the maintenance of once per second now: recover after a failure, delete, shrink the file."""
        if not self._closed:
            await asyncio.wrap_future(self._writer.tidy())

    async def close(self) -> None:
        """Write everything appended and release the file.

        Idempotent: and callable from any event loop.
        Cancellation: the file is closed nevertheless, a moment later.
        """
        if not self._closed:
            self._closed = True
            # The writer closes the reader's connection as well, so the last read has to end first.
            last_read = self._readers.submit(lambda: None)
            last_read.add_done_callback(lambda _: self._writer.stop())
        await self._writer.wait_ended()
        self._readers.shutdown()  # it was idle before the writer ended

    # Called by the writer, on the event loop

    def recorded(self, events: Sequence[tuple[Append, Event]]) -> None:
        """Pass the events to the followers in journal order and complete their appends."""
        self._completed(len(events))
        for append, event in events:
            self.head = event.cursor.offset
            try:
                self._cache.put(event, append.entry.size)
            except Exception:
                # Recorded is recorded: neither this append nor the later ones of its group may fail for it.
                logger.exception("unhandled exception in journal writer", extra={"task": event.key.ref})
            self.publish(event)
            if not append.done.done():  # the caller may have been cancelled
                append.done.set_result(event)

    def refused(self, appends: Sequence[Append], error: JournalError) -> None:
        """Fail the appends, and every later one until `recovered` is called."""
        self._completed(len(appends))
        self._failure = str(error)
        for append in appends:
            if not append.done.done():
                append.done.set_exception(JournalError(str(error)))

    def recovered(self) -> None:
        """Accept appends again."""
        self._failure = None

    def forgotten(self, tasks: Sequence[tuple[TaskKey, int]]) -> None:
        """Remove deleted tasks from the cache."""
        for key, offset in tasks:
            self._cache.forget(key, offset)

    def runs_left(self, upstream: str, runs: Sequence[Run]) -> None:
        """Report what is left of what was learned, with what came since it was read."""
        self.runs_forgotten(upstream, [*runs, *self._writer.learned.pending(upstream)])

    def _completed(self, count: int) -> None:
        self._waiting -= count
        self._progress_at = self._clock.monotonic()

    async def _read(self, read: Callable[[], Result]) -> Result:
        """Run `read` in the reader thread; raises its SQLite errors as JournalError."""
        if self._closed:
            raise JournalError(f"the journal {self._path} is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
