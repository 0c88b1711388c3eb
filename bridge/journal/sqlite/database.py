"""The journal's file: checked, locked and opened, or rejected in one sentence that says what to do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bridge.errors import JournalError
from bridge.journal.sqlite.codec import LOST_MARK
from bridge.journal.sqlite.names import rebuild
from bridge.journal.sqlite.salvage import salvage
from bridge.journal.sqlite.wal import committed_frames, recovered_frames

APPLICATION_ID = 0x54454252  # "TEBR": identifies our files
SCHEMA_VERSION = 1
MAX_HISTORY = 320  # events before the oldest are deleted; well above 256, so that not each append deletes
LOCK_SUFFIX = "-lock"
BUSY_SECONDS = 1.0
PROBE_BYTES = 65_536
CHECKED_WHOLE_BYTES = (
    128 * 1024 * 1024
)  # above this only the table of tasks is checked at start; takes about a second

_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value)",
    """CREATE TABLE tasks (
        id INTEGER PRIMARY KEY,
        upstream BLOB NOT NULL, account BLOB NOT NULL, task_id BLOB NOT NULL,
        newest INTEGER NOT NULL, kept INTEGER NOT NULL, open INTEGER NOT NULL, changed_at REAL NOT NULL,
        UNIQUE (upstream, account, task_id))""",
    "CREATE INDEX tasks_by_newest ON tasks (open, newest)",
    f"CREATE INDEX tasks_too_long ON tasks (kept) WHERE kept > {MAX_HISTORY}",
    """CREATE TABLE events (
        offset INTEGER PRIMARY KEY, task INTEGER NOT NULL, seen REAL NOT NULL,
        state BLOB NOT NULL, raw BLOB)""",
    "CREATE INDEX events_by_task ON events (task, offset)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
LOST_INDEX = "events_lost"
# Before the status comes only the alias.
IS_LOST = f"instr(substr(state, 1, 16384), x'{LOST_MARK.hex()}') > 0"
_LATER_SCHEMA = (
    f"CREATE INDEX IF NOT EXISTS {LOST_INDEX} ON events (offset) WHERE {IS_LOST}",
    "CREATE INDEX IF NOT EXISTS tasks_by_account ON tasks (upstream, account, open, newest)",
    # What only an engine knows (versions, small documents, jobs, ...), and what ended tasks taught.
    """CREATE TABLE IF NOT EXISTS engine (
        kind TEXT NOT NULL, name BLOB NOT NULL, expires INTEGER NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (kind, name)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS engine_expiry ON engine (expires) WHERE expires > 0",
)
PLACE_INDEX = "tasks_by_place"
# By first state: the id of a task is the offset of that, and smaller in files of versions that counted.
_CREATE_PLACE_INDEX = f"CREATE INDEX IF NOT EXISTS {PLACE_INDEX} ON tasks (upstream, account)"
_NAMES_TABLE = "task_names"
_HAS = "SELECT 1 FROM sqlite_master WHERE name = ?"
_NAMES_SCHEMA = (
    f"""CREATE TABLE {_NAMES_TABLE} (
        upstream BLOB NOT NULL, account BLOB NOT NULL, kind TEXT NOT NULL, name BLOB NOT NULL,
        task INTEGER NOT NULL, PRIMARY KEY (upstream, account, kind, name, task)) WITHOUT ROWID""",
    f"CREATE INDEX task_names_by_task ON {_NAMES_TABLE} (task)",
    # Older versions delete tasks too.
    f"""CREATE TRIGGER task_names_of_deleted AFTER DELETE ON tasks
        BEGIN DELETE FROM {_NAMES_TABLE} WHERE task = OLD.id; END""",  # noqa: S608 - built from constants
)
_LATER_COLUMN = "ALTER TABLE tasks ADD COLUMN first_seen REAL"  # Unix seconds; NULL before it
_CANNOT_WRITE = (
    "cannot be written; give the user the bridge runs as write access to this file and its directory"
)
_NO_ROOM = "has no space left on its disk; free some"
_NOT_OURS = "belongs to another program; give the journal a path of its own"
_DAMAGED = "is damaged; restore a copy, or move it and its -wal and -shm files away to start an empty journal"
_LOCKED = "is locked by another program; stop that program or wait for it"
_SENTENCES = {
    sqlite3.SQLITE_NOTADB: "is not a SQLite database; give the journal a path of its own",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_READONLY: _CANNOT_WRITE,
    sqlite3.SQLITE_PERM: _CANNOT_WRITE,
    sqlite3.SQLITE_CANTOPEN: _CANNOT_WRITE,
    sqlite3.SQLITE_FULL: _NO_ROOM,
    sqlite3.SQLITE_IOERR: "cannot be read or written; its disk fails, or has no space for the -shm file",
}
_SYSTEM_SENTENCES = {
    errno.EACCES: _CANNOT_WRITE,
    errno.EPERM: _CANNOT_WRITE,
    errno.EROFS: _CANNOT_WRITE,
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
}

_ROW_DAMAGE = re.compile("[A-Z]+ value in ")  # NULL, or of another type: costs that row
_ACKNOWLEDGED = re.compile(rb"([A-Za-z0-9]{1,32}) *([0-9]{18})\n")

