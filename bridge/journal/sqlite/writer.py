"""The one thread that writes a journal's database: groups appends, forgets, and tries again after trouble.

Rule 1: the loop hears of an event only after its commit, in the order of the offsets.
Rule 2: after a failure nothing is written until a probe succeeds; whoever comes meanwhile is refused.
Rule 3: whatever goes wrong, every job is answered and the thread lives until it is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVarTuple

from bridge.clock import Clock
from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.errors import JournalError
from bridge.journal.sqlite.database import PROBE_BYTES, Connect, Database, explain, open_database, probe
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.storage import Entry, History, Reader, read_history, write

GROUP_ENTRIES = 256
GROUP_BYTES = 8 * 1024 * 1024
HOUSEKEEPING_SECONDS = 1.0

logger = logging.getLogger(__name__)

Told = TypeVarTuple("Told")


@dataclass(frozen=True, slots=True, eq=False)
class Append:
    """An append that waits for its answer."""

    entry: Entry
    done: asyncio.Future[Event]


@dataclass(frozen=True, slots=True)
class OpenResult:
    """What the database held when it was opened.

    Args:
        reader: For another thread; the writer closes it when it ends.
        unfinished: The newest event of every open task, with the size of its state.
    """

    history: History
    reader: Reader
    unfinished: Sequence[tuple[Event, int]]


class Listener(Protocol):
    """Whoever is told what became of jobs; called on the event loop."""

    def recorded(self, events: Sequence[tuple[Append, Event]]) -> None:
        """These are on disk."""

    def refused(self, jobs: Sequence[Append], error: JournalError) -> None:
        """These are not, and the next ones would not be either."""

    def recovered(self) -> None:
        """Appends can succeed again."""

    def forgotten(self, tasks: Sequence[tuple[TaskKey, int]]) -> None:
        """These tasks are gone, up to that offset."""


class Writer:
    """The thread and the queue before it.

    Attributes:
        opened: Resolves with what the database held, or fails with a JournalError.
        ended: Resolves when everything is written and the file is let go of.
    """

    def __init__(
        self, path: Path, clock: Clock, retention: Retention, connect: Connect, listener: Listener
    ) -> None:
        self.opened: Future[OpenResult] = Future()
        self.ended: Future[None] = Future()
        self._path = path
        self._clock = clock
        self._retention = retention
        self._connect = connect
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Append | Future[None] | None] = queue.SimpleQueue()
        self._tidied: list[Future[None]] = []
        self._head = self._events = 0
        self._epoch = ""
        self._trouble: JournalError | None = None
        self._refused_since = 0.0
        self._probe_bytes = PROBE_BYTES
        self._more = False
        self._due = clock.monotonic()
        for future in (self.opened, self.ended):
            future.set_running_or_notify_cancel()  # whoever stops waiting for it does not cancel it
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    def put(self, job: Append) -> None:
        """Take in an append; the answer comes through the listener."""
        self._queue.put(job)

    def tidy(self) -> Future[None]:
        """Do now what is otherwise done once a second; resolves when nothing is left to do."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()
        self._queue.put(done)
        return done

    def stop(self) -> None:
        """Write what was put before, then end."""
        self._queue.put(None)

    async def wait_ended(self) -> None:
        """Wait until it is stopped and has let go of the file; from any event loop."""
        await asyncio.wrap_future(self.ended)
        self._thread.join()  # resolving that was its last act

    def _run(self) -> None:
        try:
            database, opening = self._open()
        except BaseException as error:  # noqa: BLE001 - whoever opens the journal gets it, whatever it is
            self.opened.set_exception(error)
            self.ended.set_result(None)
            return
        self.opened.set_result(opening)
        try:
            while self._turn(database):
                pass
        finally:
            self._close(database)
            self.ended.set_result(None)

    def _open(self) -> tuple[Database, OpenResult]:
        database = open_database(self._path, self._connect)
        try:
            history = read_history(database.connection)
            reader = Reader(database.second_connection(), history.epoch, history.head)
            opening = OpenResult(history, reader, reader.unfinished(history.head))
        except BaseException as error:
            database.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise explain(error, self._path) from error
            raise
        self._epoch, self._head, self._events = history.epoch, history.head, history.events
        return database, opening

    def _turn(self, database: Database) -> bool:
        """Serve what waits, keep house when it is time; False once stopped."""
        jobs, stop = self._gather()
        if jobs and self._trouble is not None:
            self._refuse(jobs, self._trouble)
        elif jobs:
            self._guarded(lambda: self._record(database, jobs), jobs)
        if self._tidied or self._more or not jobs or self._clock.monotonic() >= self._due:
            self._due = self._clock.monotonic() + HOUSEKEEPING_SECONDS
            self._more = False
            self._guarded(lambda: self._keep_house(database), ())
            if stop or not self._more:
                self._answer_tidied()
        return not stop

    def _gather(self) -> tuple[list[Append], bool]:
        """What waits in the queue, at most a group of it; waits for the first."""
        jobs: list[Append] = []
        size = 0
        with contextlib.suppress(queue.Empty):
            item = self._queue.get(timeout=0 if self._more else HOUSEKEEPING_SECONDS)
            while item is not None:
                if isinstance(item, Append):
                    jobs.append(item)
                    size += item.entry.size
                else:
                    self._tidied.append(item)
                if len(jobs) >= GROUP_ENTRIES or size >= GROUP_BYTES:
                    return jobs, False
                item = self._queue.get_nowait()
            return jobs, True
        return jobs, False

    def _guarded(self, act: Callable[[], None], jobs: Sequence[Append]) -> None:
        """Do something; foreign errors become ours here, and the jobs are answered."""
        try:
            act()
        except JournalError as error:
            self._refuse(jobs, error)
        except (sqlite3.Error, OSError) as error:
            self._refuse(jobs, explain(error, self._path))
        except Exception as error:
            logger.exception("a bug in the journal")
            self._refuse(jobs, JournalError(f"the journal {self._path} failed by a bug: {error!r}"))

    def _record(self, database: Database, jobs: Sequence[Append]) -> None:
        write(database.connection, [job.entry for job in jobs], self._head)
        recorded = []
        for offset, job in enumerate(jobs, start=self._head + 1):
            entry = job.entry
            recorded.append((job, Event(entry.key, Cursor(self._epoch, offset), entry.state, entry.seen)))
        self._head += len(jobs)
        self._events += len(jobs)
        self._tell(self._listener.recorded, recorded)

    def _keep_house(self, database: Database) -> None:
        database.check_in_place()
        if self._trouble is not None:
            probe(database.connection, self._probe_bytes)
            self._trouble, self._probe_bytes = None, PROBE_BYTES
            seconds = round(self._clock.monotonic() - self._refused_since, 1)
            # as grave as what it ends: whoever reads of the trouble must read that it is over
            logger.warning("the journal can be written again", extra={"after_seconds": seconds})
            self._tell(self._listener.recovered)
        done = self._retention.forget(
            database.connection, events=self._events, head=self._head, wall=self._clock.time()
        )
        self._events -= done.events
        self._more = done.more
        if done.forgotten:
            self._tell(self._listener.forgotten, done.forgotten)

    def _refuse(self, jobs: Sequence[Append], error: JournalError) -> None:
        if self._trouble is None:
            self._refused_since = self._clock.monotonic()
            logger.error("the journal cannot be written", extra={"error": str(error)})
        self._trouble = error
        refused = sum(job.entry.size for job in jobs)  # less room than that is not enough room
        self._probe_bytes = max(self._probe_bytes, min(refused, GROUP_BYTES))
        self._tell(self._listener.refused, jobs, error)

    def _answer_tidied(self) -> None:
        for done in self._tidied:
            done.set_result(None)
        self._tidied.clear()

    def _close(self, database: Database) -> None:
        try:
            database.close()
        except (sqlite3.Error, OSError) as error:  # what is committed stands in the -wal file
            logger.warning("the journal was not closed tidily", extra={"error": str(error)})

    def _tell(self, listen: Callable[[*Told], None], *told: *Told) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left who waits
            self._loop.call_soon_threadsafe(listen, *told)
