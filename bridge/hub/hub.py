"""The hub: hears the journal and carries each event to whoever asked for its task.

Rule 1: nothing here waits. What a slow client cannot take is owed, never queued.
Rule 2: a connection hears events in journal order, or its cursor would skip one.
Rule 3: the news of one turn of the event loop leaves in one write a connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
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
    """Whoever must know that somebody wants a task watched."""

    def want(self, key: TaskKey) -> None:
        """One more viewer."""

    def unwant(self, key: TaskKey) -> None:
        """One viewer less."""


class Hub:
    """Fan-out. Follows the journal; see `bridge.journal.base.Follower`."""

    def __init__(self, interest: Interest, metrics: Metrics, clock: Clock) -> None:
        self._interest = interest
        self._metrics = metrics
        self._clock = clock
        self._channels: dict[TaskKey, Channel[Subscription]] = {}
        self._dirty: dict[Channel[Subscription], None] = {}
        self._gathered: dict[Subscription, list[bytes]] = {}
        self._room = SLICE
        self._broadcasting: Generator[None, None, None] | None = None
        self.subscriptions: dict[Subscription, None] = {}

    # What the journal says

    def recorded(self, event: Event) -> None:
        """Carry an event to its subscribers at the end of this turn."""
        channel = self._channels.get(event.key)
        if channel is None:
            return
        if channel in self._dirty:
            self._count_conflated(channel)
        channel.hear(event)
        self._dirty[channel] = None
        if self._broadcasting is None:
            self._broadcasting = self._broadcast()
            asyncio.get_running_loop().call_soon(self._step)

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """Tell the subscribers of a task something that is no state."""
        self._metrics.notices.labels(notice.code.value).inc()
        channel = self._channels.get(key)
        if channel is None:
            return
        channel.note(notice)
        for fmt, group in list(channel.groups.items()):
            silent = _answers_subscribe(fmt, notice)
            frame = b"" if silent else pack(fmt, notice_frame(fmt, key, notice))
            for subscription in list(group):
                if not silent and (subscription.waiting or subscription.gate.write_paused):
                    subscription.add_pending_notice(key, notice)
                    self._wait(subscription)
                    continue
                self.write(subscription, frame)
                if notice.code is NoticeCode.TASK_NOT_FOUND:
                    self._close_task(subscription, channel)
        if notice.code is NoticeCode.CREDENTIAL_REFUSED and key.account != OWN_ACCOUNT:
            self._expire(channel)

    def confirmed(self, key: TaskKey, wall: float) -> None:
        """Remember when the newest state was last seen, for whoever joins next."""
        channel = self._channels.get(key)
        if channel is not None:
            channel.confirmed_at = wall

    # Joining and leaving

    def reserve(
        self, outlet: ConnectionWriter, *, label: str, ends_at: float, stays_open: bool = False
    ) -> Subscription:
        """A place for a connection; nothing is sent on it before `begin`."""
        now = self._clock.monotonic()
        subscription = Subscription(
            outlet=outlet,
            label=label,
            stays_open=stays_open,
            ends_at=ends_at,
            since=now,
            last_write=now,
            write=outlet.write,
            gate=outlet.gate,
            fmt=outlet.fmt,
        )
        self.subscriptions[subscription] = None
        self._metrics.connected(label)
        return subscription

    def join(self, subscription: Subscription, keys: Iterable[TaskKey]) -> None:
        """Register before reading the journal, so that nothing falls between the two."""
        for key in keys:
            if key in subscription.channels:
                continue
            channel = self._channel(key)
            self._want(channel)
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
        """Send what is known, in journal order, and everything that comes from now on.

        Args:
            events: What the journal knew; what it took in since `join` is added here.
            after: Offset the client has seen everything up to.
            preface: Bytes that go first, in the same write.
            remarks: Notices that only concern this connection.
            retry: Milliseconds for the first block.
        """
        if subscription.closing is not None:
            return
        begun = {subscription.channels[key]: None for key in keys if key in subscription.channels}
        behind: list[Channel[Subscription]] = []
        if len(begun) < len(subscription.channels):
            behind = [channel for channel in self._unsent(subscription) if channel not in begun]
        channels = [*begun, *behind]  # its cursor moves on: what it lacked before must not fall behind it
        known: list[Event] = [event for event in events if event.key in subscription.channels]
        newest = {event.key: event for event in known}
        for channel in channels:
            latest = channel.latest
            seen = newest.get(channel.key)
            if latest is not None and (seen is None or latest.cursor.offset > seen.cursor.offset):
                known.append(latest)
                newest[channel.key] = latest
            self._bring_up(subscription, channel, newest.get(channel.key))
        floor = -1 if after is None else after
        burst = [preface]
        subscription.retry = retry
        lacking = {channel.key for channel in behind}
        for event in sorted(known, key=_offset):
            if event.cursor.offset > floor or event.key in lacking:
                burst.append(self._current(subscription, event))
                subscription.retry = None
        self._metrics.sent(subscription.label, len(burst) - 1)
        subscription.events += len(burst) - 1
        standing = [
            (channel.key, notice)
            for channel in begun
            for notice in channel.notices.values()
            if not _answers_subscribe(subscription.fmt, notice)
        ]
        burst += [notice_frame(subscription.fmt, key, notice) for key, notice in (*standing, *remarks)]
        for _, notice in remarks:
            self._metrics.notices.labels(notice.code.value).inc()
        gathered = b"".join(self._gathered.pop(subscription, ()))
        self.write(subscription, gathered + pack(subscription.fmt, b"".join(burst)))
        for channel in channels:
            ended = newest.get(channel.key)
            if (
                ended is not None and ended.state.status.final
            ) or NoticeCode.TASK_NOT_FOUND in channel.notices:
                self._close_task(subscription, channel)

    def place(self, subscription: Subscription, event: Event) -> None:
        """Send the placeholder of a task nobody has seen, unless it was seen meanwhile."""
        channel = subscription.channels.get(event.key)
        if channel is None or channel.latest is not None or subscription.closing is not None:
            return
        alone = subscription.tasks == 1  # beside other tasks its cursor would go back
        frame = state_frame(subscription.fmt, event, with_cursor=alone, retry=subscription.retry)
        subscription.retry = None
        self.write(subscription, pack(subscription.fmt, frame))
        self._metrics.sent(subscription.label, 1)
        subscription.events += 1

    def part(self, subscription: Subscription, key: TaskKey) -> None:
        """The client wants no more of one task."""
        channel = subscription.channels.pop(key, None)
        if channel is None:
            return
        subscription.pending.discard(channel)
        if subscription.owed_notices:
            subscription.forget_notices(key)
        channel.leave(subscription)
        self._release(channel)

    def leave(self, subscription: Subscription, reason: str) -> None:
        """The connection is gone. Idempotent."""
        if self.subscriptions.pop(subscription, self) is self:
            return
        subscription.write = _nowhere
        for key in list(subscription.channels):
            self.part(subscription, key)
        subscription.pending.clear()
        subscription.owed_notices.clear()
        if subscription.closing is None:
            subscription.closing = Closing.GONE
        self._metrics.disconnected(subscription.label, reason)

    def finish(self, subscription: Subscription, closing: Closing, farewell: bytes = b"") -> None:
        """End a connection cleanly, with a last word."""
        if subscription.closing is not None:
            return
        self.write(subscription, pack(subscription.fmt, farewell))
        if closing is not Closing.FINISHED:
            self._metrics.notices.labels(NoticeCode.CLOSING.value).inc()
        subscription.closing = closing
        subscription.write = _nowhere
        subscription.outlet.finish(closing)

    def drop(self, subscription: Subscription, closing: Closing) -> None:
        """End a connection without a word."""
        subscription.closing = closing
        subscription.write = _nowhere
        subscription.outlet.abort()

    async def changed(self, key: TaskKey, after: int, *, seconds: float) -> Event | None:
        """Wait for an event of `key` beyond `after`; None after `seconds`."""
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
        """What the hub knows of a task somebody asks for just now."""
        return self._channels.get(key)

    # Carrying

    def _step(self) -> None:
        if self._broadcasting is None:
            return
        self._room = SLICE
        try:
            next(self._broadcasting)
        except StopIteration:
            self._broadcasting = None
            return
        except Exception:
            logger.exception("a bug ended a broadcast")
            self._broadcasting = self._broadcast()
        asyncio.get_running_loop().call_soon(self._step)

    def _broadcast(self) -> Generator[None, None, None]:
        """Write what is news, a slice at a time; news that comes meanwhile waits for the next round.

        The round keeps to the events it began with: a newer one written early would overtake others.
        """
        while self._dirty:
            turn = [(channel, channel.frames) for channel in sorted(self._dirty, key=_channel_offset)]
            self._dirty = {}
            ended: list[tuple[Subscription, Channel[Subscription]]] = []
            for channel, frames in turn:
                if frames is not None:
                    yield from self._broadcast_channel(channel, frames, ended, alone=len(turn) == 1)
            for subscription, written in self._gathered.items():
                self.write(subscription, b"".join(written))
            self._gathered = {}
            for subscription, channel in ended:
                self._close_task(subscription, channel)
                self._room -= 1
                if self._room <= 0:
                    yield

    def _broadcast_channel(
        self,
        channel: Channel[Subscription],
        frames: Frames,
        ended: list[tuple[Subscription, Channel[Subscription]]],
        *,
        alone: bool,
    ) -> Generator[None, None, None]:
        counted: dict[str, int] = {}
        conflated: dict[str, int] = {}
        for waiter in channel.waiters:
            if not waiter.done():
                waiter.set_result(frames.event)
        offset = frames.event.cursor.offset
        for fmt, group in list(channel.groups.items()):
            data = frames.bytes_for(fmt)
            label = fmt.transport.value
            tally = channel.tally(fmt)
            tally.events += 1
            tally.sent += len(data)
            members = list(group)
            done = 0
            while done < len(members):
                part = members[done : done + self._room]
                done += len(part)
                self._room -= len(part)
                # some have this event already, or a newer one: they joined, or were repaid; or left since
                if channel.brought_up >= offset or len(group) != len(members):
                    part = _lacking(part, group, offset, data)
                written, skipped = self._give(channel, part, data, offset, alone=alone)
                if written:
                    counted[label] = counted.get(label, 0) + written
                conflated[label] = conflated.get(label, 0) + skipped
                if frames.event.state.status.final:
                    ended += [(one, channel) for one in part if channel not in one.pending]
                if self._room <= 0:
                    yield
        now = self._clock.monotonic()
        channel.last_write = now
        seconds = now - frames.event.seen if frames.event.seen else None
        self._metrics.record_broadcast(counted, conflated, seconds, task=channel.key.ref)

    def _give(
        self,
        channel: Channel[Subscription],
        part: Sequence[Subscription],
        data: bytes,
        offset: int,
        *,
        alone: bool,
    ) -> tuple[int, int]:
        """Write, or keep for the one write of this round where there may be more.

        This loop is what a delivery costs besides the socket.

        Returns:
            How many were given the event, and of how many an older one is now skipped.
        """
        waiting = skipped = 0
        for subscription in part:
            if subscription.waiting or subscription.gate.write_paused:
                waiting += 1
                _take_off(subscription, data)
                skipped += subscription.mark_pending(channel)
                self._wait(subscription)
                continue
            subscription.seen = offset
            if alone or len(subscription.channels) == 1:
                try:
                    subscription.write(data)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is one connection's
                    self._broken(subscription, error)
            else:
                subscription.sent -= len(data)  # counted with the one write it goes into
                self._gathered.setdefault(subscription, []).append(data)
        return len(part) - waiting, skipped

    def _expire(self, channel: Channel[Subscription]) -> None:
        """The key that looks is the viewers' own, and is worth nothing any more: the sweep ends them."""
        for subscription in [*channel.joining, *chain.from_iterable(channel.groups.values())]:
            subscription.ends_at, subscription.ends_by = self._clock.monotonic(), Closing.EXPIRED

    def _close_task(self, subscription: Subscription, channel: Channel[Subscription]) -> None:
        self.part(subscription, channel.key)
        if not subscription.channels and not subscription.stays_open:
            self.finish(subscription, Closing.FINISHED, end_frame(subscription.fmt, subscription.tasks))

    # Those who take less than they are sent

    def _wait(self, subscription: Subscription) -> None:
        if not subscription.waiting:
            subscription.waiting = True
            subscription.outlet.when_writable(lambda: self._flush_pending(subscription))

    def _flush_pending(self, subscription: Subscription) -> None:
        """The client reads again: give it the newest of each task it is owed."""
        subscription.waiting = False
        if subscription.closing is not None:
            return
        behind = self._unsent(subscription)
        notices = subscription.owed_notices
        subscription.owed_notices = {}
        burst = self._gathered.pop(subscription, [])
        for channel in behind:
            if channel.frames is not None:
                burst.append(channel.frames.bytes_for(subscription.fmt))
                self._bring_up(subscription, channel, channel.latest)
        burst += [
            pack(subscription.fmt, notice_frame(subscription.fmt, key, notice))
            for (key, _), notice in notices.items()
        ]
        self.write(subscription, b"".join(burst))
        self._metrics.sent(subscription.label, len(behind))
        subscription.events += len(behind)
        gone = [subscription.channels.get(key) for key, code in notices if code is NoticeCode.TASK_NOT_FOUND]
        ended = [one for one in behind if one.latest is not None and one.latest.state.status.final]
        for done in (*ended, *gone):
            if done is not None:
                self._close_task(subscription, done)

    def _unsent(self, subscription: Subscription) -> list[Channel[Subscription]]:
        """The channels with news it was not sent, in the order of that news; those it has begun with."""
        return sorted(
            (
                channel
                for channel in subscription.channels.values()
                if _channel_offset(channel) > subscription.seen or channel in subscription.pending
                if channel.serves(subscription)
            ),
            key=_channel_offset,
        )

    def _bring_up(
        self, subscription: Subscription, channel: Channel[Subscription], newest: Event | None
    ) -> None:
        """Everything of `channel` up to `newest` is, or is about to be, written to `subscription`."""
        offset = newest.cursor.offset if newest is not None else 0
        channel.admit(subscription, offset)
        subscription.pending.discard(channel)
        subscription.seen = max(subscription.seen, offset)

    def _broken(self, subscription: Subscription, error: Exception) -> None:
        """A connection that cannot be written to ends alone; nobody else notices it."""
        if subscription.outlet.gone:
            return  # clients leave at any moment: it will be told as that
        logger.error("a bug ended a connection", exc_info=error)
        self.drop(subscription, Closing.GONE)

    # Small things

    def _channel(self, key: TaskKey) -> Channel[Subscription]:
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(key)
        return channel

    def _want(self, channel: Channel[Subscription]) -> None:
        """The channel is there first: what stands about the task is told while it is wanted."""
        try:
            self._interest.want(channel.key)
        except BaseException:
            self._release(channel, wanted=False)
            raise

    def _release(self, channel: Channel[Subscription], *, wanted: bool = True) -> None:
        if wanted:
            self._interest.unwant(channel.key)
        if channel.deserted and self._channels.get(channel.key) is channel:
            del self._channels[channel.key]
            self._dirty.pop(channel, None)

    def write(self, subscription: Subscription, data: bytes) -> None:
        """Write to one connection now; nothing, when it is gone."""
        if data:
            subscription.last_write = self._clock.monotonic()
            subscription.sent += len(data)
            try:
                subscription.write(data)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is one connection's
                self._broken(subscription, error)

    def _current(self, subscription: Subscription, event: Event) -> bytes:
        channel = subscription.channels.get(event.key)
        if channel is None:
            return state_frame(subscription.fmt, event, retry=subscription.retry)
        channel.hear(event)
        frames = channel.frames if channel.latest is event else None
        return (frames or Frames(event)).first_for(
            subscription.fmt, confirmed_at=channel.confirmed_at, retry=subscription.retry
        )

    def _count_conflated(self, channel: Channel[Subscription]) -> None:
        for fmt, group in channel.groups.items():
            self._metrics.conflated.labels(fmt.transport.value).inc(len(group))


def _lacking(
    part: Sequence[Subscription], group: Mapping[Subscription, int], offset: int, data: bytes
) -> list[Subscription]:
    """Those who do not have the event yet; of the others the tally has counted too much."""
    lacking = []
    for one in part:
        if group.get(one, offset) < offset:
            lacking.append(one)
        else:
            _take_off(one, data)
    return lacking


def _take_off(subscription: Subscription, data: bytes) -> None:
    """The tally counts an event that this connection was not sent."""
    subscription.events -= 1
    subscription.sent -= len(data)


def _nowhere(_data: bytes) -> None:
    """Where the writes of a connection go that has left."""


def _answers_subscribe(fmt: Format, notice: Notice) -> bool:
    """On a WebSocket a 404 is the answer to a subscribe, with its id: see delivery/websocket.py."""
    return fmt.transport is Transport.WEBSOCKET and notice.code is NoticeCode.TASK_NOT_FOUND


def _offset(event: Event) -> int:
    return event.cursor.offset


def _channel_offset(channel: Channel[Subscription]) -> int:
    latest = channel.latest
    return latest.cursor.offset if latest is not None else 0
