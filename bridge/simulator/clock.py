"""Owns the simulator's time: the machine's, or one that stands still until it is told to move."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol

START = 1_720_000_000.0
"""Where a manual clock starts: the `created_at` of every example in seed 000."""


class Alarm(Protocol):
    def cancel(self) -> None: ...


class SimulatorClock(Protocol):
    def now(self) -> float:
        """Unix seconds."""

    def call_at(self, when: float, ring: Callable[[], None]) -> Alarm:
        """Calls `ring` once `now()` has reached `when`."""


class RealClock:
    """The machine's time, which never jumps: the wall is looked at once, at the start."""

    def __init__(self) -> None:
        wall = time.time()  # noqa: TID251 - the simulator may not import the bridge's clock
        self._offset = wall - time.monotonic()  # noqa: TID251 - as above

    def now(self) -> float:
        return time.monotonic() + self._offset  # noqa: TID251 - as above

    def call_at(self, when: float, ring: Callable[[], None]) -> Alarm:
        return asyncio.get_running_loop().call_later(max(0.0, when - self.now()), ring)


class ManualAlarm:
    __slots__ = ("live", "ring", "when")

    def __init__(self, when: float, ring: Callable[[], None]) -> None:
        self.when = when
        self.ring = ring
        self.live = True

    def cancel(self) -> None:
        self.live = False


class ManualClock:
    """Stands still; `advance` moves it and rings what has become due, earliest first."""

    def __init__(self) -> None:
        self._now = START
        self._order = itertools.count()
        self._alarms: list[tuple[float, int, ManualAlarm]] = []
        self._watchers: list[tuple[int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    @property
    def waiting(self) -> int:
        """How many alarms are set, in the past (about to ring) or the future."""
        return sum(alarm.live for _, _, alarm in self._alarms)

    def call_at(self, when: float, ring: Callable[[], None]) -> Alarm:
        alarm = ManualAlarm(when, ring)
        heapq.heappush(self._alarms, (when, next(self._order), alarm))
        if when <= self._now:
            asyncio.get_running_loop().call_soon(self._ring_due)
        for count, future in self._watchers:
            if self.waiting >= count and not future.done():
                future.set_result(None)
        return alarm

    def advance(self, seconds: float) -> None:
        target = self._now + seconds
        while self._alarms and self._alarms[0][0] <= target:
            self._now = max(self._now, self._alarms[0][0])
            self._ring_due()
        self._now = target

    async def wait_waiting(self, count: int) -> None:
        """Returns once at least `count` alarms are set: somebody has gone to sleep by this clock."""
        if self.waiting >= count:
            return
        entry = (count, asyncio.get_running_loop().create_future())
        self._watchers.append(entry)
        try:
            await entry[1]
        finally:
            self._watchers.remove(entry)

    def _ring_due(self) -> None:
        while self._alarms and self._alarms[0][0] <= self._now:
            _, _, alarm = heapq.heappop(self._alarms)
            if alarm.live:
                alarm.live = False
                alarm.ring()


class Waits:
    """Every place where the simulator waits by its clock, so that all of them can be ended at once."""

    def __init__(self, clock: SimulatorClock) -> None:
        self.clock = clock
        self._open: set[asyncio.Future[None]] = set()
        self._closed = False

    async def until(self, when: float | None, wakeups: set[asyncio.Future[None]] | None = None) -> None:
        """Waits for the clock, or for whoever resolves the future left in `wakeups`.

        Cancellation: `close` cancels everybody who waits here; aiohttp then closes the connection quietly.
        """
        if self._closed:
            raise asyncio.CancelledError
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = None if when is None else self.clock.call_at(when, lambda: wake(future))
        places = [self._open] if wakeups is None else [self._open, wakeups]
        for place in places:
            place.add(future)
        try:
            await future
        finally:
            for place in places:
                place.discard(future)
            if alarm is not None:
                alarm.cancel()

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            await self.until(self.clock.now() + seconds)

    async def forever(self) -> None:
        await self.until(None)

    def close(self) -> None:
        self._closed = True
        for future in list(self._open):
            future.cancel()


def wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
