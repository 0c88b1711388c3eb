"""A copy of a journal's file, taken while a bridge writes it, that a bridge may later begin with.

A copy holds no epoch; whoever opens it gives it one, each time anew. A bridge that began with an old copy
under the old epoch would give offsets out a second time, and a client that has seen the first ones would
take news for old: a final state could pass it by.
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
    """Copy the journal at `path` to a new file, as it stands at one moment; the bridge goes on meanwhile.

    Returns:
        How many states the copy holds.

    Raises:
        JournalError: There is no copy; the sentence says why.
    """
    if not path.is_file():
        raise JournalError(f"the journal {path} is not there")
    taken = next((f"{copy}{suffix}" for suffix in _FILES if os.path.lexists(f"{copy}{suffix}")), None)
    if taken is not None:
        raise JournalError(f"{taken} is there already; give the copy a path of its own")
    part = copy.with_name(f"{copy.name}.part")
    try:
        _make(part)
        try:
            _copy(path, part)
            states = _forget_epoch(part)
            part.rename(copy)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except FileExistsError:
        raise JournalError(f"{part} is there: of another copy under way, or of one that died") from None
    except OSError as error:
        raise explain(error, part) from error
    return states


def _make(part: Path) -> None:
    """SQLite takes an empty file as it is: made by us, only our user can read it."""
    os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _copy(path: Path, part: Path) -> None:
    """Intentional: not SQLite's backup calls, which begin anew whenever the bridge writes meanwhile."""
    place = f"{path.absolute().as_uri()}?mode=rw"  # it never makes a file; read-only it could not tidy up
    try:
        with contextlib.closing(sqlite3.connect(place, timeout=_BUSY_SECONDS, uri=True)) as connection:
            if check_ours(connection, path):
                raise JournalError(f"the journal {path} is empty")
            connection.execute("VACUUM INTO ?", (str(part.absolute()),))
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _forget_epoch(part: Path) -> int:
    """Make it a copy, and durable: this commit is the first that is synced."""
    try:
        with contextlib.closing(sqlite3.connect(part)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            with connection:
                connection.execute("DELETE FROM meta WHERE name = 'epoch'")
            (states,) = connection.execute("SELECT count(*) FROM events").fetchone()
    except sqlite3.Error as error:
        raise explain(error, part) from error
    return int(states)
