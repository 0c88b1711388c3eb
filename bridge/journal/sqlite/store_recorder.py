"""Makes a store durable: groups its changes and writes them in a thread, one group after the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from bridge.clock import Clock
from bridge.engine.store import Store
from bridge.engine.store.changes import Changes
from bridge.engine.store.rows import dump
from bridge.errors import JournalError
from bridge.journal.sqlite.database import Connect, connect
from bridge.journal.sqlite.learned_rows import forget_in_store
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.store_file import Batch, StoreFile

MAINTENANCE_SECONDS = 1.0

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class StoreRecorder:
    """Writes what an engine's operations change in a store. All methods are called on the event loop.

    Rule 1: what is on disk is one moment of the store: a group is a transaction, groups follow one another.
    Rule 2: if the disk fails, the group is written again later: nothing that was not durable
            has been answered or shown, and nothing is undone.

    Attributes:
        position: Changes so far.
        durable: Those that are on disk.
        head: Entries of the log up to here may be shown.
        error: Why nothing can be written at the moment; empty if all is well.
        recorded: Called when `durable`, `head` or `error` is another one.
    """

    def __init__(self, file: StoreFile, store: Store, thread: ThreadPoolExecutor, clock: Clock) -> None:
        self.durable = 0
        self.head = store.log.head
        self.error = ""
        self.recorded: Callable[[], None] = lambda: None
        self._file = file
        self._store = store
        self._changes = store.changes = Changes()
        self._clock = clock
        self._thread = thread
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: str | Path,
        store: Store,
        clock: Clock,
        *,
        now: Callable[[], int],
        retention_seconds: float,
        max_events: int = 1_000_000,
        connect: Connect = connect,
    ) -> Self:
        """Open the file, create it if it does not exist, and fill the empty `store` from it.

        Args:
            now: Microseconds, as the store is passed them.
            retention_seconds: Time since its newest state after which a task is deleted.
            max_events: Above this, the tasks finished longest ago are deleted.

        Raises:
            JournalError: The file cannot be used; the message names it and says what to do.
        """
        retention = Retention(seconds=retention_seconds, max_events=max_events)
        # SQLite wants one thread for all that is done with a connection.
        thread = ThreadPoolExecutor(1, thread_name_prefix="store-recorder")
        opening = thread.submit(_open, Path.cwd() / path, clock, retention, connect, store, now())
        try:
            file = await asyncio.wrap_future(opening)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        recorder = cls(file, store, thread, clock)
        recorder._task = asyncio.create_task(recorder._run(now), name="store-recorder")
        return recorder

    @property
    def position(self) -> int:
        """Changes so far."""
        return self._changes.count

    def changed(self, operation: str = "", arguments: tuple[Any, ...] = ()) -> None:
        """An operation was carried out on the store."""
        del operation, arguments  # the store knows what it changed
        if self._changes.count > self.durable:
            self._wake.set()
        else:
            self.head = self._store.log.head  # only entries that need not outlive the process

    async def close(self) -> None:
        """Write what is left and release the file. Idempotent."""
        self._closing = True
        self._wake.set()
        if self._task is not None:
            task, self._task = self._task, None
            await task

    async def _run(self, now: Callable[[], int]) -> None:
        """Write group after group, and delete a little once a second."""
        unwritten: Batch | None = None
        maintained_at = self._clock.monotonic()
        more = False
        while not self._closing or (self._changes.count > self.durable and not self.error):
            if unwritten is not None or not self._wake.is_set():
                due = maintained_at + MAINTENANCE_SECONDS - self._clock.monotonic()
                await self._clock.wait(self._wake, 0.0 if more else max(due, 0.0))
            self._wake.clear()
            if self._changes.count > self.durable:
                batch = self._take()
                unwritten = batch if unwritten is None else unwritten.followed_by(batch)
                if await self._write(unwritten):
                    unwritten = None
            if more or self._clock.monotonic() >= maintained_at + MAINTENANCE_SECONDS:
                more = not self.error and await self._maintain(now)
                maintained_at = self._clock.monotonic()
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    def _take(self) -> Batch:
        forgotten = self._changes.take_forgotten()
        states, touched = self._changes.take()
        rows = [dump(self._store, kind, name) for kind, name in touched]
        log = self._store.log
        return Batch(self._changes.count, log.epoch, log.head, states, rows, forgotten)

    async def _write(self, batch: Batch) -> bool:
        try:
            await self._in_thread(lambda: self._file.write(batch))
        except JournalError as error:
            if not self.error:
                # Logged once per outage, not once per group.
                logger.error("journal write failed", extra={"error": str(error)})  # noqa: TRY400
            self.error = str(error)
            self.recorded()
            return False
        if self.error:
            logger.warning("journal recovered")
            self.error = ""
        self.durable, self.head = batch.position, batch.head
        self.changed()  # entries that came meanwhile and need not be written
        self.recorded()
        return True

    async def _maintain(self, now: Callable[[], int]) -> bool:
        time = now()
        try:
            done = await self._in_thread(lambda: self._file.maintain(time))
        except JournalError as error:
            logger.warning("journal retention failed", extra={"error": str(error)})
            return False
        for key, offset in done.forgotten:
            self._store.drop(key, offset)
        for choice in done.choices:
            # In the file it is forgotten already; the workers find out when they read the index.
            forget_in_store(self._store, choice, now())
            self.changed()
        return done.more

    def _close(self) -> None:
        with contextlib.suppress(JournalError):  # what is committed is in the -wal file
            self._file.close()

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _open(
    path: Path, clock: Clock, retention: Retention, connect: Connect, store: Store, now: int
) -> StoreFile:
    file = StoreFile.open(path, clock, retention, connect=connect)
    try:
        file.load(store, store.limits.history, store.limits.max_bytes // 2, now)
    except BaseException:
        file.close()
        raise
    return file
