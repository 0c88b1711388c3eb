"""What a connection to the engine brings, for the parts of a replica that follow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bridge.engine.base import Entry


class Following(Protocol):
    """What a connection brings, for the journal and the ownership of this replica."""

    def session_lost(self) -> None:
        """The session has expired: this replica owns nothing from now on."""

    def begin_resync(self, *, epoch_changed: bool) -> None:
        """What is known may be outdated: entries up to `received` were or will be missed. Nothing waits."""

    async def resync(self) -> None:
        """Ask the engine about everything attended."""

    async def received(self, entries: Sequence[Entry]) -> None:
        """The next entries, without a gap."""

    def now_heard(self, offset: int) -> None:
        """Everything up to an offset has been taken in."""

    def up(self) -> None:
        """The log is received from now on."""

    def settling_over(self) -> None:
        """Owners have had their time to return."""

    def away(self) -> None:
        """The engine cannot be reached, or the connection broke."""

    def alone(self) -> None:
        """It has been tried again, in vain, for long enough to continue without it."""
