"""Tags and groups of a store in its file: a process that is alone finds tasks by them (`names`)."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Collection, Iterable, Sequence

from bridge.core.task import TaskKey
from bridge.engine.store.changes import PartKind
from bridge.engine.store.listings import names_of
from bridge.engine.store.rows import StoreRow, details_of
from bridge.journal.sqlite.engine_rows import task_name
from bridge.journal.sqlite.names import Renamed, columns_of, named_tasks, rename, with_state

Names = list[tuple[str, str]]

_STEP = 500


class StoreNames:
    """Keeps the index in step with the rows of tasks.

    It remembers what is on disk: a task's row is written with each of its states, and its tags change rarely.
    """

    def __init__(self) -> None:
        self._indexed: dict[bytes, Names] = {}  # by the name of the task's row
        self._unseen: dict[bytes, bytes | None] = {}  # details of tasks without a state: they are not indexed
        self._written: tuple[dict[bytes, Names], dict[bytes, bytes | None], list[bytes]] = ({}, {}, [])

    def load(self, connection: sqlite3.Connection) -> None:
        """Take in what the file says.

        Raises:
            sqlite3.Error: It cannot be read.
        """
        tasks = iter(list(named_tasks(connection)))
        while portion := dict(itertools.islice(tasks, _STEP)):
            seen = with_state(connection, [c for name in portion if (c := columns_of(name)) is not None])
            for name, details in portion.items():
                if columns_of(name) in seen:
                    self._indexed[name] = names_of(details)
                else:
                    self._unseen[name] = details

    def write(
        self,
        connection: sqlite3.Connection,
        rows: Iterable[StoreRow],
        states: Iterable[TaskKey],
        forgotten: Collection[TaskKey],
    ) -> None:
        """Index the tasks of a batch whose states are written, within its transaction; then call `written`.

        Raises:
            sqlite3.Error: The transaction has to be rolled back.
        """
        gone = [task_name(key) for key in forgotten]
        changed: dict[bytes, bytes | None] = {}
        for name in map(task_name, states) if self._unseen else ():
            if name in self._unseen:
                changed[name] = self._unseen[name]
        for row in rows:
            if row.kind == PartKind.TASK:
                value = row.value or b""
                known = row.name in self._indexed or row.name in self._unseen
                if known or b"tags" in value or b"group" in value:
                    changed[row.name] = details_of(value)
        renamed: list[Renamed] = []
        for name, details in changed.items():
            before = None if name in gone else self._indexed.get(name)
            columns = columns_of(name)
            if columns is not None and (names_of(details) != (before or []) or name in self._unseen):
                renamed.append(Renamed(columns, before is not None, details))
        if not renamed:
            self._written = ({}, {}, gone)
            return
        rename(connection, renamed)
        self._written = (*self._split(connection, renamed), gone)

    def forgotten(self, keys: Iterable[TaskKey]) -> None:
        """Retention has deleted these tasks, with their names."""
        for name in map(task_name, keys) if self._indexed else ():
            self._indexed.pop(name, None)

    def _split(
        self, connection: sqlite3.Connection, renamed: Sequence[Renamed]
    ) -> tuple[dict[bytes, Names], dict[bytes, bytes | None]]:
        """Those that have a state, and are indexed, and those that have none yet."""
        seen = with_state(connection, [task.names for task in renamed])
        indexed, unseen = {}, {}
        for task in renamed:
            name = b"\0".join(task.names)
            if task.names in seen:
                indexed[name] = names_of(task.details)
            else:
                unseen[name] = task.details
        return indexed, unseen

    def written(self) -> None:
        """The transaction is committed."""
        indexed, unseen, gone = self._written
        self._written = ({}, {}, [])
        for name in gone:
            self._indexed.pop(name, None)
            self._unseen.pop(name, None)
        for name, names in indexed.items():
            self._unseen.pop(name, None)
            if names:
                self._indexed[name] = names
            else:
                self._indexed.pop(name, None)
        self._unseen |= unseen
