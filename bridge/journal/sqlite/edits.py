"""Changes of tasks that are recorded: what they are known by, and their deletion."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bridge.core.details import TaskDetails
from bridge.core.task import TaskKey
from bridge.engine.store.changes import PartKind
from bridge.engine.store.rows import StoreRow
from bridge.journal.sqlite.codec import encode_key
from bridge.journal.sqlite.database import IS_LOST
from bridge.journal.sqlite.engine_rows import delete_rows, put_rows, task_name
from bridge.journal.sqlite.names import describe_tasks, rename
from bridge.journal.sqlite.storage import AMEND_EVENT, Transaction

_CHUNK = 128  # as in `bridge.journal.sqlite.storage`
_FIND = """SELECT t.id, t.newest, t.open, t.upstream, t.account, t.task_id FROM (VALUES {}) v
    CROSS JOIN tasks t ON t.upstream = v.column1 AND t.account = v.column2 AND t.task_id = v.column3"""
_LOST = f"SELECT 1 FROM events WHERE offset = ? AND {IS_LOST}"  # noqa: S608 - built from constants
_DELETE_EVENTS = "DELETE FROM events WHERE task IN ({})"
_DELETE_TASKS = "DELETE FROM tasks WHERE id IN ({})"


class Found(NamedTuple):
    """A task in the file.

    Args:
        id: Of its row.
        newest: The offset of its newest state.
        is_open: Whether that is not final.
    """

    key: TaskKey
    id: int
    newest: int
    is_open: bool


def register(connection: sqlite3.Connection, details: Mapping[TaskKey, TaskDetails]) -> dict[TaskKey, bool]:
    """Replace what tasks are known by, durably; those without a state are left out.

    Returns:
        Of the others whether they may still end: they are open, or lost.

    Raises:
        sqlite3.Error: Nothing is replaced.
    """
    with Transaction(connection):
        known = {
            task.key: task.is_open or _is_lost(connection, task.newest)
            for task in list(find_tasks(connection, list(details)))
        }
        if known:
            described = {key: one.encode() for key, one in details.items() if key in known}
            rows, renamed = describe_tasks(connection, described)
            put_rows(connection, rows)
            rename(connection, renamed)
    return known


def _is_lost(connection: sqlite3.Connection, offset: int) -> bool:
    return connection.execute(_LOST, (offset,)).fetchone() is not None


class Amended(NamedTuple):
    """What is written over the end of a task.

    Args:
        offset: Of the end.
        rows: Of the table `engine`, written with it.
    """

    key: TaskKey
    offset: int
    document: bytes | bytearray
    raw: bytes | None
    rows: Sequence[StoreRow] = ()


def amend_ends(connection: sqlite3.Connection, amended: Sequence[Amended]) -> list[bool]:
    """Write over the ends of tasks, durably.

    Returns:
        Of each whether it was the newest state of its task; if not, nothing of it was written.

    Raises:
        sqlite3.Error: Nothing is written.
    """
    with Transaction(connection):
        newest = {task.key: task.newest for task in find_tasks(connection, [one.key for one in amended])}
        written = [newest.get(one.key) == one.offset for one in amended]
        ends = [one for one, is_newest in zip(amended, written, strict=True) if is_newest]
        connection.executemany(AMEND_EVENT, [(one.document, one.raw, one.offset) for one in ends])
        if rows := [row for one in ends for row in one.rows]:
            put_rows(connection, rows)
    return written


def delete_tasks(
    connection: sqlite3.Connection, keys: Sequence[TaskKey], head: int
) -> tuple[dict[TaskKey, int], int]:
    """Delete tasks with their states, details and names, durably.

    Args:
        head: The newest offset assigned. It is stored, because its event may be deleted here.

    Returns:
        Of each task that was there the offset of its newest state, and how many states were deleted.

    Raises:
        sqlite3.Error: Nothing is deleted.
    """
    with Transaction(connection):
        found = list(find_tasks(connection, keys))
        events = delete_found(connection, found)
        # What says that it was submitted with something may be there without any state.
        delete_rows(connection, PartKind.TASK.value, [task_name(key) for key in keys])
        connection.execute("UPDATE meta SET value = ? WHERE name = 'head'", (head,))
    return {task.key: task.newest for task in found}, events


def delete_found(connection: sqlite3.Connection, found: Sequence[Found]) -> int:
    """Delete tasks with their states and names, within a transaction; returns how many states."""
    events = 0
    for start in range(0, len(found), _CHUNK):
        ids = [task.id for task in found[start : start + _CHUNK]]
        marks = ", ".join("?" * len(ids))
        events += connection.execute(_DELETE_EVENTS.format(marks), ids).rowcount
        connection.execute(_DELETE_TASKS.format(marks), ids)
    return events


def find_tasks(connection: sqlite3.Connection, keys: Sequence[TaskKey]) -> Iterator[Found]:
    """Those of some tasks that have a state; read it to the end.

    Raises:
        sqlite3.Error: They cannot be read.
    """
    by_names = {encode_key(key): key for key in keys}
    names = list(by_names)
    for start in range(0, len(names), _CHUNK):
        chunk = names[start : start + _CHUNK]
        statement = _FIND.format(", ".join(["(?, ?, ?)"] * len(chunk)))
        for id_, newest, is_open, *found in connection.execute(
            statement, list(itertools.chain.from_iterable(chunk))
        ):
            yield Found(by_names[found[0], found[1], found[2]], id_, newest, is_open == 1)
