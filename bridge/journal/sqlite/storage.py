"""Reads and writes a journal's database: SQL and nothing else.

Rule 1: a group of events is one transaction of few statements, regardless of its size: around each statement
        sqlite3 releases the interpreter lock, and a busy event loop returns it only milliseconds later.
Rule 2: values are passed as parameters only.
"""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.task import State, TaskKey
from bridge.errors import JournalError
from bridge.journal.base import Recorded
from bridge.journal.sqlite.codec import LOST_MARK, decode, decode_key, encode, encode_key

EVENTS_PER_TASK = 256
PAGE = 500
MAX_OFFSET = 2**63 - 1

_CHUNK = 128  # rows per statement: old builds of SQLite bind at most 999 values

_TASK = "(?, ?, ?, ?, 1, ?, ?)"
_PUT_TASKS = (
    "INSERT INTO tasks (upstream, account, task_id, newest, kept, open, changed_at) VALUES {} "
    "ON CONFLICT (upstream, account, task_id) DO UPDATE SET "
    "newest = excluded.newest, kept = kept + 1, open = excluded.open, changed_at = excluded.changed_at"
)
_EVENT = "(?, (SELECT id FROM tasks WHERE upstream = ? AND account = ? AND task_id = ?), ?, ?, ?)"
_PUT_EVENTS = "INSERT INTO events (offset, task, seen, state, raw) VALUES {}"
_COLUMNS = "t.upstream, t.account, t.task_id, e.offset, e.seen, e.state, e.raw"
_LATEST = f"""SELECT {_COLUMNS} FROM tasks t JOIN events e ON e.task = t.id
    WHERE t.upstream = ? AND t.account = ? AND t.task_id = ? AND e.offset <= ?
    ORDER BY e.offset DESC LIMIT 1"""  # noqa: S608 - built from constants
_HISTORY = """SELECT e.offset, length(e.state) + coalesce(length(e.raw), 0)
    FROM tasks t JOIN events e ON e.task = t.id
    WHERE t.upstream = ? AND t.account = ? AND t.task_id = ? AND e.offset > ? AND e.offset <= ?
    ORDER BY e.offset DESC LIMIT ?"""
_EVENT_AT = "SELECT e.seen, e.state, {} FROM events e WHERE e.offset = ?"
_OPEN = f"""SELECT {_COLUMNS} FROM tasks t JOIN events e ON e.offset = t.newest
    WHERE t.open = 1 AND t.newest > ? AND t.newest <= ? ORDER BY t.newest LIMIT ?"""  # noqa: S608 - built from constants


_LOST = f"""SELECT {_COLUMNS} FROM tasks t JOIN events e ON e.offset = t.newest
    WHERE t.open = 0 AND t.newest <= ? AND instr(e.state, ?) ORDER BY t.newest DESC LIMIT ?"""  # noqa: S608 - built from constants


@dataclass(frozen=True, slots=True)
class Entry:
    """A state to be recorded, with the values of its rows."""

    key: TaskKey
    state: State
    observed_at: float
    names: tuple[bytes, bytes, bytes]
    document: bytes
    changed_at: float

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return len(self.document) + len(self.state.raw or b"")


@dataclass(frozen=True, slots=True)
class History:
    """The position of a database when it is opened.

    Args:
        head: The newest offset ever assigned in it.
        events: How many events it holds.
    """

    epoch: str
    head: int
    events: int


def make_entry(key: TaskKey, state: State, observed_at: float) -> Entry:
    """Encode a state for recording. A state that cannot be encoded fails alone, not with its group.

    Raises:
        JournalError: It cannot be recorded.
    """
    try:
        changed_at = state.changed_at if math.isfinite(state.changed_at) else 0.0
        return Entry(key, state, float(observed_at), encode_key(key), encode(state), float(changed_at))
    except (OverflowError, TypeError) as error:
        raise JournalError(f"the state cannot be recorded: {error}") from error


def read_history(connection: sqlite3.Connection) -> History:
    """Read the position of a journal."""
    meta: dict[str, Any] = dict(
        connection.execute("SELECT name, value FROM meta WHERE name IN ('epoch', 'head')")
    )
    newest, events = connection.execute("SELECT coalesce(max(offset), 0), count(*) FROM events").fetchone()
    return History(str(meta["epoch"]), max(int(meta["head"]), newest), events)


