"""The simulator's clock: real time, or a manual clock that moves only on `advance`."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol

START = 1_720_000_000.0
"""Start of a manual clock: the `created_at` of every example in seed 000."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class SimulatorClock(Protocol):
    def now(self) -> float:
        """Unix seconds."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` once `now()` has reached `when`."""


class RealClock:
    """Real time that never jumps: the system time is read once, at the start."""

    def __init__(self) -> None:
        unix_time = time.time()  # noqa: TID251 - the simulator may not import the bridge's clock
        self._offset = unix_time - time.monotonic()  # noqa: TID251 - as above

    def now(self) -> float:
        return time.monotonic() + self._offset  # noqa: TID251 - as above

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(max(0.0, when - self.now()), callback)


class ManualTimer:
    __slots__ = ("callback", "live", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self.live = True

    def cancel(self) -> None:
        self.live = False


class ManualClock:
    """A clock that moves only on `advance`, which fires due timers, earliest first."""

    def __init__(self) -> None:
        self._now = START
        self._order = itertools.count()
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._watchers: list[tuple[int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    @property
    def waiting(self) -> int:
        """Number of pending timers, those already due (about to fire) included."""
        return sum(timer.live for _, _, timer in self._timers)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = ManualTimer(when, callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        if when <= self._now:
            asyncio.get_running_loop().call_soon(self._fire_due)
        for count, future in self._watchers:
            if self.waiting >= count and not future.done():
                future.set_result(None)
        return timer

    def advance(self, seconds: float) -> None:
        target = self._now + seconds
        while self._timers and self._timers[0][0] <= target:
            self._now = max(self._now, self._timers[0][0])
            self._fire_due()
        self._now = target

    async def wait_waiting(self, count: int) -> None:
        """Wait until at least `count` timers are pending: that many coroutines sleep on this clock."""
        if self.waiting >= count:
            return
        entry = (count, asyncio.get_running_loop().create_future())
        self._watchers.append(entry)
        try:
            await entry[1]
        finally:
            self._watchers.remove(entry)

    def _fire_due(self) -> None:
        while self._timers and self._timers[0][0] <= self._now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.live:
                timer.live = False
                timer.callback()


class WaitRegistry:
    """All coroutines that wait on the simulator's clock, so that `close` can end them together."""

    def __init__(self, clock: SimulatorClock) -> None:
        self.clock = clock
        self._open: set[asyncio.Future[None]] = set()
        self._closed = False

    async def until(self, when: float | None, wakeups: set[asyncio.Future[None]] | None = None) -> None:
        """Wait until `when`, or until the future added to `wakeups` is resolved.

        Cancellation: `close` cancels every waiter; aiohttp then closes its connection without an error.
        """
        if self._closed:
            raise asyncio.CancelledError
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = None if when is None else self.clock.call_at(when, lambda: wake(future))
        sets = [self._open] if wakeups is None else [self._open, wakeups]
        for futures in sets:
            futures.add(future)
        try:
            await future
        finally:
            for futures in sets:
                futures.discard(future)
            if timer is not None:
                timer.cancel()

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
