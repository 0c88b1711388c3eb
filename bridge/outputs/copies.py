"""Copies of outputs as a service of this process: jobs of ended tasks, what waits, what is kept too long."""

from __future__ import annotations

import asyncio
import logging

from bridge.clock import Clock
from bridge.engine.base import Waiting
from bridge.engine.ledger import Ledger
from bridge.errors import JournalError
from bridge.journal.jobs import JobRunner
from bridge.outputs.copier import LEASE_SECONDS, QUEUE, Copier
from bridge.outputs.store import OutputStore, StoreError
from bridge.wire.document import timestamp

CHECK_SECONDS = 5.0
RECHECK_SECONDS = 60.0
FIGURES_SECONDS = 5.0
RETENTION_SECONDS = 3600.0
MAX_DELETED = 1000
DELETE_PAUSE_SECONDS = 5.0
DAY = 86_400.0

_MICROSECONDS = 1e6

logger = logging.getLogger(__name__)


class Copies:
    """Runs beside the watches.

    Args:
        kind: Of the store, for `/status`.
        retention_days: After which copies are deleted; 0 for never.

    Attributes:
        store: Where they are.
        waiting: How many ended tasks wait for copies, over all bridges, and the age of the oldest in seconds.
    """

    def __init__(
        self,
        copier: Copier,
        store: OutputStore,
        ledger: Ledger,
        clock: Clock,
        *,
        kind: str,
        retention_days: float,
    ) -> None:
        self.copier = copier
        self.waiting: tuple[int, float] = (0, 0.0)
        self.runner = JobRunner(
            ledger, QUEUE, copier.carry_out, clock, lease=LEASE_SECONDS, room=copier.room_for_jobs
        )
        self.store = store
        self._ledger = ledger
        self._clock = clock
        self._kind = kind
        self._retention_days = retention_days
        self._works = False

    async def run(self) -> None:
        """Carry out jobs until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_store())
            group.create_task(self.runner.run())
            group.create_task(self._watch_figures())
            group.create_task(self._retain())

    async def drain(self, seconds: float) -> None:
        """Hold no end any longer, and wait for the copies that are being made."""
        self.copier.drain()
        await self.runner.drain(seconds)

    def status(self) -> dict[str, object]:
        """For `/status`."""
        waiting, oldest = self.waiting
        return {
            "store": self._kind,
            "waiting": waiting,
            "oldest_waiting_seconds": round(oldest, 3) if waiting else None,
            "in_flight": self.copier.in_flight,
            "ends_waiting": self.copier.waiting_ends,
            "last_error": self.copier.last_error,
            "last_error_at": timestamp(self.copier.last_error_at),
        }

    async def check(self) -> None:
        """Try the store, and prepare it: a directory is made. Logs why it does not work."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self.store.check()
        except (StoreError, TimeoutError) as error:
            sentence = str(error) or "no answer in time"
            logger.error("output store not usable", extra={"store": self._kind, "error": sentence})  # noqa: TRY400 - no fault of ours
            self.copier.note(sentence)
        else:
            self._works = True

    async def _watch_store(self) -> None:
        while not self._works:
            await self._clock.sleep(RECHECK_SECONDS)
            await self.check()
            if self._works:
                logger.warning("output store works again", extra={"store": self._kind})

    async def _watch_figures(self) -> None:
        while True:
            try:
                (waiting,) = await self._ledger.waiting([QUEUE])
            except JournalError:
                waiting = Waiting()  # said elsewhere
            age = max(self._ledger.now() - waiting.oldest, 0) / _MICROSECONDS if waiting.jobs else 0.0
            self.waiting = waiting.jobs, age
            await self._clock.sleep(FIGURES_SECONDS)

    async def _retain(self) -> None:
        """Delete what is older than it is kept, and parts that killed copies left; all bridges may do so."""
        while True:
            await self._clock.sleep(RETENTION_SECONDS)
            kept, deleted = self._retention_days * DAY, 0
            before = self._clock.time() - kept if kept else 0.0
            try:
                while (count := await self.store.delete_before(before, limit=MAX_DELETED)) >= MAX_DELETED:
                    deleted += count
                    await self._clock.sleep(DELETE_PAUSE_SECONDS)
                deleted += count
            except StoreError as error:
                logger.warning("old copies not deleted", extra={"error": str(error)})
            if deleted:
                logger.info("old copies deleted", extra={"copies": deleted})
