"""What a file with damaged pages still holds, copied into a new file that takes its place.

The damaged file is kept beside it: other tools may read more of it. The copy has no epoch, as in
`bridge.journal.sqlite.backup`: events are missing, so a bridge that opens it begins a new one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bridge.errors import JournalError
from bridge.journal.sqlite.names import rebuild

KEPT_FILES = 3  # a disk that damages each new file must not fill up with old ones
BATCH = 500
MAX_SKIPS = 2_000  # attempts to find a readable row behind a damaged page

CURE = "check the disk; what is missing may be in a backup (docs/operations.md); delete the damaged file then"

logger = logging.getLogger(__name__)

_COLUMNS = {
    "tasks": "id, upstream, account, task_id, newest, kept, open, changed_at",
    "events": "offset, task, seen, state, raw",
}
_ENGINE_ROWS = "SELECT kind, name, expires, value FROM engine ORDER BY kind {}, name {}"
_PUT_ENGINE_ROW = "INSERT OR IGNORE INTO engine (kind, name, expires, value) VALUES (?, ?, ?, ?)"
_TIME = "INSERT INTO meta SELECT 'time', coalesce(max(changed_at), 0.0) FROM tasks"


def salvage(path: Path, create: Callable[[Path], sqlite3.Connection]) -> None:
    """Replace a damaged file by one with everything that can be read from it.

    Args:
        create: Opens a new file with the tables of a journal.

    Raises:
        JournalError: Nothing can be read, or as many damaged files as are kept lie beside it.
        sqlite3.Error: The copy could not be written; the damaged file is where it was.
        OSError: The same.
    """
    kept = next((one for one in _names(path) if not os.path.lexists(one)), None)
    if kept is None:
        raise JournalError(f"{KEPT_FILES} damaged files are kept beside it already")
    part = path.with_name(f"{path.name}.salvaged")
    try:
        with contextlib.closing(create(part)) as copy:
            saved = _copy(path, copy)
            copy.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if not saved["tasks"]:
            raise JournalError("nothing in it can be read")
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{kept}{suffix}")
        path.rename(kept)
        part.rename(path)
    finally:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{part}{suffix}").unlink(missing_ok=True)
    fields = {"file": str(path), "damaged_file": str(kept), **saved, "cure": CURE}
    logger.error("journal damaged", extra=fields)


def _names(path: Path) -> Iterator[Path]:
    for number in range(1, KEPT_FILES + 1):
        yield path.with_name(f"{path.name}.damaged-{number}")


def _copy(path: Path, copy: sqlite3.Connection) -> dict[str, int]:
    """Copy what can be read; how many rows of each table."""
    saved = {}
    with contextlib.closing(sqlite3.connect(path)) as damaged:
        damaged.text_factory = bytes
        copy.execute("BEGIN")
        for table, columns in _COLUMNS.items():
            marks = ", ".join("?" * len(columns.split(",")))
            statement = f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608 - names of our schema
            saved[table] = sum(copy.executemany(statement, rows).rowcount for rows in _rows(damaged, table))
        copy.executemany(_PUT_ENGINE_ROW, found := list(_engine_rows(damaged)))
        saved["engine"] = len(found)
        copy.execute("DELETE FROM events WHERE task NOT IN (SELECT id FROM tasks)")
        rebuild(copy)
        copy.execute(_TIME)
        copy.execute("COMMIT")
    return saved


def _engine_rows(damaged: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """What is before the first damaged page of the table, and what is behind the last one, perhaps twice."""
    for direction in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.DatabaseError, UnicodeDecodeError):
            for kind, *others in damaged.execute(_ENGINE_ROWS.format(direction, direction)):
                yield kind.decode(), *others


def _rows(damaged: sqlite3.Connection, table: str) -> Iterator[list[Any]]:
    """The rows of a table in batches, around the pages that cannot be read."""
    columns = _COLUMNS[table]
    key = columns.partition(",")[0]
    statement = f"SELECT {columns} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT ?"  # noqa: S608 - names of our schema
    last, batch, skip = -(2**63), BATCH, 1
    ends_at = _largest(damaged, table, key)
    for _ in range(MAX_SKIPS + ends_at // BATCH):
        try:
            rows = damaged.execute(statement, (last, batch)).fetchall()
        except sqlite3.DatabaseError:
            # First find the last row before the damage, then leave out more and more behind it.
            if batch > 1:
                batch = 1
            else:
                last, skip = max(last, 0) + skip, skip * 2
                if last > ends_at:
                    return
            continue
        if not rows:
            return
        yield rows
        last, skip = rows[-1][0], 1
        batch = min(batch * 2, BATCH)


def _largest(damaged: sqlite3.Connection, table: str, key: str) -> int:
    with contextlib.suppress(sqlite3.DatabaseError):
        (largest,) = damaged.execute(f"SELECT max({key}) FROM {table}").fetchone()  # noqa: S608 - names of our schema
        return int(largest or 0)
    return 10_000_000
