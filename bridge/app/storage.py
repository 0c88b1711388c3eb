"""The place where the settings say that states are recorded, opened for one command."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from bridge.app.replicas import redis_connect
from bridge.config.settings import SQLITE, Settings
from bridge.engine.base import Engine
from bridge.errors import EngineUnavailable, JournalError
from bridge.journal.sqlite.database import check_ours, explain
from bridge.replica.connection import Connect

_BUSY_SECONDS = 10.0


def journal_file(settings: Settings) -> Path:
    """The file of the journal.

    Raises:
        JournalError: It is in memory.
    """
    if not settings.journal.startswith(SQLITE):
        raise JournalError('with journal = "memory" nothing is stored: only a running bridge knows it')
    return Path(settings.journal.removeprefix(SQLITE))


@asynccontextmanager
async def engine_of(settings: Settings, connect: Connect | None) -> AsyncIterator[Engine]:
    """The engine of the settings, for one command.

    Args:
        connect: Opens another one.

    Raises:
        JournalError: It cannot be used, or ceased to answer.
    """
    try:
        engine = await (connect or redis_connect(settings))()
    except EngineUnavailable as error:
        raise JournalError(f"the engine {settings.engine} cannot be used: {error}") from error
    try:
        yield engine
    finally:
        await engine.close()


@contextlib.contextmanager
def opened_file(path: Path) -> Iterator[sqlite3.Connection]:
    """A journal's file, for one command; a bridge may be using it.

    Raises:
        JournalError: It is not there, or cannot be used.
    """
    if not path.is_file():
        raise JournalError(f"the journal {path} does not exist")
    # `rw` never creates a file; `ro` could not recover a -wal file that a killed bridge left.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    try:
        with contextlib.closing(
            sqlite3.connect(uri, timeout=_BUSY_SECONDS, uri=True, isolation_level=None)
        ) as connection:
            if check_ours(connection, path):
                raise JournalError(f"the journal {path} is empty")
            yield connection
    except sqlite3.Error as error:
        raise explain(error, path) from error


def has_engine_table(connection: sqlite3.Connection) -> bool:
    """Whether the file has the table; one of an older bridge gets it at the next start."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'engine'").fetchone()
    return bool(tables)
