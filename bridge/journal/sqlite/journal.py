"""A journal in one SQLite file: its history survives the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from bridge.clock import Clock
from bridge.core.details import NO_DETAILS, TaskDetails, decode_details
from bridge.core.event import Event
from bridge.core.learned import Run
from bridge.core.merge import is_ended
from bridge.core.task import State, TaskKey
from bridge.errors import JournalError
from bridge.journal.base import Amend, Listed, Recorded
from bridge.journal.feed import Feed
from bridge.journal.sqlite.cache import LatestCache
from bridge.journal.sqlite.database import Connect, connect, explain
from bridge.journal.sqlite.ledger import RowWrite, SqliteLedger
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.storage import Reader, make_entry
from bridge.journal.sqlite.writer import Amendment, Append, Deletion, DetailsWrite, Edit, Writer, WrittenToo

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
        self.ledger = SqliteLedger(clock, self._put_rows, self._check)
        self._path = path
        self._clock = clock
        self._cache = LatestCache(newest_bytes)
        self._failure: str | None = None
        self._waiting = 0
        self._progress_at = clock.monotonic()
        self._undescribed: set[TaskKey] = set()
        self._any_details = False  # whether any task in the file may have details
        self._listable = False  # whether the index by which whole accounts are listed is there
        self._on_its_way: dict[TaskKey, State] = {}  # the newest state, while there is a planner
        self._amending: dict[TaskKey, Event] = {}  # on its way: the next amendment builds on it
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
        journal.ledger.load(result.ledger)
        journal._details |= {key: decode_details(encoded) for key, encoded in result.details.items()}
        journal._any_details = result.described
        journal._listable = result.listable
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
        if self._closed or self._failure is not None:
            self._check()
        if self._waiting >= MAX_WAITING:
            raise JournalError(
                f"the journal {self._path} is too slow: {self._waiting} states are waiting for its disk"
            )
        entry = make_entry(key, state, observed_at)
        too = self._written_too(key, state) if self.planner is not None or self._undescribed else None
        append = Append(entry, asyncio.get_running_loop().create_future(), too)
        if not self._waiting:
            self._progress_at = self._clock.monotonic()
        self._waiting += 1
        self._writer.put(append)
        return await append.done

    def _written_too(self, key: TaskKey, state: State) -> WrittenToo | None:
        """What is written with a state."""
        planned = None
        if self.planner is not None:
            cached = self._cache.get(key)
            previous = self._on_its_way.get(key) or (cached.state if cached is not None else None)
            self._on_its_way[key] = state
            jobs = self.plan(key, previous, state)
            planned = self.ledger.planned(jobs) if jobs else None
        described = self._details.get(key) if key in self._undescribed else None
        details = described.encode() if described is not None else None
        return WrittenToo(planned, details) if planned is not None or details is not None else None

    def describe(self, key: TaskKey, details: TaskDetails) -> None:
        """Set what a task was submitted with; it is written with the next state."""
        if details != self.details(key):
            self._undescribed.add(key)
            self._any_details = True
        super().describe(key, details)

    async def amend(self, key: TaskKey, amend: Amend) -> Event | None:
        """See `Journal.amend`."""
        self._check()
        (event,) = await self.latest([key])
        if event is None or not is_ended(event.state):
            return None
        (details,) = await self.details_of([key])
        before = self._amending.get(key)
        if before is not None and before.cursor == event.cursor:
            event = before
        state = amend(event.state)
        if state is None:
            return None
        jobs = self.plan_amendment(key, event.state, state, details)
        entry = make_entry(key, state, event.observed_at)
        planned = self.ledger.planned(jobs) if jobs else None
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        amended = self._amending[key] = event._replace(state=state)
        self._writer.put(Amendment(amended, entry, planned, done))
        return amended if await done else None

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

    async def places(self, keys: Sequence[TaskKey]) -> list[int]:
        """The place of each task in listings."""
        head = self.head
        return await self._read(lambda: self._reader.places(keys, head)) if keys else []

    async def details_of(self, keys: Sequence[TaskKey]) -> list[TaskDetails]:
        """What each task was submitted or registered with."""
        if not self._any_details or not keys:
            return [NO_DETAILS] * len(keys)
        known = await self._read(lambda: self._reader.details(keys))
        return [decode_details(known.get(key)) for key in keys]

    async def register(self, key: TaskKey, details: TaskDetails) -> None:
        """Replace what a task that has a state is known by.

        Cancellation: it is replaced nevertheless, unless recording fails.
        """
        self._check()
        self._any_details = True
        undescribed = self._take_undescribed(
            key
        )  # what was to be written with the next state is replaced too
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writer.put(DetailsWrite(key, details, undescribed, done))
        await done

    async def forget(self, key: TaskKey) -> bool:
        """Delete a task with all its states, those on their way included.

        A state that is appended later is the first one of a new task, without the details of the old one.

        Cancellation: the task is deleted nevertheless, unless that fails.
        """
        self._check()
        undescribed = self._take_undescribed(key)
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._writer.put(Deletion(key, self._details.pop(key, None), undescribed, done))
        return await done

    def _take_undescribed(self, key: TaskKey) -> bool:
        undescribed = key in self._undescribed
        self._undescribed.discard(key)
        return undescribed

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
        if not (self._listable or tag or group):
            # Its index comes with the first of these listings: a bridge without them does not pay for it.
            # While the disk fails the listing is slow, and right.
            with contextlib.suppress(JournalError):
                self._check()
                await asyncio.wrap_future(self._writer.make_listable())
                self._listable = True
        head = self.head
        return await self._read(
            lambda: self._reader.listing(
                upstream, account, tag=tag, group=group, before=before, head=head, limit=limit
            )
        )

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
            self.ledger.flush()
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
            if append.too is not None:
                self._recorded_too(event, append.too)
            if self._on_its_way:
                self._arrived(append)
            if self._details and is_ended(event.state):
                self._details.pop(event.key, None)
            self.publish(event)
            if not append.done.done():  # the caller may have been cancelled
                append.done.set_result(event)

    def refused(self, appends: Sequence[Append], error: JournalError) -> None:
        """Fail the appends, and every later one until `recovered` is called."""
        self._completed(len(appends))
        self._failure = str(error)
        for append in appends:
            if append.too is not None and append.too.jobs is not None:
                self.ledger.refused(append.too.jobs)
            self._arrived(append)
            if not append.done.done():
                append.done.set_exception(JournalError(str(error)))

    def _recorded_too(self, event: Event, too: WrittenToo) -> None:
        """What was written with a state: its jobs can be claimed from now on."""
        if too.details is not None:
            if event.key in self._undescribed and self.details(event.key).encode() == too.details:
                self._undescribed.discard(event.key)
            self.publish_details(event.key, decode_details(too.details))
        if too.jobs is None:
            return
        try:
            dropped = self.ledger.recorded(too.jobs, event.cursor.offset)
        except Exception:
            logger.exception("unhandled exception in journal writer", extra={"task": event.key.ref})
        else:
            self.report_jobs(event.key, too.jobs.jobs, dropped)

    def _arrived(self, append: Append) -> None:
        if self._on_its_way.get(append.entry.key) is append.entry.state:
            del self._on_its_way[append.entry.key]

    def rows_written(self, writes: Sequence[RowWrite]) -> None:
        """Answer the callers that wait for them."""
        self.ledger.rows_written(writes)

    def rows_refused(self, writes: Sequence[RowWrite], error: JournalError) -> None:
        """Fail the callers that wait for them."""
        self.ledger.rows_refused(writes, error)

    def registered(self, edits: Sequence[tuple[DetailsWrite, TaskDetails, bool | None]]) -> None:
        """Pass on what tasks are known by from now on."""
        for edit, details, may_end in edits:
            if may_end is not None:
                if may_end and edit.key not in self._undescribed:
                    self._details[edit.key] = details
                self.publish_details(edit.key, details)
            elif edit.undescribed and edit.key in self._details:
                self._undescribed.add(edit.key)
            if not edit.done.done():  # the caller may have been cancelled
                edit.done.set_result(None)

    def deleted(self, edits: Sequence[tuple[Deletion, int]]) -> None:
        """Remove deleted tasks from memory."""
        for edit, offset in edits:
            if offset:
                self._forgotten(edit.key, offset)
            if not edit.done.done():
                edit.done.set_result(offset > 0)

    def amended(self, edits: Sequence[tuple[Amendment, bool]]) -> None:
        """Pass amended ends to the followers."""
        for edit, was_there in edits:
            event, planned = edit.event, edit.jobs
            self._amendment_arrived(event)
            if was_there:
                cached = self._cache.get(event.key)
                if cached is not None and cached.cursor == event.cursor:
                    self._cache.put(event, edit.entry.size)
                self._cache.evictions += 1  # a read from disk may be on its way with the end as it was
                if planned is not None:
                    dropped = self.ledger.recorded(planned, event.cursor.offset)
                    self.report_jobs(event.key, planned.jobs, dropped)
                self.publish_amended(event)
            elif planned is not None:
                self.ledger.refused(planned)
            if not edit.done.done():
                edit.done.set_result(was_there)

    def _amendment_arrived(self, event: Event) -> None:
        if self._amending.get(event.key) is event:
            del self._amending[event.key]

    def edits_refused(self, edits: Sequence[Edit], error: JournalError) -> None:
        """Fail changes of tasks; what their next states are written with is as it was."""
        for edit in edits:
            if isinstance(edit, Deletion) and edit.described is not None:
                self._details.setdefault(edit.key, edit.described)
            if isinstance(edit, Amendment):
                self._amendment_arrived(edit.event)
                if edit.jobs is not None:
                    self.ledger.refused(edit.jobs)
            elif edit.undescribed and edit.key in self._details:
                self._undescribed.add(edit.key)
            if not edit.done.done():
                edit.done.set_exception(JournalError(str(error)))

    def recovered(self) -> None:
        """Accept appends again."""
        self._failure = None
        self.ledger.flush()

    def forgotten(self, tasks: Sequence[tuple[TaskKey, int]]) -> None:
        """Remove tasks that retention has deleted from memory."""
        for key, offset in tasks:
            self._forgotten(key, offset)
            if self._details and self._cache.get(key) is None:
                self._details.pop(key, None)

    def _forgotten(self, key: TaskKey, offset: int) -> None:
        """A task is deleted; what was recorded before that was passed on, and nothing of later."""
        self._cache.forget(key, offset)
        self._confirmations.pop(key, None)
        self.publish_forgotten(key)

    def runs_left(self, upstream: str, runs: Sequence[Run]) -> None:
        """Report what is left of what was learned, with what came since it was read."""
        self.runs_forgotten(upstream, [*runs, *self._writer.learned.pending(upstream)])

    def _put_rows(self, rows: RowWrite) -> None:
        self._writer.put(rows)

    def _check(self) -> None:
        if self._closed:
            raise JournalError(f"the journal {self._path} is closed")
        if self._failure is not None:
            raise JournalError(self._failure)

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
