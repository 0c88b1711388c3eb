"""Collections in the hub: who is a member, who follows, and how one ends; see `bridge.hub.collection`."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Hashable, Mapping, Sequence

from bridge.clock import Clock
from bridge.core.cursor import Cursor, EventId
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.resume import Position
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.hub.channel import Channel
from bridge.hub.collection import BROADCAST, Collection
from bridge.hub.connections import Confirmations, Connections
from bridge.hub.subscription import Backlog, Ending, Subscription
from bridge.telemetry.metrics import Metrics

NOTIFIED_PER_TURN = 500  # followers that are sent notices before the event loop gets a turn
MAX_FINALS = 2000  # final states whose bytes are kept for the next follower

logger = logging.getLogger(__name__)

Notices = Mapping[tuple[TaskKey, NoticeCode], Notice]


class Followers(Connections):
    """The part of the hub that serves collections."""

    def __init__(self, confirmations: Confirmations, metrics: Metrics, clock: Clock) -> None:
        super().__init__(confirmations, metrics, clock)
        self._notifying: deque[tuple[Subscription, bytes | None, Notices]] = deque()
        self._finals: dict[TaskKey, Channel[Subscription]] = {}  # the newest last; not of members

    # Members

    def collect(self, collection: Collection, key: TaskKey, *, resumes: bool = False) -> None:
        """From now on, every event of a task goes to the followers of the collection. Idempotent.

        What was recorded before does not: see `listen` and `show`. The task is wanted once per collection,
        not once per follower.

        Args:
            resumes: Whether followers may have seen a state of the task elsewhere.
        """
        if key in collection.members:
            collection.leaving.pop(collection.members[key], None)
            return
        channel = self._channel(key)
        self._want(channel, resumes=resumes)
        if channel.collections is None:
            channel.collections = {}
        channel.collections[collection] = channel.offset
        collection.members[key] = channel
        if channel.notices:
            collection.noticed[channel] = None

    def release_member(self, collection: Collection, key: TaskKey) -> None:
        """Send the followers nothing more of a task, once what was recorded is broadcast. Idempotent."""
        channel = collection.members.get(key)
        if channel is None:
            return
        if channel in collection.unsent:
            collection.leaving[channel] = None
            return
        del collection.members[key]
        collection.leaving.pop(channel, None)
        collection.noticed.pop(channel, None)
        if channel.collections is not None:
            channel.collections.pop(collection, None)
        self._release(channel)

    def release_over(self, channel: Channel[Subscription]) -> None:
        """See `Connections`."""
        over = channel.is_over
        for collection in list(channel.collections or ()):
            if over or channel in collection.leaving:
                self.release_member(collection, channel.key)

    # Followers

    def listen(
        self,
        subscription: Subscription,
        collection: Collection,
        events: Sequence[Event],
        *,
        floor: int = -1,
        position: Position | None = None,
        preface: bytes = b"",
        retry: int | None = None,
        resumed: str = "",
    ) -> None:
        """Send the first states to a new follower, and from now on every new event of every member.

        Args:
            events: What it is sent first, of members and of tasks that are final, as it is known in this turn
                of the event loop; in any order, also at or below `floor`: those then have no id.
            floor: Offset of its cursor; -1 without one. Nothing that was recorded up to there follows.
            position: Where it left off, if it may have seen more than is known here (`Position.ahead`).
            preface: Bytes to send first, in the same write.
            retry: Milliseconds for the `retry:` field of the first block.
            resumed: Epoch of its cursor; empty for a client that gets every current state.
        """
        if subscription.closing is not None:
            return
        if collection not in subscription.collections:
            subscription.collections += (collection,)
            self._classify(subscription)
        collection.add(subscription, floor)
        subscription.preface += preface
        subscription.retry = retry
        subscription.resumed = resumed or subscription.resumed
        ahead = position if position is not None and position.ahead else None
        for event in events:
            backlog = Backlog(event) if ahead is None else Backlog(event, floor, ahead)
            subscription.pending[self._channel_for(event)] = backlog
        collection.began(subscription, events)
        if ahead is not None:
            self._follow_ahead(subscription, collection, ahead)
        for channel in list(collection.noticed):
            if not channel.notices:
                del collection.noticed[channel]
            for notice in channel.notices.values():
                subscription.add_pending_notice(channel.key, notice)
        self.flush(subscription)

    def show(self, collection: Collection, event: Event) -> None:
        """Send the newest state of a task that became visible to all followers.

        Does nothing if it is broadcast anyway. Where it is older than what a follower was sent, it has no id.
        """
        member = collection.members.get(event.key)
        if member is not None and (member.collections or {}).get(collection) == BROADCAST:
            return  # it, or a newer one, was recorded since it became a member
        channel = self._channel_for(event)
        followers = []
        for subscription in collection.followers:
            if not collection.has_begun_with(subscription, event):
                subscription.pending.setdefault(channel, Backlog(event))
                followers.append(subscription)
        self.push(followers)

    def unlisten(self, subscription: Subscription, collection: Collection) -> None:
        """Send nothing more of a collection to a connection. Idempotent."""
        if collection not in subscription.collections:
            return
        collection.remove(subscription)
        collection.mixed.pop(subscription, None)
        subscription.collections = tuple(one for one in subscription.collections if one is not collection)
        self._classify(subscription)
        if subscription.ending is not None:
            subscription.ending.pop(collection, None)
        if not subscription.collections:
            # Of a task of two collections it is not known by which of them its state is pending.
            own = subscription.channels
            for channel in [one for one in subscription.pending if own.get(one.key) is not one]:
                del subscription.pending[channel]
            for key, code in [one for one in subscription.pending_notices if one[0] not in own]:
                del subscription.pending_notices[key, code]

    def end_collection(
        self, collection: Collection, counts: Mapping[str, int], *, cursor: Cursor, mark: str | None = None
    ) -> None:
        """All tasks of a group are final: `group_done` to each follower after all its states, then `end`.

        A WebSocket stays open, and a slow follower gets it once it has taken everything before. The
        collection has no members afterwards, and no followers once they were sent it.

        Args:
            counts: How many tasks ended with each status.
            cursor: Not before that of any of their states.
            mark: Says in the id that the client has seen `group_done`; None for that of its stream.
        """
        name, tasks = collection.selection.name, sum(counts.values())
        followers = []
        for fmt, group in collection.groups.items():
            try:
                frame = fmt.group_done(name, counts, EventId(cursor, mark or fmt.mark))
            except Exception:
                logger.exception(
                    "unhandled exception in broadcast", extra={"selection": collection.selection.name}
                )
                frame = b""
            for subscription in group:
                if subscription.ending is None:
                    subscription.ending = {}
                subscription.ending[collection] = Ending(frame, tasks)
                followers.append(subscription)
        for key in list(collection.members):
            self.release_member(collection, key)
        self.push(followers)

    def ended(self, subscription: Subscription) -> None:
        """What follows everything pending was written: it follows those collections no longer."""
        endings, subscription.ending = subscription.ending or {}, None
        for collection in endings:
            self.unlisten(subscription, collection)
        if endings and not subscription.fmt.stays_open:
            tasks = sum(ending.tasks for ending in endings.values())
            self.finish(subscription, Closing.FINISHED, subscription.fmt.end(tasks))

    # Notices

    def _notify_followers(self, channel: Channel[Subscription], notice: Notice) -> None:
        """Send a notice of a member to all followers, with the other notices of this turn.

        A provider that fails is announced for thousands of tasks at once.
        """
        key = channel.key
        notified: set[Subscription] = set()
        for collection in list(channel.collections or ()):
            if channel.notices:
                collection.noticed[channel] = None
            for subscription in collection.mixed:
                if subscription not in notified:
                    notified.add(subscription)
                    subscription.add_pending_notice(key, notice)
            if notified:
                self.push(notified)
            if collection.add_notice(key, notice):
                asyncio.get_running_loop().call_soon(self._send_notices, collection)
            if notice.code is NoticeCode.CREDENTIAL_REFUSED and key.account != OWN_ACCOUNT:
                for subscription in collection.followers:
                    subscription.ends_at, subscription.ends_by = self._clock.monotonic(), Closing.EXPIRED
            if notice.code is NoticeCode.TASK_NOT_FOUND:
                self.release_member(collection, key)

    def _send_notices(self, collection: Collection) -> None:
        notices, collection.notices = collection.notices, {}
        if not self._notifying:
            asyncio.get_running_loop().call_soon(self._notify_some)
        for fmt, group in collection.groups.items():
            try:
                frames = b"".join(fmt.notice(key, notice) for (key, _), notice in notices.items())
                data: bytes | None = fmt.pack(frames)
            except Exception:
                logger.exception(
                    "unhandled exception in broadcast", extra={"selection": collection.selection.name}
                )
                data = None  # one after the other, each failure apart
            self._notifying += [(one, data, notices) for one in group if one not in collection.mixed]

    def _notify_some(self) -> None:
        for _ in range(min(len(self._notifying), NOTIFIED_PER_TURN)):
            subscription, data, notices = self._notifying.popleft()
            if not subscription.collections:
                continue  # it has left
            with self.guard(subscription):
                if data is None or subscription.waiting or subscription.flow.write_paused:
                    for (key, _), notice in notices.items():
                        subscription.add_pending_notice(key, notice)
                    self.flush(subscription)
                else:
                    self.write(subscription, data)
        if self._notifying:
            asyncio.get_running_loop().call_soon(self._notify_some)

    # Pieces

    def _channel_for(self, event: Event) -> Channel[Subscription]:
        """The channel by which a state is sent that is not broadcast; that of the task if there is one."""
        channel = self.channel_of(event.key)
        if channel is not None:
            if self.history is not None:
                # The journal may have read it from the engine, before any follower was sent it.
                self._recorded_unordered(channel, event)
            return channel
        if event.cursor.offset == 0:
            return Channel(event.key)  # a placeholder
        channel = self._finals.pop(event.key, None)
        latest = channel.latest if channel is not None else None
        same = latest is not None and latest.cursor == event.cursor and latest.state.raw == event.state.raw
        if channel is None or not same:
            channel = Channel(event.key)
            channel.update(event)
        self._finals[event.key] = channel
        if len(self._finals) > MAX_FINALS:
            del self._finals[next(iter(self._finals))]
        return channel

    def _push_to_followers(
        self, collection: Collection, channel: Channel[Subscription], floor: int | None
    ) -> None:
        """Make an event that is not broadcast pending for the followers that may lack it; see rule 3."""
        collection.unsent.pop(channel, None)  # what was to be broadcast is contained in it
        collection.sent(channel)
        for fmt in collection.groups:
            followers = [*collection.lacking(fmt, floor), *collection.clear(channel)]
            # Those that subscribed to the task itself have it pending already, and were counted.
            waiting = [one for one in followers if channel in one.pending and channel.key not in one.channels]
            self._metrics.conflated.labels(fmt.label).inc(len(waiting))
            for subscription in followers:
                subscription.mark_pending(channel)
            self.push(followers)
        if channel in collection.leaving or channel.is_over:
            self.release_member(collection, channel.key)

    def _unhold_collections(self, subscription: Subscription) -> bool:
        """This process has caught up with a follower: send what was held back; returns False if too early."""
        for collection in subscription.collections:
            held = (collection.held or {}).get(subscription)
            skipped = collection.skipped.get(subscription, {})
            if held is None:
                continue
            if any(channel.unrecorded for channel in skipped):
                return False  # what it has seen of them is about to be recorded
            floor = -1 if held.after is None else held.after
            collection.unhold(subscription, max(floor, subscription.sent_offset))
            for channel in skipped:
                subscription.pending.setdefault(channel, Backlog(None, floor))
            self.push([subscription])
        return True

    def _is_followed(self, subscription: Subscription, channel: Channel[Subscription]) -> bool:
        """Whether a connection is sent the events of a task by a collection as well, or was until its end."""
        members = channel.collections or {}
        return channel.is_over or any(one in members for one in subscription.collections)

    def _classify(self, subscription: Subscription) -> None:
        """Its tasks or collections changed: whether its events need batching, or may reach it twice."""
        subscription.single = len(subscription.channels) <= 1 and not subscription.collections
        mixed = subscription.mixed
        if mixed:
            self.mixed[subscription] = None
        else:
            self.mixed.pop(subscription, None)
        for collection in subscription.collections:
            if mixed:
                collection.mixed[subscription] = None
            else:
                collection.mixed.pop(subscription, None)

    def _leave_collections(self, subscription: Subscription) -> None:
        for collection in subscription.collections:
            self.unlisten(subscription, collection)

    @abstractmethod
    def channel_of(self, key: TaskKey) -> Channel[Subscription] | None:
        """The channel of a task; None if the task has no subscriber, no collection and no waiter."""

    @abstractmethod
    def _channel(self, key: TaskKey) -> Channel[Subscription]:
        """The same; a new one if it has none."""

    @abstractmethod
    def _want(self, channel: Channel[Subscription], by: Hashable = None, *, resumes: bool = False) -> None:
        """Count a viewer of the task."""

    @abstractmethod
    def _release(self, channel: Channel[Subscription], *, wanted: bool = True) -> None:
        """Count one less; deletes an unused channel."""

    @abstractmethod
    def _recorded_unordered(self, channel: Channel[Subscription], event: Event) -> None:
        """See `Hub`, rule 5."""

    @abstractmethod
    def _follow_ahead(self, subscription: Subscription, collection: Collection, position: Position) -> None:
        """Hold back what a new follower may have seen, until this process has caught up."""
