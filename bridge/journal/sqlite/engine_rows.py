"""The table `engine` of a journal's file: parts of a store as rows, beside the states.

A keeper of several workers has everything there that is not a state (`bridge.journal.sqlite.store_file`).
A process that is alone has its ledger there (`bridge.journal.sqlite.ledger`), what tasks were submitted with,
and what ended tasks taught (`bridge.journal.sqlite.learned_rows`): so they can take turns on a file.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Sequence

from bridge.core.task import TaskKey
from bridge.engine.store.changes import PartKind
from bridge.engine.store.rows import StoreRow, details_of, document_of
from bridge.journal.sqlite.codec import encode_key

EXPIRED_STEP = 256

_PUT = "INSERT OR REPLACE INTO engine (kind, name, expires, value) VALUES {}"
_DELETE = "DELETE FROM engine WHERE kind = ? AND name IN ({})"
_CHUNK = 128
# Another program's texts need not be UTF-8: reading one would fail the whole statement.
TYPED = "typeof(name) = 'blob' AND typeof(expires) = 'integer' AND typeof(value) = 'blob'"
_LEDGER = (PartKind.DOCUMENT, PartKind.SAMPLES, PartKind.OPERATION, PartKind.JOB, PartKind.HOLD)
_OF_KIND = f"SELECT kind, name, expires, value FROM engine WHERE kind = ? AND {TYPED}"  # noqa: S608 - built from constants
_NOT_OF_LEDGER = (b"runs:", b"alias:", b"refused:", b"callbacks:", b"key:")
"""What tasks taught, and what replicas know of one another's calls, are small documents and samples too."""

_VALUES = f"SELECT name, value FROM engine WHERE kind = ? AND name IN ({{}}) AND {TYPED}"  # noqa: S608 - the same
_VALUE = f"SELECT value FROM engine WHERE kind = ? AND name = ? AND {TYPED}"  # noqa: S608 - the same
_TABLE = "SELECT 1 FROM sqlite_master WHERE name = 'engine'"
_ANY = "SELECT 1 FROM engine WHERE kind = ? LIMIT 1"
_EXPIRED = "SELECT kind, name FROM engine WHERE expires > 0 AND expires < ? LIMIT ?"


def put_rows(connection: sqlite3.Connection, rows: Iterable[StoreRow]) -> None:
    """Write rows, or delete those without a value, within a transaction; of one name the last one counts.

    Raises:
        sqlite3.Error: The transaction has to be rolled back.
    """
    newest = {(row.kind, row.name): row for row in rows}
    present = [row for row in newest.values() if row.value is not None]
    for start in range(0, len(present), _CHUNK):
        chunk = present[start : start + _CHUNK]
        values = list(itertools.chain.from_iterable(chunk))
        connection.execute(_PUT.format(", ".join(["(?, ?, ?, ?)"] * len(chunk))), values)
    gone: defaultdict[str, list[bytes]] = defaultdict(list)
    for row in newest.values():
        if row.value is None:
            gone[row.kind].append(row.name)
    for kind, names in gone.items():
        delete_rows(connection, kind, names)


def delete_rows(connection: sqlite3.Connection, kind: str, names: Sequence[bytes]) -> None:
    """Delete rows of one kind, within a transaction.

    Raises:
        sqlite3.Error: The transaction has to be rolled back.
    """
    for start in range(0, len(names), _CHUNK):
        chunk = names[start : start + _CHUNK]
        connection.execute(_DELETE.format(", ".join("?" * len(chunk))), (kind, *chunk))


def delete_expired(connection: sqlite3.Connection, now: int) -> bool:
    """Delete a step of rows that have expired, within a transaction.

    Args:
        now: Microseconds.

    Returns:
        Whether there may be more.

    Raises:
        sqlite3.Error: The transaction has to be rolled back.
    """
    expired: defaultdict[str, list[bytes]] = defaultdict(list)
    rows = connection.execute(_EXPIRED, (now, EXPIRED_STEP)).fetchall()
    for kind, name in rows:
        expired[kind].append(name)
    for kind, names in expired.items():
        delete_rows(connection, kind, names)
    return len(rows) == EXPIRED_STEP


def has_expired(connection: sqlite3.Connection, now: int) -> bool:
    """Whether any row has expired; costs no transaction.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    return connection.execute(_EXPIRED, (now, 1)).fetchone() is not None


def ledger_rows(connection: sqlite3.Connection) -> list[StoreRow]:
    """What the ledger of a process that is alone consists of.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    return [
        StoreRow(*row)
        for kind in _LEDGER
        for row in connection.execute(_OF_KIND, (kind.value,))
        if not (kind in (PartKind.DOCUMENT, PartKind.SAMPLES) and row[1].startswith(_NOT_OF_LEDGER))
    ]


def has_details(connection: sqlite3.Connection) -> bool:
    """Whether any task may have been submitted with details; not in a file of a version without the table.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    if connection.execute(_TABLE).fetchone() is None:
        return False
    return connection.execute(_ANY, (PartKind.TASK.value,)).fetchone() is not None


def read_details(connection: sqlite3.Connection, keys: Iterable[TaskKey]) -> dict[TaskKey, bytes]:
    """What some tasks were submitted or registered with; tasks without it are left out.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    by_name = {task_name(key): key for key in keys}
    found = {}
    for name, value in task_values(connection, by_name.values()).items():
        details = details_of(value)
        if details is not None:
            found[by_name[name]] = details
    return found


def task_values(connection: sqlite3.Connection, keys: Iterable[TaskKey]) -> dict[bytes, bytes]:
    """The rows of some tasks, by their names.

    Raises:
        sqlite3.Error: They cannot be read.
    """
    found: dict[bytes, bytes] = {}
    names = [task_name(key) for key in keys]
    for start in range(0, len(names), _CHUNK):
        chunk = names[start : start + _CHUNK]
        marks = ", ".join("?" * len(chunk))
        found.update(connection.execute(_VALUES.format(marks), (PartKind.TASK.value, *chunk)))
    return found


def task_name(key: TaskKey) -> bytes:
    """The name of a task's row."""
    return b"\0".join(encode_key(key))


def read_document(connection: sqlite3.Connection, name: str) -> bytes | None:
    """A small document, expired or not; None for none.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    row = connection.execute(_VALUE, (PartKind.DOCUMENT.value, name.encode())).fetchone()
    return document_of(row[0]) if row is not None else None
