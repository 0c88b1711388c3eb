"""The interface of every journal (memory, SQLite; Redis would be a third): records states in order and passes
them to followers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from bridge.core.cursor import Cursor
from bridge.core.details import TaskDetails
from bridge.core.event import Confirmation, Event, Notice
from bridge.core.task import State, TaskKey
from bridge.engine.base import Job


class Recorded(NamedTuple):
    """One retained event, without its document.

    Args:
        offset: Of its cursor.
        size: Bytes of the document in memory.
    """

    key: TaskKey
    offset: int
    size: int


class Listed(NamedTuple):
    """One task of a listing.

    Args:
        first_offset: Of its first state: unique, and never changed; what was seen later has a larger one.
        details: What it was submitted or registered with.
    """

    first_offset: int
    key: TaskKey
    details: TaskDetails


class IndexFollower(Protocol):
    """Learns by what names tasks are found. Called on the event loop; nothing waits."""

    def described(self, key: TaskKey, details: TaskDetails) -> None:
        """What a task was submitted or registered with was recorded, or has changed.

        Ordering: before `Follower.recorded` of the state it was recorded with. The same details may come
        again.
        """

    def forgotten(self, key: TaskKey) -> None:
        """A task was deleted, by any process. May come twice, and of a task that was not known."""

    def reset(self) -> None:
        """What was described or forgotten before may have been missed: read what matters again (`listing`).

        Only with replicas, after a gap in what the engine they share has brought: an outage, another epoch.
        What is described from then on comes as always, also while it is read.
        """


class Follower(Protocol):
    """Receives what the journal records. Called on the event loop, in journal order."""

    def recorded(self, event: Event) -> None:
        """A state was recorded durably."""

    def amended(self, event: Event) -> None:
        """What was recorded with this cursor says more now (`Journal.amend`).

        Not news: no client is sent it. Clients that are sent the state from now on are sent this one.
        """

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """A notice was announced; it is not recorded."""

    def new_epoch(self) -> None:
        """The journal's history is another one from now on: cursors of open streams are of the old one.

        The newest state of each task with followers is passed on again, with its new cursor.
        """


class JobPlanner(Protocol):
    """Decides what is due because of a state. Called on the event loop; nothing waits."""

    def plan(self, key: TaskKey, previous: State | None, state: State, details: TaskDetails) -> Sequence[Job]:
        """The jobs that are recorded in the same step as a state; mostly none. Cheap: called for each state.

        Of an amendment, too: `previous` is then the end that it amends (`bridge.core.merge.amends`).

        Args:
            previous: The recorded state before it; None without any, or if it is not at hand.
        """

    def written(self, key: TaskKey, jobs: Sequence[Job], dropped: int) -> None:
        """The state is recorded, and these jobs with it.

        Args:
            dropped: How many of them had no room in their queue.
        """


Amend = Callable[[State], State | None]
"""Adds to an end what makes no event; None leaves it as it is. May be called again, with a newer state."""


class Journal(Protocol):
    """Records the states of every task, in order. The only path from watchers to the hub.

    Ordering: offsets grow across all tasks of an epoch; followers receive events in that order.
    Cancellation: a cancelled `append` has either happened or not, never half.

    Attributes:
        planner: What plans jobs; None for no jobs.
    """

    planner: JobPlanner | None

    @property
    def epoch(self) -> str:
        """The name of this history, created with its storage."""

    @property
    def head(self) -> int:
        """The newest offset assigned."""

    @property
    def usable(self) -> bool:
        """Whether an append can be expected to succeed."""

    def settled(self, keys: Collection[TaskKey]) -> bool:
        """Whether all that is recorded of each task, up to the newest state announced here, was received.

        Not while replicas reconnect to the engine they share. An id on a many-task stream may then run over a
        state that its client was not sent. Asked for each state of such a stream: must cost next to nothing.
        """

    async def caught_up(self, cursor: Cursor) -> bool:
        """Wait until everything up to a client's cursor was received here, two seconds at most.

        Returns:
            Whether `epoch` and `head` can be relied on now: a cursor beyond them is of no history of this
            journal. False while replicas cannot ask the engine they share: it may be of theirs.
        """

    async def append(
        self, key: TaskKey, state: State, *, observed_at: float = 0.0, free: bool = False
    ) -> Event:
        """Record a state, then pass the event to the followers.

        Args:
            observed_at: Monotonic seconds at which the state was seen; 0.0 if unknown.
            free: Whether it may be recorded by a process that does not poll the task: what a submit, a cancel
                or another call showed. Only replicas make a difference.

        Raises:
            NotOwner: Another process polls the task; not with `free`.
            Superseded: A newer state is recorded than the one known here until now: `latest` has it.
            JournalError: The state was not recorded, and no follower was called.
        """

    def describe(self, key: TaskKey, details: TaskDetails) -> None:
        """Set what a task was submitted with: recorded with its next state, and kept as long as the task."""

    def details(self, key: TaskKey) -> TaskDetails:
        """What an open task was submitted with, as far as this process knows; cheap."""

    async def details_of(self, keys: Sequence[TaskKey]) -> list[TaskDetails]:
        """What each task was submitted or registered with, ended ones too; `NO_DETAILS` of unknown ones.

        Raises:
            JournalError: The journal cannot be read.
        """

    async def register(self, key: TaskKey, details: TaskDetails) -> None:
        """Replace what a task that has a state is known by; durable when it returns. Sets `since`.

        Raises:
            JournalError: It was not recorded.
        """

    async def forget(self, key: TaskKey) -> bool:
        """Delete a task with all its states; durable when it returns. Whether there was any.

        Nothing is checked: the caller must know that it has ended, and that no watch of it runs.

        Raises:
            JournalError: It was not deleted.
        """

    async def listing(
        self,
        upstream: str,
        account: str,
        *,
        tag: str = "",
        group: str = "",
        before: int = 0,
        limit: int = 100,
    ) -> list[Listed]:
        """Tasks of one account, those first seen last come first; of a tag or a group, or of both, if given.

        Costs the same for any number of tasks of others.

        Args:
            before: Only those whose place is smaller; 0 for the newest ones.
            limit: At most 1,000.

        Raises:
            JournalError: The journal cannot be read.
        """

    async def places(self, keys: Sequence[TaskKey]) -> list[int]:
        """The place of each task in listings (see `Listed`); 0 for a task without a state.

        Raises:
            JournalError: The journal cannot be read.
        """

    def follow_index(self, follower: IndexFollower) -> None:
        """Pass to `follower` what tasks are known by, from now on."""

    async def amend(self, key: TaskKey, amend: Amend) -> Event | None:
        """Add to the end of a task what makes no event, such as where its copies are. Durable then.

        The record keeps its cursor, and no viewer is sent anything. Jobs are planned as of a state.

        Cancellation: it is amended or not, never half.

        Returns:
            The end as it is now; None if nothing was amended: there is no end, it is `lost`, which a real end
            may still replace, or `amend` has left it as it is.

        Raises:
            JournalError: It was not amended, or with replicas perhaps.
            ValueError: `amend` changed what makes an event.
        """

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """The newest event of each task; None for a task without a recorded state."""

    async def history(self, keys: Sequence[TaskKey], after: int) -> Sequence[Recorded]:
        """What is retained of some tasks after the offset `after`, in journal order; read it in portions."""

    async def read(self, recorded: Sequence[Recorded], *, raw: bool = True) -> Sequence[Event]:
        """The events of some records, in the same order, without those deleted meanwhile.

        Args:
            raw: Whether the provider's own documents are needed too.
        """

    async def unfinished(self) -> Sequence[Event]:
        """The newest event of every task whose state is not final."""

    async def lost(self, limit: int) -> Sequence[Event]:
        """The newest event of the newest `limit` tasks whose status is `lost`, newest first."""

    async def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> Sequence[TaskKey]:
        """The tasks of one account that are open, or that have ended; the one that changed last comes first.

        Costs the same however much is recorded.
        """

    async def first_seen(self, keys: Sequence[TaskKey]) -> list[float | None]:
        """When the first state of each task was recorded (Unix seconds); None for a task without any."""

    def follow(self, follower: Follower) -> None:
        """Pass everything from now on to `follower`."""

    def announce(self, key: TaskKey, notice: Notice, *, here: bool = False) -> None:
        """Pass a notice to the followers; it is not recorded.

        Args:
            here: Only to those of this process: it was announced before, or is about this process alone.
        """

    def confirm(self, key: TaskKey, confirmation: Confirmation) -> None:
        """Keep that the newest state was seen again, for every copy of it that is written from now on.

        It is not an event, and not recorded: after a restart, what the state was recorded with counts.
        """

    def confirmation(self, key: TaskKey) -> Confirmation | None:
        """The newest confirmation of the newest state of a task; None for none since it was recorded."""

    async def close(self) -> None:
        """Write everything appended and release the storage."""
