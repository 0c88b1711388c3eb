"""The journal that outlives the process: one SQLite file."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from bridge.clock import Clock
from bridge.core.event import Event, Notice
from bridge.core.task import State, TaskKey
from bridge.errors import JournalError
from bridge.journal.base import Follower
from bridge.journal.sqlite.cache import LatestCache
from bridge.journal.sqlite.database import Connect, connect, explain
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.storage import Reader, make_entry
from bridge.journal.sqlite.writer import Append, OpenResult, Writer

NEWEST_BYTES = 256 * 1024 * 1024
MAX_WAITING = 50_000
STUCK_SECONDS = 5.0

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")


class SqliteJournal:
    """Keeps what was recorded through kills and power cuts. Satisfies `bridge.journal.base.Journal`.

    A thread writes, another reads; on the event loop stands only what is asked for most: the
    newest event of each task. Readers see exactly what the followers were told, never more.

    Intentional: an append whose commit failed may still be found after the process was killed
    right then, before the next commit wrote over it. It was seen, so it is true; only nobody
    was told.
    """

    def __init__(self, path: Path, clock: Clock, newest_bytes: int) -> None:
        self.epoch = ""
        self.head = 0
        self._path = path
        self._clock = clock
        self._newest = LatestCache(newest_bytes)
        self._followers: list[Follower] = []
        self._trouble: str | None = None
        self._waiting = 0
        self._progress = clock.monotonic()
        self._writer: Writer
        self._reader: Reader
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="journal-reader")
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: str | Path,
        clock: Clock,
        *,
        retention_seconds: float,
        max_events: int = 1_000_000,
        newest_bytes: int = NEWEST_BYTES,
        connect: Connect = connect,
    ) -> Self:
        """Open the file, or make it.

        Cancellation: the file is let go of a moment later.

        Args:
            max_events: Above this the tasks finished longest ago are forgotten.
            newest_bytes: How much of the newest events stands ready in memory.
            connect: Makes the connection that writes.

        Raises:
            JournalError: The file cannot be used; the sentence names it and says what to do.
        """
        retention = Retention(seconds=retention_seconds, max_events=max_events)
        journal = cls(Path.cwd() / path, clock, newest_bytes)
        journal._writer = Writer(journal._path, clock, retention, connect, journal)
        try:
            opening = await asyncio.wrap_future(journal._writer.opened)
        except BaseException:
            journal._writer.stop()
            raise
        journal._stand(opening)
        return journal

    @property
    def usable(self) -> bool:
        """Whether appends succeed: nothing failed, and none waits for long."""
        stuck = self._waiting > 0 and self._clock.monotonic() - self._progress > STUCK_SECONDS
        return not self._closed and self._trouble is None and not stuck

    async def append(self, key: TaskKey, state: State, *, seen: float = 0.0) -> Event:
        """Record a state durably, then tell the followers.

        Cancellation: it is recorded nevertheless, unless recording fails, and the followers hear it.
        """
        if self._closed:
            raise JournalError(f"the journal {self._path} is closed")
        if self._trouble is not None:
            raise JournalError(self._trouble)
        if self._waiting >= MAX_WAITING:
            raise JournalError(
                f"the journal {self._path} is too slow: {self._waiting} states wait for its disk"
            )
        job = Append(make_entry(key, state, seen), asyncio.get_running_loop().create_future())
        if not self._waiting:
            self._progress = self._clock.monotonic()
        self._waiting += 1
        self._writer.put(job)
        return await job.done

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """The newest event of each task."""
        found = {key: self._newest.get(key) for key in keys}
        missing = [key for key, event in found.items() if event is None]
        if missing:
            losses, head = self._newest.losses, self.head
            read = await self._read(lambda: self._reader.latest(missing, head))
            for key, entry in zip(missing, read, strict=True):
                found[key] = self._newest.get(key)  # it may have been appended meanwhile
                if found[key] is None and entry is not None:
                    found[key] = entry[0]
                    if losses == self._newest.losses:
                        self._newest.put(*entry)
        return [found[key] for key in keys]

    async def since(self, key: TaskKey, offset: int) -> Sequence[Event]:
        """What is kept of a task after `offset`."""
        newest, head = self._newest.get(key), self.head
        if newest is not None and newest.cursor.offset <= offset:
            return []
        return await self._read(lambda: self._reader.since(key, offset, head))

    async def unfinished(self) -> Sequence[Event]:
        """The newest event of every open task."""
        head = self.head
        return [event for event, _ in await self._read(lambda: self._reader.unfinished(head))]

    def follow(self, follower: Follower) -> None:
        """Tell `follower` everything from now on."""
        self._followers.append(follower)

    def announce(self, key: TaskKey, notice: Notice) -> None:
        """Tell the followers; nothing is remembered."""
        for follower in self._followers:
            follower.noticed(key, notice)

    def confirm(self, key: TaskKey, wall: float) -> None:
        """Tell the followers."""
        for follower in self._followers:
            follower.confirmed(key, wall)

    async def tidy(self) -> None:
        """Do now what is otherwise done once a second: try again after trouble, forget, shrink."""
        if not self._closed:
            await asyncio.wrap_future(self._writer.tidy())

    async def close(self) -> None:
        """Write what was appended and let go of the file.

        Idempotent: and from any event loop. Cancellation: it is closed all the same, a moment later.
        """
        if not self._closed:
            self._closed = True
            last_read = self._readers.submit(lambda: None)
            last_read.add_done_callback(lambda _: self._writer.stop())
        await self._writer.wait_ended()
        self._readers.shutdown()  # it was idle before the writer ended

    # What the writer says, on the event loop

    def recorded(self, events: Sequence[tuple[Append, Event]]) -> None:
        """Tell the followers in journal order, then each caller."""
        self._answered(len(events))
        for job, event in events:
            self.head = event.cursor.offset
            self._newest.put(event, job.entry.size)
            for follower in self._followers:
                try:
                    follower.recorded(event)
                except Exception:
                    logger.exception("a bug in a follower of the journal", extra={"task": event.key.ref})
            if not job.done.done():
                job.done.set_result(event)

    def refused(self, jobs: Sequence[Append], error: JournalError) -> None:
        """Fail each caller, and those to come until the writer says otherwise."""
        self._answered(len(jobs))
        self._trouble = str(error)
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(JournalError(str(error)))

    def recovered(self) -> None:
        """Take appends again."""
        self._trouble = None

    def forgotten(self, tasks: Sequence[tuple[TaskKey, int]]) -> None:
        """Let the tasks go."""
        for key, offset in tasks:
            self._newest.forget(key, offset)

    def _answered(self, jobs: int) -> None:
        self._waiting -= jobs
        self._progress = self._clock.monotonic()

    def _stand(self, opening: OpenResult) -> None:
        """Begin where the file stands."""
        self.epoch, self.head, self._reader = opening.history.epoch, opening.history.head, opening.reader
        for entry in opening.unfinished:
            self._newest.put(*entry)

    async def _read(self, read: Callable[[], Answer]) -> Answer:
        """Read off the loop; foreign errors become ours here."""
        if self._closed:
            raise JournalError(f"the journal {self._path} is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, read)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error
