"""The only module that reads the time."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Protocol


class Clock(Protocol):
    """Time, for those who must wait or stamp."""

    def monotonic(self) -> float:
        """Monotonic seconds, for intervals: it never steps back."""

    def time(self) -> float:
        """Unix seconds, for what people and documents read."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for `event`, at most `seconds`; None waits for as long as it takes."""


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()  # noqa: TID251 - this is where the time comes from

    def time(self) -> float:
        """Unix seconds."""
        return time.time()  # noqa: TID251 - this is where the time comes from

    async def sleep(self, seconds: float) -> None:
        """Wait on the running event loop."""
        await asyncio.sleep(max(seconds, 0.0))

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for `event` on the running event loop, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
