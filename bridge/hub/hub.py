"""Fan-out: writes each journal event to the subscribers of its task.

Rule 1: nothing here waits. Backpressure: for a slow client the newest state of a task is pending; events are
        not queued.
Rule 2: each connection receives events in journal order; otherwise its cursor would skip one.
Rule 3: all events of one turn of the event loop leave in one write per connection.
Rule 4: states are written in two places: a broadcast writes one event to all its subscribers, `flush` writes
        everything pending to one connection. First states, resumed ones, placeholders, history, what a
        connection was too slow for, what a failure kept from it: all of it is pending.
Rule 5: an exception of one subscriber, one format or one task is caught there. What was not written is
        pending again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Protocol

from bridge.clock import Clock
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.task import OWN_ACCOUNT, TaskKey
from bridge.hub.channel import Channel
from bridge.hub.subscription import ONE_EVENT, Backlog, Subscription, counts_of
from bridge.telemetry.metrics import Metrics
from bridge.wire.frames import ANY_LIST, Format, Frames

BURST_BYTES = 128 * 1024  # of states that one flush writes; a connection takes the rest when it has drained
MAX_LARGE = 8  # large documents whose bytes are kept for the next subscriber
SLICE = 500  # writes before the event loop gets a turn: about 5 ms
RESPONSE_WRITES = 50  # writes that take as long as the whole response of one long-poll

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
        self._large: dict[Frames, None] = {}  # those whose bytes are kept, the newest last
        self._batched: dict[Subscription, list[bytes]] = {}  # frames for the one write of this round
        self._stuck: dict[Subscription, None] = {}  # those with a state that could not be encoded
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
                self._metrics.conflated.labels(fmt.label).inc(len(group))
        channel.update(event)
        channel.revoke_notices()
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
            subscribers = list(group)  # a copy: closing a task below changes the group
            try:
                frame = None if fmt.answers_subscribe(notice) else fmt.pack(fmt.notice(key, notice))
            except Exception:
                logger.exception("unhandled exception in broadcast", extra={"task": key.ref})
                continue
            for subscription in subscribers:
                try:
                    self._notify(subscription, channel, notice, frame)
                except Exception as error:  # noqa: BLE001 - any failure concerns this one connection only
                    self._drop_broken(subscription, error)
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
            self._close_task(subscription, channel)

    def confirmed(self, key: TaskKey, observed_at: float) -> None:
        """Store when the newest state was last seen (Unix seconds), for subscribers that join later."""
        channel = self._channels.get(key)
        if channel is not None:
            channel.confirmed_at = observed_at

    # Joining and leaving

    def reserve(self, fmt: Format, *, ends_at: float) -> Subscription:
        """Register a connection; nothing is sent on it before `begin`."""
        now = self._clock.monotonic()
        subscription = Subscription(fmt, ends_at, last_write=now, since=now)
        self.subscriptions[subscription] = None
        self._metrics.connected(fmt.label)
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
        backlogs: Mapping[TaskKey, Backlog],
        *,
        preface: bytes = b"",
        remarks: Sequence[tuple[TaskKey, Notice]] = (),
        retry: int | None = None,
    ) -> None:
        """Send what is known of tasks that were joined, and from now on every new event.

        Args:
            preface: Bytes to send first, in the same write.
            remarks: Notices for this connection only.
            retry: Milliseconds for the `retry:` field of the first block.
        """
        if subscription.closing is not None:
            return
        subscription.preface += preface
        subscription.retry = retry
        for key, backlog in backlogs.items():
            channel = subscription.channels.get(key)
            if channel is None:
                continue
            channel.add(subscription, 0)
            subscription.pending[channel] = backlog
            for notice in channel.notices.values():
                subscription.add_pending_notice(key, notice)
        for key, notice in remarks:
            subscription.add_pending_notice(key, notice)
            self._metrics.notices.labels(notice.code.value).inc()
        self.flush(subscription)

    def send_placeholders(self, subscription: Subscription, events: Sequence[Event]) -> None:
        """Send the state `unknown` of tasks without any recorded state, unless one arrived meanwhile."""
        for event in events:
            channel = subscription.channels.get(event.key)
            if channel is not None and channel.latest is None and channel.includes(subscription):
                subscription.pending[channel] = Backlog([event])
        self.flush(subscription)

    def unsubscribe(self, subscription: Subscription, key: TaskKey) -> None:
        """Stop sending events of one task. Idempotent."""
        channel = subscription.channels.pop(key, None)
        if channel is None:
            return
        subscription.pending.pop(channel, None)
        if subscription.pending_notices:
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
        subscription.write = _discard
        for key in list(subscription.channels):
            self.unsubscribe(subscription, key)
        subscription.pending.clear()
        subscription.pending_notices.clear()
        self._stuck.pop(subscription, None)
        if subscription.closing is None:
            subscription.closing = Closing.GONE
        self._metrics.disconnected(subscription.fmt.label, reason)

    def finish(self, subscription: Subscription, closing: Closing, final_frame: bytes = b"") -> None:
        """Close a connection cleanly, after `final_frame`. Idempotent."""
        if subscription.closing is not None:
            return
        self.write(subscription, subscription.fmt.pack(final_frame))
        if closing is not Closing.FINISHED:
            self._metrics.notices.labels(NoticeCode.CLOSING.value).inc()
        if subscription.closing is not None:
            return  # the write failed, and dropped it
        subscription.closing = closing
        subscription.write = _discard  # the body has ended; further bytes would corrupt the connection
        if subscription.writer is None:
            return  # the coroutine that begins the response ends it
        try:
            subscription.writer.finish(closing)
        except Exception as error:  # noqa: BLE001 - any failure concerns this one connection only
            self._drop_broken(subscription, error)

    def drop(self, subscription: Subscription, closing: Closing) -> None:
        """Abort a connection without a final frame."""
        subscription.closing = closing
        subscription.write = _discard
        if subscription.writer is None:
            return
        try:
            subscription.writer.abort()
        except Exception:
            logger.exception("unhandled exception in connection")

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
                if frames is None:
                    continue
                try:
                    yield from self._broadcast_channel(channel, frames, ended, alone=len(batch) == 1)
                except Exception:
                    logger.exception("unhandled exception in broadcast", extra={"task": channel.key.ref})
                    self._put_back(channel, chain.from_iterable(channel.groups.values()), frames)
                if channel.waiters:
                    yield from self._wake_waiters(channel, frames.event)
            batched, self._batched = self._batched, {}
            for subscription, written in batched.items():
                self.write(subscription, b"".join(written))
            # Finished tasks close only now: the end frame has to follow everything batched above.
            for subscription, channel in ended:
                self._close_task(subscription, channel)
                self._writes_left -= 1
                if self._writes_left <= 0:
                    yield

    def _wake_waiters(self, channel: Channel[Subscription], event: Event) -> Generator[None, None, None]:
        for waiter in list(channel.waiters):
            if not waiter.done():  # a waiter that timed out removes itself a turn later
                waiter.set_result(event)
                self._writes_left -= RESPONSE_WRITES
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
        offset = frames.event.cursor.offset
        for fmt in list(channel.groups):
            # Looked up only now: during a yield the last member of a format may have left and another joined.
            group = channel.groups.get(fmt)
            if group is None:
                continue
            members = list(group)
            data = self._encoded(channel, frames, fmt)
            if data is None:
                self._put_back(channel, members, frames)
                continue
            label = fmt.label
            marked: dict[str | None, bytes] | None = {} if fmt.mark == ANY_LIST else None
            position = 0
            while position < len(members):
                part = members[position : position + self._writes_left]
                position += len(part)
                self._writes_left -= len(part)
                # Subscribers that joined or were flushed meanwhile have this event or a newer one, and others
                # left during a yield. Two comparisons skip that check in the common case.
                if channel.max_join_offset >= offset or len(group) != len(members):
                    # A subscriber that is not in the group has left.
                    part = [one for one in part if group.get(one, offset) < offset]
                written, skipped = self._write_part(channel, part, frames, data, marked, alone=alone)
                if written:
                    sent[label] = sent.get(label, 0) + written
                conflated[label] = conflated.get(label, 0) + skipped
                if frames.event.state.status.final:
                    # A slow client still has to be sent its final state; `flush` closes the task.
                    ended += [
                        (subscription, channel)
                        for subscription in part
                        if channel not in subscription.pending
                    ]
                if self._writes_left <= 0:
                    yield
        self._bound_memory(frames)
        now = self._clock.monotonic()
        channel.last_write = now
        seconds = now - frames.event.observed_at if frames.event.observed_at else None
        # Counted once per broadcast: a metric call per subscriber would cost more than the write.
        self._metrics.record_broadcast(sent, conflated, seconds, task=channel.key.ref)

    def _write_part(
        self,
        channel: Channel[Subscription],
        part: Sequence[Subscription],
        frames: Frames,
        data: bytes,
        marked: dict[str | None, bytes] | None,
        *,
        alone: bool,
    ) -> tuple[int, int]:
        """Write `data` now, or batch it if a subscriber has several tasks in this round.

        Hot path: this loop is all that a delivery costs besides the socket.

        Args:
            marked: The bytes by mark; filled here. None for a format without marks.

        Returns:
            How many subscribers were sent the event, and for how many an older one was conflated.
        """
        waiting = skipped = 0
        offset = frames.event.cursor.offset
        counts = counts_of(data)
        for subscription in part:
            # A subscriber that waits keeps waiting even if its buffer has drained since: its pending tasks
            # are flushed together, in order.
            if subscription.waiting or subscription.flow.write_paused:
                waiting += 1
                skipped += subscription.mark_pending(channel)
                self._resume_when_writable(subscription)
                continue
            subscription.sent_offset = offset
            if marked is not None:
                mark = subscription.fmt.mark
                data = marked.get(mark) or marked.setdefault(mark, frames.marked_bytes(subscription.fmt))
                counts = counts_of(data)
            if alone or len(subscription.channels) == 1:
                # `write` is called directly, without the bookkeeping of `self.write`: `channel.last_write`
                # holds the time.
                subscription.counts += counts
                try:
                    subscription.write(data)
                except Exception as error:  # noqa: BLE001 - any failure concerns this one connection only
                    self._drop_broken(subscription, error)
            else:
                subscription.counts += ONE_EVENT  # `self.write` counts the bytes
                self._batched.setdefault(subscription, []).append(data)
        return len(part) - waiting, skipped

    def _encoded(self, channel: Channel[Subscription], frames: Frames, fmt: Format) -> bytes | None:
        try:
            return frames.bytes_for(fmt.plain if fmt.mark == ANY_LIST else fmt)
        except Exception:
            logger.exception("unhandled exception in broadcast", extra={"task": channel.key.ref})
            return None

    def _put_back(
        self, channel: Channel[Subscription], members: Iterable[Subscription], frames: Frames
    ) -> None:
        """A broadcast failed: what it has not written of this event is pending."""
        for subscription in list(members):
            if subscription.sent_offset < frames.event.cursor.offset:
                subscription.mark_pending(channel)
                if not subscription.waiting:
                    # Nothing newer overtakes it.
                    subscription.waiting = True
                    asyncio.get_running_loop().call_soon(self._resume, subscription)

    def _close_task(self, subscription: Subscription, channel: Channel[Subscription]) -> None:
        """Unsubscribe from a finished or missing task; close the connection if it was the last one.

        A lost task is kept as long as the connection has another: a real end may still replace it, and events
        of the other tasks would move the cursor past that end.
        """
        try:
            if not channel.is_lost:
                self.unsubscribe(subscription, channel.key)
            if not subscription.fmt.stays_open and all(
                one.is_lost and one not in subscription.pending for one in subscription.channels.values()
            ):
                self.finish(subscription, Closing.FINISHED, subscription.fmt.end(subscription.tasks))
        except Exception as error:  # noqa: BLE001 - any failure concerns this one connection only
            self._drop_broken(subscription, error)

    # One connection

    def flush(self, subscription: Subscription) -> None:
        """Send everything pending on one connection, once it can be written to."""
        if subscription.waiting or subscription.closing is not None or subscription.writer is None:
            return
        try:
            if subscription.flow.write_paused:
                self._resume_when_writable(subscription)
            else:
                self._flush(subscription)
        except Exception as error:  # noqa: BLE001 - any failure concerns this one connection only
            self._drop_broken(subscription, error)

    def _flush(self, subscription: Subscription) -> None:
        fmt = subscription.fmt
        pending, subscription.pending = subscription.pending, {}
        notices, subscription.pending_notices = subscription.pending_notices, {}
        # Events that a broadcast is about to write belong to the same burst: what follows them here would
        # move the cursor past them.
        channels = subscription.channels.values()
        held = dict.fromkeys(one for one in channels if _is_unsent(subscription, one))
        states, more = self._states_due(subscription, held | pending)
        burst, subscription.preface = [subscription.preface, *states], b""
        if more:
            subscription.pending_notices, notices = notices, {}
            if not subscription.waiting:
                subscription.waiting = True
                asyncio.get_running_loop().call_soon(self._resume, subscription)
        burst += [self._notice_frame(subscription, key, notice) for (key, _), notice in notices.items()]
        # Frames batched in this round are older than anything pending, so they go first (rule 2).
        batched = b"".join(self._batched.pop(subscription, ()))
        self.write(subscription, batched + fmt.pack(b"".join(burst)))
        self._metrics.sent(fmt.label, len(states))
        subscription.counts += ONE_EVENT * len(states)
        sent = [channel for channel in chain(pending, held) if channel not in subscription.pending]
        for channel in sent:
            # A broadcast under way skips the subscription for offsets up to this one; without that, it would
            # send an older state after a newer one.
            channel.add(subscription, channel.offset)
            subscription.sent_offset = max(subscription.sent_offset, channel.offset)
        # Tasks close after the write, so that the end frame follows their final states.
        for channel in sent:
            if channel.latest is not None and channel.latest.state.status.final:
                self._close_task(subscription, channel)
        for key, code in notices:
            missing = subscription.channels.get(key)
            if code is NoticeCode.TASK_NOT_FOUND and missing is not None:
                self._close_task(subscription, missing)

    def _states_due(
        self, subscription: Subscription, due: Mapping[Channel[Subscription], Backlog | None]
    ) -> tuple[list[bytes], bool]:
        """The states to write now, oldest first, and whether others did not fit into the burst.

        Those are pending again: 200 large documents must not wait in the write buffer of one connection.
        """
        frames: list[bytes] = []
        size = 0
        more = False
        for state in sorted(_due_states(due), key=lambda state: state.offset):
            again = Backlog([state.frames.event]) if state.first else None
            if size >= BURST_BYTES:
                more = True
                subscription.pending[state.channel] = again
                continue
            try:
                frames.append(_frame(subscription, state))
                size += len(frames[-1])
            except Exception:
                logger.exception("state cannot be written", extra={"task": state.channel.key.ref})
                # Its other tasks continue.
                subscription.pending[state.channel] = again
                subscription.waiting = True
                self._stuck[subscription] = None
            self._bound_memory(state.frames)
        return frames, more

    def _bound_memory(self, frames: Frames) -> None:
        """Keep the bytes of a few large documents only: the event has each of them already."""
        if not frames.large:
            return
        self._large.pop(frames, None)
        self._large[frames] = None
        if len(self._large) > MAX_LARGE:
            oldest = next(iter(self._large))
            del self._large[oldest]
            oldest.release()

    def _notice_frame(self, subscription: Subscription, key: TaskKey, notice: Notice) -> bytes:
        fmt = subscription.fmt
        try:
            if not fmt.answers_subscribe(notice):
                return fmt.notice(key, notice)
            ids = subscription.subscribe_ids or {}
            return fmt.reply(ids.get(key), key, notice)
        except Exception:
            logger.exception("unhandled exception in broadcast", extra={"task": key.ref})
            return b""

    def retry_stuck(self) -> None:
        """Try again to write the states that could not be encoded; once a second."""
        stuck, self._stuck = self._stuck, {}
        for subscription in stuck:
            self._resume(subscription)

    def _resume_when_writable(self, subscription: Subscription) -> None:
        if not subscription.waiting and subscription.writer is not None:
            subscription.waiting = True
            try:
                subscription.writer.when_writable(lambda: self._resume(subscription))
            except Exception as error:  # noqa: BLE001 - any failure concerns this one connection only
                self._drop_broken(subscription, error)

    def _resume(self, subscription: Subscription) -> None:
        """The write buffer drained: send the newest state of every task skipped meanwhile."""
        subscription.waiting = False
        self.flush(subscription)

    def _drop_broken(self, subscription: Subscription, error: Exception) -> None:
        """Drop a connection whose write failed; other connections are not affected."""
        if subscription.writer is not None and subscription.writer.gone:
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
        """Write to one connection now; does nothing if it is closed or has not begun."""
        if data and subscription.writer is not None:
            subscription.last_write = self._clock.monotonic()
            subscription.counts += counts_of(data, events=0)
            try:
                subscription.write(data)
            except Exception as error:  # noqa: BLE001 - any failure concerns this one connection only
                self._drop_broken(subscription, error)


class _Due(NamedTuple):
    """A state that a flush is about to write.

    Args:
        first: Whether it comes from a backlog: with the newest confirmation.
    """

    offset: int
    channel: Channel[Subscription]
    frames: Frames
    first: bool


def _frame(subscription: Subscription, due: _Due) -> bytes:
    if not due.first:
        return due.frames.payload_for(subscription.fmt)
    frame = due.frames.payload_for(
        subscription.fmt, confirmed_at=due.channel.confirmed_at, retry=subscription.retry
    )
    subscription.retry = None  # sent with the first block
    return frame


def _due_states(pending: Mapping[Channel[Subscription], Backlog | None]) -> Iterator[_Due]:
    for channel, backlog in pending.items():
        if backlog is None:
            if channel.frames is not None:
                yield _Due(channel.offset, channel, channel.frames, first=False)
            continue
        newest = channel.frames
        for event in backlog.events:
            if event.cursor.offset == 0:
                if newest is None:  # a placeholder, which nothing has replaced
                    yield _Due(0, channel, Frames(event), first=True)
                continue
            channel.update(event)
            if event.cursor.offset > backlog.floor:
                # With the channel's own frames, subscribers that join between two polls share one encoding.
                shared = channel.frames if channel.offset == event.cursor.offset else None
                yield _Due(event.cursor.offset, channel, shared or Frames(event), first=True)
        # The journal was read a moment ago; the channel may have received a newer event meanwhile.
        known = max((event.cursor.offset for event in backlog.events), default=0)
        if newest is not None and newest.event.cursor.offset > max(known, backlog.floor):
            yield _Due(newest.event.cursor.offset, channel, newest, first=True)


def _is_unsent(subscription: Subscription, channel: Channel[Subscription]) -> bool:
    """Whether a broadcast still has to write the newest event; False while the subscription is joining."""
    return channel.offset > subscription.sent_offset and channel.includes(subscription)


def _discard(_data: bytes) -> None:
    """Replaces the `write` of a closed connection."""


def _channel_offset(channel: Channel[Subscription]) -> int:
    return channel.offset
