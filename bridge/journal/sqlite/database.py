"""The journal's file: found fit to be written, or refused in one sentence that says what to do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

from bridge.errors import JournalError

APPLICATION_ID = 0x54454252  # "TEBR": tells our files from everybody else's
SCHEMA_VERSION = 1
LONGEST_HISTORY = 320  # events a task may have for a moment
LOCK_SUFFIX = "-lock"
BUSY_SECONDS = 1.0
PROBE_BYTES = 65_536
CHECKED_WHOLE_BYTES = 128 * 1024 * 1024  # above this only the tasks are checked at start: about a second

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value)",
    """CREATE TABLE tasks (
        id INTEGER PRIMARY KEY,
        upstream BLOB NOT NULL, account BLOB NOT NULL, task_id BLOB NOT NULL,
        newest INTEGER NOT NULL, kept INTEGER NOT NULL, open INTEGER NOT NULL, changed_at REAL NOT NULL,
        UNIQUE (upstream, account, task_id))""",
    "CREATE INDEX tasks_by_newest ON tasks (open, newest)",
    f"CREATE INDEX tasks_too_long ON tasks (kept) WHERE kept > {LONGEST_HISTORY}",
    """CREATE TABLE events (
        offset INTEGER PRIMARY KEY, task INTEGER NOT NULL, seen REAL NOT NULL,
        state BLOB NOT NULL, raw BLOB)""",
    "CREATE INDEX events_by_task ON events (task, offset)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_CANNOT_WRITE = "cannot be written; let the user the bridge runs as write this file and its directory"
_NO_ROOM = "finds no room on its disk; make room"
_NOT_OURS = "belongs to another program; give the journal a path of its own"
_DAMAGED = "is damaged; move it and its -wal and -shm files away to begin anew, or restore a copy"
_LOCKED = "is locked by another program; end that program or wait for it"
_SENTENCES = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database; give the journal a path of its own",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: _CANNOT_WRITE,
    sqlite3.SQLITE_PERM: _CANNOT_WRITE,
    sqlite3.SQLITE_CANTOPEN: _CANNOT_WRITE,
    sqlite3.SQLITE_FULL: _NO_ROOM,
    sqlite3.SQLITE_IOERR: "cannot be read or written; its disk fails, or has no room for the -shm file",
}
_SYSTEM_SENTENCES = {
    errno.EACCES: _CANNOT_WRITE,
    errno.EPERM: _CANNOT_WRITE,
    errno.EROFS: _CANNOT_WRITE,
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
}

Connect = Callable[[Path], sqlite3.Connection]


class Database:
    """A journal's file, open and ours alone.

    Attributes:
        connection: The one that writes.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int) -> None:
        self.path = path
        self.connection = connection
        self._lock = lock
        self._inode = path.stat().st_ino
        self._second: sqlite3.Connection | None = None

    def second_connection(self) -> sqlite3.Connection:
        """A connection that only reads, for one other thread."""
        self._second = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._second.execute("PRAGMA query_only = ON")
        return self._second

    def check_in_place(self) -> None:
        """See that the path still leads to the file we write.

        Raises:
            JournalError: It was moved or deleted, and what is written would be lost with us.
        """
        try:
            here = self.path.stat().st_ino == self._inode
        except OSError:
            here = False
        if not here:
            sentence = "was moved or deleted while in use; put it back, or restart the bridge"
            raise JournalError(f"the journal {self.path} {sentence}")

    def close(self) -> None:
        """Let go of the file; the lock last, or another bridge would find us still writing."""
        try:
            if self._second is not None:
                self._second.close()
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.connection.close()
            os.close(self._lock)


def explain(error: sqlite3.Error | OSError, path: Path) -> JournalError:
    """What went wrong, as one sentence of ours."""
    if isinstance(error, OSError):
        sentence = _SYSTEM_SENTENCES.get(error.errno or 0, f"cannot be used: {error.strerror or error}")
    else:
        code = getattr(error, "sqlite_errorcode", None) or 0
        sentence = _SENTENCES.get(code & 0xFF, f"cannot be used: {error}")
    return JournalError(f"the journal {path} {sentence}")


def connect(path: Path) -> sqlite3.Connection:
    """A connection that begins no transaction by itself and waits a little for a lock."""
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=512)


