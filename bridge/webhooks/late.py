"""Deliveries of ends that were recorded before it was known where to.

A callback may show the end of a task before the answer to its submit has named the task, and a submit with an
id of the client's own may find a task that has ended. There is no state then that the delivery could be
written with: it is added to its queue without one, with the id that any other delivery of this end has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from bridge.clock import Clock
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.engine.base import Job
from bridge.engine.ledger import Ledger
from bridge.errors import JournalError
from bridge.journal.base import JobPlanner
from bridge.webhooks.message import decode_message

MAX_LATE = 1024
"""Tasks whose deliveries wait in memory for a ledger that cannot be written."""

_MIN_PAUSE = 0.1
_MAX_PAUSE = 5.0

logger = logging.getLogger(__name__)


class LateDeliveries:
    """Adds them.

    Args:
        wrote: Called with the queues that have new deliveries, and how many had no room.
    """

    def __init__(
        self,
        planner: JobPlanner,
        ledger: Ledger,
        clock: Clock,
        *,
        wrote: Callable[[Sequence[str], int], None],
    ) -> None:
        self._planner = planner
        self._ledger = ledger
        self._clock = clock
        self._wrote = wrote
        self._running: set[asyncio.Task[None]] = set()

    async def deliver(self, event: Event, details: TaskDetails) -> None:
        """Deliver a recorded end to the address of a submit.

        While the ledger cannot be written, it is tried again in the background, until this process ends.
        """
        if event.cursor.shown:
            return  # not recorded: its deliveries are planned when it is
        planned = self._planner.plan(
            event.key, event.state, event.state, TaskDetails(webhook=details.webhook)
        )
        # Those of endpoints were written with the state.
        jobs = [
            job._replace(offset=event.cursor.offset)
            for job in planned
            if (message := decode_message(job.body)) is not None and message.url is not None
        ]
        if not jobs or await self._add(jobs):
            return
        if len(self._running) >= MAX_LATE:
            logger.warning("late delivery dropped", extra={"task": event.key.ref})
            return
        task = asyncio.create_task(self._add_later(jobs))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Give up those that could not be added."""
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _add(self, jobs: Sequence[Job]) -> bool:
        try:
            dropped = await self._ledger.add_jobs(jobs)
        except JournalError:
            return False
        self._wrote([job.queue for job in jobs], dropped)
        return True

    async def _add_later(self, jobs: Sequence[Job]) -> None:
        pause = _MIN_PAUSE
        await self._clock.sleep(pause)
        while not await self._add(jobs):
            pause = min(2 * pause, _MAX_PAUSE)
            await self._clock.sleep(pause)
