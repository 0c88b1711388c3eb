"""What a journal forgets: tasks quiet for too long, and what is too much; a little at a time."""

from __future__ import annotations

import bisect
import itertools
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from bridge.core.task import TaskKey
from bridge.journal.sqlite.codec import decode_key
from bridge.journal.sqlite.database import LONGEST_HISTORY
from bridge.journal.sqlite.storage import EVENTS_PER_TASK, Transaction

OPEN_SECONDS = 7 * 86_400.0  # an open task is somebody's money: kept a week, or for the retention if longer
SLICE_EVENTS = 64  # events of one task lie far apart: each may rewrite a page of its own
SPARE_PAGES = 1024  # 4 MiB left for the next appends
VACUUM_PAGES = 64

_TASKS = "SELECT id, upstream, account, task_id, newest, kept, changed_at FROM tasks "
_QUIET = _TASKS + "WHERE open = ? ORDER BY newest LIMIT ?"
_OUTLIVED = f"SELECT * FROM ({_QUIET}) WHERE changed_at < ?"  # noqa: S608 - put together from constants
_LONG = _TASKS + "WHERE open = 1 AND kept > 1 ORDER BY newest LIMIT ?"
_TOO_LONG = f"SELECT id, kept FROM tasks WHERE kept > {LONGEST_HISTORY} LIMIT 1"  # noqa: S608 - a constant
_OLDEST = (
    "DELETE FROM events WHERE offset IN (SELECT offset FROM events WHERE task = ? ORDER BY offset LIMIT ?)"
)


@dataclass(slots=True)
class Slice:
    """One step of forgetting.

    Attributes:
        more: Whether another step has something to do.
        events: How many events were deleted.
        forgotten: Tasks that are gone, with the offset of their newest event.
    """

    more: bool = False
    events: int = 0
    forgotten: list[tuple[TaskKey, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long and how much is remembered.

    A task keeps its newest 256 events. By age, a finished task goes as a whole; an open one only
    when it was quiet for a week as well. Only the tasks quiet for longest are looked at: stamps of a
    clock that leapt may keep them longer. By count, finished tasks go first, the one quiet for
    longest ahead; then what open tasks were before their newest state; then open tasks.

    Args:
        seconds: Since the newest state of a task.
        max_events: Over all tasks.
    """

    seconds: float
    max_events: int

    def forget(self, connection: sqlite3.Connection, *, events: int, head: int, wall: float) -> Slice:
        """Take one step, short enough for an append to wait for it.

        Args:
            events: How many the journal holds.
            head: The newest offset given out; it must outlive its event.

        Raises:
            sqlite3.Error: It did not work out; nothing may be written before `probe` succeeds.
        """
        done = Slice()
        # Unsynced: a power cut may bring back what was forgotten, and the next append syncs it anyway.
        connection.execute("PRAGMA synchronous = NORMAL")
        with Transaction(connection):
            _by_length(connection, done)
            self._by_age(connection, done, wall)
            self._by_count(connection, done, events)
            if done.events:
                connection.execute("UPDATE meta SET value = ? WHERE name = 'head'", (head,))
        done.more = done.events > 0 or _vacuum(connection)
        connection.execute("PRAGMA synchronous = FULL")
        return done

    def _by_age(self, connection: sqlite3.Connection, done: Slice, wall: float) -> None:
        for is_open, seconds in ((0, self.seconds), (1, max(self.seconds, OPEN_SECONDS))):
            if done.events < SLICE_EVENTS:
                rows = connection.execute(_OUTLIVED, (is_open, SLICE_EVENTS, wall - seconds)).fetchall()
                _forget(connection, rows, done, SLICE_EVENTS)

    def _by_count(self, connection: sqlite3.Connection, done: Slice, events: int) -> None:
        limit = min(SLICE_EVENTS, events - self.max_events)
        if done.events >= limit:
            return
        finished = connection.execute(_QUIET, (0, limit)).fetchall()
        shortened = not finished and _shorten(connection, done, limit)
        if not shortened:
            rows = finished or connection.execute(_QUIET, (1, limit)).fetchall()
            _forget(connection, rows, done, limit)


def _by_length(connection: sqlite3.Connection, done: Slice) -> None:
    """Take the oldest events of a task that has too many."""
    for task, kept in connection.execute(_TOO_LONG).fetchall():
        _behead(connection, task, done, min(SLICE_EVENTS, kept - EVENTS_PER_TASK))


def _forget(connection: sqlite3.Connection, rows: list[Any], done: Slice, limit: int) -> None:
    """Delete whole tasks, or the beginning of one that is too long for this step."""
    count = _fitting([row[5] for row in rows], limit - done.events)
    tasks = [row[0] for row in rows[:count]]
    done.events += _delete(connection, "DELETE FROM events WHERE task IN", tasks)
    _delete(connection, "DELETE FROM tasks WHERE id IN", tasks)
    for _, upstream, account, task_id, newest, *_ in rows[:count]:
        done.forgotten.append((decode_key(upstream, account, task_id), newest))
    if rows and not count:
        _behead(connection, rows[0][0], done, limit)


def _shorten(connection: sqlite3.Connection, done: Slice, limit: int) -> bool:
    """Leave open tasks nothing but their newest state; False when they have nothing else."""
    rows = connection.execute(_LONG, (limit,)).fetchall()
    count = _fitting([row[5] - 1 for row in rows], limit - done.events)
    tasks = [row[0] for row in rows[:count]]
    statement = "DELETE FROM events WHERE offset < (SELECT newest FROM tasks WHERE id = task) AND task IN"
    done.events += _delete(connection, statement, tasks)
    _delete(connection, "UPDATE tasks SET kept = 1 WHERE id IN", tasks)
    if rows and not count:
        _behead(connection, rows[0][0], done, limit)
    return bool(rows)


def _behead(connection: sqlite3.Connection, task: int, done: Slice, limit: int) -> None:
    deleted = connection.execute(_OLDEST, (task, limit - done.events)).rowcount
    connection.execute("UPDATE tasks SET kept = kept - ? WHERE id = ?", (deleted, task))
    done.events += deleted


def _fitting(sizes: list[int], room: int) -> int:
    """How many of the first fit together."""
    return bisect.bisect_right(list(itertools.accumulate(sizes)), room)


def _delete(connection: sqlite3.Connection, statement: str, tasks: list[int]) -> int:
    """One statement for all, for the reason of rule 1 in `bridge.journal.storage`."""
    return connection.execute(f"{statement} ({', '.join('?' * len(tasks))})", tasks).rowcount


def _vacuum(connection: sqlite3.Connection) -> bool:
    """Give a few free pages back to the disk; whether that changed anything."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    if free <= SPARE_PAGES:
        return False
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    return bool(connection.execute("PRAGMA freelist_count").fetchone()[0] < free)
