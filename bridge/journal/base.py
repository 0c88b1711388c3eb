"""The promise every journal keeps: states in order, remembered, told to whoever follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bridge.core.event import Event, Notice
from bridge.core.task import State, TaskKey


class Follower(Protocol):
    """Whoever must hear what the journal takes in; called on the event loop, in journal order."""

    def recorded(self, event: Event) -> None:
        """A state was recorded, durably."""

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """Something was said about a task; nobody remembers it."""

    def confirmed(self, key: TaskKey, wall: float) -> None:
        """The newest state was seen again, unchanged (Unix seconds)."""


class Journal(Protocol):
    """Remembers the states of every task, in order. The only road from watchers to the hub.

    Ordering: offsets grow over all tasks of an epoch; followers hear events in that order.
    Cancellation: a cancelled `append` has either happened or not; never half.
    """

    @property
    def epoch(self) -> str:
        """Name of this history, born with its storage."""

    @property
    def head(self) -> int:
        """The newest offset given out."""

    @property
    def usable(self) -> bool:
        """Whether appends can be expected to succeed."""

    async def append(self, key: TaskKey, state: State, *, seen: float = 0.0) -> Event:
        """Record a state, then tell the followers.

        Raises:
            JournalError: It is not recorded, and nobody was told.
        """

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """The newest event of each task; None for a task never recorded."""

    async def since(self, key: TaskKey, offset: int) -> Sequence[Event]:
        """What is kept of a task after `offset`, oldest first."""

    async def unfinished(self) -> Sequence[Event]:
        """The newest event of every task that is not final."""

    def follow(self, follower: Follower) -> None:
        """Tell `follower` everything from now on."""

    def announce(self, key: TaskKey, notice: Notice) -> None:
        """Tell the followers something that is not remembered."""

    def confirm(self, key: TaskKey, wall: float) -> None:
        """Tell the followers that the newest state was seen again."""

    async def close(self) -> None:
        """Flush and let go of the storage."""
