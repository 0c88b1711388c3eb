"""The subscribers of one task, grouped by format so that each event is encoded once per format."""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar

from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.task import Status, TaskKey
from bridge.wire.frames import Format, Frames


class Member(Protocol):
    """The part of a subscription that a channel reads."""

    fmt: Format


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
        "waiters",
    )

    def __init__(self, key: TaskKey) -> None:
        self.key = key
        self.frames: Frames | None = None
        # value: the offset up to which the subscriber has been sent everything
        self.groups: dict[Format, dict[Subscriber, int]] = {}
        self.max_join_offset = 0  # the largest of those offsets
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
    def offset(self) -> int:
        """The offset of that event; 0 before the first."""
        return self.frames.event.cursor.offset if self.frames is not None else 0

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

    def revoke_notices(self) -> None:
        """A state was recorded: it proves that the provider responds and that the task exists."""
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
        self.groups.setdefault(subscription.fmt.group, {})[subscription] = offset
        self.max_join_offset = max(self.max_join_offset, offset)

    def includes(self, subscription: Subscriber) -> bool:
        """Whether broadcasts reach `subscription`; False while it is still joining."""
        return subscription in self.groups.get(subscription.fmt.group, ())

    def remove(self, subscription: Subscriber) -> None:
        """Stop sending events to `subscription`. Idempotent."""
        self.joining.pop(subscription, None)
        group = self.groups.get(subscription.fmt.group)
        if group is not None and group.pop(subscription, None) is not None and not group:
            # Otherwise each event would be encoded for a format that has no subscriber left.
            del self.groups[subscription.fmt.group]
