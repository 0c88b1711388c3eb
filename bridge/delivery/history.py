"""Replays the recorded states of some tasks (`?history=1`), a portion at a time, as the client reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from bridge.clock import Clock
from bridge.core.event import Closing
from bridge.core.task import TaskKey
from bridge.hub.hub import Hub
from bridge.hub.subscription import Subscription
from bridge.journal.base import Journal, Recorded

PORTION_BYTES = 128 * 1024
WITHOUT_RAW_BYTES = 4 * 1024  # of a state whose provider's document is not asked for, at most
MAX_PAUSE_SECONDS = 1.0  # until it shows that the client has left

Pace = Callable[[int], float]
"""Counts so many bytes of history; returns the seconds to wait before they may be read, else 0."""


class Replay:
    """One replay, before the subscription begins; memory holds one portion of it at a time.

    The hub writes the states: see `Hub.replay`. Here they are read, as fast as the client takes them and its
    caller may read them.

    Args:
        preface: Bytes to send before the first state.
        retry: Milliseconds for the `retry:` field of the first state; None for none.
    """

    def __init__(
        self, journal: Journal, hub: Hub, clock: Clock, *, preface: bytes, retry: int | None
    ) -> None:
        self._journal = journal
        self._hub = hub
        self._clock = clock
        self._preface = preface
        self._retry = retry

    async def run(
        self,
        subscription: Subscription,
        recorded: Sequence[Recorded],
        *,
        pace: Pace,
        has_room: Callable[[int], bool],
    ) -> dict[TaskKey, int]:
        """Send the records in order; ends the connection when there is no room for what it does not read.

        A client that has closed its half of the connection gets what needs no wait.

        Args:
            has_room: Whether a portion of so many bytes may wait for the client.

        Returns:
            The offset of the newest state that was sent of each task.

        Raises:
            JournalError: The journal cannot be read.
        """
        fmt = subscription.fmt
        reached: dict[TaskKey, int] = {}
        for portion, size in _portions(recorded, raw=fmt.carries_raw):
            while (wait := pace(size)) > 0 and not _has_left(subscription):
                await self._clock.sleep(min(wait, MAX_PAUSE_SECONDS))
            if wait or not await _taken(subscription):
                break
            if not has_room(size):
                frame = fmt.closing(Closing.OVER_CAPACITY, retry=self._retry)
                self._hub.finish(subscription, Closing.OVER_CAPACITY, self._preface + frame)
                break
            events = await self._journal.read(portion, raw=fmt.carries_raw)
            if events:
                self._hub.replay(subscription, events, preface=self._preface, retry=self._retry)
                self._preface, self._retry = b"", None
                reached |= {event.key: event.cursor.offset for event in events}
        await _taken(subscription)
        return reached


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


def _has_left(subscription: Subscription) -> bool:
    return subscription.closing is not None or subscription.writer is None or subscription.writer.left


async def _taken(subscription: Subscription) -> bool:
    """Wait until all states were written and the connection takes more; False if it ends instead."""
    await asyncio.sleep(0)  # many portions in a row must not keep the event loop to themselves
    while subscription.closing is None and subscription.writer is not None and not subscription.writer.gone:
        if not (subscription.replayed or subscription.flow.write_paused):
            return True
        turn = asyncio.Event()
        # While the hub waits for the same, it is called first and writes what is left.
        subscription.writer.when_writable(turn.set)
        while not turn.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(MAX_PAUSE_SECONDS):
                    await turn.wait()
            if _has_left(subscription):
                return False
    return False