Connect = Callable[[Path], sqlite3.Connection]


class Acknowledged(NamedTuple):
    """A position that the followers of a journal may have been passed."""

    epoch: str
    offset: int


class Database:
    """A journal's file, open and locked.

    Attributes:
        connection: The one that writes.
        lost_commits: Whether commits in the write-ahead log could not be read.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: int, *, lost_commits: bool = False
    ) -> None:
        self.path = path
        self.connection = connection
        self.lost_commits = lost_commits
        self._lock = lock
        self._inode = path.stat().st_ino
        self._second: sqlite3.Connection | None = None

    def second_connection(self) -> sqlite3.Connection:
        """Open a read-only connection for one other thread."""
        # Used by the reader's thread alone, but closed by the writer's.
        self._second = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._second.execute("PRAGMA query_only = ON")
        return self._second

    def acknowledge(self, epoch: str, offset: int) -> None:
        """Write beside the database which offset the followers may have been passed.

        Not synced: after a kill it is exact, after a power failure it may be an older one. It shows what the
        database itself cannot: that it is an older copy, or has lost its -wal file.
        """
        with contextlib.suppress(OSError):  # a full disk must not fail the append that succeeded
            os.pwrite(self._lock, b"%-32s %018d\n" % (epoch.encode(), offset), 0)

    def acknowledged(self) -> Acknowledged | None:
        """What `acknowledge` wrote last, in this process or an earlier one."""
        match = _ACKNOWLEDGED.fullmatch(os.pread(self._lock, 64, 0))
        return Acknowledged(match[1].decode(), int(match[2])) if match else None

    def check_in_place(self) -> None:
        """Check that the path still names the open file.

        Raises:
            JournalError: It was moved or deleted: everything written from now on would end with the process.
        """
        # SQLite keeps writing to a deleted or renamed file without any error.
        try:
            here = self.path.stat().st_ino == self._inode
        except OSError:
            here = False
        if not here:
            sentence = "was moved or deleted while in use; put it back, or restart the bridge"
            raise JournalError(f"the journal {self.path} {sentence}")

    def close(self) -> None:
        """Release the file; the lock last, because another bridge may open the file as soon as it is free."""
        try:
            if self._second is not None:
                self._second.close()
            # Empties the -wal file, so that a copy of the main file alone is complete.
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.connection.close()
            os.close(self._lock)


def explain(error: sqlite3.Error | OSError, path: Path) -> JournalError:
    """A JournalError that names the path, the reason and what to do."""
    if isinstance(error, OSError):
        sentence = _SYSTEM_SENTENCES.get(error.errno or 0, f"cannot be used: {error.strerror or error}")
    else:
        code = getattr(error, "sqlite_errorcode", None) or 0
        # Extended codes such as SQLITE_IOERR_FSYNC have the primary code in their low byte.
        sentence = _SENTENCES.get(code & 0xFF, f"cannot be used: {error}")
    return JournalError(f"the journal {path} {sentence}")


def connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions that waits up to a second for a lock."""
    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=512)


def open_database(path: Path, connect: Connect = connect) -> Database:
    """Open a journal's file; create it if it does not exist.

    Args:
        path: Absolute; SQLite would not take a relative `:memory:` for a file of that name.

    Raises:
        JournalError: It cannot be used; the message names the path and what to do.
    """
    try:
        _check_place(path)
        # Before the file is created or read: two bridges that start together must not both prepare it.
        lock = _lock(path)
        try:
            _make(path)
            committed = committed_frames(Path(f"{path}-wal"))
            connection = _connect_or_salvage(path, connect)
            try:
                _prepare(connection, path)
                lost = committed > 0 and recovered_frames(connection) < committed
                # Turns on syncing each commit, so that not even a power failure loses an event that
                # clients have received. Its offset would be assigned a second time in the same epoch, and
                # the cursor of such a client would skip the new event. Group commits make this cheap: one
                # sync per group.
                probe(connection)
                return Database(path, connection, lock, lost_commits=lost)
            except BaseException:
                connection.close()
                raise
        except BaseException:
            os.close(lock)
            raise
    except (sqlite3.Error, OSError) as error:
        raise explain(error, path) from error


def _connect_or_salvage(path: Path, connect: Connect) -> sqlite3.Connection:
    """A connection to the file, or to one with what could be read from it."""
    connection = connect(path)
    try:
        damage = None if check_ours(connection, path) else _damage(connection)
    except BaseException:
        connection.close()
        raise
    if damage is None:
        return connection
    connection.close()
    try:
        salvage(path, _create)
    except (JournalError, sqlite3.Error, OSError) as error:
        raise JournalError(f"the journal {path} {_DAMAGED} ({damage}; {error})") from error
    return connect(path)


