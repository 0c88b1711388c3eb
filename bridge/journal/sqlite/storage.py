"""Reads and writes a journal's database: SQL and nothing else.

Rule 1: a group of events is one transaction of few statements, regardless of its size: around each statement
        sqlite3 releases the interpreter lock, and a busy event loop returns it only milliseconds later.
Rule 2: values are passed as parameters only.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bridge.core.cursor import OFFSET_LIMIT, Cursor
from bridge.core.details import decode_details
from bridge.core.event import Event
from bridge.core.merge import unknown
from bridge.core.task import State, TaskKey
from bridge.engine.store.listings import names_of
from bridge.engine.store.rows import StoreRow
from bridge.errors import JournalError
from bridge.journal.base import Listed, Recorded
from bridge.journal.sqlite.codec import decode, decode_key, encode, encode_key, encode_text
from bridge.journal.sqlite.database import IS_LOST, LOST_INDEX, PLACE_INDEX, has_place_index
from bridge.journal.sqlite.engine_rows import put_rows, read_details
from bridge.journal.sqlite.names import Renamed, rename

EVENTS_PER_TASK = 256
PAGE = 500
MAX_OFFSET = OFFSET_LIMIT // 2
"""Larger offsets are damage: at a million events per second they would take a hundred years."""
CURE_ROW = "check the disk; the provider is asked again, so restore a backup only if this state matters"

MAX_REPORTED = 10_000
COPIED_BYTES = 64 * 1024

logger = logging.getLogger(__name__)

_UNREADABLE = (JournalError, ValueError, TypeError, AttributeError)  # JournalError: the document
_CHUNK = 124  # rows per statement: old builds of SQLite bind at most 999 values

# The id of a new task is the offset of its first state. Bound twice: some versions of Python warn of every
# numbered parameter, one by one.
_TASK = "(?, ?, ?, ?, ?, 1, ?, ?, ?)"
_PUT_TASKS = (
    "INSERT INTO tasks (id, upstream, account, task_id, newest, kept, open, changed_at, first_seen) "
    "VALUES {} "
    "ON CONFLICT (upstream, account, task_id) DO UPDATE SET "
    "newest = excluded.newest, kept = kept + 1, open = excluded.open, changed_at = excluded.changed_at"
)
_EVENT = "(?, (SELECT id FROM tasks WHERE upstream = ? AND account = ? AND task_id = ?), ?, ?, ?)"
_PUT_EVENTS = "INSERT INTO events (offset, task, seen, state, raw) VALUES {}"
AMEND_EVENT = "UPDATE events SET state = ?, raw = ? WHERE offset = ?"
_COLUMNS = "t.upstream, t.account, t.task_id, e.offset, e.seen, e.state, e.raw"
_OF_TASK = f"""SELECT {_COLUMNS} FROM tasks t JOIN events e ON e.task = t.id
    WHERE t.upstream = ? AND t.account = ? AND t.task_id = ? AND e.offset > ? AND e.offset <= ?
    ORDER BY e.offset DESC LIMIT ?"""  # noqa: S608 - built from constants
_HISTORY = """SELECT e.offset, length(e.state) + coalesce(length(e.raw), 0)
    FROM tasks t JOIN events e ON e.task = t.id
    WHERE t.upstream = ? AND t.account = ? AND t.task_id = ? AND e.offset > ? AND e.offset <= ?
    ORDER BY e.offset DESC LIMIT ?"""
_EVENT_AT = "SELECT e.seen, e.state, {} FROM events e WHERE e.offset = ?"
_OPEN = f"""SELECT t.id, t.newest, t.changed_at, {_COLUMNS}
    FROM tasks t LEFT JOIN events e ON e.offset = t.newest AND e.task = t.id
    WHERE t.open = 1 AND t.newest > ? AND t.newest <= ? ORDER BY t.newest LIMIT ?"""  # noqa: S608 - built from constants
_OPEN_NAMES = """SELECT id, newest, changed_at, upstream, account, task_id, NULL, NULL, NULL, NULL
    FROM tasks WHERE open = 1 AND newest > ? AND newest <= ? ORDER BY newest LIMIT ?"""
_NEWEST = """SELECT task_id FROM tasks INDEXED BY tasks_by_account
    WHERE upstream = ? AND account = ? AND open = ? AND newest <= ? ORDER BY newest DESC LIMIT ?"""
_LISTED = """SELECT id, task_id FROM tasks {}
    WHERE upstream = ? AND account = ? AND id BETWEEN 1 AND ? ORDER BY id DESC LIMIT ?"""
_OF_NAME = """SELECT n.task, t.task_id FROM task_names n CROSS JOIN tasks t ON t.id = n.task
    WHERE n.upstream = ? AND n.account = ? AND n.kind = ? AND n.name = ? AND n.task BETWEEN 1 AND ?
    AND t.upstream = n.upstream AND t.account = n.account ORDER BY n.task DESC LIMIT ?"""
_OF_BOTH = """SELECT n.task, t.task_id
    FROM task_names n CROSS JOIN task_names o CROSS JOIN tasks t ON t.id = n.task
    WHERE n.upstream = ? AND n.account = ? AND n.kind = ? AND n.name = ?
    AND o.upstream = n.upstream AND o.account = n.account AND o.kind = ? AND o.name = ? AND o.task = n.task
    AND n.task BETWEEN 1 AND ? AND t.upstream = n.upstream AND t.account = n.account
    ORDER BY n.task DESC LIMIT ?"""
_HOW_MANY = """SELECT count(*) FROM (SELECT 1 FROM task_names
    WHERE upstream = ? AND account = ? AND kind = ? AND name = ? AND task BETWEEN 1 AND ? LIMIT 1000)"""
# Without the column's value, for a task of an older version, the oldest state still retained.
_FIRST = """SELECT first_seen, (SELECT state FROM events WHERE task = id ORDER BY offset LIMIT 1)
    FROM tasks WHERE upstream = ? AND account = ? AND task_id = ?"""
_PLACE = "SELECT id FROM tasks WHERE upstream = ? AND account = ? AND task_id = ? AND id BETWEEN 1 AND ?"
# The very expression of the index: SQLite uses it for no other.
_LOST = f"""SELECT {_COLUMNS} FROM events e INDEXED BY {LOST_INDEX} JOIN tasks t ON t.id = e.task
    WHERE {IS_LOST} AND e.offset <= ? AND t.newest = e.offset ORDER BY e.offset DESC LIMIT ?"""  # noqa: S608 - built from constants


class Entry(NamedTuple):
    """A state to be recorded, with the values of its rows."""

    key: TaskKey
    state: State
    observed_at: float
    names: tuple[bytes, bytes, bytes]
    document: bytes | bytearray

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return len(self.document) + len(self.state.raw or b"")


def make_entry(key: TaskKey, state: State, observed_at: float) -> Entry:
    """Encode a state for recording. A state that cannot be encoded fails alone, not with its group.

    Raises:
        JournalError: It cannot be recorded.
    """
    try:
        float(state.changed_at)  # readers of the state compute with it
        # A copy also because what orjson returns takes kilobytes more than it holds, and many may wait.
        document = _unadapted(encode(state))
        return Entry(key, state, float(observed_at), encode_key(key), document)
    except (OverflowError, TypeError) as error:
        raise JournalError(f"the state cannot be recorded: {error}") from error


def write(
    connection: sqlite3.Connection,
    entries: Sequence[Entry],
    head: int,
    time: float,
    engine_rows: Sequence[StoreRow] = (),
    renamed: Sequence[Renamed] = (),
) -> None:
    """Record entries with the offsets after `head`, and rows of the table `engine`, all or none, durably.

    Args:
        time: The journal's own; see `bridge.journal.sqlite.retention`.
        renamed: Tasks, among them those of the entries, that are found by other names from now on.

    Raises:
        sqlite3.Error: None is recorded.
    """
    # `executemany` would run one statement per row; see rule 1.
    tasks, events = [], []
    for offset, entry in enumerate(entries, start=head + 1):
        state = entry.state
        # Not `bytes` and `bool`: for each of those, sqlite3 raises and drops an AttributeError in its
        # search for an adapter, which takes longer than all else about a value.
        names = tuple(map(bytearray, entry.names))
        opened = 0 if state.status.final else 1
        raw = None if state.raw is None else _unadapted(state.raw)
        tasks.append((offset, *names, offset, opened, time, state.changed_at))
        events.append((offset, *names, entry.observed_at, entry.document, raw))
    with Transaction(connection):
        insert_states(connection, tasks, events)
        if engine_rows:
            put_rows(connection, engine_rows)
        if renamed:
            rename(connection, renamed)


def _unadapted(value: bytes) -> bytes | bytearray:
    """The same, as sqlite3 binds it without a search for an adapter, unless it is too large for a copy."""
    return bytearray(value) if len(value) < COPIED_BYTES else value


def insert_states(
    connection: sqlite3.Connection, tasks: Sequence[tuple[Any, ...]], events: Sequence[tuple[Any, ...]]
) -> None:
    """Insert the rows of states, as many of each.

    Args:
        tasks: Offset, names, offset again, whether it is open, the journal's time, when it was first seen
            (Unix seconds).
        events: Offset, names, when it was observed (monotonic seconds), document, the provider's document.

    Raises:
        sqlite3.Error: The transaction has to be rolled back.
    """
    for start in range(0, len(tasks), _CHUNK):
        chunk = tasks[start : start + _CHUNK]
        put_tasks, put_events = _statements(len(chunk))
        connection.execute(put_tasks, list(itertools.chain.from_iterable(chunk)))
        chunk = events[start : start + _CHUNK]
        connection.execute(put_events, list(itertools.chain.from_iterable(chunk)))


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

    A row that cannot be read is reported once and left out: the next newest state of its task counts, and a
    task without any is polled again.

    Args:
        path: Names the file in reports.
        start: Offsets up to this are from an earlier process, whose monotonic seconds mean nothing here.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, epoch: str, start: int) -> None:
        self._connection = connection
        self._path = path
        self._epoch = epoch
        self._start = start
        self._reported: set[object] = set()
        connection.text_factory = bytes  # a text in place of bytes need not be UTF-8

    def latest(self, keys: Iterable[TaskKey], head: int) -> list[tuple[Event, int] | None]:
        """The newest event of each task and the size of its state."""
        return [self._newest(key, head) for key in keys]

    def history(self, keys: Iterable[TaskKey], after: int, head: int) -> list[Recorded]:
        """What is retained of some tasks after the offset `after`, in journal order."""
        after = min(max(after, 0), MAX_OFFSET)  # a client chooses it, and SQLite takes 64 bits
        recorded = [
            Recorded(key, offset, size)
            for key in keys
            for offset, size in self._rows(_HISTORY, (*encode_key(key), after, head, EVENTS_PER_TASK))
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
            for row in self._rows(statement, (offset,)):
                event = self._event((*encode_key(key), offset, *row))
                if event is not None:
                    events.append(event)
        return events

    def unfinished(self, head: int) -> list[tuple[Event, int]]:
        """The newest event of every open task, oldest first, with the size of its state.

        Open tasks of which no state can be read are among them, as `unknown`: they are to be watched.
        """
        events: list[tuple[Event, int]] = []
        after = 0
        while True:
            try:
                rows = self._connection.execute(_OPEN, (after, head, PAGE)).fetchall()
            except sqlite3.DatabaseError as error:
                if not is_corrupt(error):
                    raise
                rows = self._connection.execute(_OPEN_NAMES, (after, head, PAGE)).fetchall()
            events += [found for row in rows if (found := self._open_task(row, head)) is not None]
            if len(rows) < PAGE:
                return events
            after = rows[-1][1]

    def lost(self, head: int, limit: int) -> list[Event]:
        """The newest event of the newest lost tasks, newest first."""
        rows = self._rows(_LOST, (head, limit))
        return [event for row in rows if (event := self._event(row)) is not None]

    def newest(self, upstream: str, account: str, *, final: bool, head: int, limit: int) -> list[TaskKey]:
        """The tasks of one account that are open, or that have ended, newest change first."""
        names = encode_text(upstream), encode_text(account)
        keys = []
        for (task_id,) in self._rows(_NEWEST, (*names, not final, head, limit)):
            with contextlib.suppress(*_UNREADABLE):  # a damaged row: no client requests it
                keys.append(decode_key(names[0], names[1], task_id))
        return keys

    def first_seen(self, keys: Iterable[TaskKey]) -> list[float | None]:
        """When the first state of each task was recorded (Unix seconds)."""
        return [next(map(_first_seen, self._rows(_FIRST, encode_key(key))), None) for key in keys]

    def places(self, keys: Iterable[TaskKey], head: int) -> list[int]:
        """The place of each task in listings; 0 for a task without a state."""
        return [next(self._rows(_PLACE, (*encode_key(key), head)), (0,))[0] for key in keys]

    def details(self, keys: Sequence[TaskKey]) -> dict[TaskKey, bytes]:
        """What tasks were submitted or registered with, encoded; those without it are left out."""
        try:
            return read_details(self._connection, keys)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            self._report("engine", "behind a damaged page", str(error))
            return {}

    def listing(
        self, upstream: str, account: str, *, tag: str, group: str, before: int, head: int, limit: int
    ) -> list[Listed]:
        """Tasks of one account, those first seen last come first; with tag and group those of both.

        Without either, and without the index that `create_place_index` creates, it reads the tasks of all.
        """
        names = encode_text(upstream), encode_text(account)
        wanted = [(kind, name) for kind, name in (("tag", tag), ("group", group)) if name]
        upto = min(before - 1, head) if before > 0 else head
        statement, values = self._listing(names, wanted, upto)
        found: list[Listed] = []
        while len(found) < limit:
            rows = list(self._rows(statement, (*values, upto, limit)))
            keys = {}
            for place, task_id in rows:
                with contextlib.suppress(*_UNREADABLE):  # a damaged row: no client requests it
                    keys[decode_key(*names, task_id)] = place
            details = self.details(list(keys))
            for key, place in keys.items():
                encoded = details.get(key)
                if not wanted or set(wanted) <= set(names_of(encoded)):
                    found.append(Listed(place, key, decode_details(encoded)))
            if len(rows) < limit:
                break
            upto = rows[-1][0] - 1
        return found[:limit]

    def _listing(
        self, names: tuple[bytes, bytes], wanted: list[tuple[str, str]], upto: int
    ) -> tuple[str, list[Any]]:
        """The statement for a listing, and its values without the last two: up to which place, how many."""
        if not wanted:
            indexed = has_place_index(self._connection)
            return _LISTED.format(f"INDEXED BY {PLACE_INDEX}" if indexed else "NOT INDEXED"), list(names)
        columns = [(*names, kind, encode_text(name)) for kind, name in wanted]
        if len(columns) == 1:
            return _OF_NAME, list(columns[0])
        # From the fewer tasks to the more; an account may have one tag at all of its tasks.
        counts = [next(self._rows(_HOW_MANY, (*one, upto)), (0,))[0] for one in columns]
        few, many = sorted(columns, key=lambda one: counts[columns.index(one)])
        return _OF_BOTH, [*few, *many[2:]]

    def _newest(self, key: TaskKey, head: int) -> tuple[Event, int] | None:
        for limit in (1, EVENTS_PER_TASK):
            rows = list(self._rows(_OF_TASK, (*encode_key(key), 0, head, limit)))
            for row in rows:
                event = self._event(row)
                if event is not None:
                    return event, _size(row)
            if len(rows) < limit:
                break
        return None

    def _open_task(self, row: tuple[Any, ...], head: int) -> tuple[Event, int] | None:
        task, newest, changed_at, *columns = row
        if columns[3] is not None:
            event = self._event(tuple(columns))
            if event is not None:
                return event, _size(tuple(columns))
        try:
            key = decode_key(*columns[:3])
        except _UNREADABLE:
            self._report("tasks", task, "its names cannot be read")
            return None
        blank = Event(key, Cursor(self._epoch, newest), unknown(unix_time=changed_at))
        return self._newest(key, head) or (blank, 0)

    def _rows(self, statement: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """The rows of a statement, up to a page that cannot be read."""
        try:
            yield from self._connection.execute(statement, values)
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error):
                raise
            self._report("events", "behind a damaged page", str(error))

    def _event(self, row: tuple[Any, ...]) -> Event | None:
        upstream, account, task_id, offset, seen, document, raw = row
        try:
            key = decode_key(upstream, account, task_id)
            seen = float(seen) if offset > self._start else 0.0
            return Event(key, Cursor(self._epoch, offset), decode(document, raw), seen)
        except _UNREADABLE:
            self._report("events", offset, "it holds no state that the bridge wrote")
            return None

    def _report(self, table: str, row: object, error: str) -> None:
        if (table, row) not in self._reported and len(self._reported) < MAX_REPORTED:
            self._reported.add((table, row))
            report_row(self._path, table, row, error)


def report_row(path: Path, table: str, row: object, error: str) -> None:
    """Log a row that cannot be used, without anything of its content."""
    fields = {"file": str(path), "table": table, "row": row, "error": error, "cure": CURE_ROW}
    logger.warning("journal row damaged", extra=fields)


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether a page of the file is damaged, so that other pages can still be read."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def is_missing(error: sqlite3.Error) -> bool:
    """Whether a table or column is not there: another program has changed the file."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF == sqlite3.SQLITE_ERROR


def _first_seen(row: tuple[Any, Any]) -> float | None:
    seen, oldest = row
    if isinstance(seen, float) and math.isfinite(seen):
        return seen
    try:
        return decode(oldest, None).changed_at
    except _UNREADABLE:
        return None


@functools.cache
def _statements(count: int) -> tuple[str, str]:
    """The statements that insert `count` states: kept, because each append would build and hash them."""
    return _PUT_TASKS.format(", ".join([_TASK] * count)), _PUT_EVENTS.format(", ".join([_EVENT] * count))


def _size(row: tuple[Any, ...]) -> int:
    return len(row[5]) + len(row[6] or b"")
