"""The live half of a journal: passes recorded events, notices and confirmations to its followers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from bridge.core.event import Event, Notice
from bridge.core.task import TaskKey
from bridge.journal.base import Follower, Recorded


class Feed(ABC):
    """The followers of one journal, called on the event loop in the order they were added."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []

    def __iter__(self) -> Iterator[Follower]:
        return iter(self._followers)

    @abstractmethod
    async def history(self, keys: Sequence[TaskKey], after: int) -> Sequence[Recorded]:
        """See `Journal.history`."""

    @abstractmethod
    async def read(self, recorded: Sequence[Recorded], *, raw: bool = True) -> Sequence[Event]:
        """See `Journal.read`."""

    async def since(self, key: TaskKey, after: int) -> Sequence[Event]:
        """All retained events of a task after `after`, oldest first: for tools, not for clients."""
        return await self.read(await self.history([key], after))

    def follow(self, follower: Follower) -> None:
        """Pass everything from now on to `follower`."""
        self._followers.append(follower)

    def announce(self, key: TaskKey, notice: Notice) -> None:
        """Pass a notice to the followers; it is not recorded."""
        for follower in self._followers:
            follower.noticed(key, notice)

    def confirm(self, key: TaskKey, observed_at: float) -> None:
        """Report to the followers that the newest state was seen again (Unix seconds)."""
        for follower in self._followers:
            follower.confirmed(key, observed_at)
