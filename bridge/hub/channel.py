"""The subscribers of one task, grouped by format so that each event is encoded once per format."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.resume import Position, Relation, compare, unrecorded
from bridge.core.task import Status, TaskKey
from bridge.wire.frames import Format, Frames

if TYPE_CHECKING:
    from bridge.hub.collection import Collection


class Member(Protocol):
    """The part of a subscription that a channel reads."""

    fmt: Format


Subscriber = TypeVar("Subscriber", bound=Member)

HELD_OFFSET = 2**62
"""Above every offset: a broadcast leaves out those whose position is unclear."""


class Channel(Generic[Subscriber]):
    """The subscribers of one task and the newest event the hub has received for it.

    Attributes:
        unrecorded: Whether that event is not recorded in this epoch, so that offsets say nothing about it.
        pushed: Whether that event is pending for all subscribers that lack it, instead of being broadcast.
        held: Subscribers that may have seen more than is known here, with their positions; None without any.
        collections: Those it is a member of, each with the offset it had when it became one, or `BROADCAST`:
            what is newer is broadcast to their followers too. None if there was none.
    """

    __slots__ = (
        "collections",
        "frames",
        "groups",
        "held",
        "joining",
        "key",
        "last_write",
        "max_join_offset",
        "notices",
        "pushed",
        "unrecorded",
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
        self.last_write = 0.0
        self.unrecorded = False
        self.pushed = False
        self.held: dict[Subscriber, Position] | None = None
        self.collections: dict[Collection, int] | None = None

    @property
    def audiences(self) -> Iterable[Channel[Subscriber] | Collection]:
        """All whose groups are sent its events: itself and its collections."""
        return (self, *self.collections) if self.collections else (self,)

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
    def is_over(self) -> bool:
        """Whether nothing more will come of the task: its final state is recorded, and it is not lost."""
        latest = self.latest
        if latest is None or self.unrecorded or not latest.state.status.final:
            return False
        return latest.state.status is not Status.LOST

    @property
    def unused(self) -> bool:
        """Whether the channel has no subscriber, no collection and no waiter, so that it can be deleted."""
        return not (self.groups or self.joining or self.waiters or self.collections)

    def update(self, event: Event) -> None:
        """Store `event` unless a newer one is stored already."""
        if self.frames is None or event.cursor.offset > self.frames.event.cursor.offset:
            self.frames = Frames(event)
            self.pushed = False

    def update_unordered(self, event: Event) -> bool:
        """As `update`, where offsets do not order two states; returns whether it is news.

        A state that is not recorded, one that follows such a state or another epoch, and one that comes
        late or once more. What was shown and is recorded now only gets its cursor.
        """
        cursor, latest = event.cursor, self.latest
        if latest is None or not (self.unrecorded or cursor.shown):
            if latest is not None and cursor.offset <= latest.cursor.offset:
                return False
            relation = Relation.NEWS
        else:
            relation = compare(latest.state, event.state)
            if relation is Relation.BEHIND and self.unrecorded and not cursor.shown:
                known = latest.cursor.offset if latest.cursor.epoch == cursor.epoch else 0
                event = unrecorded(latest, cursor.epoch, max(known, cursor.offset))
            elif relation is Relation.BEHIND or not (relation is Relation.NEWS or self.unrecorded):
                return False
        self.frames, self.unrecorded, self.pushed = Frames(event), bool(event.cursor.shown), True
        return relation is Relation.NEWS

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
        if self.held is not None:
            self._release(subscription)
        self.groups.setdefault(subscription.fmt.group, {})[subscription] = offset
        self.max_join_offset = max(self.max_join_offset, offset)

    def hold(self, subscription: Subscriber, position: Position) -> None:
        """Whether events are news to `subscription` is decided for each of them, by its position."""
        self.joining.pop(subscription, None)
        self.groups.setdefault(subscription.fmt.group, {})[subscription] = self.max_join_offset = HELD_OFFSET
        if self.held is None:
            self.held = {}
        self.held[subscription] = position

    def is_held(self, subscription: Subscriber) -> bool:
        """Whether its position is unclear."""
        return self.held is not None and subscription in self.held

    def _release(self, subscription: Subscriber) -> None:
        if self.held is None or self.held.pop(subscription, None) is None or self.held:
            return
        self.held = None
        offsets = (offset for group in self.groups.values() for offset in group.values())
        self.max_join_offset = max((offset for offset in offsets if offset != HELD_OFFSET), default=0)

    def includes(self, subscription: Subscriber) -> bool:
        """Whether broadcasts reach `subscription`; False while it is still joining."""
        return subscription in self.groups.get(subscription.fmt.group, ())

    def remove(self, subscription: Subscriber) -> None:
        """Stop sending events to `subscription`. Idempotent."""
        self.joining.pop(subscription, None)
        if self.held is not None:
            self._release(subscription)
        group = self.groups.get(subscription.fmt.group)
        if group is not None and group.pop(subscription, None) is not None and not group:
            # Otherwise each event would be encoded for a format that has no subscriber left.
            del self.groups[subscription.fmt.group]
