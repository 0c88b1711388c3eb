"""The interface of every journal (memory, SQLite; Redis would be a third): records states in order and passes
them to followers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from bridge.core.cursor import Cursor
from bridge.core.event import Confirmation, Event, Notice
from bridge.core.task import State, TaskKey


class Recorded(NamedTuple):
    """One retained event, without its document.

    Args:
        offset: Of its cursor.
        size: Bytes of the document in memory.
    """

    key: TaskKey
    offset: int
    size: int


class Follower(Protocol):
    """Receives what the journal records. Called on the event loop, in journal order."""

    def recorded(self, event: Event) -> None:
        """A state was recorded durably."""

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """A notice was announced; it is not recorded."""

    def new_epoch(self) -> None:
        """The journal's history is another one from now on: cursors of open streams are of the old one.

        The newest state of each task with followers is passed on again, with its new cursor.
        """


class Journal(Protocol):
    """Records the states of every task, in order. The only path from watchers to the hub.

    Ordering: offsets grow across all tasks of an epoch; followers receive events in that order.
    Cancellation: a cancelled `append` has either happened or not, never half.
    """

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