def open_database(path: Path, connect: Connect = connect) -> Database:
    """Open a journal's file, or make it.

    Args:
        path: Absolute; `:memory:` would mean something else to SQLite than a file of that name.

    Raises:
        JournalError: It cannot be used; the sentence names the path and what to do.
    """
    try:
        _check_place(path)
        lock = _lock(path)
        try:
            _make(path)
            connection = connect(path)
            try:
                _prepare(connection, path)
                return Database(path, connection, lock)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(lock)
            raise
    except (sqlite3.Error, OSError) as error:
        raise explain(error, path) from error


def probe(connection: sqlite3.Connection, size: int = PROBE_BYTES) -> None:
    """Write so many bytes and take them away again: says whether appends can succeed, and be synced.

    Raises:
        sqlite3.Error: They cannot.
    """
    if connection.in_transaction:  # a disk that fails may not even let us roll back
        connection.execute("ROLLBACK")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('probe', zeroblob(?))", (size,))
    connection.execute("DELETE FROM meta WHERE name = 'probe'")


def _check_place(path: Path) -> None:
    if "\0" in str(path):
        raise JournalError(f"the journal {str(path)!r} cannot be a path; take the zero character out of it")
    if not path.parent.is_dir():
        raise JournalError(f"the journal {path} needs the directory {path.parent}; make it first")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise JournalError(f"the journal {path} is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise JournalError(f"the journal {path} is not a regular file; give the journal a path of its own")


def _lock(path: Path) -> int:
    """Hold a file beside the database for as long as we live; the kernel lets go of it after a kill.

    Intentional: not SQLite's own exclusive mode, which would shut out our reading connection, and
    not a lock on the database itself, which some systems mix up with the locks SQLite takes.
    """
    lock = os.open(f"{path}{LOCK_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        sentence = "is in use by another bridge; end that one, or give this one a path of its own"
        raise JournalError(f"the journal {path} {sentence}") from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _make(path: Path) -> None:
    """A new file is for our eyes only: it holds links to results. -wal and -shm take over its mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def check_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Look before anything is written: a file that is not ours is left as it was.

    Returns:
        Whether it is empty, so that it can become a journal.

    Raises:
        JournalError: It is somebody else's, or of a bridge to come.
    """
    application_id, version = _number(connection, "application_id"), _number(connection, "user_version")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    fresh = application_id == 0 and version == 0 and tables == 0
    if not fresh and application_id != APPLICATION_ID:
        raise JournalError(f"the journal {path} {_NOT_OURS}")
    if version > SCHEMA_VERSION:
        newer = f"was written by a newer bridge (schema {version}, this one knows {SCHEMA_VERSION})"
        raise JournalError(f"the journal {path} {newer}; run that one, or give this one a path of its own")
    return fresh


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    fresh = check_ours(connection, path)
    if fresh:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    else:
        _check_health(connection, path)
    _tune(connection, path)
    if fresh:
        _create(connection)
    # a copy has no epoch; see `bridge.journal.backup`
    connection.execute("INSERT OR IGNORE INTO meta VALUES ('epoch', ?)", (secrets.token_hex(4),))
    probe(connection)


def _tune(connection: sqlite3.Connection, path: Path) -> None:
    """A log written ahead; that each append is synced (FULL) is set in `probe`, which comes last.

    Synced, so that not even a power cut takes back what was announced. It would take back offsets
    as well, which would then be given out a second time in the same epoch, and a client's cursor
    would skip news. Grouped commits make the sync cheap: it is paid once a group.
    """
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise JournalError(
            f"the journal {path} lies on a file system without shared memory; use a local disk"
        )
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('head', 0)")
    connection.execute("COMMIT")


def _check_health(connection: sqlite3.Connection, path: Path) -> None:
    size = _number(connection, "page_count") * _number(connection, "page_size")
    whole = size <= CHECKED_WHOLE_BYTES
    (verdict,) = connection.execute(f"PRAGMA quick_check({'1' if whole else 'tasks'})").fetchone()
    if verdict != "ok":
        raise JournalError(f"the journal {path} {_DAMAGED} ({str(verdict).splitlines()[-1]})")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (value,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(value)
