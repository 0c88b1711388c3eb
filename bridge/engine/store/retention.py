"""What a store deletes: a few things at a time, with the calls that come."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.core.task import TaskKey
from bridge.engine.base import ANSWER_BYTES, FORGOTTEN_SECONDS, MAX_ANSWERS, End
from bridge.engine.store.assignments import Assignments
from bridge.engine.store.sessions import MICROSECONDS
from bridge.engine.store.tasks import TaskRecord, Tasks

OPEN_SECONDS = 7 * 86_400.0  # an open task may have been paid for: kept a week, or longer by the retention
STEP = 64
"""Things checked in one step."""

_STATELESS_MICROSECONDS = 60 * MICROSECONDS
_FORGOTTEN_MICROSECONDS = round(FORGOTTEN_SECONDS * MICROSECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreLimits:
    """What a store keeps.

    Args:
        history: States of a task.
        log: Entries of the log.
        raw_bytes: Of a provider's own document; a larger one is not kept.
        retention_seconds: After the end of a task; an open one is kept a week at least.
        max_tasks: Above this the ended task unchanged for longest is deleted, then others without owner.
        max_bytes: The same for the memory of all tasks.
        max_answers: Above this the answer of an operation that would be forgotten next is.
        answer_bytes: The same for the memory of all answers.
    """

    history: int = 32
    log: int = 50_000
    raw_bytes: int = 65_536
    retention_seconds: float = 86_400.0
    max_tasks: int = 1_000_000
    max_bytes: int = 2 * 1024**3
    max_answers: int = MAX_ANSWERS
    answer_bytes: int = ANSWER_BYTES


DEFAULT_LIMITS = StoreLimits()


class TaskRetention:
    """Deletes tasks that are old, and the oldest of too many."""

    def __init__(self, tasks: Tasks, assignments: Assignments, limits: StoreLimits) -> None:
        self.max_bytes = limits.max_bytes
        self._tasks = tasks
        self._assignments = assignments
        self._max_tasks = limits.max_tasks
        self._ended = round(limits.retention_seconds * MICROSECONDS)
        self._open = max(self._ended, round(OPEN_SECONDS * MICROSECONDS))

    @property
    def full(self) -> bool:
        """Whether there are too many tasks, or too large ones."""
        return len(self._tasks) > self._max_tasks or self._tasks.size > self.max_bytes

    def forget(self, now: int) -> tuple[list[TaskKey], bool]:
        """Take one step; returns which tasks without a state were deleted, and whether there is more."""
        forgotten = 0
        for task in self._tasks.ended(STEP):
            if not self.full and now - task.touched_at < self._ended:
                break
            if task.end is End.LOST and not self._assignments.idle(task, now):
                self._tasks.touch(task, now)
                continue
            self._tasks.forget(task)
            forgotten += 1
        stateless = self._forget_idle(self._tasks.stateless(STEP), now)
        stateless += self._forget_idle(self._tasks.deleted(STEP), now)
        idle = self._forget_idle(self._tasks.open(STEP), now)
        stateless += [task for task in idle if not task.version]
        more = forgotten + len(idle) + len(stateless) >= STEP
        return [task.key for task in stateless], more

    def _forget_idle(self, tasks: list[TaskRecord], now: int) -> list[TaskRecord]:
        forgotten = []
        for task in tasks:
            if not self.full and now - task.touched_at < self._lifetime(task):
                break
            if self._assignments.idle(task, now):
                self._tasks.forget(task)
                forgotten.append(task)
            else:
                self._tasks.touch(task, now)
        return forgotten

    def _lifetime(self, task: TaskRecord) -> int:
        if not task.has_content:
            return _FORGOTTEN_MICROSECONDS if task.forgotten else _STATELESS_MICROSECONDS
        return self._open if task.version else self._ended
