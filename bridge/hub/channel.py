"""The subscribers of one task, grouped by format so that each event is encoded once per format."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.task import Status, TaskKey
from bridge.wire.frames import Format, Frames


class Member(Protocol):
    """The part of a subscription that a channel reads and adjusts."""

    fmt: Format
    events: int
    sent: int


@dataclass(slots=True)
class FormatTotals:
    """Events and bytes sent per format, counted once per broadcast.

    A subscription stores the difference at join and adds it back at leave. If a broadcast skips it, the
    hub subtracts that event from the subscription.
    """

    events: int = 0
    sent: int = 0


Subscriber = TypeVar("Subscriber", bound=Member)


class Channel(Generic[Subscriber]):
    """The subscribers of one task and the newest event the hub has received for it."""

    __slots__ = (
        "confirmed_at",
        "frames",
        "groups",
        "joining",
        "key",
        "last_write",
        "max_join_offset",
        "notices",
        "totals",
        "waiters",
    )

    def __init__(self, key: TaskKey) -> None:
        self.key = key
        self.frames: Frames | None = None
        self.groups: dict[Format, dict[Subscriber, int]] = {}  # value: offset the subscriber had at join
        self.max_join_offset = 0  # the largest of those offsets
        self.totals: dict[Format, FormatTotals] = {}
        self.joining: dict[Subscriber, None] = {}
        self.waiters: set[asyncio.Future[Event]] = set()
        self.notices: dict[NoticeCode, Notice] = {}
        self.confirmed_at: float | None = None
        self.last_write = 0.0

    @property
    def latest(self) -> Event | None:
        """The newest event received since the channel was created; None before the first."""
        return self.frames.event if self.frames is not None else None

    @property
    def is_lost(self) -> bool:
        """Whether the task is lost: the one final status that a real end may replace."""
        latest = self.latest
        return latest is not None and latest.state.status is Status.LOST

    @property
    def unused(self) -> bool:
        """Whether the channel has no subscriber and no waiter, so that it can be deleted."""
        return not (self.groups or self.joining or self.waiters)

    def update(self, event: Event) -> None:
        """Store `event` unless a newer one is stored already."""
        if self.frames is None or event.cursor.offset > self.frames.event.cursor.offset:
            self.frames = Frames(event)
            # A state proves that the provider responds and that the task exists.
            self.notices.pop(NoticeCode.STALLED, None)
            self.notices.pop(NoticeCode.TASK_NOT_FOUND, None)

    def add_notice(self, notice: Notice) -> None:
        """Keep `notice` for subscribers that join later; `fresh` clears all others."""
        if notice.code is NoticeCode.FRESH:
            self.notices.clear()
        else:
            self.notices[notice.code] = notice

    def add(self, subscription: Subscriber, offset: int) -> None:
        """From now on, send `subscription` every event after `offset`."""
        self.joining.pop(subscription, None)
        group = self.groups.setdefault(subscription.fmt, {})
        if subscription not in group:
            # What the format received before this join was not sent to this subscription. The counters may
            # be negative until `remove` adds the totals back.
            totals = self.totals_of(subscription.fmt)
            subscription.events -= totals.events
            subscription.sent -= totals.sent
        group[subscription] = offset
        self.max_join_offset = max(self.max_join_offset, offset)

    def totals_of(self, fmt: Format) -> FormatTotals:
        """Totals of `fmt` since its first subscriber joined this channel."""
        totals = self.totals.get(fmt)
        if totals is None:
            totals = self.totals[fmt] = FormatTotals()
        return totals

    def includes(self, subscription: Subscriber) -> bool:
        """Whether broadcasts reach `subscription`; False while it is still joining."""
        return subscription in self.groups.get(subscription.fmt, ())

    def remove(self, subscription: Subscriber) -> None:
        """Stop sending events to `subscription`. Idempotent."""
        self.joining.pop(subscription, None)
        group = self.groups.get(subscription.fmt)
        if group is not None and group.pop(subscription, None) is not None:
            totals = self.totals_of(subscription.fmt)
            subscription.events += totals.events
            subscription.sent += totals.sent
            if not group:
                # Otherwise each event would be encoded for a format that has no subscriber left.
                del self.groups[subscription.fmt]
