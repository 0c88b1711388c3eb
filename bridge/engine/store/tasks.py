"""What the engine holds of each task, and how long."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator

from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import End, Past, Record, Stamp
from bridge.engine.store.listings import Listings

TASK_BYTES = 1200  # without documents, measured


class TaskRecord:
    """A record that changes; see `Record` for the fields."""

    __slots__ = (
        "called_at",
        "called_back",
        "confirmation",
        "details",
        "digest",
        "document",
        "due",
        "end",
        "first_seen",
        "forgotten",
        "key",
        "notices",
        "offset",
        "owner",
        "past",
        "persistent",
        "polled_at",
        "raw",
        "session",
        "size",
        "touched_at",
        "version",
    )

    def __init__(self, key: TaskKey, now: int) -> None:
        self.key = key
        self.owner = ""
        self.version = 0
        self.session = ""
        self.offset = 0
        self.end = End.OPEN
        self.digest = b""
        self.document: bytes | None = None
        self.raw: bytes | None = None
        self.persistent = False
        self.called_back = False
        self.notices: dict[str, bytes] = {}
        self.due = self.polled_at = 0
        self.confirmation: Confirmation | None = None
        self.first_seen = 0
        self.details: bytes | None = None
        self.forgotten = 0
        self.called_at = 0
        self.touched_at = now
        self.size = TASK_BYTES
        self.past: deque[Past] = deque()

    @property
    def stamp(self) -> Stamp:
        """Of the newest state."""
        return Stamp(self.version, self.session)

    @property
    def has_content(self) -> bool:
        """Whether anything was recorded of it, be it only what it is registered with."""
        return self.version > 0 or self.details is not None

    def record(self) -> Record:
        """As it is now."""
        return Record(
            key=self.key,
            owner=self.owner,
            version=self.version,
            session=self.session,
            offset=self.offset,
            end=self.end,
            digest=self.digest,
            document=self.document,
            raw=self.raw,
            persistent=self.persistent,
            called_back=self.called_back,
            notices=dict(self.notices),
            due=self.due,
            polled_at=self.polled_at,
            confirmation=self.confirmation,
            first_seen=self.first_seen,
            details=self.details,
            forgotten=self.forgotten,
        )


class Tasks:
    """All tasks, with their listings.

    Attributes:
        size: Bytes of all, about.
    """

    def __init__(self) -> None:
        self.size = 0
        self.listings = Listings()
        self._tasks: dict[TaskKey, TaskRecord] = {}
        # Each the one touched least recently first.
        self._ended: dict[TaskKey, None] = {}
        self._open: dict[TaskKey, None] = {}
        self._stateless: dict[TaskKey, None] = {}
        self._forgotten: dict[TaskKey, None] = {}
        # By what comes after the last `/` of the id: callbacks name parts.
        self._by_last_part: dict[tuple[str, str, str], dict[TaskKey, None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def get(self, key: TaskKey) -> TaskRecord | None:
        """A task, if it is known."""
        return self._tasks.get(key)

    def ensure(self, key: TaskKey, now: int) -> TaskRecord:
        """A task, made if need be."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = TaskRecord(key, now)
            self.size += task.size
            self._stateless[key] = None
            self._name(key)
        elif task.forgotten:
            self._name(key)  # it is of use again
        return task

    def restore(self, tasks: list[TaskRecord], now: int) -> None:
        """Add tasks with their states, as they were."""
        for task in sorted(tasks, key=lambda task: task.first_seen):
            known = self.ensure(task.key, now)
            self.size += task.size - known.size
            self._tasks[task.key] = task
            if task.first_seen:
                self.listings.add(task.key, task.first_seen, task.details)
        for task in sorted(tasks, key=lambda task: task.offset):
            self.touch(task, now)
            if task.first_seen:
                self.listings.change(task.key, final=task.end is not End.OPEN)

    def touch(self, task: TaskRecord, now: int) -> None:
        """A task has changed: it is kept longest from now on."""
        task.touched_at = now
        for keys in self._orders:
            keys.pop(task.key, None)
        if task.end is not End.OPEN:
            self._ended[task.key] = None
        elif task.has_content:
            self._open[task.key] = None
        else:
            (self._forgotten if task.forgotten else self._stateless)[task.key] = None
        named = self._by_last_part.get(_last_part(task.key)) if "/" in task.key.task_id else None
        if named is not None and task.key in named:
            del named[task.key]
            named[task.key] = None

    def named(self, key: TaskKey) -> TaskRecord | None:
        """The newest open task of the same account whose id ends in `/<task_id>`."""
        ending = f"/{key.task_id}"
        keys = self._by_last_part.get(_last_part(key), {})
        # Bounded: ids that end alike are few, or made up by a client.
        for other in itertools.islice(reversed(keys), 100):
            task = self._tasks[other]
            if other.task_id.endswith(ending) and task.end is not End.ENDED:
                return task
        return None

    def forget(self, task: TaskRecord) -> None:
        """Delete a task."""
        key = task.key
        del self._tasks[key]
        self.size -= task.size
        for keys in self._orders:
            keys.pop(key, None)
        if task.first_seen:
            self.listings.remove(key, task.first_seen, task.details)
            self.listings.change(key, final=None)
        self._unname(key)

    def delete(self, task: TaskRecord, offset: int, now: int) -> None:
        """Delete a task on request; that it was deleted is known for a while."""
        self.forget(task)
        left = self.ensure(task.key, now)
        self._unname(task.key)
        left.forgotten = offset
        self.touch(left, now)

    def _name(self, key: TaskKey) -> None:
        """Find a task by the last part of its id."""
        if "/" in key.task_id:
            self._by_last_part.setdefault(_last_part(key), {})[key] = None

    def _unname(self, key: TaskKey) -> None:
        named = self._by_last_part.get(_last_part(key)) if "/" in key.task_id else None
        if named is not None and key in named:
            del named[key]
            if not named:
                del self._by_last_part[_last_part(key)]

    def ended(self, limit: int) -> list[TaskRecord]:
        """Ended tasks, the one touched least recently first."""
        return [self._tasks[key] for key in itertools.islice(self._ended, limit)]

    def open(self, limit: int) -> list[TaskRecord]:
        """Tasks with a state or details that have not ended, the one touched least recently first."""
        return [self._tasks[key] for key in itertools.islice(self._open, limit)]

    def stateless(self, limit: int) -> list[TaskRecord]:
        """Tasks with neither, the one touched least recently first."""
        return [self._tasks[key] for key in itertools.islice(self._stateless, limit)]

    def deleted(self, limit: int) -> list[TaskRecord]:
        """What is left of tasks that were deleted on request, the one touched least recently first."""
        return [self._tasks[key] for key in itertools.islice(self._forgotten, limit)]

    @property
    def _orders(self) -> tuple[dict[TaskKey, None], ...]:
        return self._ended, self._open, self._stateless, self._forgotten

    def all(self) -> Iterator[TaskRecord]:
        """Every task."""
        return iter(self._tasks.values())


def _last_part(key: TaskKey) -> tuple[str, str, str]:
    return key.upstream, key.account, key.task_id.rpartition("/")[2]
