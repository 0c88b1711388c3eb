"""A clock that a test advances; it keeps the contract in tests/contract/test_clock.py."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class FakeClock:
    """Time stands still until `advance`, which also runs everything that waits for it."""

    def __init__(self, now: float = 1000.0, unix_time: float = 1_800_000_000.0) -> None:
        self._now = now
        self._time = unix_time
        self._alarms: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return self._now

    def time(self) -> float:
        """Unix seconds."""
        return self._time

    def skip(self, seconds: float) -> None:
        """Move the clock without waking what waits for it."""
        self._now += seconds
        self._time += seconds

    async def sleep(self, seconds: float) -> None:
        """Wait until a test has advanced the clock that far."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._alarm(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for `event`, at most until a test has advanced the clock that far."""
        if event.is_set():
            return
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(event.wait())]
        if seconds is not None:
            waits.append(self._alarm(seconds))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()

    async def advance(self, seconds: float) -> None:
        """Advance the clock, stopping at each time something waits for."""
        await settle()
        end = self._now + seconds
        while self._alarms and self._alarms[0][0] <= end:
            at, _, alarm = heapq.heappop(self._alarms)
            if alarm.done():
                continue
            self.skip(max(at - self._now, 0.0))
            alarm.set_result(None)
            await settle()
        self.skip(max(end - self._now, 0.0))
        await settle()

    def _alarm(self, seconds: float) -> asyncio.Future[None]:
        alarm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._alarms, (self._now + seconds, next(self._numbers), alarm))
        if seconds <= 0:
            alarm.set_result(None)
        return alarm


async def settle() -> None:
    """Run everything that is ready without advancing the clock."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready:  # noqa: ASYNC110 - there is no event for "nothing left to run"
        await asyncio.sleep(0)
