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
from typing import Protocol, TypeVarTuple

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.learned import Run
from bridge.core.task import TaskKey
from bridge.errors import JournalError
from bridge.journal.sqlite.database import PROBE_BYTES, Connect, Database, explain, open_database, probe
from bridge.journal.sqlite.learned_rows import LearnedRows
from bridge.journal.sqlite.repair import History, open_history, store_time
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.storage import Entry, Reader, is_corrupt, write

GROUP_ENTRIES = 256  # appends per commit; one sync for all of them
GROUP_BYTES = 8 * 1024 * 1024
MAINTENANCE_SECONDS = 1.0
TIME_STORED_SECONDS = 600.0
CURE_RETENTION = "restart the bridge: it saves what can be read into a new file"

logger = logging.getLogger(__name__)

Args = TypeVarTuple("Args")


@dataclass(frozen=True, slots=True, eq=False)
class Append:
    """An append that waits for its commit."""

    entry: Entry
    done: asyncio.Future[Event]


@dataclass(frozen=True, slots=True)
class OpenResult:
    """What the database held when it was opened.

    Args:
        reader: For use in another thread; the writer closes it when it ends.
        unfinished: The newest event of every open task, with the size of its state.
        learned: Of each upstream what its ended tasks taught, oldest first.
    """

    history: History
    reader: Reader
    unfinished: Sequence[tuple[Event, int]]
    learned: Mapping[str, Sequence[Run]]


class Listener(Protocol):
    """Receives the results of appends. Called on the event loop."""

    def recorded(self, events: Sequence[tuple[Append, Event]]) -> None:
        """These are committed."""

    def refused(self, appends: Sequence[Append], error: JournalError) -> None:
        """These failed, and later ones would fail too."""

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
        self._retention = retention
        self._connect = connect
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Append | Future[None] | None] = queue.SimpleQueue()
        self._tidying: list[Future[None]] = []
        self._head = self._events = 0
        self._epoch = ""
        self._failure: JournalError | None = None
        self._failed_since = 0.0
        self._time = self._time_at = self._time_stored_at = 0.0
        self._retains = True
        self._probe_bytes = PROBE_BYTES
        self._more = False
        self._due = clock.monotonic()
        for future in (self.opened, self.ended):
            future.set_running_or_notify_cancel()  # a waiter that is cancelled must not cancel it
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    def put(self, append: Append) -> None:
        """Queue an append; its result goes to the listener."""
        self._queue.put(append)

    def tidy(self) -> Future[None]:
        """Run maintenance now instead of once per second; resolves when nothing is left to do."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()
        self._queue.put(done)
        return done

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
            result = OpenResult(history, reader, reader.unfinished(history.head), learned)
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
        appends, stop = self._gather()
        if appends and self._failure is not None:
            self._refuse(appends, self._failure)
        elif appends:
            with self._refusing_on_error(appends):
                self._record(database, appends)
        # Under constant load the queue is never empty, so maintenance also runs by the clock.
        if self._tidying or self._more or not appends or self._clock.monotonic() >= self._due:
            self._due = self._clock.monotonic() + MAINTENANCE_SECONDS
            self._more = False
            with self._refusing_on_error(()):
                self._maintain(database)
            if stop or not self._more:
                for done in self._tidying:
                    done.set_result(None)
                self._tidying.clear()
        return not stop

    def _gather(self) -> tuple[list[Append], bool]:
        """Wait for the first item, then take what else is queued, up to one group.

        Returns:
            The appends, and whether the thread was stopped.
        """
        appends: list[Append] = []
        size = 0
        with contextlib.suppress(queue.Empty):
            # With more to delete there is no wait: one step of deletion alternates with one group of appends.
            item = self._queue.get(timeout=0 if self._more else MAINTENANCE_SECONDS)
            while item is not None:
                if isinstance(item, Append):
                    appends.append(item)
                    size += item.entry.size
                else:
                    self._tidying.append(item)
                if len(appends) >= GROUP_ENTRIES or size >= GROUP_BYTES:
                    return appends, False
                item = self._queue.get_nowait()
            return appends, True
        return appends, False

    @contextlib.contextmanager
    def _refusing_on_error(self, appends: Sequence[Append]) -> Iterator[None]:
        """Turn any error of the body into a JournalError that rejects `appends` (rule 3)."""
        try:
            yield
        except JournalError as error:
            self._refuse(appends, error)
        except (sqlite3.Error, OSError) as error:
            self._refuse(appends, explain(error, self._path))
        except Exception as error:
            logger.exception("unhandled exception in journal writer")
            self._refuse(appends, JournalError(f"the journal {self._path} failed unexpectedly: {error!r}"))

    def _record(self, database: Database, appends: Sequence[Append]) -> None:
        write(database.connection, [append.entry for append in appends], self._head, self._journal_time())
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
        if self._clock.monotonic() - self._time_stored_at >= TIME_STORED_SECONDS:
            self._store_time(database)

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

    def _refuse(self, appends: Sequence[Append], error: JournalError) -> None:
        if self._failure is None:
            # Logged once per outage, not once per append.
            self._failed_since = self._clock.monotonic()
            logger.error("journal write failed", extra={"error": str(error)})
        self._failure = error
        # The probe must find room for at least what was rejected, or a nearly full disk would alternate
        # between recovery and failure.
        refused = sum(append.entry.size for append in appends)
        self._probe_bytes = max(self._probe_bytes, min(refused, GROUP_BYTES))
        self._post(self._listener.refused, appends, error)

    def _post(self, listen: Callable[[*Args], None], *args: *Args) -> None:
        """Call `listen` on the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing waits for the result
            self._loop.call_soon_threadsafe(listen, *args)
