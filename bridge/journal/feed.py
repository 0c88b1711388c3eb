"""The live half of a journal: passes recorded events and notices to its followers, keeps confirmations."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from bridge.core.cursor import Cursor
from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.event import Confirmation, Event, Notice
from bridge.core.merge import amends
from bridge.core.task import State, TaskKey
from bridge.engine.base import Job
from bridge.journal.base import Follower, IndexFollower, JobPlanner, Recorded

MAX_CONFIRMATIONS = 100_000
"""Tasks whose newest confirmation is kept: more than are polled. Of the others those that were seen last."""

logger = logging.getLogger(__name__)


class Feed(ABC):
    """The followers of one journal, called on the event loop in the order they were added.

    A follower that raises costs neither the others nor the caller: what is recorded stays recorded.
    """

    def __init__(self) -> None:
        self.planner: JobPlanner | None = None
        self._followers: list[Follower] = []
        self._index_followers: list[IndexFollower] = []
        self._confirmations: dict[TaskKey, Confirmation] = {}
        self._details: dict[TaskKey, TaskDetails] = {}

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

    def describe(self, key: TaskKey, details: TaskDetails) -> None:
        """Set what a task was submitted with."""
        self._details[key] = details

    def details(self, key: TaskKey) -> TaskDetails:
        """What an open task was submitted with."""
        return self._details.get(key, NO_DETAILS)

    def follow_index(self, follower: IndexFollower) -> None:
        """Pass details of tasks to `follower`."""
        self._index_followers.append(follower)

    def publish_details(self, key: TaskKey, details: TaskDetails) -> None:
        """Details of a task were recorded."""
        for follower in self._index_followers:
            try:
                follower.described(key, details)
            except Exception:
                logger.exception("unhandled exception in journal follower", extra={"task": key.ref})

    def publish_reset(self) -> None:
        """Details of tasks may have been missed."""
        for follower in self._index_followers:
            try:
                follower.reset()
            except Exception:
                logger.exception("unhandled exception in journal follower")

    def publish_forgotten(self, key: TaskKey) -> None:
        """A task was deleted."""
        for follower in self._index_followers:
            try:
                follower.forgotten(key)
            except Exception:
                logger.exception("unhandled exception in journal follower", extra={"task": key.ref})

    def plan(self, key: TaskKey, previous: State | None, state: State) -> Sequence[Job]:
        """The jobs of a state that is about to be recorded."""
        if self.planner is None:
            return ()
        try:
            return self.planner.plan(key, previous, state, self.details(key))
        except Exception:
            # No job is worth a state.
            logger.exception("unhandled exception in job planner", extra={"task": key.ref})
            return ()

    def plan_amendment(
        self, key: TaskKey, before: State, amended: State, details: TaskDetails
    ) -> Sequence[Job]:
        """The jobs of an amendment that is about to be recorded.

        Args:
            details: What the task was submitted with: those of ended tasks are not at hand.

        Raises:
            ValueError: It is none: it would change what was sent.
        """
        if not amends(before, amended):
            raise ValueError(f"an amendment of {key.ref} changes what makes an event")
        if self.planner is None:
            return ()
        try:
            return self.planner.plan(key, before, amended, details)
        except Exception:
            logger.exception("unhandled exception in job planner", extra={"task": key.ref})
            return ()

    def report_jobs(self, key: TaskKey, jobs: Sequence[Job], dropped: int) -> None:
        """The jobs of a recorded state are written."""
        if self.planner is None:
            return
        try:
            self.planner.written(key, jobs, dropped)
        except Exception:
            logger.exception("unhandled exception in job planner", extra={"task": key.ref})

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

    def publish_amended(self, event: Event) -> None:
        """Pass an amended end to the followers."""
        for follower in self._followers:
            try:
                follower.amended(event)
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
