"""Retention: deletes tasks unchanged for too long and events over the limit, a few at a time.

The journal has a time of its own: what the clock showed when the file was created, and from then on the
seconds during which a bridge had it open. The clock on the wall may be set a week ahead or back, while the
bridge runs or before it starts, and no task may be forgotten for that.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from bridge.core.task import TaskKey
from bridge.engine.store.changes import PartKind
from bridge.journal.sqlite.codec import decode_key
from bridge.journal.sqlite.database import MAX_HISTORY
from bridge.journal.sqlite.engine_rows import delete_rows
from bridge.journal.sqlite.storage import EVENTS_PER_TASK, Transaction

OPEN_SECONDS = 7 * 86_400.0  # an open task may have been paid for: kept a week, or longer by the retention
STEP_EVENTS = 64  # the events of a task are spread over the file: each may rewrite a page of its own
SPARE_PAGES = 1024  # 4 MiB of free pages are kept for the next appends
VACUUM_PAGES = 64

_TASKS = "SELECT id, upstream, account, task_id, newest, max(1, CAST(kept AS INTEGER)) FROM tasks "
_OLDEST_TASKS = _TASKS + "WHERE open = ? ORDER BY newest LIMIT ?"
_EXPIRED = f"""{_TASKS} WHERE id IN (SELECT id FROM tasks WHERE open = ? ORDER BY newest LIMIT ?)
    AND changed_at < ? ORDER BY newest"""  # noqa: S608 - built from constants
_LONG = _TASKS + "WHERE open = 1 AND kept > 1 ORDER BY newest LIMIT ?"
_TOO_LONG = f"SELECT id, kept FROM tasks WHERE kept > {MAX_HISTORY} LIMIT 1"  # noqa: S608 - a constant
_OLDEST = """DELETE FROM events WHERE offset IN (SELECT offset FROM events
    WHERE task = ? AND offset <> (SELECT newest FROM tasks WHERE id = task) ORDER BY offset LIMIT ?)"""
_COUNT = "UPDATE tasks SET kept = (SELECT count(*) FROM events WHERE task = id) WHERE id = ?"


@dataclass(slots=True)
class Step:
    """One step of deletion.

    Attributes:
        more: Whether another step has something to do.
        events: How many events were deleted.
        forgotten: Deleted tasks, with the offset of their newest event.
    """

    more: bool = False
    events: int = 0
    forgotten: list[tuple[TaskKey, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long and how much is kept.

    A task keeps its newest 256 events. By age, a finished task is deleted as a whole; an open one only
    if it has also not changed for a week. By count, finished tasks go first, the one unchanged for
    longest before others; then the events of open tasks except the newest; then open tasks.

    Args:
        seconds: Since the newest state of a task.
        max_events: Over all tasks.
    """

    seconds: float
    max_events: int

    def forget(self, connection: sqlite3.Connection, *, events: int, head: int, now: float) -> Step:
        """Take one step, short enough for an append to wait for it.

        Args:
            events: How many the journal holds.
            head: The newest offset assigned. It is stored, because its event may be deleted here.
            now: The journal's own time.

        Raises:
            sqlite3.Error: The step failed; nothing may be written before `probe` succeeds.
        """
        step = Step()
        # Unsynced: a power failure may bring deleted events back, which is harmless, and the next append
        # syncs them anyway.
        connection.execute("PRAGMA synchronous = NORMAL")
        with Transaction(connection):
            for task, kept in connection.execute(_TOO_LONG).fetchall():
                _drop_oldest(connection, task, step, min(STEP_EVENTS, kept - EVENTS_PER_TASK))
            for is_open, seconds in ((0, self.seconds), (1, max(self.seconds, OPEN_SECONDS))):
                if step.events < STEP_EVENTS:
                    rows = connection.execute(_EXPIRED, (is_open, STEP_EVENTS, now - seconds)).fetchall()
                    _forget(connection, rows, step, STEP_EVENTS)
            self._by_count(connection, step, events)
            if step.events:
                # Without it, a restart after the newest event was deleted would assign its offset again.
                connection.execute("UPDATE meta SET value = ? WHERE name = 'head'", (head,))
        step.more = step.events > 0 or _vacuum(connection)
        connection.execute("PRAGMA synchronous = FULL")
        return step

    def _by_count(self, connection: sqlite3.Connection, step: Step, events: int) -> None:
        limit = min(STEP_EVENTS, events - self.max_events)
        if step.events >= limit:
            return
        # History goes before open tasks: clients need the newest state, and old ones only to replay.
        finished = connection.execute(_OLDEST_TASKS, (0, limit)).fetchall()
        shortened = not finished and _keep_newest(connection, step, limit)
        if not shortened:
            rows = finished or connection.execute(_OLDEST_TASKS, (1, limit)).fetchall()
            _forget(connection, rows, step, limit)


def _forget(connection: sqlite3.Connection, rows: list[Any], step: Step, limit: int) -> None:
    """Delete whole tasks, or the oldest events of one that has too many for this step."""
    count = _count_fitting([row[5] for row in rows], limit - step.events)
    tasks = [row[0] for row in rows[:count]]
    step.events += _delete(connection, "DELETE FROM events WHERE task IN", tasks)
    _delete(connection, "DELETE FROM tasks WHERE id IN", tasks)
    names = [b"\0".join(name for name in row[1:4] if isinstance(name, bytes)) for row in rows[:count]]
    delete_rows(connection, PartKind.TASK.value, names)
    for _, upstream, account, task_id, newest, *_ in rows[:count]:
        with contextlib.suppress(AttributeError, ValueError):  # a damaged row: no client requests it
            step.forgotten.append((decode_key(upstream, account, task_id), newest))
    if rows and not count:
        _drop_oldest(connection, rows[0][0], step, limit)


def _keep_newest(connection: sqlite3.Connection, step: Step, limit: int) -> bool:
    """Delete all but the newest event of open tasks; False if they have no other event."""
    rows = connection.execute(_LONG, (limit,)).fetchall()
    count = _count_fitting([row[5] - 1 for row in rows], limit - step.events)
    tasks = [row[0] for row in rows[:count]]
    statement = "DELETE FROM events WHERE offset < (SELECT newest FROM tasks WHERE id = task) AND task IN"
    step.events += _delete(connection, statement, tasks)
    _delete(connection, "UPDATE tasks SET kept = 1 WHERE id IN", tasks)
    if rows and not count:
        _drop_oldest(connection, rows[0][0], step, limit)
    return bool(rows)


def _drop_oldest(connection: sqlite3.Connection, task: int, step: Step, limit: int) -> None:
    deleted = connection.execute(_OLDEST, (task, limit - step.events)).rowcount
    connection.execute(_COUNT, (task,))
    step.events += deleted


def _count_fitting(sizes: list[int], limit: int) -> int:
    """How many sizes, from the first on, sum up to at most `limit`."""
    return bisect.bisect_right(list(itertools.accumulate(sizes)), limit)


def _delete(connection: sqlite3.Connection, statement: str, tasks: list[int]) -> int:
    """Run one statement for all tasks; see rule 1 in `bridge.journal.sqlite.storage`."""
    return connection.execute(f"{statement} ({', '.join('?' * len(tasks))})", tasks).rowcount


def _vacuum(connection: sqlite3.Connection) -> bool:
    """Return a few free pages to the file system; False if there was nothing to return."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    if free <= SPARE_PAGES:
        return False
    # `fetchall`, because SQLite frees one page per step of this statement.
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
    return bool(connection.execute("PRAGMA freelist_count").fetchone()[0] < free)
