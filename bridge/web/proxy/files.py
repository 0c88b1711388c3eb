"""Which task a result call is about where it names a file instead of the task."""

from __future__ import annotations

from collections import OrderedDict

from bridge.core.task import TaskKey
from bridge.dialects.dialect import Dialect

FileName = tuple[str, str, str]
"""Upstream, account, and what the result call names."""


class ResultFiles:
    """Which task a result call is about that names a file of it, learned from the documents clients get."""

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._keys: OrderedDict[FileName, TaskKey] = OrderedDict()

    def remember(self, dialect: Dialect, key: TaskKey, document: bytes | None) -> None:
        """Learn from the document of a status call."""
        name = dialect.result_name(document) if document is not None else None
        if name is None:
            return
        self._keys[(key.upstream, key.account, name)] = key
        self._keys.move_to_end((key.upstream, key.account, name))
        if len(self._keys) > self._size:
            self._keys.popitem(last=False)

    def task_of(self, name: FileName) -> TaskKey | None:
        """The task; None if no client was given a document that names the file."""
        return self._keys.get(name)
