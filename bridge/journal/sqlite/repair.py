"""What is put right when a journal is opened: a damaged row costs that row, not the start.

A file that lost recorded events, or may have, begins a new epoch: their offsets will be assigned again, and a
client that has seen the first ones would take new events for old.
"""

from __future__ import annotations

import logging
import math
import re
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from bridge.core.cursor import new_epoch
from bridge.errors import JournalError
from bridge.journal.sqlite.codec import decode
from bridge.journal.sqlite.database import Database
from bridge.journal.sqlite.retention import OPEN_SECONDS
from bridge.journal.sqlite.storage import MAX_OFFSET, Transaction, report_row

CURE_EPOCH = "nothing to do; check the disk, and restore no copy of the file other than one made by `backup`"

_EPOCH = re.compile(r"[A-Za-z0-9]{1,32}")
_META = "SELECT CAST(value AS BLOB) FROM meta WHERE name = ?"
_NEWEST = "SELECT coalesce(max(offset), 0) FROM events WHERE offset BETWEEN 1 AND ?"
_NEWEST_TASK = "SELECT coalesce(max(id), 0) FROM tasks WHERE id BETWEEN 1 AND ?"
_STAMPS = "SELECT changed_at FROM tasks WHERE open = ? ORDER BY newest DESC LIMIT 1"
_DAMAGED = """SELECT id FROM tasks WHERE typeof(newest) <> 'integer' OR newest NOT BETWEEN 1 AND ?
    OR typeof(kept) <> 'integer' OR kept < 1 OR (open IS NOT 0 AND open IS NOT 1)"""
_EVENTS = "SELECT count(*), max(offset) FROM events WHERE task = ? AND offset BETWEEN 1 AND ?"
_STATE = "SELECT CAST(state AS BLOB), CAST(raw AS BLOB) FROM events WHERE offset = ?"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class History:
    """The position of a database when it is opened.

    Args:
        head: The newest offset ever assigned in it.
        events: How many events it holds.
        time: Where the journal's own time continues; see `bridge.journal.sqlite.retention`.
    """

    epoch: str
    head: int
    events: int
    time: float


def open_history(database: Database, unix_time: float) -> History:
    """The position of a journal, after repairing the rows it depends on.

    Raises:
        sqlite3.Error: They cannot be read or written.
    """
    connection = database.connection
    epoch, head, time = (_meta(connection, name) for name in ("epoch", "head", "time"))
    (newest,) = connection.execute(_NEWEST, (MAX_OFFSET,)).fetchone()
    (events,) = connection.execute("SELECT count(*) FROM events").fetchone()
    known_head = int(head) if head is not None and head.isdecimal() and int(head) <= MAX_OFFSET else None
    # The id of a task is the offset of its first state: it cannot be assigned to another.
    (newest_task,) = connection.execute(_NEWEST_TASK, (MAX_OFFSET,)).fetchone()
    position = max(known_head or 0, newest, newest_task)
    reason = _loss(database, epoch, position, head_known=known_head is not None)
    fresh = epoch is None or reason is not None
    if reason is not None:
        fields = {"file": str(database.path), "error": reason, "cure": CURE_EPOCH}
        logger.warning("journal began a new epoch", extra=fields)
    name = str(epoch)
    while fresh and name == str(epoch):
        # A clock that was set back can come to the same millisecond again, and two characters are few.
        name = new_epoch(unix_time, secrets.randbits(32))
    history = History(
        name,
        position,
        events,
        _continued(time, _stamps(connection), unix_time),
    )
    with Transaction(connection):
        rows = {"epoch": history.epoch, "head": history.head, "time": history.time}
        connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows.items())
        _repair_tasks(connection, database.path, history)
    return history


def store_time(connection: sqlite3.Connection, time: float) -> None:
    """Store the journal's own time, which continues from here after the next start.

    Raises:
        sqlite3.Error: It could not be stored.
    """
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('time', ?)", (time,))


def _loss(database: Database, epoch: str | None, head: int, *, head_known: bool) -> str | None:
    """Why recorded events may be missing; None if nothing shows it, or if there is no epoch yet."""
    if epoch is None:  # a new file, or a copy: see `bridge.journal.sqlite.backup`
        return None
    if not _EPOCH.fullmatch(epoch):
        return "its epoch is damaged"
    if not head_known:
        return "its newest offset is damaged"
    if database.lost_commits:
        return "its write-ahead log is damaged: events recorded last are lost"
    seen = database.acknowledged()
    if seen is not None and seen.epoch == epoch and seen.offset > head:
        return f"events are missing: {seen.offset} was recorded, {head} is the newest"
    return None


def _continued(time: str | None, stamps: list[float], unix_time: float) -> float:
    """Where the journal's own time continues.

    Never far ahead of what was recorded last, or a damaged value would let everything expire at once.
    """
    newest = max(stamps, default=None)
    try:
        stored = float(time) if time is not None else math.nan
    except ValueError:
        stored = math.nan
    if math.isfinite(stored):
        return stored if newest is None else min(stored, newest + OPEN_SECONDS / 2)
    # A new file, or one of a version that stored the time on the wall, which may be wrong now or was before.
    return min(unix_time, *stamps) if stamps else unix_time


def _stamps(connection: sqlite3.Connection) -> list[float]:
    rows = [connection.execute(_STAMPS, (is_open,)).fetchone() for is_open in (0, 1)]
    return [row[0] for row in rows if row is not None and isinstance(row[0], float) and math.isfinite(row[0])]


def _repair_tasks(connection: sqlite3.Connection, path: Path, history: History) -> None:
    """Give rows of tasks with impossible values what their events say."""
    # In SQLite a text is greater than any number, so that this finds them as well.
    connection.execute("UPDATE tasks SET changed_at = :now WHERE changed_at > :now", {"now": history.time})
    for (task,) in connection.execute(_DAMAGED, (max(history.head, 1),)).fetchall():
        kept, newest = connection.execute(_EVENTS, (task, history.head)).fetchone()
        ended = newest is not None and _ended(connection, newest)
        connection.execute(
            "UPDATE tasks SET newest = ?, kept = ?, open = ? WHERE id = ?",
            (newest or max(history.head, 1), max(kept, 1), not ended, task),
        )
        report_row(path, "tasks", task, "its values were impossible and were replaced")


def _ended(connection: sqlite3.Connection, offset: int) -> bool:
    """Whether a recorded state is final; not if it cannot be read, so that the task is polled again."""
    try:
        return decode(*connection.execute(_STATE, (offset,)).fetchone()).status.final
    except JournalError:
        return False


def _meta(connection: sqlite3.Connection, name: str) -> str | None:
    """A value of any type as text; None if there is no such row. NULL is an empty text."""
    row = connection.execute(_META, (name,)).fetchone()
    return None if row is None else (row[0] or b"").decode("utf-8", "replace")
