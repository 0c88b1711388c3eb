"""Everybody who asked for one task, grouped by what their bytes look like."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.task import TaskKey
from bridge.wire.frames import Format, Frames


class Member(Protocol):
    """All a channel needs to know of who asked: what its bytes look like, and how much it was sent."""

    fmt: Format
    events: int
    sent: int


@dataclass(slots=True)
class FormatTotals:
    """What went to everybody whose bytes look alike: counted once a broadcast, not once a subscriber.

    Who joins takes off what went before, who leaves adds what there is, and who was left out is told so.
    """

    events: int = 0
    sent: int = 0


Subscriber = TypeVar("Subscriber", bound=Member)


class Channel(Generic[Subscriber]):
    """The subscribers of one task and the newest event they know."""

    __slots__ = (
        "brought_up",
        "confirmed_at",
        "frames",
        "groups",
        "joining",
        "key",
        "last_write",
        "notices",
        "tallies",
        "waiters",
    )

    def __init__(self, key: TaskKey) -> None:
        self.key = key
        self.frames: Frames | None = None
        self.groups: dict[Format, dict[Subscriber, int]] = {}  # with the offset each was last brought up to
        self.brought_up = 0  # the largest of those offsets
        self.tallies: dict[Format, FormatTotals] = {}
        self.joining: dict[Subscriber, None] = {}
        self.waiters: set[asyncio.Future[Event]] = set()
        self.notices: dict[NoticeCode, Notice] = {}
        self.confirmed_at: float | None = None
        self.last_write = 0.0

    @property
    def latest(self) -> Event | None:
        """The newest event heard since somebody asked; None before the first."""
        return self.frames.event if self.frames is not None else None

    @property
    def deserted(self) -> bool:
        """Whether nobody asks for this task any more."""
        return not (self.groups or self.joining or self.waiters)

    def hear(self, event: Event) -> None:
        """Take in an event, unless a newer one is known."""
        if self.frames is None or event.cursor.offset > self.frames.event.cursor.offset:
            self.frames = Frames(event)
            self.notices.pop(NoticeCode.STALLED, None)
            self.notices.pop(NoticeCode.TASK_NOT_FOUND, None)

    def note(self, notice: Notice) -> None:
        """Keep what a newcomer must be told too; `fresh` takes everything else back."""
        if notice.code is NoticeCode.FRESH:
            self.notices.clear()
        else:
            self.notices[notice.code] = notice

    def admit(self, subscription: Subscriber, offset: int) -> None:
        """From now on every event beyond `offset` goes to `subscription`."""
        self.joining.pop(subscription, None)
        group = self.groups.setdefault(subscription.fmt, {})
        if subscription not in group:
            tally = self.tally(subscription.fmt)
            subscription.events -= tally.events
            subscription.sent -= tally.sent
        group[subscription] = offset
        self.brought_up = max(self.brought_up, offset)

    def tally(self, fmt: Format) -> FormatTotals:
        """What went to everybody of that form since the first of them asked."""
        tally = self.tallies.get(fmt)
        if tally is None:
            tally = self.tallies[fmt] = FormatTotals()
        return tally

    def serves(self, subscription: Subscriber) -> bool:
        """Whether events go to `subscription`."""
        return subscription in self.groups.get(subscription.fmt, ())

    def leave(self, subscription: Subscriber) -> None:
        """No event goes to `subscription` any more."""
        self.joining.pop(subscription, None)
        group = self.groups.get(subscription.fmt)
        if group is not None and group.pop(subscription, None) is not None:
            tally = self.tally(subscription.fmt)
            subscription.events += tally.events
            subscription.sent += tally.sent
            if not group:
                del self.groups[subscription.fmt]
