"""The newest state of every task in a journal's file, read while a bridge may be writing to it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bridge.errors import JournalError
from bridge.journal.portable import TaskCopy
from bridge.journal.sqlite.codec import decode, decode_key
from bridge.journal.sqlite.database import check_ours, explain
from bridge.journal.sqlite.engine_rows import has_details, read_details

_BUSY_SECONDS = 10.0
_NEWEST = """SELECT t.upstream, t.account, t.task_id, e.state, e.raw
    FROM tasks t LEFT JOIN events e ON e.offset = t.newest AND e.task = t.id ORDER BY t.id"""


def newest_states(path: Path) -> Iterator[TaskCopy | None]:
    """Each task with its newest state and details, as of one moment, those first seen first come first.

    Yields:
        None for a task whose state cannot be read.

    Raises:
        JournalError: It belongs to another program, or cannot be read.
    """
    if not path.is_file():
        raise JournalError(f"the journal {path} does not exist")
    # `rw` never creates a file; `ro` could not recover a -wal file that a killed bridge left.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with contextlib.closing(sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True)) as connection:
            if check_ours(connection, path):
                return
            connection.text_factory = bytes  # a text in place of bytes need not be UTF-8
            connection.execute("BEGIN")  # one moment for all statements
            described = has_details(connection)
            for upstream, account, task_id, document, raw in connection.execute(_NEWEST):
                try:
                    key = decode_key(upstream, account, task_id)
                    details = read_details(connection, [key]).get(key) if described else None
                    yield TaskCopy(key, decode(document, raw), details)
                except (JournalError, ValueError, TypeError, AttributeError):
                    yield None
    except sqlite3.Error as error:
        raise explain(error, path) from error
