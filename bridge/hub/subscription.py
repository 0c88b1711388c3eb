"""One connection's place in the hub: which tasks it asked for, and what it is still owed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from bridge.core.event import Closing, Notice, NoticeCode
from bridge.core.task import TaskKey
from bridge.hub.channel import Channel
from bridge.wire.frames import Format


class FlowControl(Protocol):
    """Where it stands whether a client takes less than it is sent.

    The server's own object where that has it as an attribute: to ask is most of what a delivery costs
    beside the write.
    """

    @property
    def write_paused(self) -> bool:
        """Whether nothing more should be written now."""


class ConnectionWriter(Protocol):
    """How bytes leave for one client. Every method returns at once."""

    fmt: Format

    @property
    def gate(self) -> FlowControl:
        """Whether the client takes what it is sent."""

    @property
    def gone(self) -> bool:
        """Whether the socket is closed; that the connection is over is told on its own way."""

    @property
    def unsent(self) -> int:
        """Bytes written that the kernel has not taken yet."""

    def write(self, data: bytes) -> None:
        """Hand `data` to the socket, or to its buffer; may raise when the client is `gone`."""

    def when_writable(self, resume: Callable[[], None]) -> None:
        """Call `resume` once, when the gate is open again."""

    def finish(self, closing: Closing) -> None:
        """End cleanly after what was written."""

    def abort(self) -> None:
        """End now."""


@dataclass(slots=True, eq=False)
class Subscription:
    """What the hub knows about one connection.

    Args:
        label: The delivery, as metrics name it.
        stays_open: Whether the connection outlives its tasks (WebSocket).
        retry: Milliseconds to name in the first block, until that has left.
        ends_at: Monotonic seconds when it has lived long enough.
        ends_by: Why it ends then.
        since: Monotonic seconds when it came.
        events: States written, once it has left every channel: those it is in keep a tally.
        sent: Bytes written, framing included; the same way.
        seen: Offset of the newest event written.
    """

    outlet: ConnectionWriter
    label: str
    stays_open: bool
    ends_at: float
    last_write: float
    write: Callable[[bytes], None]
    gate: FlowControl
    fmt: Format
    tasks: int = 0
    seen: int = 0
    channels: dict[TaskKey, Channel[Subscription]] = field(default_factory=dict)
    pending: set[Channel[Subscription]] = field(default_factory=set)
    owed_notices: dict[tuple[TaskKey, NoticeCode], Notice] = field(default_factory=dict)
    waiting: bool = False
    closing: Closing | None = None
    ends_by: Closing = Closing.AGE
    stuck_since: float | None = None
    stuck_bytes: int = 0
    retry: int | None = None
    since: float = 0.0
    events: int = 0
    sent: int = 0

    def use(self, outlet: ConnectionWriter) -> None:
        """From now on bytes leave there."""
        self.outlet, self.write, self.gate = outlet, outlet.write, outlet.gate

    def mark_pending(self, channel: Channel[Subscription]) -> bool:
        """Remember that `channel` has news for a client that takes none now.

        Returns:
            Whether older news of the same task was still owed and is now skipped.
        """
        if channel in self.pending:
            return True
        self.pending.add(channel)
        return False

    def add_pending_notice(self, key: TaskKey, notice: Notice) -> None:
        """Remember a notice; one of each kind a task, `fresh` takes back the others."""
        if notice.code is NoticeCode.FRESH:
            self.forget_notices(key)
        self.owed_notices[key, notice.code] = notice

    def forget_notices(self, key: TaskKey) -> None:
        """Owe no notice of `key` any more."""
        self.owed_notices = {
            place: pending for place, pending in self.owed_notices.items() if place[0] != key
        }
