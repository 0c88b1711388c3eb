"""An event loop without waiting: when nothing is ready, time jumps to the next timer.

Everything that waits by the loop is fast and in order: `asyncio.sleep`, `asyncio.timeout`, `call_later`. Only
for code without threads and sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable
from typing import Any

START = 1000.0
WALL = 1_800_000_000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while something is ready to run."""

    def __init__(self) -> None:
        self.now = START
        super().__init__(_Jump(self))

    def time(self) -> float:
        """Virtual seconds."""
        return self.now


class _Jump(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everything waits, and no timer is set")
        if not ready and timeout is not None and timeout > 0:
            self._loop.now += timeout
        return ready


class LoopClock:
    """The clock of a virtual loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._loop.now

    def time(self) -> float:
        """Unix seconds."""
        return WALL + self._loop.now - START

    async def sleep(self, seconds: float) -> None:
        """Wait by the loop."""
        await asyncio.sleep(max(seconds, 0.0))

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        """Wait for `event`, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


def run(play: Callable[[LoopClock], Any]) -> Any:
    """Run a coroutine function in a virtual loop of its own."""
    loops: list[VirtualLoop] = []

    def make() -> VirtualLoop:
        loops.append(VirtualLoop())
        return loops[0]

    with asyncio.Runner(loop_factory=make) as runner:
        runner.get_loop()
        return runner.run(play(LoopClock(loops[0])))
