"""What has changed in a store since it was last asked: for a recorder that makes it durable."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from bridge.core.task import TaskKey
from bridge.engine.base import End


class PartKind(StrEnum):
    """What a changed thing is."""

    TASK = "task"
    DOCUMENT = "document"
    SAMPLES = "samples"
    OPERATION = "operation"
    JOB = "job"
    HOLD = "hold"


class RecordedState(NamedTuple):
    """A state that was recorded.

    Args:
        amends: Whether it takes the place of the one that is recorded with its offset.
    """

    key: TaskKey
    offset: int
    end: End
    document: bytes
    raw: bytes | None
    amends: bool = False


Name = tuple[str, ...]
"""Of a task its key, of a job queue and id, of a hold counter and hold, else one name."""


class Changes:
    """States in the order of their offsets, and the names of everything else that is another now.

    Attributes:
        count: Changes since the store was made.
    """

    def __init__(self) -> None:
        self.count = 0
        self.states: list[RecordedState] = []
        self.touched: dict[tuple[PartKind, Name], None] = {}
        self.forgotten: dict[TaskKey, int] = {}

    def recorded(self, state: RecordedState) -> None:
        """A state was recorded."""
        self.count += 1
        self.states.append(state)

    def touch(self, kind: PartKind, *name: str) -> None:
        """Something is another now, or is no longer there."""
        self.count += 1
        self.touched[kind, name] = None

    def forgot(self, key: TaskKey, offset: int) -> None:
        """A task was deleted, with all its states up to an offset."""
        self.count += 1
        self.forgotten[key] = offset

    def moved(self) -> None:
        """Only the log has grown, or its epoch is another one."""
        self.count += 1

    def take(self) -> tuple[list[RecordedState], list[tuple[PartKind, Name]]]:
        """Everything since the last call."""
        states, touched = self.states, list(self.touched)
        self.states, self.touched = [], {}
        return states, touched

    def take_forgotten(self) -> dict[TaskKey, int]:
        """The tasks that were deleted since the last call, each with the offset up to which."""
        forgotten, self.forgotten = self.forgotten, {}
        return forgotten
