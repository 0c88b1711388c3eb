"""The ledger of a process that is alone, kept in its journal's file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bridge.clock import Clock
from bridge.engine.base import Held, Job, Operation, OperationState, Put
from bridge.engine.store.changes import Changes, Name, PartKind
from bridge.engine.store.rows import StoreRow, dump, restore
from bridge.errors import JournalError
from bridge.journal.ledger import StoreLedger

FLUSH_SECONDS = 0.1
"""Until what no caller waits for is on its way to the disk."""

FLUSH_PARTS = 256
"""In one write: states wait for it."""

Part = tuple[PartKind, Name]


class PlannedJobs(NamedTuple):
    """Jobs that are written with a state.

    Args:
        order: What the ledger will give the first of them, in all likelihood.
        written: When, microseconds.
    """

    jobs: Sequence[Job]
    order: int
    written: int


@dataclass(frozen=True, slots=True, eq=False)
class RowWrite:
    """Parts of the ledger on their way to the disk.

    Args:
        rows: The parts as they were when this was made.
        done: Resolves when they are on the disk; None if no caller waits, and a power failure may cost them.
        undo: Called if they could not be written.
        then: Called when they are written.
    """

    parts: Sequence[Part]
    rows: Sequence[StoreRow]
    done: asyncio.Future[None] | None = None
    undo: Callable[[], None] | None = None
    then: Callable[[], None] | None = None

    @property
    def size(self) -> int:
        """Bytes on disk, about."""
        return sum(len(row.name) + len(row.value or b"") for row in self.rows)


class SqliteLedger(StoreLedger):
    """Satisfies `bridge.engine.ledger.Ledger`; what it holds survives kills and power failures.

    Rule 1: `begin`, `finish`, `put`, `add_jobs` and `drop_queue` answer after the commit. If it fails, an
            operation was not begun and a document is what it was; that an operation is done, a job added, or
            a queue gone, is written later.
    Rule 2: everything else is written soon, and again after a failure. A kill in between costs a claim or a
            delivery that was noted: the job is due again.
    Rule 3: of one operation or document one change is on its way at a time; the next one waits for it.

    Args:
        put: Queues rows for the thread that writes.
        check: Raises a JournalError if nothing can be written at the moment.
    """

    def __init__(self, clock: Clock, put: Callable[[RowWrite], None], check: Callable[[], None]) -> None:
        super().__init__(clock)
        self._changes = self.store.changes = Changes()
        self._put_rows = put
        self._check = check
        self._loop = asyncio.get_running_loop()
        self._unwritten: dict[Part, None] = {}
        self._awaited: dict[Part, asyncio.Future[None]] = {}
        self._planned = 0
        self._flushes: asyncio.TimerHandle | None = None

    def load(self, rows: Iterable[StoreRow]) -> None:
        """Take in what an earlier process left: its jobs are due now, its operations of no live session."""
        restore(self.store, rows, self.now())
        self._changes.take()

    # Jobs of states

    def planned(self, jobs: Sequence[Job]) -> PlannedJobs:
        """Jobs that will be written with a state; those that are there already are left out."""
        new = [job for job in jobs if self.store.jobs.get(job.queue, job.id) is None]
        self._collect()
        gone = [(PartKind.JOB, (job.queue, job.id)) for job in new]
        # One that was done a moment ago: its row is deleted before the new one is written, not after.
        deleted = [part for part in gone if part in self._unwritten]
        if deleted:
            self._flush(deleted)
        order = self.store.jobs.order + self._planned + 1
        self._planned += len(new)
        return PlannedJobs(new, order, self.now())

    def refused(self, planned: PlannedJobs) -> None:
        """The state was not recorded, nor were they."""
        self._planned -= len(planned.jobs)

    def recorded(self, planned: PlannedJobs, offset: int) -> int:
        """They are written: only now they can be claimed. Returns how many had no room."""
        self._planned -= len(planned.jobs)
        self._collect()
        store = self.store
        dropped = store.add_state_jobs(planned.jobs, offset, self.job_limits, now=planned.written)
        touched = dict.fromkeys(self._changes.take()[1])
        for order, job in enumerate(planned.jobs, start=planned.order):
            pending = store.jobs.get(job.queue, job.id)
            part = (PartKind.JOB, (job.queue, job.id))
            if pending is None or (pending.order, pending.job.due) != (order, job.due):
                touched[part] = None  # it replaces another, had no room, or has another order
            else:
                touched.pop(part, None)
        self._unwritten |= touched
        self._flush_soon()
        return dropped

    # See `Ledger`

    async def add_jobs(self, jobs: Sequence[Job]) -> int:
        """See `Ledger`."""
        self._check()
        dropped = await super().add_jobs(jobs)
        self._collect()
        queues = {job.queue for job in jobs}
        parts = [part for part in self._unwritten if part[0] is PartKind.JOB and part[1][0] in queues]
        if parts:
            await self._written(parts)
        return dropped

    async def claim_jobs(self, queue: str, *, limit: int, lease: float, ahead: float = 0.0) -> list[Job]:
        """See `Ledger`."""
        jobs = await super().claim_jobs(queue, limit=limit, lease=lease, ahead=ahead)
        self._changed()
        return jobs

    async def finish_job(self, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True) -> bool:
        """See `Ledger`."""
        finished = await super().finish_job(queue, job, retry_at=retry_at, attempted=attempted)
        self._changed()
        return finished

    async def drop_queue(self, queue: str) -> int:
        """See `Ledger`."""
        self._check()
        dropped = await super().drop_queue(queue)
        self._collect()
        parts = [part for part in self._unwritten if part[0] is PartKind.JOB and part[1][0] == queue]
        if parts:
            await self._written(parts)
        return dropped

    async def begin(self, name: str, digest: bytes, *, seconds: float) -> Operation:
        """See `Ledger`."""
        self._check()
        part = (PartKind.OPERATION, (name,))
        await self._settled(part)
        operation = await super().begin(name, digest, seconds=seconds)
        if operation.state is OperationState.NEW:
            await self._written([part], undo=lambda: self._forget_operation(name))
        self._changed()
        return operation

    def _forget_operation(self, name: str) -> None:
        self.store.finish(self.session, name, None, now=self.now())

    async def finish(self, name: str, answer: bytes | None) -> bool:
        """See `Ledger`."""
        part = (PartKind.OPERATION, (name,))
        await self._settled(part)
        finished = await super().finish(name, answer)
        if finished:
            await self._written([part])
        return finished

    async def put(
        self, name: str, value: bytes | None, *, expect: int | None, seconds: float, announced: bool = False
    ) -> Put:
        """See `Ledger`."""
        self._check()
        part = (PartKind.DOCUMENT, (name,))
        await self._settled(part)
        before = self.store.documents.peek(name)
        put = self.store.put(name, value, expect=expect, seconds=seconds, now=self.now())
        if put.written:

            def undo() -> None:
                self.store.put(name, None, expect=None, seconds=0.0, now=self.now())
                if before is not None:
                    self.store.documents.restore(name, before)

            await self._written(
                [part], undo=undo, then=(lambda: self.announce(name, value)) if announced else None
            )
        return put

    async def get(self, names: Sequence[str]) -> list[tuple[int, bytes | None]]:
        """See `Ledger`."""
        for name in names:
            await self._settled((PartKind.DOCUMENT, (name,)))
        return await super().get(names)

    async def learn(self, name: str, samples: Sequence[bytes], *, keep: int) -> None:
        """See `Ledger`."""
        await super().learn(name, samples, keep=keep)
        self._changed()

    async def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float) -> Held:
        """See `Ledger`."""
        held = await super().hold(counter, hold, amount, limit=limit, window=window)
        self._changed()
        return held

    async def settle(self, counter: str, hold: str, amount: float) -> None:
        """See `Ledger`."""
        await super().settle(counter, hold, amount)
        self._changed()

    # Writing

    def flush(self) -> None:
        """Queue everything that is not on its way yet."""
        self._collect()
        while self._unwritten:
            self._flush(())

    def rows_written(self, writes: Sequence[RowWrite]) -> None:
        """These are on the disk."""
        for write in writes:
            self._answer(write)
            if write.then is not None:
                write.then()
            if write.done is not None and not write.done.done():
                write.done.set_result(None)

    def rows_refused(self, writes: Sequence[RowWrite], error: JournalError) -> None:
        """These could not be written. What they are then is written once it can be."""
        for write in reversed(writes):
            self._answer(write)
            if write.undo is not None:
                write.undo()
            self._collect()
            self._unwritten |= dict.fromkeys(write.parts)
            if write.done is not None and not write.done.done():
                write.done.set_exception(JournalError(str(error)))
                write.done.exception()  # its caller may have been cancelled

    def _answer(self, write: RowWrite) -> None:
        for part in write.parts if write.done is not None else ():
            if self._awaited.get(part) is write.done:
                del self._awaited[part]

    async def _settled(self, part: Part) -> None:
        """Wait for what is on its way about a part (rule 3)."""
        while (done := self._awaited.get(part)) is not None:
            await asyncio.wait([done])

    async def _written(
        self,
        parts: Sequence[Part],
        *,
        undo: Callable[[], None] | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Wait until parts are on the disk, with everything else that is to be written.

        Cancellation: they are written nevertheless.

        Raises:
            JournalError: They are not.
        """
        try:
            self._check()
        except JournalError:
            if undo is not None:
                undo()
            self._collect()
            raise
        done: asyncio.Future[None] = self._loop.create_future()
        self._collect()
        self._awaited |= dict.fromkeys(parts, done)
        self._flush(parts, done, undo, then)
        await asyncio.shield(done)

    def _changed(self) -> None:
        self._collect()
        self._flush_soon()

    def _collect(self) -> None:
        states, touched = self._changes.take()
        del states  # they are the journal's
        self._unwritten |= dict.fromkeys(touched)

    def _flush_soon(self) -> None:
        if self._unwritten and self._flushes is None:
            self._flushes = self._loop.call_later(FLUSH_SECONDS, self._flush, ())

    def _flush(
        self,
        parts: Sequence[Part],
        done: asyncio.Future[None] | None = None,
        undo: Callable[[], None] | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        """Queue these parts and some of the others."""
        if self._flushes is not None:
            self._flushes.cancel()
            self._flushes = None
        written = dict.fromkeys(parts)
        for part in written:
            self._unwritten.pop(part, None)
        for part in list(self._unwritten)[: max(FLUSH_PARTS - len(written), 0)]:
            del self._unwritten[part]
            written[part] = None
        if written:
            rows = [dump(self.store, kind, name) for kind, name in written]
            self._put_rows(RowWrite(list(written), rows, done, undo, then))
        self._flush_soon()
