"""A copy of a journal's file, made while a bridge writes to it, from which a bridge can start.

A copy holds no epoch; each bridge that opens it creates a new one. Started under the old epoch, a bridge
would assign offsets a second time, and a client that has seen the first ones would take new events for old:
a final state could pass it by.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from bridge.errors import JournalError
from bridge.journal.sqlite.database import check_ours, explain

_BUSY_SECONDS = 10.0
_FILES = ("", "-wal", "-shm", "-lock")


def back_up(path: Path, copy: Path) -> int:
    """Copy the journal at `path` to a new file, as of one moment; safe while the bridge is running.

    Returns:
        How many states the copy holds.

    Raises:
        JournalError: No copy was made; the message says why.
    """
    if not path.is_file():
        raise JournalError(f"the journal {path} does not exist")
    taken = next((f"{copy}{suffix}" for suffix in _FILES if os.path.lexists(f"{copy}{suffix}")), None)
    if taken is not None:
        raise JournalError(f"{taken} already exists; give the copy a path of its own")
    part = copy.with_name(f"{copy.name}.part")
    try:
        # SQLite accepts an empty file. Created here, only our user can read it.
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            _copy(path, part)
            states = _forget_epoch(part)
            part.rename(copy)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise JournalError(
            f"{part} exists: another copy is running, or one was interrupted; delete the file then"
        ) from None
    except OSError as error:
        raise explain(error, part) from error
    return states


def _copy(path: Path, part: Path) -> None:
    """Intentional: not SQLite's backup API, which starts over whenever the bridge writes meanwhile."""
    # `rw` never creates a file; `ro` could not recover a -wal file that a killed bridge left.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with contextlib.closing(sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True)) as connection:
            if check_ours(connection, path):
                raise JournalError(f"the journal {path} is empty")
            connection.execute("VACUUM INTO ?", (str(part.absolute()),))
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _forget_epoch(part: Path) -> int:
    """Delete the epoch, and make the copy durable: this commit is the first that is synced."""
    try:
        with contextlib.closing(sqlite3.connect(part)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                connection.execute("DELETE FROM meta WHERE name = 'epoch'")
            (states,) = connection.execute("SELECT count(*) FROM events").fetchone()
    except sqlite3.Error as error:
        raise explain(error, part) from error
    return int(states)
