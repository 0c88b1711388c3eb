"""Carries out the jobs of one queue of the ledger, on whichever bridge claims them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from bridge.clock import Clock
from bridge.engine.base import Job
from bridge.engine.ledger import Ledger
from bridge.errors import JournalError

CHECK_SECONDS = 2.0
"""How often jobs are claimed without news: those of bridges that died, and those that wait since a start."""

RETRY_SECONDS = 0.5

_MICROSECONDS = 1_000_000

Handle = Callable[[Job], Awaitable[float | None]]
"""Carries out a job: None when it is done, else after how many seconds it is due again."""

logger = logging.getLogger(__name__)


class JobRunner:
    """Claims jobs as long as there is room for them, and hands each to `handle`.

    A job whose bridge dies is due again once its session or its lease has ended: `handle` may see it twice.

    Args:
        lease: Seconds, longer than `handle` ever takes.
        room: Jobs in flight in this process.
        idle_retry_seconds: After which a job is due again whose `handle` raised.
    """

    def __init__(
        self,
        ledger: Ledger,
        queue: str,
        handle: Handle,
        clock: Clock,
        *,
        lease: float,
        room: int,
        idle_retry_seconds: float = 60.0,
    ) -> None:
        self._ledger = ledger
        self._queue = queue
        self._handle = handle
        self._clock = clock
        self._lease = lease
        self._room = room
        self._idle_retry_seconds = idle_retry_seconds
        self._news = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._draining = False
        ledger.on_return(self._news.set)

    def wake(self) -> None:
        """Jobs were written: claim them now."""
        self._news.set()

    async def run(self) -> None:
        """Carry out jobs until cancelled; what is in flight then is due again with the session's end."""
        try:
            while True:
                wait = CHECK_SECONDS
                self._news.clear()
                free = self._room - len(self._running)
                if free > 0 and not self._draining:
                    wait = await self._claim(free)
                await self._clock.wait(self._news, wait)
        finally:
            for task in list(self._running):
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def drain(self, seconds: float) -> None:
        """Claim nothing from now on, and wait for what is in flight."""
        self._draining = True
        if self._running:
            await asyncio.wait(list(self._running), timeout=seconds)

    async def _claim(self, free: int) -> float:
        """Claim up to `free` jobs; how long to wait for the next claim."""
        try:
            jobs = await self._ledger.claim_jobs(self._queue, limit=free, lease=self._lease)
        except JournalError:
            return RETRY_SECONDS
        for job in jobs:
            task = asyncio.create_task(self._carry_out(job))
            self._running.add(task)
            task.add_done_callback(self._ended)
        return CHECK_SECONDS

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._news.set()

    async def _carry_out(self, job: Job) -> None:
        try:
            again = await self._handle(job)
        except JournalError:
            again = RETRY_SECONDS
        except Exception:
            # A fault of ours must neither end the process nor be repeated at once, without end.
            logger.exception("unhandled exception in job", extra={"queue": self._queue})
            again = self._idle_retry_seconds
        retry_at = 0 if again is None else self._ledger.now() + round(again * _MICROSECONDS)
        while True:
            try:
                await self._ledger.finish_job(self._queue, job.id, retry_at=retry_at)
            except JournalError:
                await self._clock.sleep(RETRY_SECONDS)  # else it would be done again when its lease has ended
            else:
                return
