"""The live half of a journal: passes recorded events and notices to its followers, keeps confirmations."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from bridge.core.cursor import Cursor
from bridge.core.event import Confirmation, Event, Notice
from bridge.core.task import TaskKey
from bridge.journal.base import Follower, Recorded

MAX_CONFIRMATIONS = 100_000
"""Tasks whose newest confirmation is kept: more than are polled. Of the others those that were seen last."""

logger = logging.getLogger(__name__)


class Feed(ABC):
    """The followers of one journal, called on the event loop in the order they were added.

    A follower that raises costs neither the others nor the caller: what is recorded stays recorded.
    """

    def __init__(self) -> None:
        self._followers: list[Follower] = []
        self._confirmations: dict[TaskKey, Confirmation] = {}

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

    def settled(self, keys: Collection[TaskKey]) -> bool:  # noqa: ARG002 - see `Journal.settled`
        """Always: this process alone records."""
        return True

    async def caught_up(self, cursor: Cursor) -> bool:  # noqa: ARG002 - see `Journal.caught_up`
        """Always: everything recorded was passed on here."""
        return True

    def publish(self, event: Event, *, again: bool = False) -> None:
        """Pass a recorded event to the followers.

        Args:
            again: Whether its state was passed on before, with another cursor.
        """
        if not again:
            self._confirmations.pop(event.key, None)  # they were of the state before
        # As `_pass_on`, without its calls: this is on the way of every event.
        for follower in self._followers:
            try:
                follower.recorded(event)
            except Exception:
                logger.exception("unhandled exception in journal follower", extra={"task": event.key.ref})

    def announce(self, key: TaskKey, notice: Notice, *, here: bool = False) -> None:  # noqa: ARG002 - the same
        """Pass a notice to the followers; it is not recorded."""
        for follower in self._followers:
            try:
                follower.noticed(key, notice)
            except Exception:
                logger.exception("unhandled exception in journal follower", extra={"task": key.ref})

    def confirm(self, key: TaskKey, confirmation: Confirmation) -> None:
        """Keep that the newest state was seen again."""
        self._confirmations.pop(key, None)  # the newest ones are at the end
        self._confirmations[key] = confirmation
        if len(self._confirmations) > MAX_CONFIRMATIONS:
            del self._confirmations[next(iter(self._confirmations))]

    def confirmation(self, key: TaskKey) -> Confirmation | None:
        """The newest confirmation of the newest state of a task."""
        return self._confirmations.get(key)
