"""Tags and groups as an index over the tasks of a journal's file.

The details of a task are in its row of the table `engine` (`bridge.journal.sqlite.engine_rows`). What the
index finds is compared with them, so that a damaged row of it, or one that an older version left, has no
other effect.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bridge.core.task import TaskKey
from bridge.engine.store.changes import PartKind
from bridge.engine.store.listings import names_of
from bridge.engine.store.rows import StoreRow, details_of, with_details
from bridge.journal.sqlite.codec import encode_key, encode_text
from bridge.journal.sqlite.engine_rows import TYPED, task_name, task_values

Columns = tuple[bytes, bytes, bytes]
"""Upstream, account and id of a task."""

_CHUNK = 128  # as in `bridge.journal.sqlite.storage`
_NAME = "(?, ?, ?, ?, (SELECT id FROM tasks WHERE upstream = ? AND account = ? AND task_id = ?))"
_PUT = "INSERT OR IGNORE INTO task_names (upstream, account, kind, name, task) VALUES {}"
# `(upstream, account, task_id) IN (VALUES ...)` would read the whole table of tasks.
_DELETE = """DELETE FROM task_names WHERE task IN (SELECT t.id FROM (VALUES {}) v
    CROSS JOIN tasks t ON t.upstream = v.column1 AND t.account = v.column2 AND t.task_id = v.column3)"""
_WITH_STATE = """SELECT t.upstream, t.account, t.task_id FROM (VALUES {}) v
    CROSS JOIN tasks t ON t.upstream = v.column1 AND t.account = v.column2 AND t.task_id = v.column3"""
# In the row of a task its details are a text, with their quotes escaped.
_NAMED = f"""SELECT name, value FROM engine WHERE kind = ? AND {TYPED}
    AND (instr(value, CAST('tags' AS BLOB)) OR instr(value, CAST('group' AS BLOB)))"""  # noqa: S608 - built from constants


class Renamed(NamedTuple):
    """A task that is found by other names from now on.

    Args:
        had: Whether it was found by any before.
        details: What it is known by, encoded.
    """

    names: Columns
    had: bool
    details: bytes | None


def describe_tasks(
    connection: sqlite3.Connection, described: Mapping[TaskKey, bytes]
) -> tuple[list[StoreRow], list[Renamed]]:
    """The rows of tasks with these details; what else a keeper wrote into them stays.

    Returns:
        Also those tasks whose tags or group are others than before.

    Raises:
        sqlite3.Error: The rows cannot be read.
    """
    before = task_values(connection, described)
    rows, renamed = [], []
    for key, details in described.items():
        name = task_name(key)
        value = before.get(name)
        rows.append(StoreRow(PartKind.TASK.value, name, 0, with_details(value, details)))
        old = names_of(details_of(value)) if value is not None else []
        if set(old) != set(names_of(details)):
            renamed.append(Renamed(encode_key(key), bool(old), details))
    return rows, renamed


def rename(connection: sqlite3.Connection, renamed: Sequence[Renamed]) -> None:
    """Find tasks by their new names, and by no others, within a transaction. They have a state.

    Raises:
        sqlite3.Error: The transaction has to be rolled back.
    """
    before = [task.names for task in renamed if task.had]
    for start in range(0, len(before), _CHUNK):
        chunk = before[start : start + _CHUNK]
        marks = ", ".join(["(?, ?, ?)"] * len(chunk))
        connection.execute(_DELETE.format(marks), list(itertools.chain.from_iterable(chunk)))
    rows = [
        (*task.names[:2], kind, encode_text(name), *task.names)
        for task in renamed
        for kind, name in names_of(task.details)
    ]
    for start in range(0, len(rows), _CHUNK):
        chunk_of_rows = rows[start : start + _CHUNK]
        values = list(itertools.chain.from_iterable(chunk_of_rows))
        connection.execute(_PUT.format(", ".join([_NAME] * len(chunk_of_rows))), values)


def with_state(connection: sqlite3.Connection, tasks: Sequence[Columns]) -> set[Columns]:
    """Those of some tasks that have a state.

    Raises:
        sqlite3.Error: They cannot be read.
    """
    found: set[Columns] = set()
    for start in range(0, len(tasks), _CHUNK):
        chunk = tasks[start : start + _CHUNK]
        statement = _WITH_STATE.format(", ".join(["(?, ?, ?)"] * len(chunk)))
        found.update(connection.execute(statement, list(itertools.chain.from_iterable(chunk))))
    return found


def named_tasks(connection: sqlite3.Connection) -> Iterator[tuple[bytes, bytes | None]]:
    """The names of the rows of tasks with tags or a group, and their details.

    Raises:
        sqlite3.Error: They cannot be read.
    """
    for name, value in connection.execute(_NAMED, (PartKind.TASK.value,)):
        details = details_of(value)
        if names_of(details):
            yield name, details


def rebuild(connection: sqlite3.Connection) -> None:
    """Fill the empty index from the rows of the tasks, within a transaction.

    Raises:
        sqlite3.Error: The transaction has to be rolled back.
    """
    tasks = named_tasks(connection)
    while portion := list(itertools.islice(tasks, _CHUNK)):
        found = ((columns_of(name), details) for name, details in portion)
        rename(connection, [Renamed(names, False, details) for names, details in found if names is not None])


def columns_of(name: bytes) -> Columns | None:
    """The columns of the task that the name of a row stands for; None if it is none."""
    parts = name.split(b"\0")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None
