"""Replays the recorded states of some tasks (`?history=1`), a portion at a time, as the client reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from bridge.clock import Clock
from bridge.core.event import Closing, Event
from bridge.hub.hub import Hub
from bridge.hub.subscription import ONE_EVENT, Subscription
from bridge.journal.base import Journal, Recorded
from bridge.telemetry.metrics import Metrics
from bridge.wire.frames import Frames

PORTION_BYTES = 128 * 1024
WITHOUT_RAW_BYTES = 4 * 1024  # of a state whose provider's document is not asked for, at most
MAX_PAUSE_SECONDS = 5.0

Pace = Callable[[int], float]
"""Counts so many bytes of history; returns the seconds to wait before they may be read, else 0."""


class Replay:
    """One replay, before the subscription begins; memory holds one portion of it at a time.

    Args:
        first: Bytes to send before the first state.
        retry: Milliseconds for the `retry:` field of the first state; None for none.
    """

    def __init__(
        self, journal: Journal, hub: Hub, clock: Clock, metrics: Metrics, *, first: bytes, retry: int | None
    ) -> None:
        self._journal = journal
        self._hub = hub
        self._clock = clock
        self._metrics = metrics
        self._first = first
        self._retry = retry

    async def run(
        self,
        subscription: Subscription,
        recorded: Sequence[Recorded],
        *,
        pace: Pace,
        has_room: Callable[[int], bool],
    ) -> int:
        """Send the records in order; ends the connection when there is no room for what it does not read.

        Args:
            has_room: Whether a portion of so many bytes may wait for the client.

        Returns:
            The offset of the newest state sent; 0 for none.

        Raises:
            JournalError: The journal cannot be read.
        """
        fmt = subscription.fmt
        raw = fmt.carries_raw
        reached = 0
        for portion, size in _portions(recorded, raw=raw):
            while (wait := pace(size)) > 0:
                await self._clock.sleep(min(wait, MAX_PAUSE_SECONDS))
            if subscription.closing is not None or subscription.writer is None or subscription.writer.gone:
                break
            if not has_room(size):
                frame = fmt.closing(Closing.OVER_CAPACITY, retry=self._retry)
                self._hub.finish(subscription, Closing.OVER_CAPACITY, self._first + frame)
                break
            events = await self._journal.read(portion, raw=raw)
            if events:
                self._send(subscription, events)
                reached = events[-1].cursor.offset
            await _until_writable(subscription)
        return reached

    def _send(self, subscription: Subscription, events: Sequence[Event]) -> None:
        frames = [self._first]
        for event in events:
            frames.append(Frames(event).payload_for(subscription.fmt, retry=self._retry))
            self._retry = None
        self._first = b""
        self._hub.write(subscription, subscription.fmt.pack(b"".join(frames)))
        self._metrics.sent(subscription.fmt.label, len(events))
        subscription.counts += ONE_EVENT * len(events)


def _portions(recorded: Sequence[Recorded], *, raw: bool) -> Iterator[tuple[list[Recorded], int]]:
    """The records in portions of about `PORTION_BYTES`, at least one in each, with their bytes."""
    portion: list[Recorded] = []
    size = 0
    for one in recorded:
        bytes_read = one.size if raw else min(one.size, WITHOUT_RAW_BYTES)
        if portion and size + bytes_read > PORTION_BYTES:
            yield portion, size
            portion, size = [], 0
        portion.append(one)
        size += bytes_read
    if portion:
        yield portion, size


async def _until_writable(subscription: Subscription) -> None:
    if subscription.writer is not None and subscription.flow.write_paused:
        writable = asyncio.Event()
        subscription.writer.when_writable(writable.set)
        await writable.wait()
    else:
        await asyncio.sleep(0)  # many portions in a row must not keep the event loop to themselves
