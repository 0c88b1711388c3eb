"""The live half of a journal: passes recorded events, notices and confirmations to its followers."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.core.event import Notice
from bridge.core.task import TaskKey
from bridge.journal.base import Follower


class Feed:
    """The followers of one journal, called on the event loop in the order they were added."""

    def __init__(self) -> None:
        self._followers: list[Follower] = []

    def __iter__(self) -> Iterator[Follower]:
        return iter(self._followers)

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
