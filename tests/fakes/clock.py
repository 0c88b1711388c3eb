"""Time that only passes when a test says so; keeps what a clock promises: tests/contract/test_clock.py."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count


class FakeClock:
    """Stands still; `advance` lets time pass and everybody run who waits for it."""

    def __init__(self, now: float = 1000.0, wall: float = 1_800_000_000.0) -> None:
        self._now = now
        self._wall = wall
        self._alarms: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return self._now

    def time(self) -> float:
        """Unix seconds."""
        return self._wall

    def skip(self, seconds: float) -> None:
        """Let time pass without anybody noticing yet."""
        self._now += seconds
        self._wall += seconds

    async def sleep(self, seconds: float) -> None:
        """Wait until a test has let so much time pass."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._alarm(seconds)

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for `event`, at most until a test has let so much time pass."""
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
        """Let time pass, stopping at every moment somebody waits for."""
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
    """Let everything run that can run without time passing."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready:  # noqa: ASYNC110 - there is no event for "nothing left to run"
        await asyncio.sleep(0)
