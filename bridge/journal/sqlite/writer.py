"""The thread that writes a journal's database: groups appends, deletes old events, recovers after failures.

Rule 1: the event loop receives an event only after its commit, in the order of the offsets.
Rule 2: after a failure nothing is written until a probe succeeds; appends made meanwhile are rejected.
Rule 3: on any failure, every append is completed and the thread lives until it is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVarTuple

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.learned import Run
from bridge.core.task import TaskKey
from bridge.engine.embedded import steady_microseconds
from bridge.engine.store.rows import StoreRow, job_row
from bridge.errors import JournalError
from bridge.journal.sqlite.database import (
    PROBE_BYTES,
    Connect,
    Database,
    create_place_index,
    explain,
    has_place_index,
    open_database,
    probe,
)
from bridge.journal.sqlite.edits import Amended, amend_ends, delete_tasks, register
from bridge.journal.sqlite.engine_rows import (
    delete_expired,
    has_details,
    has_expired,
    ledger_rows,
    put_rows,
    read_details,
)
from bridge.journal.sqlite.learned_rows import LearnedRows
from bridge.journal.sqlite.ledger import PlannedJobs, RowWrite
from bridge.journal.sqlite.names import Renamed, describe_tasks
from bridge.journal.sqlite.repair import History, open_history, store_time
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.storage import Entry, Reader, Transaction, is_corrupt, is_missing, write

GROUP_ENTRIES = 248  # appends per commit; one sync for all of them, and two statements of most rows
GROUP_BYTES = 8 * 1024 * 1024
MAINTENANCE_SECONDS = 1.0
TIME_STORED_SECONDS = 600.0
MAX_LOST = 500  # tasks whose details are read at the start, as of every open one
CURE_RETENTION = "restart the bridge: it saves what can be read into a new file"

logger = logging.getLogger(__name__)

Args = TypeVarTuple("Args")


class WrittenToo(NamedTuple):
    """What is written with a state, in the same transaction.

    Args:
        jobs: None for none.
        details: What the task was submitted with, encoded; None to leave it as it is.
    """

    jobs: PlannedJobs | None
    details: bytes | None


@dataclass(slots=True, eq=False)
class Append:
    """An append that waits for its commit."""

    entry: Entry
    done: asyncio.Future[Event]
    too: WrittenToo | None = None


@dataclass(slots=True, eq=False)
class DetailsWrite:
    """New details of a task that has a state.

    Attributes:
        undescribed: Whether others were to be written with its next state.
    """

    key: TaskKey
    details: TaskDetails
    undescribed: bool
    done: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class Deletion:
    """A task that is to be deleted with all its states.

    Attributes:
        described: What it was known by in memory.
        undescribed: Whether that was to be written with its next state.
    """

    key: TaskKey
    described: TaskDetails | None
    undescribed: bool
    done: asyncio.Future[bool]


@dataclass(slots=True, eq=False)
class Amendment:
    """What is to be written over the end of a task.

    Args:
        event: The end as it will be.
        entry: The same as it is written.
    """

    event: Event
    entry: Entry
    jobs: PlannedJobs | None
    done: asyncio.Future[bool]


Edit = DetailsWrite | Deletion | Amendment


@dataclass(slots=True, eq=False)
class IndexRequest:
    """A whole account is about to be listed."""

    done: Future[None]


@dataclass(slots=True)
class WriteGroup:
    """What is written in one transaction.

    Attributes:
        edits: Of one kind, and never together with anything else: what they do depends on what was queued
            before them.
        size: Bytes of the states and rows, about.
        stop: Whether the thread was stopped behind it.
    """

    appends: Sequence[Append] = ()
    rows: Sequence[RowWrite] = ()
    edits: Sequence[Edit] = ()
    size: int = 0
    stop: bool = False


@dataclass(frozen=True, slots=True)
class OpenResult:
    """What the database held when it was opened.

    Args:
        reader: For use in another thread; the writer closes it when it ends.
        unfinished: The newest event of every open task, with the size of its state.
        learned: Of each upstream what its ended tasks taught, oldest first.
        ledger: What its rows say.
        details: What open and lost tasks were submitted with.
        described: Whether any task may have been submitted with details.
        listable: Whether whole accounts can be listed.
    """

    history: History
    reader: Reader
    unfinished: Sequence[tuple[Event, int]]
    learned: Mapping[str, Sequence[Run]]
    ledger: Sequence[StoreRow]
    details: Mapping[TaskKey, bytes]
    described: bool
    listable: bool


class Listener(Protocol):
    """Receives the results of appends. Called on the event loop."""

    def recorded(self, events: Sequence[tuple[Append, Event]]) -> None:
        """These are committed."""

    def refused(self, appends: Sequence[Append], error: JournalError) -> None:
        """These failed, and later ones would fail too."""

    def rows_written(self, writes: Sequence[RowWrite]) -> None:
        """These are committed."""

    def rows_refused(self, writes: Sequence[RowWrite], error: JournalError) -> None:
        """These failed."""

    def registered(self, edits: Sequence[tuple[DetailsWrite, TaskDetails, bool | None]]) -> None:
        """These are committed, each with what the task is known by from now on, and whether it is open; with
        None it has no state, and nothing was written.
        """

    def deleted(self, edits: Sequence[tuple[Deletion, int]]) -> None:
        """These are committed, each with the offset of the newest state deleted; 0 for none."""

    def amended(self, edits: Sequence[tuple[Amendment, bool]]) -> None:
        """These are committed, each with whether its end was there."""

    def edits_refused(self, edits: Sequence[Edit], error: JournalError) -> None:
        """These failed."""

    def recovered(self) -> None:
        """Appends can succeed again."""

    def forgotten(self, tasks: Sequence[tuple[TaskKey, int]]) -> None:
        """These tasks were deleted, with all events up to the given offset."""

    def runs_left(self, upstream: str, runs: Sequence[Run]) -> None:
        """Of what the tasks of an upstream taught only this is left: the operator had the rest forgotten."""


class Writer:
    """The writing thread and its queue.

    Attributes:
        learned: What ended tasks taught, on its way into the file.
        opened: Resolves with what the database held, or fails with a JournalError.
        ended: Resolves when everything is written and the file is released.
    """

    def __init__(
        self, path: Path, clock: Clock, retention: Retention, connect: Connect, listener: Listener
    ) -> None:
        self.learned = LearnedRows(clock)
        self.opened: Future[OpenResult] = Future()
        self.ended: Future[None] = Future()
        self._path = path
        self._clock = clock
        self._now = steady_microseconds(clock)
        self._retention = retention
        self._connect = connect
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Append | RowWrite | Edit | IndexRequest | Future[None] | None] = (
            queue.SimpleQueue()
        )
        self._taken: list[Append | RowWrite | Edit] = []  # from the queue, for the next group
        self._tidying: list[Future[None]] = []
        self._indexing: list[IndexRequest] = []
        self._head = self._events = 0
        self._epoch = ""
        self._failure: JournalError | None = None
        self._failed_since = 0.0
        self._time = self._time_at = self._time_stored_at = 0.0
        self._retains = self._expires = True
        self._probe_bytes = PROBE_BYTES
        self._more = False
        self._due = clock.monotonic()
        for future in (self.opened, self.ended):
            future.set_running_or_notify_cancel()  # a waiter that is cancelled must not cancel it
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    def put(self, item: Append | RowWrite | Edit) -> None:
        """Queue what is to be written; the result goes to the listener."""
        self._queue.put(item)

    def tidy(self) -> Future[None]:
        """Run maintenance now instead of once per second; resolves when nothing is left to do."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()
        self._queue.put(done)
        return done

    def make_listable(self) -> Future[None]:
        """Create the index by which whole accounts are listed, if it is not there.

        Returns:
            Raises JournalError if it could not be created. Appends are not refused for that.
        """
        request = IndexRequest(Future())
        request.done.set_running_or_notify_cancel()
        self._queue.put(request)
        return request.done

    def stop(self) -> None:
        """Write what was queued before, then end the thread."""
        self._queue.put(None)

    async def wait_ended(self) -> None:
        """Wait until the thread has ended and released the file; callable from any event loop."""
        await asyncio.wrap_future(self.ended)
        self._thread.join()  # resolving `ended` was its last action

    def _run(self) -> None:
        try:
            database, result = self._open()
        except BaseException as error:  # noqa: BLE001 - any failure is raised where the journal is opened
            self.opened.set_exception(error)
            self.ended.set_result(None)
            return
        self.opened.set_result(result)
        try:
            while self._turn(database):
                pass
        finally:
            try:
                if self._failure is None:
                    self.learned.write(database.connection, at_once=True)
                    self._store_time(database)
                database.close()
            except (sqlite3.Error, OSError) as error:
                # Nothing is lost: what is committed is in the -wal file, and the next start reads it.
                logger.warning("journal not shut down cleanly", extra={"error": str(error)})
            self.ended.set_result(None)

    def _open(self) -> tuple[Database, OpenResult]:
        database = open_database(self._path, self._connect)
        try:
            history = open_history(database, self._clock.time())
            reader = Reader(database.second_connection(), self._path, history.epoch, history.head)
            learned = self.learned.read(database.connection)
            unfinished = reader.unfinished(history.head)
            ledger = ledger_rows(database.connection)
            details: dict[TaskKey, bytes] = {}
            described = has_details(database.connection)
            if described:
                submitted = [event.key for event, _ in unfinished]
                submitted += [event.key for event in reader.lost(history.head, MAX_LOST)]
                details = read_details(database.connection, submitted)
            listable = has_place_index(database.connection)
            result = OpenResult(history, reader, unfinished, learned, ledger, details, described, listable)
        except BaseException as error:
            database.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise explain(error, self._path) from error
            raise
        self._epoch, self._head, self._events = history.epoch, history.head, history.events
        self._time, self._time_at = history.time, self._clock.monotonic()
        self._time_stored_at = self._time_at
        database.acknowledge(self._epoch, self._head)
        return database, result

    def _turn(self, database: Database) -> bool:
        """Write one group, run maintenance when it is due; False once stopped."""
        group = self._gather()
        busy = bool(group.appends or group.rows or group.edits)
        if busy and self._failure is not None:
            self._refuse(group, self._failure)
        elif busy:
            with self._refusing_on_error(group):
                self._write(database, group)
        stop = group.stop
        if self._indexing:
            self._make_listable(database.connection)
        # Under constant load the queue is never empty, so maintenance also runs by the clock.
        if self._tidying or self._more or not busy or self._clock.monotonic() >= self._due:
            self._due = self._clock.monotonic() + MAINTENANCE_SECONDS
            self._more = False
            with self._refusing_on_error(WriteGroup()):
                self._maintain(database)
            if stop or not self._more:
                for done in self._tidying:
                    done.set_result(None)
                self._tidying.clear()
        return not stop

    def _gather(self) -> WriteGroup:
        """Wait for the first item, then take what else is queued, up to one group."""
        appends: list[Append] = []
        rows: list[RowWrite] = []
        edits: list[Edit] = []
        size = 0
        stop = False
        with contextlib.suppress(queue.Empty):
            # With more to delete there is no wait: one step of deletion alternates with one group of appends.
            seconds = 0 if self._more else MAINTENANCE_SECONDS
            item = self._taken.pop() if self._taken else self._queue.get(timeout=seconds)
            while item is not None:
                if isinstance(item, Append):
                    if edits:
                        self._taken.append(item)
                        break
                    appends.append(item)
                    size += item.entry.size
                elif isinstance(item, RowWrite):
                    if edits:
                        self._taken.append(item)
                        break
                    rows.append(item)
                    size += item.size
                elif isinstance(item, DetailsWrite | Deletion | Amendment):
                    if appends or rows or (edits and type(edits[0]) is not type(item)):
                        self._taken.append(item)
                        break
                    edits.append(item)
                elif isinstance(item, IndexRequest):
                    self._indexing.append(item)
                else:
                    self._tidying.append(item)
                if (
                    len(appends) >= GROUP_ENTRIES
                    or size >= GROUP_BYTES
                    or len(rows) >= GROUP_ENTRIES
                    or len(edits) >= GROUP_ENTRIES
                ):
                    break
                item = self._queue.get_nowait()
            stop = item is None
        return WriteGroup(appends, rows, edits, size, stop)

    @contextlib.contextmanager
    def _refusing_on_error(self, group: WriteGroup) -> Iterator[None]:
        """Turn any error of the body into a JournalError that rejects the group (rule 3)."""
        try:
            yield
        except JournalError as error:
            self._refuse(group, error)
        except (sqlite3.Error, OSError) as error:
            self._refuse(group, explain(error, self._path))
        except Exception as error:
            logger.exception("unhandled exception in journal writer")
            self._refuse(group, JournalError(f"the journal {self._path} failed unexpectedly: {error!r}"))

    def _write(self, database: Database, group: WriteGroup) -> None:
        if group.edits:
            self._edit(database, group.edits)
        elif group.appends:
            self._record(database, group)
        else:
            self._put_rows(database, group)
        if group.rows:
            self._post(self._listener.rows_written, group.rows)

    def _record(self, database: Database, group: WriteGroup) -> None:
        appends = group.appends
        rows = [row for write in group.rows for row in write.rows]
        renamed: Sequence[Renamed] = ()
        if any([append.too for append in appends]):  # noqa: C419 - a list costs less here
            described: dict[TaskKey, bytes] = {}
            for offset, append in enumerate(appends, start=self._head + 1):
                if append.too is None:
                    continue
                if append.too.details is not None:
                    described[append.entry.key] = append.too.details
                if append.too.jobs is not None:
                    rows += _job_rows(append.too.jobs, offset)
            if described:
                task_rows, renamed = describe_tasks(database.connection, described)
                rows += task_rows
        entries = [append.entry for append in appends]
        write(database.connection, entries, self._head, self._journal_time(), rows, renamed)
        recorded = []
        for offset, append in enumerate(appends, start=self._head + 1):
            entry = append.entry
            event = Event(entry.key, Cursor(self._epoch, offset), entry.state, entry.observed_at)
            recorded.append((append, event))
        # Only after the commit: a failed group leaves the offsets unassigned.
        self._head += len(appends)
        self._events += len(appends)
        database.acknowledge(self._epoch, self._head)
        self._post(self._listener.recorded, recorded)

    def _edit(self, database: Database, edits: Sequence[Edit]) -> None:
        registrations = [edit for edit in edits if isinstance(edit, DetailsWrite)]
        deletions = [edit for edit in edits if isinstance(edit, Deletion)]
        if registrations:
            # A later one of the same task counts.
            details = {edit.key: edit.details._replace(since=self._head) for edit in registrations}
            written = register(database.connection, details)
            done = [(edit, details[edit.key], written.get(edit.key)) for edit in registrations]
            self._post(self._listener.registered, done)
        if deletions:
            keys = list(dict.fromkeys(edit.key for edit in deletions))
            deleted, events = delete_tasks(database.connection, keys, self._head)
            self._events -= events
            self._post(self._listener.deleted, [(edit, deleted.pop(edit.key, 0)) for edit in deletions])
        amendments = [edit for edit in edits if isinstance(edit, Amendment)]
        if amendments:
            ends = amend_ends(database.connection, [_amended(edit) for edit in amendments])
            self._post(self._listener.amended, list(zip(amendments, ends, strict=True)))

    def _make_listable(self, connection: sqlite3.Connection) -> None:
        error = self._failure
        if error is None:
            try:
                create_place_index(connection)
            except sqlite3.Error as found:
                error = explain(found, self._path)
        for request in self._indexing:
            if error is None:
                request.done.set_result(None)
            else:
                request.done.set_exception(JournalError(str(error)))
        self._indexing.clear()

    def _put_rows(self, database: Database, group: WriteGroup) -> None:
        """Write rows alone; without a sync if no caller waits for them."""
        connection = database.connection
        synced = any(write.done is not None for write in group.rows)
        if not synced:
            connection.execute("PRAGMA synchronous = NORMAL")
        with Transaction(connection):
            put_rows(connection, [row for write in group.rows for row in write.rows])
        if not synced:
            connection.execute("PRAGMA synchronous = FULL")  # after a failure, the probe does it

    def _maintain(self, database: Database) -> None:
        """Recover after a failure, then take one step of deletion."""
        database.check_in_place()
        if self._failure is not None:
            probe(database.connection, self._probe_bytes)
            self._failure, self._probe_bytes = None, PROBE_BYTES
            seconds = round(self._clock.monotonic() - self._failed_since, 1)
            # At the level that reports the failure too, so that a filter never shows one without the other.
            logger.warning("journal recovered", extra={"after_seconds": seconds})
            self._post(self._listener.recovered)
        if self._retains:
            self._forget(database)
        for upstream, runs in self.learned.write(database.connection).items():
            self._post(self._listener.runs_left, upstream, runs)
        if self._expires:
            self._delete_expired(database.connection)
        if self._clock.monotonic() - self._time_stored_at >= TIME_STORED_SECONDS:
            self._store_time(database)

    def _delete_expired(self, connection: sqlite3.Connection) -> None:
        now = self._now()
        try:
            if not has_expired(connection, now):
                return
            # What a power failure brings back has expired all the same.
            connection.execute("PRAGMA synchronous = NORMAL")
            with Transaction(connection):
                self._more |= delete_expired(connection, now)
            connection.execute("PRAGMA synchronous = FULL")
        except sqlite3.DatabaseError as error:
            if not (is_corrupt(error) or is_missing(error)):
                raise
            # As in `_forget`; each start checks the file.
            self._expires = False
            fields = {"file": str(self._path), "error": str(error), "cure": CURE_RETENTION}
            logger.exception("journal retention stopped", extra=fields)
            probe(connection)

    def _forget(self, database: Database) -> None:
        try:
            step = self._retention.forget(
                database.connection, events=self._events, head=self._head, now=self._journal_time()
            )
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            # Appends may well succeed, and failed once a second they would all be refused for it.
            self._retains = False
            fields = {"file": str(self._path), "error": str(error), "cure": CURE_RETENTION}
            logger.exception("journal retention stopped", extra=fields)
            probe(database.connection)
            return
        self._events -= step.events
        self._more = step.more
        if step.forgotten:
            self._post(self._listener.forgotten, step.forgotten)

    def _journal_time(self) -> float:
        """The journal's own time; see `bridge.journal.sqlite.retention`."""
        return self._time + self._clock.monotonic() - self._time_at

    def _store_time(self, database: Database) -> None:
        store_time(database.connection, self._journal_time())
        self._time_stored_at = self._clock.monotonic()

    def _refuse(self, group: WriteGroup, error: JournalError) -> None:
        if self._failure is None:
            # Logged once per outage, not once per append.
            self._failed_since = self._clock.monotonic()
            logger.error("journal write failed", extra={"error": str(error)})
        self._failure = error
        # The probe must find room for at least what was rejected, or a nearly full disk would alternate
        # between recovery and failure.
        self._probe_bytes = max(self._probe_bytes, min(group.size, GROUP_BYTES))
        self._post(self._listener.refused, group.appends, error)
        if group.edits:
            self._post(self._listener.edits_refused, group.edits, error)
        if group.rows:
            self._post(self._listener.rows_refused, group.rows, error)

    def _post(self, listen: Callable[[*Args], None], *args: *Args) -> None:
        """Call `listen` on the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing waits for the result
            self._loop.call_soon_threadsafe(listen, *args)


def _amended(edit: Amendment) -> Amended:
    offset, entry = edit.event.cursor.offset, edit.entry
    rows = list(_job_rows(edit.jobs, offset)) if edit.jobs is not None else []
    return Amended(entry.key, offset, entry.document, entry.state.raw, rows)


def _job_rows(planned: PlannedJobs, offset: int) -> Iterator[StoreRow]:
    for order, job in enumerate(planned.jobs, start=planned.order):
        yield job_row(job._replace(offset=offset), order, planned.written)
