"""One process alone: every watch owns its task."""

from __future__ import annotations

from bridge.core.task import TaskKey
from bridge.engine.ownership import Watches


class SoleOwner:
    """Satisfies `bridge.engine.ownership.Ownership` without asking any process."""

    shared = False

    def report_to(self, watches: Watches) -> None:
        """Nothing is ever decided elsewhere."""

    def want(self, key: TaskKey) -> None:
        """It is ours from the start."""

    def drop(self, key: TaskKey) -> None:
        """No other process could take it."""

    def keep(self, key: TaskKey, *, called_back: bool) -> None:
        """The watch itself remembers."""

    def may_poll(self, key: TaskKey) -> bool:  # noqa: ARG002 - see the protocol
        """Always."""
        return True

    def polls(self, key: TaskKey) -> None:
        """There is no successor."""

    def planned(self, key: TaskKey, due: float | None) -> None:
        """There is no successor."""

    def call(self, key: TaskKey, *, called_back: bool = False) -> None:
        """There is no other owner."""
