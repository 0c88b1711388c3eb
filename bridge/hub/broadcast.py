"""Rounds of writes: each event to all subscribers of its task; see the rules in `bridge.hub.hub`."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from bridge.clock import Clock
from bridge.core.event import Event
from bridge.hub.channel import Channel
from bridge.hub.collection import Collection
from bridge.hub.connections import NEVER, Connections
from bridge.hub.subscription import ONE_EVENT, Subscription, counts_of
from bridge.telemetry.metrics import Metrics
from bridge.wire.frames import ANY_LIST, Format, Frames

SLICE = 500  # writes before the event loop gets a turn: about 5 ms
WOKEN_PER_TURN = 10  # long-polls: the whole response of one takes as long as 50 writes

Ended = list[tuple[Subscription, Channel[Subscription]]]
Audience = Channel[Subscription] | Collection

logger = logging.getLogger(__name__)


class Broadcast:
    """Writes the newest event of each changed task, a slice at a time.

    Attributes:
        dirty: Channels with an event not yet written, the newest last.
    """

    def __init__(self, connections: Connections, metrics: Metrics, clock: Clock) -> None:
        self._connections = connections
        self._metrics = metrics
        self._clock = clock
        self._writes_left = SLICE
        self._waking: deque[tuple[asyncio.Future[Event], Event]] = deque()
        self._round: Generator[None, None, None] | None = None
        self.dirty: dict[Channel[Subscription], None] = {}

    @property
    def busy(self) -> bool:
        """Whether something is left to write."""
        return self._round is not None

    def add(self, channel: Channel[Subscription]) -> None:
        """Write the newest event of `channel`, newer than all others, at the end of this turn."""
        self.dirty.pop(channel, None)  # the order is that of the events
        self.dirty[channel] = None
        if self._round is None:
            # Not at once: a group commit records many events in one turn, and rule 3 joins them.
            self._round = self._rounds()
            asyncio.get_running_loop().call_soon(self.step)

    def step(self) -> None:
        """Run the broadcast for one slice, then give the event loop a turn."""
        if self._round is None:
            return
        self._writes_left = SLICE
        try:
            next(self._round)
        except StopIteration:
            self._round = None
            return
        except Exception:
            # One failed round must not end the fan-out: what is still dirty goes into a new one.
            logger.exception("unhandled exception in broadcast")
            self._round = self._rounds()
        asyncio.get_running_loop().call_soon(self.step)

    def _rounds(self) -> Generator[None, None, None]:
        """Write all dirty channels, one slice at a time, until none is left."""
        while self.dirty:
            # The round keeps the events it began with. An event recorded during the round waits for the
            # next one: written early, it would overtake older events of other tasks (rule 2).
            dirty, self.dirty = self.dirty, {}
            batch = [(channel, channel.frames) for channel in dirty]
            alone = len(batch) == 1
            ended: Ended = []
            for channel, frames in batch:
                if frames is None:
                    continue
                try:
                    if not self._broadcast_small(channel, frames, ended, alone=alone):
                        yield from self._broadcast(channel, frames, ended, alone=alone)
                    elif self._writes_left <= 0:
                        yield
                except Exception:
                    logger.exception("unhandled exception in broadcast", extra={"task": channel.key.ref})
                    for audience in channel.audiences:
                        self._put_back(channel, chain.from_iterable(audience.groups.values()), frames)
                self._done(channel, frames)
            yield from self._end_round(ended)

    def _end_round(self, ended: Ended) -> Generator[None, None, None]:
        """Write what was batched, then close the tasks that were sent their final state."""
        batched, self._connections.batched = self._connections.batched, {}
        for subscription, written in batched.items():
            self._connections.write(subscription, b"".join(written))
        # Finished tasks close only now: the end frame has to follow everything batched above.
        for subscription, channel in ended:
            self._connections.close_task(subscription, channel)
            self._writes_left -= 1
            if self._writes_left <= 0:
                yield

    def wake(self, channel: Channel[Subscription]) -> None:
        """Wake the long-polls of a task whose newest event is not broadcast."""
        if channel.waiters and channel.frames is not None:
            self._wake(channel, channel.frames.event)

    def _wake(self, channel: Channel[Subscription], event: Event) -> None:
        """Wake the long-polls of a task, some at each turn: the next round does not wait for them."""
        if not self._waking:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._waking.extend((waiter, event) for waiter in channel.waiters)

    def _wake_some(self) -> None:
        woken = 0
        while self._waking and woken < WOKEN_PER_TURN:
            waiter, event = self._waking.popleft()
            if not waiter.done():  # a waiter that timed out removes itself a turn later
                waiter.set_result(event)
                woken += 1
        if self._waking:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _broadcast_small(
        self, channel: Channel[Subscription], frames: Frames, ended: Ended, *, alone: bool
    ) -> bool:
        """`_broadcast` for most tasks: few subscribers, of one format, all of which lack the event.

        Hot path: with a viewer or two a task, all that surrounds the writes costs more than they do.

        Returns:
            False for all other tasks: nothing is written.
        """
        if channel.collections or channel.held or len(channel.groups) != 1:
            return False
        ((fmt, group),) = channel.groups.items()
        event = frames.event
        offset = event.cursor.offset
        if channel.max_join_offset >= offset or len(group) > self._writes_left or fmt.mark is not None:
            return False
        if fmt.stays_open and self._connections.mixed:
            return False
        members = list(group)  # one that cannot be written to is removed
        # Not kept: few will come and want them, and a task with a viewer is one of thousands.
        data = fmt.pack(frames.payload_for(fmt, now=self._clock.time(), reused=False))
        self._writes_left -= len(members)
        written, skipped = self._write_part(channel, members, offset, data, alone=alone)
        if event.state.status.final:
            ended += [(one, channel) for one in members if channel not in one.pending]
        self._written(
            channel, frames, {fmt.label: written} if written else {}, {fmt.label: skipped} if skipped else {}
        )
        return True

    def _broadcast(
        self, channel: Channel[Subscription], frames: Frames, ended: Ended, *, alone: bool
    ) -> Generator[None, None, None]:
        """Write one event to every subscriber of its task.

        Args:
            ended: Receives the subscribers that have now been sent the final state.
            alone: Whether this is the only event of the round, so that nothing needs batching.
        """
        sent: dict[str, int] = {}
        conflated: dict[str, int] = {}
        unix_time = self._clock.time()
        audiences: tuple[Audience, ...] = (channel,)
        if channel.collections:
            audiences = (channel, *channel.collections)
        for audience in audiences:
            if audience is not channel and not self._concerns(audience, channel, frames):
                continue
            for fmt in list(audience.groups):
                # Looked up only now: during a yield the last member of a format may have left and another
                # joined.
                group = audience.groups.get(fmt)
                if group is None:
                    continue
                members = list(group)
                try:
                    data = _bytes_for(frames, fmt, audience, now=unix_time)
                except Exception:
                    logger.exception("unhandled exception in broadcast", extra={"task": channel.key.ref})
                    self._put_back(channel, members, frames)
                    continue
                written, skipped = yield from self._write_group(
                    channel, audience, fmt, members, frames, data, ended, alone=alone
                )
                if written:
                    sent[fmt.label] = sent.get(fmt.label, 0) + written
                conflated[fmt.label] = conflated.get(fmt.label, 0) + skipped
        if channel.held or channel.collections:
            self._connections.reconsider(channel)
        self._written(channel, frames, sent, conflated)

    def _written(
        self,
        channel: Channel[Subscription],
        frames: Frames,
        sent: Mapping[str, int],
        conflated: Mapping[str, int],
    ) -> None:
        """Count an event that was written to its subscribers: how many, by delivery."""
        if frames.large:
            self._connections.bound_memory(frames)
        now = self._clock.monotonic()
        channel.last_write = now
        seconds = now - frames.event.observed_at if frames.event.observed_at else None
        # Counted once per broadcast: a metric call per subscriber would cost more than the write.
        self._metrics.record_broadcast(sent, conflated, seconds, task=channel.key.ref)

    def _concerns(self, collection: Audience, channel: Channel[Subscription], frames: Frames) -> bool:
        """Whether the event of a task goes to the followers of a collection that it was a member of."""
        assert isinstance(collection, Collection)
        # It may have left during a yield. What it had when it became a member is not broadcast.
        members = channel.collections or {}
        if members.get(collection, NEVER) >= frames.event.cursor.offset:
            return False
        clear = collection.clear(channel)
        for subscription in clear:
            subscription.mark_pending(channel)
        if clear:
            self._connections.push(clear)
        collection.last_write = self._clock.monotonic()
        return True

    def _done(self, channel: Channel[Subscription], frames: Frames) -> None:
        """Wake the long-polls, and release a member that ended, unless a newer event has come since."""
        if channel.waiters:
            self._wake(channel, frames.event)
        if channel.collections and channel.frames is frames:
            for collection in channel.collections:
                collection.unsent.pop(channel, None)
            self._connections.release_over(channel)

    def _write_group(
        self,
        channel: Channel[Subscription],
        audience: Audience,
        fmt: Format,
        members: Sequence[Subscription],
        frames: Frames,
        data: bytes,
        ended: Ended,
        *,
        alone: bool,
    ) -> Generator[None, None, tuple[int, int]]:
        """Write one event to the subscribers of one format, a slice at a time; returns as `_write_part`."""
        group = audience.groups[fmt]
        offset = frames.event.cursor.offset
        own = audience is channel
        final = own and frames.event.state.status.final
        by_mark = own and fmt.mark == ANY_LIST
        marked: dict[str | None, bytes] = {}
        position = written = skipped = 0
        while position < len(members):
            part = members[position : position + self._writes_left]
            position += len(part)
            self._writes_left -= len(part)
            # Subscribers that joined or were flushed meanwhile have this event or a newer one, and others
            # left during a yield. Two comparisons skip that check in the common case.
            if audience.max_join_offset >= offset or len(group) != len(members):
                # A subscriber that is not in the group has left.
                part = [one for one in part if group.get(one, offset) < offset]
            mixed = self._mixed_of(audience, fmt)
            if mixed:
                part = self._without(mixed, channel, part, offset)
            several = fmt.mark is not None or (fmt.stays_open and not own)
            if several and self._connections.history is not None:
                part = self._settled(channel, part)
            for same, theirs in _by_mark(part, frames, data, marked) if by_mark else ((part, data),):
                counts = self._write_part(channel, same, offset, theirs, alone=alone)
                written += counts[0]
                skipped += counts[1]
            if final:
                # A slow client still has to be sent its final state; `flush` closes the task.
                ended += [(one, channel) for one in part if channel not in one.pending]
            if self._writes_left <= 0:
                yield
        return written, skipped

    def _write_part(
        self,
        channel: Channel[Subscription],
        part: Sequence[Subscription],
        offset: int,
        data: bytes,
        *,
        alone: bool,
    ) -> tuple[int, int]:
        """Write `data` now, or batch it if a subscriber has several tasks in this round.

        Hot path: this loop is all that a delivery costs besides the socket.

        Args:
            offset: Of the event.

        Returns:
            How many subscribers were sent the event, and for how many an older one was conflated.
        """
        waiting = skipped = 0
        counts = counts_of(data)
        for subscription in part:
            # A subscriber that waits keeps waiting even if its buffer has drained since: its pending tasks
            # are flushed together, in order.
            if subscription.waiting or subscription.flow.write_paused:
                waiting += 1
                skipped += subscription.mark_pending(channel)
                self._connections.resume_when_writable(subscription)
                continue
            subscription.sent_offset = offset
            if alone or subscription.single:
                # Called directly, without the bookkeeping of `Connections.write`: `channel.last_write` holds
                # the time.
                subscription.counts += counts
                try:
                    subscription.write(data)
                except Exception as error:  # noqa: BLE001 - `ConnectionGuard` inlined, as this loop is hot
                    self._connections.drop_broken(subscription, error)
            else:
                subscription.counts += ONE_EVENT  # `Connections.write` counts the bytes
                self._connections.batched.setdefault(subscription, []).append(data)
        return len(part) - waiting, skipped

    def _mixed_of(self, audience: Audience, fmt: Format) -> Mapping[Subscription, None]:
        if isinstance(audience, Collection):
            return audience.mixed
        return self._connections.mixed if fmt.stays_open else {}

    def _without(
        self,
        mixed: Mapping[Subscription, None],
        channel: Channel[Subscription],
        part: Sequence[Subscription],
        offset: int,
    ) -> Sequence[Subscription]:
        """All but those that the event may reach in two ways: for them it is pending, once.

        Their cursors are of all that they follow, so that only a flush can write them.
        """
        several = [one for one in part if one in mixed]
        if not several:
            return part
        lacking = [one for one in several if one.sent_offset < offset]
        for subscription in lacking:
            subscription.mark_pending(channel)
        self._connections.push(lacking)
        return [one for one in part if one not in mixed]

    def _settled(
        self, channel: Channel[Subscription], part: Sequence[Subscription]
    ) -> Sequence[Subscription]:
        """The streams of many tasks that are sent an id: for the others the event is pending."""
        others = [one for one in part if not self._connections.is_settled(one)]
        for subscription in others:
            subscription.mark_pending(channel)
        if others:
            self._connections.push(others)
            part = [one for one in part if channel not in one.pending]
        return part

    def _put_back(
        self, channel: Channel[Subscription], members: Iterable[Subscription], frames: Frames
    ) -> None:
        """A broadcast failed: what it has not written of this event is pending."""
        for subscription in list(members):
            if subscription.sent_offset < frames.event.cursor.offset:
                subscription.mark_pending(channel)
                self._connections.resume_soon(subscription)  # nothing newer overtakes it


def _bytes_for(frames: Frames, fmt: Format, audience: Audience, *, now: float) -> bytes:
    """The bytes for a group: without a mark if its lists differ, with that of a collection's followers."""
    collection = audience if isinstance(audience, Collection) else None
    if fmt.mark is None:
        if collection is not None and fmt.stays_open and collection.mark and collection.gives_ids:
            fmt = fmt.with_mark(collection.mark)
        return frames.bytes_for(fmt, now=now)
    if collection is not None and not collection.gives_ids:
        return fmt.pack(frames.bytes_for(fmt.without_ids, now=now))
    data = frames.bytes_for(fmt.plain, now=now)
    return data if fmt.mark == ANY_LIST else frames.marked_bytes(fmt, data)


def _by_mark(
    part: Sequence[Subscription], frames: Frames, data: bytes, marked: dict[str | None, bytes]
) -> Iterator[tuple[Sequence[Subscription], bytes]]:
    """The subscribers of each list with the bytes that carry its mark.

    Args:
        data: The bytes without a mark.
        marked: The bytes by mark; filled here.
    """
    lists: dict[str | None, list[Subscription]] = {}
    for subscription in part:
        lists.setdefault(subscription.fmt.mark, []).append(subscription)
    for mark, same in lists.items():
        theirs = marked.get(mark)
        if theirs is None:
            theirs = marked[mark] = frames.marked_bytes(same[0].fmt, data)
        yield same, theirs
