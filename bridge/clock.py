"""The only module that reads the system clocks; tests replace `SystemClock` by a fake one."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Protocol


class Clock(Protocol):
    """Reads clocks and waits."""

    def monotonic(self) -> float:
        """Monotonic seconds, for intervals and timeouts."""

    def time(self) -> float:
        """Unix seconds (wall clock), for timestamps only: it may step when the clock is set."""

    async def sleep(self, seconds: float) -> None:
        """Wait for `seconds`; for at least one round of the event loop if negative or 0."""

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for `event`, at most `seconds`; None waits without a timeout."""


def thread_seconds() -> float:
    """CPU seconds of the calling thread: what a piece of work took, however busy the machine is."""
    return time.thread_time()


class SystemClock:
    """The clocks of the operating system and the running event loop."""

    # The functions themselves: each poll reads them a dozen times.
    monotonic = staticmethod(time.monotonic)  # noqa: TID251 - the one place that reads it
    time = staticmethod(time.time)  # noqa: TID251 - the one place that reads it

    async def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        await asyncio.sleep(max(seconds, 0.0))

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """See `Clock`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
