"""The live set of tasks of one selection, and the connections that follow all of it.

Rule 1: a follower that keeps up costs no memory per task. What it has been sent is one offset: events come in
        the order of the journal, so everything up to there was written, or is pending.
Rule 2: what a flush writes is everything that was recorded and not yet broadcast (`unsent`), like a
        subscription's own tasks. Otherwise it would move the cursor past an event, or an older state of a
        task would follow a newer one.
Rule 3: an event that arrives late (`Hub`, rule 5) is compared with the client's cursor only (`floors`), for
        the offset of rule 1 says nothing about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.resume import Position
from bridge.core.selection import Selection
from bridge.core.task import TaskKey
from bridge.hub.channel import HELD_OFFSET, Channel
from bridge.wire.frames import Format

if TYPE_CHECKING:
    from bridge.hub.subscription import Backlog, Subscription

BROADCAST = -1
"""In place of the offset that a member had when it became one: an event has been recorded since."""


class Collection:
    """The members that may still change, and the followers, by their formats. Compared by identity.

    Only `bridge.hub` changes it.

    Attributes:
        selection: What its tasks have in common.
        mark: What cursors carry that resume it; empty for none.
        members: The channels of its tasks.
        groups: Its followers by format, each with the offset up to which it was sent everything or needs
            nothing. All followers have the same mark, so each event is encoded once per format.
        max_join_offset: The largest of those offsets.
        floors: The offset of the cursor a follower came with; of those that came with one.
        held: Followers that may have seen more than is known here, with their positions; None without any.
        skipped: What those were not sent because of that.
        cleared: Of which tasks those were sent a state since: of them it is clear what they have.
        unsent: Members with an event that was not broadcast yet, by ascending offset.
        leaving: Members that are released once their event was broadcast.
        noticed: Members of which a notice may be active.
        notices: What `Hub` is about to send to all followers, in one write each.
        mixed: Followers that one event may reach in two ways (`Subscription.mixed`).
        unshown: How many states of tasks that became members late are still to be shown (`Hub.show`). Set by
            the caller of that. Until then the cursor must not move past them: no state has an id.
        hides: Whether tasks are not shown yet that may be later, with any offset: no state has an id
            either. Set by the caller, too.
        begun: What those were sent first that have come meanwhile.
        unsettled_until: Monotonic seconds until which it is not asked again whether all of it is known here.
        last_write: Monotonic seconds of the last broadcast.
    """

    __slots__ = (
        "begun",
        "cleared",
        "floors",
        "groups",
        "held",
        "hides",
        "last_write",
        "leaving",
        "mark",
        "max_join_offset",
        "members",
        "mixed",
        "noticed",
        "notices",
        "selection",
        "skipped",
        "unsent",
        "unsettled_until",
        "unshown",
    )

    def __init__(self, selection: Selection, mark: str = "") -> None:
        self.selection = selection
        self.mark = mark
        self.members: dict[TaskKey, Channel[Subscription]] = {}
        self.groups: dict[Format, dict[Subscription, int]] = {}
        self.max_join_offset = 0
        self.floors: dict[Subscription, int] = {}
        self.held: dict[Subscription, Position] | None = None
        self.skipped: dict[Subscription, dict[Channel[Subscription], None]] = {}
        self.cleared: dict[Subscription, dict[Channel[Subscription], None]] = {}
        self.unsent: dict[Channel[Subscription], None] = {}
        self.leaving: dict[Channel[Subscription], None] = {}
        self.noticed: dict[Channel[Subscription], None] = {}
        self.notices: dict[tuple[TaskKey, NoticeCode], Notice] = {}
        self.mixed: dict[Subscription, None] = {}
        self.unshown = 0
        self.hides = False
        self.begun: dict[Subscription, dict[TaskKey, int]] = {}
        self.unsettled_until = 0.0
        self.last_write = 0.0

    def __repr__(self) -> str:
        name, followers = self.selection.name, len(self.followers)
        return f"<Collection {name}: {len(self.members)} members, {followers} followers>"

    @property
    def followers(self) -> list[Subscription]:
        """Those that `Hub.listen` added."""
        return [one for group in self.groups.values() for one in group]

    @property
    def gives_ids(self) -> bool:
        """Whether everything was sent up to the newest event, so that its cursor may be an id."""
        return not (self.unshown or self.hides)

    @property
    def unused(self) -> bool:
        """Whether no connection follows it."""
        return not self.groups

    # What follows is for the hub.

    def add(self, subscription: Subscription, floor: int) -> None:
        """From now on, send `subscription` every event after `floor`."""
        self.groups.setdefault(subscription.fmt, {})[subscription] = floor
        self.max_join_offset = max(self.max_join_offset, floor)
        if floor > 0:
            self.floors[subscription] = floor

    def remove(self, subscription: Subscription) -> None:
        """Stop sending events to `subscription`. Idempotent."""
        self.floors.pop(subscription, None)
        self.begun.pop(subscription, None)
        self._release(subscription)
        group = self.groups.get(subscription.fmt)
        if group is not None and group.pop(subscription, None) is not None and not group:
            del self.groups[subscription.fmt]

    def includes(self, subscription: Subscription) -> bool:
        """Whether broadcasts reach `subscription`."""
        return subscription in self.groups.get(subscription.fmt, ())

    def hold(self, subscription: Subscription, position: Position) -> None:
        """Whether an event is news to a follower is decided for each of them, by its position."""
        self.groups.setdefault(subscription.fmt, {})[subscription] = self.max_join_offset = HELD_OFFSET
        if self.held is None:
            self.held = {}
        self.held[subscription] = position

    def is_held(self, subscription: Subscription) -> bool:
        """Whether its position is unclear."""
        return self.held is not None and subscription in self.held

    def flushed(
        self,
        subscription: Subscription,
        sent: Iterable[Channel[Subscription]],
        held: Iterable[Channel[Subscription]],
    ) -> None:
        """Remember what a follower whose position is unclear was not sent."""
        if self.is_held(subscription):
            skipped = self.skipped.setdefault(subscription, {})
            skipped.update(dict.fromkeys(held))
            cleared = self.cleared.setdefault(subscription, {})
            for channel in sent:
                skipped.pop(channel, None)
                cleared[channel] = None

    def unclear(self, channel: Channel[Subscription]) -> dict[Subscription, Position]:
        """The followers of which it is unclear what they have seen of a task, with their positions."""
        held = self.held or {}
        return {one: held[one] for one in held if channel not in self.cleared.get(one, ())}

    def clear(self, channel: Channel[Subscription]) -> list[Subscription]:
        """Those left out of broadcasts that have to be sent what comes of a task nevertheless."""
        return [one for one in self.held or () if channel in self.cleared.get(one, ())]

    def unhold(self, subscription: Subscription, offset: int) -> None:
        """Its position is clear: it was sent everything up to `offset`, or that is pending."""
        if self._release(subscription):
            self.groups[subscription.fmt][subscription] = offset
            self.max_join_offset = max(self.max_join_offset, offset)

    def _release(self, subscription: Subscription) -> bool:
        if self.held is None or self.held.pop(subscription, None) is None:
            return False
        self.skipped.pop(subscription, None)
        self.cleared.pop(subscription, None)
        if not self.held:
            self.held = None
            offsets = (offset for group in self.groups.values() for offset in group.values())
            self.max_join_offset = max((offset for offset in offsets if offset != HELD_OFFSET), default=0)
        return True

    def recorded(self, channel: Channel[Subscription]) -> None:
        """A member has an event that will be broadcast: the newest of all."""
        self.unsent.pop(channel, None)
        self.unsent[channel] = None
        self.sent(channel)

    def sent(self, channel: Channel[Subscription]) -> None:
        """A member has an event that all followers are sent."""
        assert channel.collections is not None
        channel.collections[self] = BROADCAST

    def take_unsent(
        self, subscription: Subscription, pending: dict[Channel[Subscription], Backlog | None]
    ) -> None:
        """Add to `pending` what a broadcast would still write to `subscription`: it no longer will."""
        group = self.groups.get(subscription.fmt)
        if group is None or subscription not in group:
            return  # it is about to begin
        seen = max(group[subscription], subscription.sent_offset)
        newest = seen
        for channel in reversed(self.unsent):
            offset = channel.offset
            if offset <= seen:
                break
            pending.setdefault(channel)
            newest = max(newest, offset)
        if newest > seen:
            group[subscription] = newest
            self.max_join_offset = max(self.max_join_offset, newest)

    def began(self, subscription: Subscription, events: Sequence[Event]) -> None:
        """Remember what a follower was sent first, while states are still to be shown."""
        if not self.unshown:
            self.begun.clear()
        elif events:
            self.begun[subscription] = {event.key: event.cursor.offset for event in events}

    def has_begun_with(self, subscription: Subscription, event: Event) -> bool:
        """Whether a follower was sent a state, or a newer one, when it began."""
        begun = self.begun.get(subscription)
        return begun is not None and begun.get(event.key, -1) >= event.cursor.offset

    def lacking(self, fmt: Format, offset: int | None) -> Iterable[Subscription]:
        """The followers of one format that may lack an event that arrived late.

        Args:
            offset: None for one that is not recorded, so that no cursor says whether it was seen.
        """
        group = self.groups[fmt]
        if offset is None or not self.floors:
            return [one for one in group if not self.is_held(one)]
        floors = self.floors
        return [one for one in group if floors.get(one, 0) < offset and not self.is_held(one)]

    def add_notice(self, key: TaskKey, notice: Notice) -> bool:
        """Queue a notice for all followers; returns whether it is the first."""
        first = not self.notices
        if notice.code is NoticeCode.FRESH:
            for code in NoticeCode:
                self.notices.pop((key, code), None)
        self.notices[key, notice.code] = notice
        return first