def write(connection: sqlite3.Connection, entries: Sequence[Entry], head: int) -> None:
    """Record entries with the offsets after `head`, all or none, durably.

    Raises:
        sqlite3.Error: None is recorded.
    """
    # `executemany` would run one statement per row; see rule 1.
    rows = list(enumerate(entries, start=head + 1))
    tasks = [(*entry.names, offset, not entry.state.status.final, entry.changed_at) for offset, entry in rows]
    events = [
        (offset, *entry.names, entry.observed_at, entry.document, entry.state.raw) for offset, entry in rows
    ]
    with Transaction(connection):
        for start in range(0, len(rows), _CHUNK):
            _insert(connection, _PUT_TASKS, _TASK, tasks[start : start + _CHUNK])
            _insert(connection, _PUT_EVENTS, _EVENT, events[start : start + _CHUNK])


class Transaction:
    """Commits everything in its body together, or nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, failed: object, *rest: object) -> None:
        try:
            if failed is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:  # SQLite itself may have rolled back, on a full disk
                self._connection.execute("ROLLBACK")


class Reader:
    """Reads a journal's database up to the offset that the followers were passed.

    Args:
        start: Offsets up to this are from an earlier process, whose monotonic seconds mean nothing here.
    """

    def __init__(self, connection: sqlite3.Connection, epoch: str, start: int) -> None:
        self._connection = connection
        self._epoch = epoch
        self._start = start

    def latest(self, keys: Iterable[TaskKey], head: int) -> list[tuple[Event, int] | None]:
        """The newest event of each task and the size of its state."""
        events = []
        for key in keys:
            row = self._connection.execute(_LATEST, (*encode_key(key), head)).fetchone()
            events.append((self._event(row), _size(row)) if row is not None else None)
        return events

    def history(self, keys: Iterable[TaskKey], after: int, head: int) -> list[Recorded]:
        """What is retained of some tasks after the offset `after`, in journal order."""
        after = min(max(after, 0), MAX_OFFSET)  # a client chooses it, and SQLite takes 64 bits
        recorded = [
            Recorded(key, offset, size)
            for key in keys
            for offset, size in self._connection.execute(
                _HISTORY, (*encode_key(key), after, head, EVENTS_PER_TASK)
            )
        ]
        return sorted(recorded, key=lambda one: one.offset)

    def read(self, recorded: Iterable[Recorded], *, raw: bool) -> list[Event]:
        """The events of some records that still exist.

        Args:
            raw: Whether to read the provider's own documents, which are most of the bytes.
        """
        statement = _EVENT_AT.format("e.raw" if raw else "NULL")
        events = []
        for key, offset, _ in recorded:
            row = self._connection.execute(statement, (offset,)).fetchone()
            if row is not None:
                events.append(self._event((*encode_key(key), offset, *row)))
        return events

    def unfinished(self, head: int) -> list[tuple[Event, int]]:
        """The newest event of every open task, oldest first, with the size of its state."""
        events: list[tuple[Event, int]] = []
        after = 0
        while True:
            rows = self._connection.execute(_OPEN, (after, head, PAGE)).fetchall()
            events += [(self._event(row), _size(row)) for row in rows]
            if len(rows) < PAGE:
                return events
            after = events[-1][0].cursor.offset

    def lost(self, head: int, limit: int) -> list[Event]:
        """The newest event of the newest lost tasks, newest first."""
        rows = self._connection.execute(_LOST, (head, LOST_MARK, limit)).fetchall()
        return [self._event(row) for row in rows]

    def _event(self, row: tuple[Any, ...]) -> Event:
        upstream, account, task_id, offset, seen, document, raw = row
        key = decode_key(upstream, account, task_id)
        seen = seen if offset > self._start else 0.0
        return Event(key, Cursor(self._epoch, offset), decode(document, raw), seen)


def _insert(connection: sqlite3.Connection, statement: str, row: str, rows: list[tuple[Any, ...]]) -> None:
    values = list(itertools.chain.from_iterable(rows))
    connection.execute(statement.format(", ".join([row] * len(rows))), values)


def _size(row: tuple[Any, ...]) -> int:
    return len(row[5]) + len(row[6] or b"")
