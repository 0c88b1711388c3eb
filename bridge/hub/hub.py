"""The hub: hears the journal and carries each event to whoever asked for its task.

Rule 1: nothing here waits. What a slow client cannot take is owed, never queued.
Rule 2: a connection hears events in journal order, or its cursor would skip one.
Rule 3: the news of one turn of the event loop leaves in one write a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable, Sequence
from typing import Protocol

from bridge.clock import Clock
from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.task import TaskKey
from bridge.hub.channel import Channel
from bridge.hub.subscription import Outlet, Subscription
from bridge.metrics import Metrics
from bridge.wire.frames import Form, Frames, Wire, end_frame, notice_frame, pack, state_frame

SLICE = 500  # writes before the event loop gets a turn: about 5 ms


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
        self._channels: dict[TaskKey, Channel] = {}
        self._dirty: dict[Channel, None] = {}
        self._broadcast: Generator[None, None, None] | None = None
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
        if self._broadcast is None:
            self._broadcast = self._carry()
            asyncio.get_running_loop().call_soon(self._step)

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        """Tell the subscribers of a task something that is no state."""
        self._metrics.notices.labels(notice.code.value).inc()
        channel = self._channels.get(key)
        if channel is None:
            return
        channel.note(notice)
        for form, group in list(channel.groups.items()):
            silent = _answers_subscribe(form, notice)
            frame = b"" if silent else pack(form, notice_frame(form, key, notice))
            for subscription in list(group):
                if silent:
                    pass
                elif subscription.outlet.paused:
                    subscription.owe_notice(key, notice)
                    self._wait(subscription)
                else:
                    subscription.write(frame)
                if notice.code is NoticeCode.TASK_NOT_FOUND:
                    self._close_task(subscription, channel)

    def confirmed(self, key: TaskKey, wall: float) -> None:
        """Remember when the newest state was last seen, for whoever joins next."""
        channel = self._channels.get(key)
        if channel is not None:
            channel.confirmed_at = wall

    # Joining and leaving

    def reserve(
        self, outlet: Outlet, *, label: str, ends_at: float, stays_open: bool = False
    ) -> Subscription:
        """A place for a connection; nothing is sent on it before `begin`."""
        subscription = Subscription(
            outlet=outlet,
            label=label,
            stays_open=stays_open,
            ends_at=ends_at,
            last_write=self._clock.now(),
            write=outlet.write,
            form=outlet.form,
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
            channel.joining[subscription] = None
            subscription.channels[key] = channel
            subscription.tasks += 1
            self._interest.want(key)

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
        channels = [subscription.channels[key] for key in keys if key in subscription.channels]
        newest = {event.key: event for event in events}
        known: list[Event] = list(events)
        for channel in channels:
            channel.admit(subscription)
            latest = channel.latest
            seen = newest.get(channel.key)
            if latest is not None and (seen is None or latest.cursor.offset > seen.cursor.offset):
                known.append(latest)
                newest[channel.key] = latest
        floor = -1 if after is None else after
        burst = [preface]
        subscription.retry = retry
        for event in sorted(known, key=_offset):
            if event.cursor.offset > floor:
                burst.append(self._current(subscription, event))
                subscription.retry = None
        self._metrics.sent(subscription.label, len(burst) - 1)
        standing = [
            (channel.key, notice)
            for channel in channels
            for notice in channel.notices.values()
            if not _answers_subscribe(subscription.form, notice)
        ]
        burst += [notice_frame(subscription.form, key, notice) for key, notice in (*standing, *remarks)]
        for _, notice in remarks:
            self._metrics.notices.labels(notice.code.value).inc()
        self._write(subscription, pack(subscription.form, b"".join(burst)))
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
        frame = state_frame(subscription.form, event, with_cursor=alone, retry=subscription.retry)
        subscription.retry = None
        self._write(subscription, pack(subscription.form, frame))
        self._metrics.sent(subscription.label, 1)

    def part(self, subscription: Subscription, key: TaskKey) -> None:
        """The client wants no more of one task."""
        channel = subscription.channels.pop(key, None)
        if channel is None:
            return
        subscription.owed.discard(channel)
        channel.leave(subscription)
        self._release(channel)

    def leave(self, subscription: Subscription, reason: str) -> None:
        """The connection is gone. Idempotent."""
        if self.subscriptions.pop(subscription, self) is self:
            return
        subscription.write = _nowhere
        for key in list(subscription.channels):
            self.part(subscription, key)
        subscription.owed.clear()
        subscription.owed_notices.clear()
        if subscription.closing is None:
            subscription.closing = Closing.GONE
        self._metrics.disconnected(subscription.label, reason)

    def finish(self, subscription: Subscription, closing: Closing, farewell: bytes = b"") -> None:
        """End a connection cleanly, with a last word."""
        if subscription.closing is not None:
            return
        self._write(subscription, pack(subscription.form, farewell))
        subscription.closing = closing
        subscription.write = _nowhere
        subscription.outlet.finish(closing)

    async def changed(self, key: TaskKey, after: int, *, seconds: float) -> Event | None:
        """Wait for an event of `key` beyond `after`; None after `seconds`."""
        channel = self._channel(key)
        latest = channel.latest
        if latest is not None and latest.cursor.offset > after:
            self._release(channel, wanted=False)
            return latest
        waiter: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        channel.waiters.add(waiter)
        self._interest.want(key)
        try:
            async with asyncio.timeout(seconds):
                return await waiter
        except TimeoutError:
            return None
        finally:
            channel.waiters.discard(waiter)
            self._release(channel)

    def channel_of(self, key: TaskKey) -> Channel | None:
        """What the hub knows of a task somebody asks for just now."""
        return self._channels.get(key)

    # Carrying

    def _step(self) -> None:
        if self._broadcast is None:
            return
        try:
            next(self._broadcast)
        except StopIteration:
            self._broadcast = None
            return
        asyncio.get_running_loop().call_soon(self._step)

    def _carry(self) -> Generator[None, None, None]:
        """Write what is news, a slice at a time; news that comes meanwhile waits for the next round."""
        while self._dirty:
            turn = sorted(self._dirty, key=_channel_offset)
            self._dirty = {}
            gathered: dict[Subscription, list[bytes]] = {}
            for channel in turn:
                if channel.frames is not None:
                    yield from self._carry_channel(channel, channel.frames, gathered, alone=len(turn) == 1)
            for subscription, frames in gathered.items():
                subscription.write(b"".join(frames))
            for channel in turn:
                self._conclude(channel)

    def _carry_channel(
        self, channel: Channel, frames: Frames, gathered: dict[Subscription, list[bytes]], *, alone: bool
    ) -> Generator[None, None, None]:
        counted: dict[str, int] = {}
        conflated: dict[str, int] = {}
        for waiter in channel.waiters:
            if not waiter.done():
                waiter.set_result(frames.event)
        written = 0
        for form, group in list(channel.groups.items()):
            data = frames.bytes_for(form)
            label = form.wire.value
            for subscription in list(group):
                if subscription.outlet.paused:
                    conflated[label] = conflated.get(label, 0) + subscription.owe(channel)
                    self._wait(subscription)
                elif alone or len(subscription.channels) == 1:
                    subscription.write(data)
                else:
                    gathered.setdefault(subscription, []).append(data)
                written += 1
                if written % SLICE == 0:
                    yield
            counted[label] = counted.get(label, 0) + len(group)
        now = self._clock.now()
        channel.last_write = now
        self._metrics.carried(counted, conflated, now - frames.event.seen if frames.event.seen else None)

    def _conclude(self, channel: Channel) -> None:
        """After a final state its subscribers want nothing more of the task."""
        latest = channel.latest
        if latest is None or not latest.state.status.final:
            return
        for group in list(channel.groups.values()):
            for subscription in list(group):
                if channel not in subscription.owed:
                    self._close_task(subscription, channel)

    def _close_task(self, subscription: Subscription, channel: Channel) -> None:
        self.part(subscription, channel.key)
        if not subscription.channels and not subscription.stays_open:
            self.finish(subscription, Closing.FINISHED, end_frame(subscription.form, subscription.tasks))

    # Those who take less than they are sent

    def _wait(self, subscription: Subscription) -> None:
        if not subscription.waiting:
            subscription.waiting = True
            subscription.outlet.when_writable(lambda: self._repay(subscription))

    def _repay(self, subscription: Subscription) -> None:
        """The client reads again: give it the newest of each task it is owed."""
        subscription.waiting = False
        if subscription.closing is not None:
            return
        owed = sorted(subscription.owed, key=_channel_offset)
        notices = subscription.owed_notices
        subscription.owed = set()
        subscription.owed_notices = {}
        burst = [
            channel.frames.bytes_for(subscription.form) for channel in owed if channel.frames is not None
        ]
        burst += [
            pack(subscription.form, notice_frame(subscription.form, key, notice))
            for (key, _), notice in notices.items()
        ]
        self._write(subscription, b"".join(burst))
        for channel in owed:
            latest = channel.latest
            if latest is not None and latest.state.status.final:
                self._close_task(subscription, channel)

    # Small things

    def _channel(self, key: TaskKey) -> Channel:
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = Channel(key)
        return channel

    def _release(self, channel: Channel, *, wanted: bool = True) -> None:
        if wanted:
            self._interest.unwant(channel.key)
        if channel.deserted and self._channels.get(channel.key) is channel:
            del self._channels[channel.key]
            self._dirty.pop(channel, None)

    def _write(self, subscription: Subscription, data: bytes) -> None:
        if data:
            subscription.write(data)
            subscription.last_write = self._clock.now()

    def _current(self, subscription: Subscription, event: Event) -> bytes:
        channel = subscription.channels.get(event.key)
        if channel is None:
            return state_frame(subscription.form, event, retry=subscription.retry)
        channel.hear(event)
        frames = channel.frames if channel.latest is event else None
        return (frames or Frames(event)).first_for(
            subscription.form, confirmed_at=channel.confirmed_at, retry=subscription.retry
        )

    def _count_conflated(self, channel: Channel) -> None:
        for form, group in channel.groups.items():
            self._metrics.conflated.labels(form.wire.value).inc(len(group))


def _nowhere(_data: bytes) -> None:
    """Where the writes of a connection go that has left."""


def _answers_subscribe(form: Form, notice: Notice) -> bool:
    """On a WebSocket a 404 is the answer to a subscribe, with its id: see delivery/websocket.py."""
    return form.wire is Wire.WEBSOCKET and notice.code is NoticeCode.TASK_NOT_FOUND


def _offset(event: Event) -> int:
    return event.cursor.offset


def _channel_offset(channel: Channel) -> int:
    latest = channel.latest
    return latest.cursor.offset if latest is not None else 0
