"""A journal's file as the storage of a `Store`: what several workers share, and what one process reads.

States are in the tables of a journal, so that one process and several workers can take turns on a file. What
only an engine knows (versions, small documents, jobs, ...) is in a table of its own, of which a journal uses
only what ended tasks taught (`bridge.journal.sqlite.learned_rows`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge.clock import Clock
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.engine.base import End, Past
from bridge.engine.store import Store
from bridge.engine.store.changes import RecordedState
from bridge.engine.store.rows import StoreRow, read_task, restore
from bridge.engine.store.tasks import TaskRecord
from bridge.journal.learned import Choice
from bridge.journal.sqlite.codec import LOST_MARK, decode_key, encode_key
from bridge.journal.sqlite.database import (
    PROBE_BYTES,
    Connect,
    Database,
    connect,
    explain,
    open_database,
    probe,
)
from bridge.journal.sqlite.edits import delete_found, find_tasks
from bridge.journal.sqlite.engine_rows import delete_expired, put_rows
from bridge.journal.sqlite.learned_rows import take_requests
from bridge.journal.sqlite.repair import open_history, store_time
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.storage import AMEND_EVENT, Transaction, insert_states
from bridge.journal.sqlite.store_names import StoreNames

RESTORED_MICROSECONDS = 10_000
"""Between the first polls of two tasks after a start: 100 per second."""

MAX_LOST = 500
TIME_STORED_SECONDS = 600.0

_TASKS = """SELECT id, upstream, account, task_id, newest, kept, open FROM tasks
    WHERE open = ? AND newest < ? ORDER BY newest DESC LIMIT ?"""
_EVENTS = "SELECT offset, state, raw FROM events WHERE task = ? ORDER BY offset DESC LIMIT ?"
_NEWER = "SELECT count(*) FROM events WHERE task = ? AND offset > ?"
_PAGE = 500


class Batch(NamedTuple):
    """What has changed in a store.

    Args:
        position: `Changes.count` when it was taken.
        head: Of the log.
        forgotten: Deleted tasks, each with the offset of the newest state that was deleted.
    """

    position: int
    epoch: str
    head: int
    states: Sequence[RecordedState]
    rows: Sequence[StoreRow]
    forgotten: Mapping[TaskKey, int] = {}

    def followed_by(self, later: Batch) -> Batch:
        """Both as one; a row that is in both is as in the later one."""
        rows = {(row.kind, row.name): row for row in (*self.rows, *later.rows)}
        return later._replace(
            states=[*self.states, *later.states],
            rows=list(rows.values()),
            forgotten={**self.forgotten, **later.forgotten},
        )


class Maintained(NamedTuple):
    """What a step of maintenance did.

    Args:
        forgotten: Deleted tasks, each with the offset of its newest state.
        more: Whether there is more to delete.
        choices: Kinds of which operators had forgotten what was learned.
    """

    forgotten: Sequence[tuple[TaskKey, int]]
    more: bool
    choices: Sequence[Choice]


class StoreFile:
    """The open file. Used by one thread at a time.

    Raises:
        JournalError: Of every method: the file cannot be used; the message names it and says what to do.
    """

    def __init__(self, database: Database, clock: Clock, retention: Retention) -> None:
        self._database = database
        self._clock = clock
        self._retention = retention
        history = open_history(database, clock.time())
        self.epoch, self.head = history.epoch, history.head
        self._events = history.events
        self._time, self._time_at = history.time, clock.monotonic()
        self._time_stored_at = self._time_at
        self._failed = False
        self._names = StoreNames()

    @classmethod
    def open(cls, path: Path, clock: Clock, retention: Retention, *, connect: Connect = connect) -> StoreFile:
        """Open the file; create it if it does not exist."""
        database = open_database(path, connect)
        try:
            file = cls(database, clock, retention)
        except BaseException as error:
            database.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise explain(error, path) from error
            raise
        database.acknowledge(file.epoch, file.head)
        return file

    def load(self, store: Store, history: int, max_bytes: int, now: int) -> None:
        """Fill an empty store; open tasks become orphans.

        Args:
            history: States of a task.
            max_bytes: Of all tasks; ended ones beyond it are left on disk, those unchanged for longest.
        """
        connection = self._database.connection
        try:
            rows = connection.execute("SELECT kind, name, expires, value FROM engine")
            known = restore(store, (StoreRow(*row) for row in rows if _is_row(row)), now)
            self._names.load(connection)
            tasks = list(self._tasks(known, history, max_bytes))
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self._database.path) from error
        store.log.epoch, store.log.head = self.epoch, self.head
        store.tasks.restore(tasks, now)
        lost = [task for task in tasks if task.end is End.LOST][:MAX_LOST]
        orphans = [
            task for task in tasks if task.end is End.OPEN and (task.version or task.persistent)
        ] + lost
        for number, task in enumerate(orphans):
            # The journal does not say who submitted it, and its viewers reconnect in the next seconds, or
            # never: nothing may be missed in either case. Of a caller's key only the caller decides.
            task.persistent = task.persistent or task.key.account == OWN_ACCOUNT
            store.assignments.restore(task, due=now + number * RESTORED_MICROSECONDS, until=0, now=now)

    def write(self, batch: Batch) -> None:
        """Make changes durable, all or none."""
        connection = self._database.connection
        try:
            if self._failed:
                probe(connection, PROBE_BYTES)
            with Transaction(connection):
                deleted = self._write(connection, batch)
        except (sqlite3.Error, OSError) as error:
            self._failed = True
            raise explain(error, self._database.path) from error
        self._failed = False
        self.epoch, self.head = batch.epoch, batch.head
        self._events += len(batch.states) - deleted
        self._names.written()
        self._database.acknowledge(batch.epoch, batch.head)

    def maintain(self, now: int) -> Maintained:
        """Delete a little of what is old, and take what operators ask for."""
        connection = self._database.connection
        try:
            self._database.check_in_place()
            step = self._retention.forget(
                connection, events=self._events, head=self.head, now=self._journal_time()
            )
            self._events -= step.events
            self._names.forgotten(key for key, _ in step.forgotten)
            with Transaction(connection):
                choices = take_requests(connection)
                expired = delete_expired(connection, now)
            if self._clock.monotonic() - self._time_stored_at >= TIME_STORED_SECONDS:
                self._store_time()
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self._database.path) from error
        return Maintained(step.forgotten, step.more or expired, choices)

    def close(self) -> None:
        """Release the file."""
        try:
            if not self._failed:
                self._store_time()
        except sqlite3.Error as error:
            raise explain(error, self._database.path) from error
        finally:
            self._database.close()

    def _write(self, connection: sqlite3.Connection, batch: Batch) -> int:
        """How many states were deleted, left out, or took the place of another."""
        time = self._journal_time()
        deleted = 0
        if batch.forgotten:
            # Every state in the file is older than those of the batch.
            deleted += delete_found(connection, list(find_tasks(connection, list(batch.forgotten))))
        tasks, events, amended = [], [], []
        for state in batch.states:
            if batch.forgotten and state.offset <= batch.forgotten.get(state.key, 0):
                deleted += 1
                continue
            if state.amends:
                deleted += 1
                amended.append((state.document, state.raw, state.offset))
                continue
            names = encode_key(state.key)
            is_open = state.end is End.OPEN
            # An offset is the engine's time, microseconds.
            tasks.append((state.offset, *names, state.offset, is_open, time, state.offset / 1e6))
            events.append((state.offset, *names, 0.0, state.document, state.raw))
        insert_states(connection, tasks, events)
        if amended:
            connection.executemany(AMEND_EVENT, amended)
        put_rows(connection, batch.rows)
        self._names.write(connection, batch.rows, (state.key for state in batch.states), batch.forgotten)
        meta = [("epoch", batch.epoch), ("head", batch.head)]
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta)
        return deleted

    def _tasks(self, known: dict[TaskKey, list[Any]], history: int, max_bytes: int) -> Iterator[TaskRecord]:
        size = 0
        for is_open in (1, 0):
            before = 2**62
            while rows := self._database.connection.execute(_TASKS, (is_open, before, _PAGE)).fetchall():
                before = rows[-1][4]
                for row in rows:
                    task = self._task(row, known, history)
                    if task is None:
                        continue
                    size += task.size
                    if size > max_bytes and task.end is End.ENDED:
                        return
                    yield task
        # Registered or kept, and never seen.
        for key, value in known.items():
            task = TaskRecord(key, 0)
            if value[0] == 0 and _read(task, value):
                yield task

    def _task(self, row: tuple[Any, ...], known: dict[TaskKey, list[Any]], history: int) -> TaskRecord | None:
        number, upstream, account, task_id, newest, kept, is_open = row
        try:
            task = TaskRecord(decode_key(upstream, account, task_id), 0)
        except (ValueError, TypeError, AttributeError):
            return None
        events = self._database.connection.execute(_EVENTS, (number, history)).fetchall()
        task.past.extend(Past(*event) for event in reversed(events) if isinstance(event[1], bytes))
        if not task.past:
            return None
        task.size += sum(300 + len(past.document) + len(past.raw or b"") for past in task.past)
        value = known.pop(task.key, None)
        lost = False
        if value is None or not _read(task, value):
            task.version, task.first_seen = kept, task.past[0].offset
        elif task.offset != newest:
            # More was recorded since, which needed no row, or by a process alone.
            (newer,) = self._database.connection.execute(_NEWER, (number, task.offset)).fetchone()
            task.version, task.session, task.digest = task.version + newer, "", b""
        else:
            lost = task.end is End.LOST
        task.offset, task.document, task.raw = task.past[-1]
        task.first_seen = task.first_seen or task.past[0].offset
        lost = lost or LOST_MARK in (task.document or b"")
        task.end = End.OPEN if is_open else End.LOST if lost else End.ENDED
        if task.end is End.ENDED:
            task.persistent = False
            task.notices.clear()
        return task

    def _journal_time(self) -> float:
        """The journal's own time; see `bridge.journal.sqlite.retention`."""
        return self._time + self._clock.monotonic() - self._time_at

    def _store_time(self) -> None:
        store_time(self._database.connection, self._journal_time())
        self._time_stored_at = self._clock.monotonic()


def _is_row(row: tuple[Any, ...]) -> bool:
    return [type(value) for value in row] == [str, bytes, int, bytes]


def _read(task: TaskRecord, value: list[Any]) -> bool:
    try:
        read_task(task, value)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return False
    return True
