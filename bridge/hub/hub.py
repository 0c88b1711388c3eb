"""Fan-out: writes each journal event to the subscribers of its task.

Rule 1: nothing here waits. Backpressure: for a slow client the newest state of a task is pending; events are
        not queued.
Rule 2: each connection receives events in journal order; otherwise its cursor would skip one.
Rule 3: all events of one turn of the event loop leave in one write per connection.
Rule 4: states are written in two places: `Broadcast` writes one event to all its subscribers, `Hub.flush`
        everything pending to one connection. First states, resumed ones, placeholders, history, what a
        connection was too slow for, what a failure kept from it: all of it is pending.
Rule 5: where other processes write to the journal too (`Hub.share`), an offset does not always decide what is
        new: while their engine is away or replaced, for what this process receives late, and for a client
        that has seen more than is known here. Then the state is pending for subscribers that lack it, too.
        An id is written on a stream of many tasks only if everything up to there was.
Rule 6: an exception of one subscriber, one format or one task is caught there. What was not written is
        pending again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Protocol

from bridge.clock import Clock
from bridge.core.cursor import is_later
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.resume import HELD, Position, is_seen
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.hub.broadcast import Broadcast
from bridge.hub.channel import Channel
from bridge.hub.collection import Collection
from bridge.hub.connections import Confirmations, SharedHistory, discard
from bridge.hub.followers import Followers
from bridge.hub.subscription import Backlog, Subscription
from bridge.telemetry.metrics import Metrics
from bridge.wire.frames import Format

RESET_SECONDS = 1.0
"""From a change of epoch to `reset`: within it, processes that have shown more than is recorded record it."""

logger = logging.getLogger(__name__)


class Interest(Protocol):
    """Counts the subscribers of each task, so that a watch ends when the last one leaves."""

    def want(self, key: TaskKey, by: Hashable = None, *, resumes: bool = False) -> None:
        """Add one subscriber; starts the watch if it is the first.

        Args:
            by: The connection whose turn the first poll takes.
            resumes: Whether it may have seen a state of the task elsewhere.
        """

    def unwant(self, key: TaskKey) -> None:
        """Remove one subscriber."""


class Hub(Followers):
    """Subscriptions by task, collection and connection. Follows the journal; see `bridge.journal.base`."""

    def __init__(
        self, interest: Interest, confirmations: Confirmations, metrics: Metrics, clock: Clock
    ) -> None:
        super().__init__(confirmations, metrics, clock)
        self._interest = interest
        self._channels: dict[TaskKey, Channel[Subscription]] = {}
        self._reached = 0  # the newest offset broadcast
        self._ahead: dict[Subscription, Position] = {}  # the client has received more than this process
        self._resetting: dict[Subscription, None] = {}
        self._epoch = ""  # of the shared history
        self._epoch_settles_at = 0.0
        self.broadcast = Broadcast(self, metrics, clock)

    def share(self, history: SharedHistory) -> None:
        """The journal is written to by other processes as well; see rule 5."""
        self.history, self._epoch = history, history.epoch

    # Journal events

    def recorded(self, event: Event) -> None:
        """Broadcast `event` at the end of this turn of the event loop."""
        channel = self._channels.get(event.key)
        if channel is None:
            return
        _, offset, shown = event.cursor
        if offset <= self._reached or shown or channel.unrecorded:
            self._recorded_unordered(channel, event)
            return
        self._reached = offset
        if channel in self.broadcast.dirty:
            # Two events of one task in one turn: no subscriber receives the first.
            for audience in channel.audiences:
                for fmt, group in audience.groups.items():
                    self._metrics.conflated.labels(fmt.label).inc(len(group))
        channel.update(event)
        if channel.notices:
            channel.revoke_notices()
        if channel.collections:
            for collection in channel.collections:
                collection.recorded(channel)
        self.broadcast.add(channel)

    def _recorded_unordered(self, channel: Channel[Subscription], event: Event) -> None:
        """Make an event pending for the subscribers that lack it, where offsets do not decide; see rule 5."""
        if not event.cursor.shown:
            self._reached = max(self._reached, event.cursor.offset)
        floor = None if channel.unrecorded or event.cursor.shown else event.cursor.offset
        before = channel.frames
        if channel.update_unordered(event):
            channel.revoke_notices()
            # What was dirty is contained in it.
            self.broadcast.dirty.pop(channel, None)
            for fmt, group in channel.groups.items():
                members = [
                    one
                    for one, seen in group.items()
                    if not channel.is_held(one) and (floor is None or seen < floor)
                ]
                conflated = sum(one.mark_pending(channel) for one in members)
                self._metrics.conflated.labels(fmt.label).inc(conflated)
                self.push(members)
            for collection in list(channel.collections or ()):
                self._push_to_followers(collection, channel, floor)
        if channel.frames is before:
            return  # the same once more, or older
        self.broadcast.wake(channel)
        if channel.held or channel.collections:
            self.reconsider(channel)

    def amended(self, event: Event) -> None:
        """Keep an amended end for clients that are sent it from now on; no client is sent it for that."""
        channel = self._channels.get(event.key)
        frames = channel.frames if channel is not None else None
        if frames is not None and frames.event.cursor == event.cursor:
            frames.amend(event)

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """Send a notice, which is not a state, to the subscribers of a task."""
        self._metrics.notices.labels(notice.code.value).inc()
        channel = self._channels.get(key)
        if channel is None:
            return
        channel.add_notice(notice)
        if channel.collections:
            self._notify_followers(channel, notice)
        for fmt, group in list(channel.groups.items()):
            subscribers = list(group)  # a copy: closing a task below changes the group
            try:
                frame = None if fmt.answers_subscribe(notice) else fmt.pack(fmt.notice(key, notice))
            except Exception:
                logger.exception("unhandled exception in broadcast", extra={"task": key.ref})
                continue
            for subscription in subscribers:
                with self.guard(subscription):
                    self._notify(subscription, channel, notice, frame)
        if notice.code is NoticeCode.CREDENTIAL_REFUSED and key.account != OWN_ACCOUNT:
            # The rejected key belongs to these subscribers, so they may no longer read the task. The next
            # maintenance scan closes them.
            for subscription in [*channel.joining, *chain.from_iterable(channel.groups.values())]:
                subscription.ends_at, subscription.ends_by = self._clock.monotonic(), Closing.EXPIRED

    def _notify(
        self, subscription: Subscription, channel: Channel[Subscription], notice: Notice, frame: bytes | None
    ) -> None:
        """Send a notice; after others if any are pending.

        Args:
            frame: Its bytes; None if they are this connection's own.
        """
        if frame is None or subscription.waiting or subscription.flow.write_paused:
            subscription.add_pending_notice(channel.key, notice)
            self.flush(subscription)
            return
        self.write(subscription, frame)
        if notice.code is NoticeCode.TASK_NOT_FOUND:
            self.close_task(subscription, channel)

    def new_epoch(self) -> None:
        """The journal's history is another one; see `bridge.journal.base.Follower`.

        What comes of each task now is compared by content with what was sent before. A client that came with
        a cursor of the old one and has been sent nothing may have seen anything: it gets a reset. If it has
        been sent something, what it may have seen of the other tasks waits as long. A reset is also for every
        client with a cursor if this process was on the losing side of a split: the ids that follow are of an
        older epoch.
        """
        epoch = self.history.epoch if self.history is not None else ""
        went_back, self._epoch = is_later(self._epoch, epoch), epoch
        for channel in self._channels.values():
            channel.unrecorded = channel.frames is not None
        for one in self.subscriptions:
            of_before = one.resumed not in {"", epoch}
            if (went_back and one.fmt.has_cursor) if one.events else of_before:
                self._resetting[one] = None
            elif of_before:
                position = Position(ahead=True, epoch=epoch)
                self._hold(one, HELD, only_unsent=True)
                for collection in one.collections:
                    collection.hold(one, position)
                self._ahead.setdefault(one, position)
        # Again, too, for those that wait since a change within the last second.
        for one in self._resetting:
            self._hold(one, HELD)
            for collection in one.collections:
                collection.hold(one, HELD)
        self._epoch_settles_at = self._clock.monotonic() + RESET_SECONDS

    def catch_up(self) -> None:
        """Each second: send what was held back for clients ahead of this process, if it has caught up."""
        if not (self._resetting or self._ahead) or self._clock.monotonic() < self._epoch_settles_at:
            return
        if self.history is None or self.history.reconciled:
            resetting, self._resetting = self._resetting, {}
            for subscription in resetting:
                self._ahead.pop(subscription, None)
                self._reset(subscription)
            self.push(one for one in resetting if one in self.subscriptions)
        for subscription, position in list(self._ahead.items()):
            if subscription not in self.subscriptions:
                del self._ahead[subscription]
            elif self._is_of_other_epoch(subscription, position):
                del self._ahead[subscription]
                self._resetting[subscription] = None
            elif self._caught_up(subscription, position) and self._unhold_collections(subscription):
                del self._ahead[subscription]
                if position.after is None:  # else its offset decides
                    self._unhold(subscription)

    def _reset(self, subscription: Subscription) -> None:
        """Send `reset` and the newest state of each task."""
        if subscription not in self.subscriptions:
            return
        if subscription.collections:
            # What it begins with is not known here: it reconnects, and begins with the reset.
            subscription.ends_at, subscription.ends_by = self._clock.monotonic(), Closing.AGE
            return
        subscription.resumed = ""
        subscription.sent_offset = 0  # of the epoch before
        subscription.preface += subscription.fmt.reset("new_epoch", retry=subscription.retry)
        subscription.retry = None
        self._hold(subscription, Position())
        for channel in subscription.channels.values():
            if channel.is_held(subscription):
                subscription.pending[channel] = Backlog(position=Position())

    def _follow_ahead(self, subscription: Subscription, collection: Collection, position: Position) -> None:
        collection.hold(subscription, position)
        self._ahead[subscription] = position

    def _hold(self, subscription: Subscription, position: Position, *, only_unsent: bool = False) -> None:
        """Decide by `position` what of its tasks is news.

        Args:
            only_unsent: Only of those of which no state was sent to any client.
        """
        for channel in subscription.channels.values():
            if channel.includes(subscription) and not (only_unsent and channel.frames is not None):
                subscription.pending.pop(channel, None)
                channel.hold(subscription, position)

    def _caught_up(self, subscription: Subscription, position: Position) -> bool:
        """Whether this process knows every state that a client may have received elsewhere."""
        history = self.history
        if history is None:
            return True
        reached = history.epoch != position.epoch or history.head >= position.beyond
        return reached and self.is_settled(subscription)

    def _is_of_other_epoch(self, subscription: Subscription, position: Position) -> bool:
        """Whether its cursor is of the losing side of a split, or of an epoch before; the engine is there."""
        history = self.history
        if history is None or position.epoch == history.epoch:
            return False
        other = is_later(position.epoch, history.epoch) or position.of_epoch_before
        return other and self.is_settled(subscription)

    def _unhold(self, subscription: Subscription) -> None:
        for channel in subscription.channels.values():
            if channel.is_held(subscription):
                channel.hold(subscription, Position())
                self.reconsider(channel)

    # Joining and leaving

    def reserve(self, fmt: Format, *, ends_at: float) -> Subscription:
        """Register a connection; nothing is sent on it before `begin`."""
        now = self._clock.monotonic()
        subscription = Subscription(fmt, ends_at, last_write=now, since=now)
        self.subscriptions[subscription] = None
        self._metrics.connected(fmt.label)
        return subscription

    def join(self, subscription: Subscription, keys: Iterable[TaskKey], *, resumes: bool = False) -> None:
        """Register for tasks before the journal is read, so that no event between the two is missed.

        Args:
            resumes: Whether the client came with a cursor.
        """
        for key in keys:
            if key in subscription.channels:
                continue
            channel = self._channel(key)
            self._want(channel, subscription, resumes=resumes)
            channel.joining[subscription] = None
            subscription.channels[key] = channel
            subscription.tasks += 1
        self._classify(subscription)

    def begin(
        self,
        subscription: Subscription,
        backlogs: Mapping[TaskKey, Backlog],
        *,
        preface: bytes = b"",
        remarks: Sequence[tuple[TaskKey, Notice]] = (),
        retry: int | None = None,
        resumed: str = "",
    ) -> None:
        """Send what is known of tasks that were joined, and from now on every new event.

        Args:
            resumed: Epoch of the client's cursor; empty for a client that gets every current state.
            preface: Bytes to send first, in the same write.
            remarks: Notices for this connection only.
            retry: Milliseconds for the `retry:` field of the first block.
        """
        if subscription.closing is not None:
            return
        subscription.preface += preface
        subscription.retry = retry
        subscription.resumed = resumed
        for key, backlog in backlogs.items():
            channel = subscription.channels.get(key)
            if channel is None:
                continue
            if backlog.position is not None and backlog.position.ahead:
                self._ahead[subscription] = backlog.position
            if self.history is not None and backlog.event is not None:
                # The journal may have read it from the engine, before any subscriber was sent it.
                self._recorded_unordered(channel, backlog.event)
            channel.add(subscription, 0)
            subscription.pending[channel] = backlog
            for notice in channel.notices.values():
                subscription.add_pending_notice(key, notice)
        for key, notice in remarks:
            subscription.add_pending_notice(key, notice)
            self._metrics.notices.labels(notice.code.value).inc()
        self.flush(subscription)

    def replay(
        self,
        subscription: Subscription,
        events: Sequence[Event],
        *,
        preface: bytes = b"",
        retry: int | None = None,
    ) -> None:
        """Send recorded states of tasks that were joined, oldest first; before `begin`.

        What is recorded meanwhile follows with `begin`, only the newest state of each task.

        Args:
            events: All of the portion before must have been written (`Subscription.replayed` is empty).
            preface: Bytes to send first, in the same write.
            retry: Milliseconds for the `retry:` field of the first block.
        """
        if subscription.closing is not None:
            return
        subscription.preface += preface
        subscription.retry = retry
        subscription.replayed = events
        self.flush(subscription)

    def send_placeholders(self, subscription: Subscription, events: Sequence[Event]) -> None:
        """Send the state `unknown` of tasks without any recorded state, unless one arrived meanwhile."""
        for event in events:
            channel = subscription.channels.get(event.key)
            if channel is not None and channel.latest is None and channel.includes(subscription):
                subscription.pending[channel] = Backlog(event)
        self.flush(subscription)

    def unsubscribe(self, subscription: Subscription, key: TaskKey) -> None:
        """Stop sending events of one task. Idempotent."""
        channel = subscription.channels.pop(key, None)
        if channel is None:
            return
        self._classify(subscription)
        if not (subscription.collections and self._is_followed(subscription, channel)):
            subscription.pending.pop(channel, None)
            subscription.drop_pending_notices(key)
        if subscription.subscribe_ids is not None:
            subscription.subscribe_ids.pop(key, None)
        channel.remove(subscription)
        self._release(channel)

    def leave(self, subscription: Subscription, reason: str) -> None:
        """Deregister a connection that is gone. Idempotent."""
        if self.subscriptions.pop(subscription, self) is self:
            return
        # A broadcast that yielded may still hold this subscription in its slice.
        subscription.write = discard
        for key in list(subscription.channels):
            self.unsubscribe(subscription, key)
        if subscription.collections:
            self._leave_collections(subscription)
        subscription.replayed = ()
        subscription.pending.clear()
        subscription.pending_notices.clear()
        self._stuck.pop(subscription, None)
        if subscription.closing is None:
            subscription.closing = Closing.GONE
        self._metrics.disconnected(subscription.fmt.label, reason)

    async def changed(self, key: TaskKey, position: Position, *, seconds: float) -> Event | None:
        """Wait for an event of `key` that a client at `position` has not seen; None after `seconds`."""
        channel = self._channel(key)
        latest = channel.latest
        if latest is not None and not self._has_seen(latest, position):
            self._release(channel, wanted=False)
            return latest
        self._want(channel, resumes=True)
        waiter: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        channel.waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                while self._has_seen(latest := await waiter, position):
                    # What came since this one was woken is still to be awaited.
                    channel.waiters.discard(waiter)
                    if channel.latest is not None and not self._has_seen(channel.latest, position):
                        return channel.latest
                    waiter = asyncio.get_running_loop().create_future()
                    channel.waiters.add(waiter)
                return latest
        except TimeoutError:
            return None
        finally:
            channel.waiters.discard(waiter)
            self._release(channel)

    def _has_seen(self, event: Event, position: Position) -> bool:
        """As `is_seen`, also for a client with a cursor of an epoch before or that this process has left."""
        if position.of_epoch_before:
            return self.history is not None and not self.history.reconciled
        epoch = event.cursor.epoch
        went_back = epoch == self._epoch and is_later(position.epoch, epoch) and not position.ahead
        return not went_back and is_seen(event, position)

    def channel_of(self, key: TaskKey) -> Channel[Subscription] | None:
        """The channel of a task; None if the task has no subscriber, no collection and no waiter."""
        return self._channels.get(key)

    def is_noticed(self, key: TaskKey, code: NoticeCode) -> bool:
        """Whether such a notice of a task is active: every subscriber that joins receives it."""
        channel = self._channels.get(key)
        return channel is not None and code in channel.notices

    # Channels

    def _channel(self, key: TaskKey) -> Channel[Subscription]:
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(key)
        return channel

    def _want(self, channel: Channel[Subscription], by: Hashable = None, *, resumes: bool = False) -> None:
        # The channel exists before the call: `want` may send the active notices of the task at once.
        try:
            self._interest.want(channel.key, by, resumes=resumes)
        except BaseException:
            self._release(channel, wanted=False)
            raise

    def _release(self, channel: Channel[Subscription], *, wanted: bool = True) -> None:
        if wanted:
            self._interest.unwant(channel.key)
        # The channel may have been replaced by a new one of the same key, which has subscribers of its own.
        if channel.unused and self._channels.get(channel.key) is channel:
            del self._channels[channel.key]
            self.broadcast.dirty.pop(channel, None)
