"""One connection as the hub sees it: the tasks it subscribed to and what it has not been sent yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.resume import Position
from bridge.core.task import TaskKey
from bridge.hub.channel import Channel
from bridge.wire.frames import Format

if TYPE_CHECKING:
    from bridge.hub.collection import Collection


class FlowControl(Protocol):
    """Whether the write buffer of a connection is full.

    Where the server already has such an object, it is used directly: reading this attribute is most of
    the cost of a delivery besides the write itself. Our own server also sets `silent` when a connection was
    lost because its client took nothing for the write timeout.
    """

    @property
    def write_paused(self) -> bool:
        """Whether the write buffer is above its high-water mark."""


class ConnectionWriter(Protocol):
    """Writes bytes to one client. No method blocks."""

    @property
    def flow(self) -> FlowControl:
        """The flow control of this connection."""

    @property
    def gone(self) -> bool:
        """Whether the socket is closed. The server reports the disconnect separately."""

    @property
    def left(self) -> bool:
        """Whether the client has closed its half of the connection, or all of it."""

    @property
    def unsent(self) -> int:
        """Bytes written that the kernel has not accepted yet."""

    def write(self, data: bytes) -> None:
        """Pass `data` to the socket or its buffer; may raise if the client is `gone`."""

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when writing is no longer paused."""

    def finish(self, closing: Closing) -> None:
        """Close cleanly after everything written so far."""

    def abort(self) -> None:
        """Close immediately and discard the write buffer."""


class Backlog(NamedTuple):
    """What a connection has to be sent of one task before it follows its broadcasts.

    Args:
        event: The newest recorded state, or the placeholder of a task without any (offset 0); None for
            nothing but what comes.
        floor: Offset up to which the client has seen everything.
        position: Where its client left off, if `floor` alone does not decide what it has seen; else None.
    """

    event: Event | None = None
    floor: int = -1
    position: Position | None = None


class Ending(NamedTuple):
    """What a follower of an ended collection is sent last.

    Args:
        frame: The control event.
        tasks: How many tasks there were, for the `end` of the connection.
    """

    frame: bytes
    tasks: int


ONE_EVENT = 1
_BYTE = 2**32


def counts_of(data: bytes, events: int = 1) -> int:
    """The bytes and states of a write in one number, so that counting both costs a delivery one addition."""
    return len(data) * _BYTE + events


@dataclass(slots=True, eq=False)
class Subscription:
    """The hub's state of one connection.

    Args:
        token_id: The id of the token it was opened with; None without one.
        retry: Milliseconds for the `retry:` field of the first block; None once sent.
        ends_at: Monotonic seconds at which it reaches its maximum age.
        ends_by: The reason to report at that time.
        since: Monotonic seconds at which it was opened.
        tasks: How many it has subscribed to so far.
        resumed: Epoch of the cursor it came with; empty if it came without, or has been reset.

    Attributes:
        writer: None until the response has begun; `write` and `flow` are unset until then.
        counts: States and bytes written, see `counts_of`.
        sent_offset: Offset of the newest event written.
        replayed: Recorded states, oldest first, that precede everything pending.
        pending: What `Hub.flush` sends next: the backlog of a task that has just been asked for, None for the
            newest state of one that was held back.
        pending_notices: The notices that follow it.
        preface: Bytes that precede it.
        waiting: Whether `Hub.flush` will be called once the write buffer has drained.
        subscribe_ids: The ids of the subscribe messages that named its tasks; None where there are none.
        collections: Those it follows.
        ending: Of those that have ended, what follows everything pending.
        single: Whether it receives the events of one task at most, so that none needs batching.
    """

    fmt: Format
    ends_at: float
    last_write: float
    since: float = 0.0
    retry: int | None = None
    ends_by: Closing = Closing.AGE
    writer: ConnectionWriter | None = None
    write: Callable[[bytes], None] = field(init=False)
    flow: FlowControl = field(init=False)
    tasks: int = 0
    resumed: str = ""
    sent_offset: int = 0
    channels: dict[TaskKey, Channel[Subscription]] = field(default_factory=dict)
    replayed: Sequence[Event] = ()
    pending: dict[Channel[Subscription], Backlog | None] = field(default_factory=dict)
    pending_notices: dict[tuple[TaskKey, NoticeCode], Notice] = field(default_factory=dict)
    preface: bytes = b""
    waiting: bool = False
    subscribe_ids: dict[TaskKey, object] | None = None
    closing: Closing | None = None
    token_id: str | None = None
    stalled_since: float | None = None
    stalled_bytes: int = 0
    counts: int = 0
    collections: tuple[Collection, ...] = ()
    ending: dict[Collection, Ending] | None = None
    single: bool = True

    @property
    def events(self) -> int:
        """States written."""
        return self.counts % _BYTE

    @property
    def sent(self) -> int:
        """Bytes written, framing included."""
        return self.counts // _BYTE

    def begin(self, writer: ConnectionWriter, fmt: Format) -> None:
        """The response has begun: from now on there is somewhere to write.

        Args:
            fmt: With the framing that this writer needs.
        """
        self.fmt = fmt
        # `write` and `flow` are copied so that a delivery costs one attribute access instead of two.
        self.writer, self.write, self.flow = writer, writer.write, writer.flow

    def mark_pending(self, channel: Channel[Subscription]) -> bool:
        """Remember that `channel` has an event this client has not been sent.

        Returns:
            Whether an older event of the same task was pending and is now conflated.
        """
        if channel in self.pending:
            return True
        self.pending[channel] = None
        return False

    def add_pending_notice(self, key: TaskKey, notice: Notice) -> None:
        """Queue a notice: at most one of each code per task, and `fresh` replaces all others."""
        if notice.code is NoticeCode.FRESH:
            self.drop_pending_notices(key)
        self.pending_notices[key, notice.code] = notice

    def drop_pending_notices(self, key: TaskKey) -> None:
        """Discard the queued notices of `key`."""
        if self.pending_notices:
            for code in NoticeCode:
                self.pending_notices.pop((key, code), None)

    @property
    def mixed(self) -> bool:
        """Whether one event may reach it in two ways: by two collections, or one and its own subscription."""
        return len(self.collections) > 1 or bool(self.collections and self.channels)