def _create(path: Path) -> sqlite3.Connection:
    """A new file with the tables of a journal."""
    path.unlink(missing_ok=True)
    _make(path)
    connection = connect(path)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def probe(connection: sqlite3.Connection, size: int = PROBE_BYTES) -> None:
    """Write `size` bytes and delete them: fails if appends would fail, and turns syncing on.

    Raises:
        sqlite3.Error: The write failed.
    """
    if connection.in_transaction:  # left open if the disk failed during a rollback
        connection.execute("ROLLBACK")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('probe', zeroblob(?))", (size,))
    connection.execute("DELETE FROM meta WHERE name = 'probe'")


def has_place_index(connection: sqlite3.Connection) -> bool:
    """Whether whole accounts can be listed."""
    return connection.execute(_HAS, (PLACE_INDEX,)).fetchone() is not None


def create_place_index(connection: sqlite3.Connection) -> None:
    """Let whole accounts be listed: from now on each new task costs a row more. Seconds for a million tasks.

    Raises:
        sqlite3.Error: It is not created; nothing else has changed.
    """
    connection.execute(_CREATE_PLACE_INDEX)


def _check_place(path: Path) -> None:
    if "\0" in str(path):
        raise JournalError(f"the journal {str(path)!r} is not a valid path: it contains a null character")
    if not path.parent.is_dir():
        raise JournalError(f"the journal {path} needs the directory {path.parent}; create it first")
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise JournalError(f"the journal {path} is a directory; name a file in it")
    if not stat.S_ISREG(mode):
        raise JournalError(f"the journal {path} is not a regular file; give the journal a path of its own")


def _lock(path: Path) -> int:
    """Lock a file beside the database for the life of the process; the kernel unlocks it after a kill.

    Intentional: not SQLite's exclusive mode, which would lock out our reading connection, and not a lock on
    the database itself, which some systems confuse with the locks SQLite takes.
    """
    lock = os.open(f"{path}{LOCK_SUFFIX}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        sentence = "is in use by another bridge; stop that one, or give this one a path of its own"
        raise JournalError(f"the journal {path} {sentence}") from error
    except BaseException:
        os.close(lock)
        raise
    return lock


def _make(path: Path) -> None:
    """Create the file, readable by our user only: it holds links to results. -wal and -shm get its mode."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def check_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Check whose file it is before anything is written: a foreign file stays unchanged.

    Returns:
        Whether it is empty, so that it can become a journal.

    Raises:
        JournalError: It belongs to another program, or to a newer bridge.
    """
    application_id, version = _number(connection, "application_id"), _number(connection, "user_version")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    fresh = application_id == 0 and version == 0 and tables == 0
    if not fresh and application_id != APPLICATION_ID:
        raise JournalError(f"the journal {path} {_NOT_OURS}")
    if version > SCHEMA_VERSION:
        newer = f"was written by a newer bridge (schema {version}, this one knows {SCHEMA_VERSION})"
        raise JournalError(
            f"the journal {path} {newer}; run that version, or give this one a path of its own"
        )
    return fresh


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new file; prepare the connection for those of an old one."""
    fresh = check_ours(connection, path)
    if fresh:
        # Has an effect only before the first table exists.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise JournalError(f"the journal {path} is on a file system without shared memory; use a local disk")
    connection.execute("PRAGMA temp_store = MEMORY")
    # Many distributions build SQLite so that it overwrites what it deletes: to forget a large document, each
    # of its pages is then held in memory and written again. With this, only pages that are written anyway.
    connection.execute("PRAGMA secure_delete = FAST")
    connection.execute(f"PRAGMA journal_size_limit = {64 * 1024 * 1024}")
    if fresh:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('head', 0)")
        connection.execute("COMMIT")
    # Older versions keep the indexes up to date without knowing them, and leave the column empty.
    columns = {name for _, name, *_ in connection.execute("PRAGMA table_info(tasks)")}
    if "first_seen" not in columns:
        connection.execute(_LATER_COLUMN)
    for statement in _LATER_SCHEMA:
        connection.execute(statement)
    if not _has_names(connection):
        connection.execute("BEGIN IMMEDIATE")
        for statement in _NAMES_SCHEMA:
            connection.execute(statement)
        rebuild(connection)
        connection.execute("COMMIT")


def _damage(connection: sqlite3.Connection) -> str | None:
    """What is wrong with the pages of the file; None if nothing is, or only with single rows."""
    # A damaged table of tasks fails every append, damaged names each deletion; damage elsewhere shows when
    # that event is read.
    size = _number(connection, "page_count") * _number(connection, "page_size")
    checked = ["100"] if size <= CHECKED_WHOLE_BYTES else ["tasks"]
    try:
        if size > CHECKED_WHOLE_BYTES and _has_names(connection):
            checked.append(_NAMES_TABLE)
        results = [
            str(result) for what in checked for (result,) in connection.execute(f"PRAGMA quick_check({what})")
        ]
    except sqlite3.DatabaseError as error:
        if (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        return str(error)
    damage = (one.splitlines()[-1] for one in results if one != "ok" and not _ROW_DAMAGE.match(one))
    return next(damage, None)


def _has_names(connection: sqlite3.Connection) -> bool:
    """Whether the file has the index by tags and groups; not one of an older version."""
    return connection.execute(_HAS, (_NAMES_TABLE,)).fetchone() is not None


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    (value,) = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(value)
