"""Fan-out: writes each journal event to the subscribers of its task.

Rule 1: nothing here waits. Backpressure: for a slow client the newest state of a task is pending; events are
        not queued.
Rule 2: each connection receives events in journal order; otherwise its cursor would skip one.
Rule 3: all events of one turn of the event loop leave in one write per connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Protocol

from bridge.clock import Clock
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.hub.channel import Channel
from bridge.hub.subscription import ConnectionWriter, Subscription
from bridge.telemetry.metrics import Metrics
from bridge.wire.frames import Format, Frames, Transport, end_frame, notice_frame, pack, state_frame

SLICE = 500  # writes before the event loop gets a turn: about 5 ms

logger = logging.getLogger(__name__)


class Interest(Protocol):
    """Counts the subscribers of each task, so that a watch ends when the last one leaves."""

    def want(self, key: TaskKey, by: Hashable = None) -> None:
        """Add one subscriber; starts the watch if it is the first.

        Args:
            by: The connection whose turn the first poll takes.
        """

    def unwant(self, key: TaskKey) -> None:
        """Remove one subscriber."""


class Hub:
    """Subscriptions by task and connection. Follows the journal; see `bridge.journal.base.Follower`."""

    def __init__(self, interest: Interest, metrics: Metrics, clock: Clock) -> None:
        self._interest = interest
        self._metrics = metrics
        self._clock = clock
        self._channels: dict[TaskKey, Channel[Subscription]] = {}
        self._dirty: dict[Channel[Subscription], None] = {}  # channels with an event not yet broadcast
        self._batched: dict[Subscription, list[bytes]] = {}  # frames for the one write of this round
        self._writes_left = SLICE
        self._broadcasting: Generator[None, None, None] | None = None
        self.subscriptions: dict[Subscription, None] = {}

    # Journal events

    def recorded(self, event: Event) -> None:
        """Broadcast `event` at the end of this turn of the event loop."""
        channel = self._channels.get(event.key)
        if channel is None:
            return
        if channel in self._dirty:
            # Two events of one task in one turn: no subscriber receives the first.
            for fmt, group in channel.groups.items():
                self._metrics.conflated.labels(fmt.transport.value).inc(len(group))
        channel.update(event)
        self._dirty[channel] = None
        if self._broadcasting is None:
            # Not at once: a group commit records many events in one turn, and rule 3 joins them.
            self._broadcasting = self._broadcast()
            asyncio.get_running_loop().call_soon(self._step)

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """Send a notice, which is not a state, to the subscribers of a task."""
        self._metrics.notices.labels(notice.code.value).inc()
        channel = self._channels.get(key)
        if channel is None:
            return
        channel.add_notice(notice)
        for fmt, group in list(channel.groups.items()):
            silent = _answers_subscribe(fmt, notice)
            frame = b"" if silent else pack(fmt, notice_frame(fmt, key, notice))
            for subscription in list(group):  # a copy: closing a task below changes the group
                if not silent and (subscription.waiting or subscription.flow.write_paused):
                    subscription.add_pending_notice(key, notice)
                    self._resume_when_writable(subscription)
                    continue
                self.write(subscription, frame)
                if notice.code is NoticeCode.TASK_NOT_FOUND:
                    self._close_task(subscription, channel)
        if notice.code is NoticeCode.CREDENTIAL_REFUSED and key.account != OWN_ACCOUNT:
            # The rejected key belongs to these subscribers, so they may no longer read the task. The next
            # maintenance scan closes them.
            for subscription in [*channel.joining, *chain.from_iterable(channel.groups.values())]:
                subscription.ends_at, subscription.ends_by = self._clock.monotonic(), Closing.EXPIRED

    def confirmed(self, key: TaskKey, observed_at: float) -> None:
        """Store when the newest state was last seen (Unix seconds), for subscribers that join later."""
        channel = self._channels.get(key)
        if channel is not None:
            channel.confirmed_at = observed_at

    # Joining and leaving

    def reserve(
        self, writer: ConnectionWriter, *, label: str, ends_at: float, stays_open: bool = False
    ) -> Subscription:
        """Register a connection; nothing is sent on it before `begin`."""
        now = self._clock.monotonic()
        subscription = Subscription(
            writer=writer,
            label=label,
            stays_open=stays_open,
            ends_at=ends_at,
            since=now,
            last_write=now,
            write=writer.write,
            flow=writer.flow,
            fmt=writer.fmt,
        )
        self.subscriptions[subscription] = None
        self._metrics.connected(label)
        return subscription

    def join(self, subscription: Subscription, keys: Iterable[TaskKey]) -> None:
        """Register for tasks before the journal is read, so that no event between the two is missed."""
        for key in keys:
            if key in subscription.channels:
                continue
            channel = self._channel(key)
            self._want(channel, subscription)
            channel.joining[subscription] = None
            subscription.channels[key] = channel
            subscription.tasks += 1

    def begin(
        self,
        subscription: Subscription,
        events: Sequence[Event],
        keys: Iterable[TaskKey],
        *,
        preface: bytes = b"",
        remarks: Sequence[tuple[TaskKey, Notice]] = (),
        after: int | None = None,
        retry: int | None = None,
    ) -> None:
        """Send the known states in journal order, and from now on every new event.

        Args:
            events: What the journal returned; events recorded since `join` are added here.
            after: Offset up to which the client has seen everything.
            preface: Bytes to send first, in the same write.
            remarks: Notices for this connection only.
            retry: Milliseconds for the `retry:` field of the first block.
        """
        if subscription.closing is not None:
            return
        begun = {subscription.channels[key]: None for key in keys if key in subscription.channels}
        behind: list[Channel[Subscription]] = []
        if len(begun) < len(subscription.channels):
            # A WebSocket adds tasks to tasks it has. Sending the new states moves its cursor, so pending
            # events of the old tasks go into the same burst; otherwise a resume would skip them.
            behind = [channel for channel in self._unsent(subscription) if channel not in begun]
        channels = [*begun, *behind]
        known: list[Event] = [event for event in events if event.key in subscription.channels]
        newest = {event.key: event for event in known}
        for channel in channels:
            # The journal was read a moment ago; the channel may have received a newer event meanwhile.
            latest = channel.latest
            from_journal = newest.get(channel.key)
            if latest is not None and (
                from_journal is None or latest.cursor.offset > from_journal.cursor.offset
            ):
                known.append(latest)
                newest[channel.key] = latest
            self._mark_up_to_date(subscription, channel, newest.get(channel.key))
        floor = -1 if after is None else after
        burst = [preface]
        subscription.retry = retry
        behind_keys = {channel.key for channel in behind}
        for event in sorted(known, key=lambda event: event.cursor.offset):
            # `after` says nothing about a task that this connection is behind on.
            if event.cursor.offset > floor or event.key in behind_keys:
                burst.append(self._initial_frame(subscription, event))
                subscription.retry = None
        self._metrics.sent(subscription.label, len(burst) - 1)
        subscription.events += len(burst) - 1
        active_notices = [
            (channel.key, notice)
            for channel in begun
            for notice in channel.notices.values()
            if not _answers_subscribe(subscription.fmt, notice)
        ]
        burst += [notice_frame(subscription.fmt, key, notice) for key, notice in (*active_notices, *remarks)]
        for _, notice in remarks:
            self._metrics.notices.labels(notice.code.value).inc()
        # Frames batched in this round are older than the burst, so they go first (rule 2).
        batched = b"".join(self._batched.pop(subscription, ()))
        self.write(subscription, batched + pack(subscription.fmt, b"".join(burst)))
        for channel in channels:
            last = newest.get(channel.key)
            finished = last is not None and last.state.status.final
            if finished or NoticeCode.TASK_NOT_FOUND in channel.notices:
                self._close_task(subscription, channel)

    def send_placeholder(self, subscription: Subscription, event: Event) -> None:
        """Send the state `unknown` of a task without any recorded state, unless one arrived meanwhile."""
        channel = subscription.channels.get(event.key)
        if channel is None or channel.latest is not None or subscription.closing is not None:
            return
        # The placeholder's offset is 0. With other tasks on the connection, its cursor would move the
        # client's position back and repeat their events after a reconnect.
        alone = subscription.tasks == 1
        frame = state_frame(subscription.fmt, event, with_cursor=alone, retry=subscription.retry)
        subscription.retry = None
        self.write(subscription, pack(subscription.fmt, frame))
        self._metrics.sent(subscription.label, 1)
        subscription.events += 1

    def unsubscribe(self, subscription: Subscription, key: TaskKey) -> None:
        """Stop sending events of one task. Idempotent."""
        channel = subscription.channels.pop(key, None)
        if channel is None:
            return
        subscription.pending.discard(channel)
        if subscription.pending_notices:
            subscription.drop_pending_notices(key)
        channel.remove(subscription)
        self._release(channel)

    def leave(self, subscription: Subscription, reason: str) -> None:
        """Deregister a connection that is gone. Idempotent."""
        if self.subscriptions.pop(subscription, self) is self:
            return
        # A broadcast that yielded may still hold this subscription in its slice.
        subscription.write = _discard
        for key in list(subscription.channels):
            self.unsubscribe(subscription, key)
        subscription.pending.clear()
        subscription.pending_notices.clear()
        if subscription.closing is None:
            subscription.closing = Closing.GONE
        self._metrics.disconnected(subscription.label, reason)

    def finish(self, subscription: Subscription, closing: Closing, final_frame: bytes = b"") -> None:
        """Close a connection cleanly, after `final_frame`. Idempotent."""
        if subscription.closing is not None:
            return
        self.write(subscription, pack(subscription.fmt, final_frame))
        if closing is not Closing.FINISHED:
            self._metrics.notices.labels(NoticeCode.CLOSING.value).inc()
        subscription.closing = closing
        subscription.write = _discard  # the body has ended; further bytes would corrupt the connection
        subscription.writer.finish(closing)

    def drop(self, subscription: Subscription, closing: Closing) -> None:
        """Abort a connection without a final frame."""
        subscription.closing = closing
        subscription.write = _discard
        subscription.writer.abort()

    async def changed(self, key: TaskKey, after: int, *, seconds: float) -> Event | None:
        """Wait for an event of `key` with an offset above `after`; None after `seconds`."""
        channel = self._channel(key)
        latest = channel.latest
        if latest is not None and latest.cursor.offset > after:
            self._release(channel, wanted=False)
            return latest
        self._want(channel)
        waiter: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        channel.waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            return None
        finally:
            channel.waiters.discard(waiter)
            self._release(channel)

    def channel_of(self, key: TaskKey) -> Channel[Subscription] | None:
        """The channel of a task; None if the task has no subscriber and no waiter."""
        return self._channels.get(key)

    def is_noticed(self, key: TaskKey, code: NoticeCode) -> bool:
        """Whether such a notice of a task is active: every subscriber that joins receives it."""
        channel = self._channels.get(key)
        return channel is not None and code in channel.notices

    # Broadcasting

    def _step(self) -> None:
        """Run the broadcast for one slice, then give the event loop a turn."""
        if self._broadcasting is None:
            return
        self._writes_left = SLICE
        try:
            next(self._broadcasting)
        except StopIteration:
            self._broadcasting = None
            return
        except Exception:
            # One failed round must not end the fan-out: what is still dirty goes into a new one.
            logger.exception("unhandled exception in broadcast")
            self._broadcasting = self._broadcast()
        asyncio.get_running_loop().call_soon(self._step)

    def _broadcast(self) -> Generator[None, None, None]:
        """Write all dirty channels, one slice at a time, until none is left."""
        while self._dirty:
            # The round keeps the events it began with. An event recorded during the round waits for the
            # next one: written early, it would overtake older events of other tasks (rule 2).
            batch = [(channel, channel.frames) for channel in sorted(self._dirty, key=_channel_offset)]
            self._dirty = {}
            ended: list[tuple[Subscription, Channel[Subscription]]] = []
            for channel, frames in batch:
                if frames is not None:
                    yield from self._broadcast_channel(channel, frames, ended, alone=len(batch) == 1)
            for subscription, written in self._batched.items():
                self.write(subscription, b"".join(written))
            self._batched = {}
            # Finished tasks close only now: the end frame has to follow everything batched above.
            for subscription, channel in ended:
                self._close_task(subscription, channel)
                self._writes_left -= 1
                if self._writes_left <= 0:
                    yield

    def _broadcast_channel(
        self,
        channel: Channel[Subscription],
        frames: Frames,
        ended: list[tuple[Subscription, Channel[Subscription]]],
        *,
        alone: bool,
    ) -> Generator[None, None, None]:
        """Write one event to every subscriber of its task.

        Args:
            ended: Receives the subscribers that have now been sent the final state.
            alone: Whether this is the only event of the round, so that nothing needs batching.
        """
        sent: dict[str, int] = {}
        conflated: dict[str, int] = {}
        for waiter in channel.waiters:
            if not waiter.done():  # a waiter that timed out removes itself a turn later
                waiter.set_result(frames.event)
        offset = frames.event.cursor.offset
        for fmt in list(channel.groups):
            # Looked up only now: during a yield the last member of a format may have left and another joined.
            group = channel.groups.get(fmt)
            if group is None:
                continue
            data = frames.bytes_for(fmt)
            label = fmt.transport.value
            totals = channel.totals_of(fmt)
            totals.events += 1
            totals.sent += len(data)
            members = list(group)
            position = 0
            while position < len(members):
                part = members[position : position + self._writes_left]
                position += len(part)
                self._writes_left -= len(part)
                # Subscribers that joined or were flushed meanwhile have this event or a newer one, and others
                # left during a yield. Two comparisons skip that check in the common case.
                if channel.max_join_offset >= offset or len(group) != len(members):
                    part = _without_event(part, group, offset, data)
                written, skipped = self._write_part(channel, part, data, offset, alone=alone)
                if written:
                    sent[label] = sent.get(label, 0) + written
                conflated[label] = conflated.get(label, 0) + skipped
                if frames.event.state.status.final:
                    # A slow client still has to be sent its final state; `_flush_pending` closes the task.
                    ended += [
                        (subscription, channel)
                        for subscription in part
                        if channel not in subscription.pending
                    ]
                if self._writes_left <= 0:
                    yield
        now = self._clock.monotonic()
        channel.last_write = now
        seconds = now - frames.event.observed_at if frames.event.observed_at else None
        # Counted once per broadcast: a metric call per subscriber would cost more than the write.
        self._metrics.record_broadcast(sent, conflated, seconds, task=channel.key.ref)

    def _write_part(
        self,
        channel: Channel[Subscription],
        part: Sequence[Subscription],
        data: bytes,
        offset: int,
        *,
        alone: bool,
    ) -> tuple[int, int]:
        """Write `data` now, or batch it if a subscriber has several tasks in this round.

        Hot path: this loop is all that a delivery costs besides the socket.

        Returns:
            How many subscribers were sent the event, and for how many an older one was conflated.
        """
        waiting = skipped = 0
        for subscription in part:
            # A subscriber that waits keeps waiting even if its buffer has drained since: its pending tasks
            # are flushed together, in order.
            if subscription.waiting or subscription.flow.write_paused:
                waiting += 1
                _subtract(subscription, data)
                skipped += subscription.mark_pending(channel)
                self._resume_when_writable(subscription)
                continue
            subscription.sent_offset = offset
            if alone or len(subscription.channels) == 1:
                # `write` is called directly, without the bookkeeping of `self.write`: `totals` has counted
                # the bytes and `channel.last_write` holds the time.
                try:
                    subscription.write(data)
                except Exception as error:  # noqa: BLE001 - any failure concerns this one connection only
                    self._drop_broken(subscription, error)
            else:
                subscription.sent -= len(data)  # `self.write` counts it again with the batch
                self._batched.setdefault(subscription, []).append(data)
        return len(part) - waiting, skipped

    def _close_task(self, subscription: Subscription, channel: Channel[Subscription]) -> None:
        """Unsubscribe from a finished or missing task; close the connection if it was the last one.

        A lost task is kept as long as the connection has another: a real end may still replace it, and events
        of the other tasks would move the cursor past that end.
        """
        if not channel.is_lost:
            self.unsubscribe(subscription, channel.key)
        if not subscription.stays_open and all(one.is_lost for one in subscription.channels.values()):
            self.finish(subscription, Closing.FINISHED, end_frame(subscription.fmt, subscription.tasks))

    # Slow clients

    def _resume_when_writable(self, subscription: Subscription) -> None:
        if not subscription.waiting:
            subscription.waiting = True
            subscription.writer.when_writable(lambda: self._flush_pending(subscription))

    def _flush_pending(self, subscription: Subscription) -> None:
        """The write buffer drained: send the newest state of every task skipped meanwhile."""
        subscription.waiting = False
        if subscription.closing is not None:
            return
        behind = self._unsent(subscription)
        notices = subscription.pending_notices
        subscription.pending_notices = {}
        # Frames batched in this round come first: they are older than anything pending (rule 2).
        burst = self._batched.pop(subscription, [])
        for channel in behind:
            if channel.frames is not None:
                burst.append(channel.frames.bytes_for(subscription.fmt))
                self._mark_up_to_date(subscription, channel, channel.latest)
        burst += [
            pack(subscription.fmt, notice_frame(subscription.fmt, key, notice))
            for (key, _), notice in notices.items()
        ]
        self.write(subscription, b"".join(burst))
        self._metrics.sent(subscription.label, len(behind))
        subscription.events += len(behind)
        # Tasks close after the write, so that the end frame follows their final states.
        missing = [
            subscription.channels.get(key) for key, code in notices if code is NoticeCode.TASK_NOT_FOUND
        ]
        finished = [
            channel for channel in behind if channel.latest is not None and channel.latest.state.status.final
        ]
        for ended in (*finished, *missing):
            if ended is not None:
                self._close_task(subscription, ended)

    def _unsent(self, subscription: Subscription) -> list[Channel[Subscription]]:
        """Channels with an event that `subscription` has not been sent, in journal order.

        Channels it is still joining are left out: `begin` sends their first state.
        """
        return sorted(
            (
                channel
                for channel in subscription.channels.values()
                if _channel_offset(channel) > subscription.sent_offset or channel in subscription.pending
                if channel.includes(subscription)
            ),
            key=_channel_offset,
        )

    def _mark_up_to_date(
        self, subscription: Subscription, channel: Channel[Subscription], newest: Event | None
    ) -> None:
        """Record that every event of `channel` up to `newest` is sent, or about to be."""
        # A broadcast under way skips the subscription for offsets up to this one; without that, it would
        # send an older state after a newer one.
        offset = newest.cursor.offset if newest is not None else 0
        channel.add(subscription, offset)
        subscription.pending.discard(channel)
        subscription.sent_offset = max(subscription.sent_offset, offset)

    def _drop_broken(self, subscription: Subscription, error: Exception) -> None:
        """Drop a connection whose write failed; other connections are not affected."""
        if subscription.writer.gone:
            return  # clients disconnect at any moment; the server reports it as a disconnect
        logger.error("unhandled exception in connection", exc_info=error)
        self.drop(subscription, Closing.GONE)

    # Channels and writes

    def _channel(self, key: TaskKey) -> Channel[Subscription]:
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(key)
        return channel

    def _want(self, channel: Channel[Subscription], by: Hashable = None) -> None:
        # The channel exists before the call: `want` may send the active notices of the task at once.
        try:
            self._interest.want(channel.key, by)
        except BaseException:
            self._release(channel, wanted=False)
            raise

    def _release(self, channel: Channel[Subscription], *, wanted: bool = True) -> None:
        if wanted:
            self._interest.unwant(channel.key)
        # The channel may have been replaced by a new one of the same key, which has subscribers of its own.
        if channel.unused and self._channels.get(channel.key) is channel:
            del self._channels[channel.key]
            self._dirty.pop(channel, None)

    def write(self, subscription: Subscription, data: bytes) -> None:
        """Write to one connection now; does nothing if it is closed."""
        if data:
            subscription.last_write = self._clock.monotonic()
            subscription.sent += len(data)
            try:
                subscription.write(data)
            except Exception as error:  # noqa: BLE001 - any failure concerns this one connection only
                self._drop_broken(subscription, error)

    def _initial_frame(self, subscription: Subscription, event: Event) -> bytes:
        """The first frame of a task on this connection: includes the newest confirmation and `retry`."""
        channel = subscription.channels.get(event.key)
        if channel is None:
            return state_frame(subscription.fmt, event, retry=subscription.retry)
        channel.update(event)
        # With the channel's own frames, subscribers that join between two polls share one encoding.
        frames = channel.frames if channel.latest is event else None
        return (frames or Frames(event)).first_for(
            subscription.fmt, confirmed_at=channel.confirmed_at, retry=subscription.retry
        )


def _without_event(
    part: Sequence[Subscription], group: Mapping[Subscription, int], offset: int, data: bytes
) -> list[Subscription]:
    """The subscribers of `part` that do not have the event yet; corrects the totals of the others."""
    without = []
    for subscription in part:
        if group.get(subscription, offset) < offset:  # not in the group: it has left
            without.append(subscription)
        else:
            _subtract(subscription, data)
    return without


def _subtract(subscription: Subscription, data: bytes) -> None:
    """`FormatTotals` counted an event that this subscriber was not sent."""
    subscription.events -= 1
    subscription.sent -= len(data)


def _discard(_data: bytes) -> None:
    """Replaces the `write` of a closed connection."""


def _answers_subscribe(fmt: Format, notice: Notice) -> bool:
    """On a WebSocket the 404 is sent as the reply to its subscribe message: see delivery/websocket.py."""
    return fmt.transport is Transport.WEBSOCKET and notice.code is NoticeCode.TASK_NOT_FOUND


def _channel_offset(channel: Channel[Subscription]) -> int:
    latest = channel.latest
    return latest.cursor.offset if latest is not None else 0
