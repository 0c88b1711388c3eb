"""A disk that fills up, fails and stalls when a test says so, under a journal's writing connection."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from bridge.core.event import Event, Notice
from bridge.core.task import TaskKey
from bridge.journal.sqlite.journal import SqliteJournal
from tests.fakes.clock import FakeClock

_FAILURES = {sqlite3.SQLITE_IOERR: "disk I/O error", sqlite3.SQLITE_FULL: "database or disk is full"}
_PLENTY = 1_000_000_000


class Disk:
    """Give its `connect` to a journal."""

    def __init__(self) -> None:
        self.turning = threading.Event()
        self.turning.set()
        self.met = threading.Event()  # a statement has come
        self._failing: tuple[tuple[str, ...], int] | None = None
        self._pages = _PLENTY
        self.synced = 0  # how the newest events were written: 1 NORMAL, 2 FULL

    def connect(self, path: Path) -> sqlite3.Connection:
        """A connection over this disk."""
        disk = self

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
                disk.met.set()
                disk.turning.wait()
                disk.meet(statement)
                super().execute(f"PRAGMA max_page_count = {disk._pages}")
                cursor = super().execute(statement, values)
                if statement.startswith("INSERT INTO events"):
                    (disk.synced,) = super().execute("PRAGMA synchronous").fetchone()
                return cursor

        return sqlite3.connect(path, isolation_level=None, factory=Connection)

    def meet(self, statement: str) -> None:
        """Fail if it is time to."""
        if self._failing is not None and statement.startswith(self._failing[0]):
            error = sqlite3.OperationalError(_FAILURES[self._failing[1]])
            error.sqlite_errorcode = self._failing[1]
            raise error

    def fail(self, *statements: str, code: int = sqlite3.SQLITE_IOERR) -> None:
        """From now on fail at statements that begin like one of these."""
        self._failing = (statements, code)

    def fill(self) -> None:
        """No page more than there are."""
        self._pages = 1

    def mend(self) -> None:
        """Work again, with room."""
        self._failing, self._pages = None, _PLENTY


class Witness:
    """A follower that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[Event | Notice | float] = []

    @property
    def offsets(self) -> list[int]:
        """Of the events."""
        return [one.cursor.offset for one in self.heard if isinstance(one, Event)]

    def recorded(self, event: Event) -> None:
        """Hear."""
        self.heard.append(event)

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """Hear."""
        self.heard.append(notice)


@contextlib.asynccontextmanager
async def opened(path: Path, clock: FakeClock | None = None, **options: Any) -> AsyncIterator[SqliteJournal]:
    """A journal that is closed in the end."""
    journal = await SqliteJournal.open(path, clock or FakeClock(), **{"retention_seconds": 86_400, **options})
    try:
        yield journal
    finally:
        await journal.close()


@contextlib.contextmanager
def without_privileges() -> Iterator[None]:
    """Let file modes mean something to root as well: the thread lays down its capabilities."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    without = (ctypes.c_uint32 * 6)(0, *before[1:3], 0, *before[4:6])
    assert libc.capset(header, without) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0
