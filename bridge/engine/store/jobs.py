"""Jobs by queue: bounded, claimed for a time, one in flight per ordering key."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from bridge.engine.base import CLAIM_BYTES, JOB_SECONDS, Job, JobLimits, Waiting
from bridge.engine.store.due import DueQueue
from bridge.engine.store.sessions import MICROSECONDS, Sessions

JOB_BYTES = 200  # besides its body, id and names
JOB_MICROSECONDS = round(JOB_SECONDS * MICROSECONDS)


class PendingJob:
    """A job that is not finished.

    Attributes:
        order: Grows with each job that is written, over all queues; one that takes the place of another has
            that one's.
        written: When it was written, or the first one whose place it has, microseconds.
        claimed_by: ReplicaSession that claimed it last, if it has not put it down since.
    """

    __slots__ = ("claimed_by", "job", "order", "size", "written")

    def __init__(self, job: Job, order: int, written: int) -> None:
        self.job = job
        self.order = order
        self.written = written
        self.claimed_by = ""
        self.size = JOB_BYTES + len(job.body) + len(job.id) + len(job.ordering)

    def inherit(self, before: PendingJob) -> None:
        """Take over what the job had whose place this one takes."""
        self.order, self.written = before.order, before.written
        self.job = self.job._replace(due=before.job.due, attempts=before.job.attempts)


class RestoredJob(NamedTuple):
    """A job as it was kept.

    Args:
        order: As `PendingJob.order`.
        written: As `PendingJob.written`.
    """

    order: int
    job: Job
    written: int


class JobQueue:
    """The jobs of one queue.

    Rule 1: of an ordering key only the first job is in `ready` or `in_flight`; the others wait behind it.
    Rule 2: behind a replaceable job there is another one only while it is in flight.

    Args:
        touched: Called with the id of each job that is another now, or gone.
    """

    __slots__ = ("_touched", "ages", "chains", "in_flight", "jobs", "ready", "size")

    def __init__(self, touched: Callable[[str], None]) -> None:
        self.jobs: dict[str, PendingJob] = {}
        self.size = 0
        self.ready: DueQueue[str] = DueQueue()
        self.in_flight: DueQueue[str] = DueQueue()
        self.ages: DueQueue[str] = DueQueue()
        self.chains: dict[str, deque[str]] = {}
        self._touched = touched

    def add(self, pending: PendingJob, limits: JobLimits) -> bool:
        """Add a job, or put it in the place of the one before it; False if there is no room.

        One that is there already is not added again. One that replaces another needs no room.
        """
        job = pending.job
        if job.id in self.jobs:
            return True
        chain = self.chains.get(job.ordering)
        if chain and chain[-1] not in self.in_flight and self.jobs[chain[-1]].job.replaceable:
            pending.inherit(self._remove(chain[-1]))
        elif len(self.jobs) >= limits.jobs or self.size + pending.size > limits.size:
            return False
        self._append(pending)
        self._touched(job.id)
        return True

    def restore(self, pending: PendingJob) -> None:
        """Take a job as it was; if the one before it was in flight then, that one's lease has ended."""
        chain = self.chains.get(pending.job.ordering)
        if chain and self.jobs[chain[-1]].job.replaceable and self.ready.remove(chain[-1]):
            self.in_flight.add(chain[-1], 0)
        self._append(pending)

    def claim(
        self, session: str, limit: int, until: int, due_until: int, sessions: Sessions, now: int
    ) -> list[Job]:
        """Take due jobs, those of ended leases and dead sessions too."""
        while (expired := self.in_flight.pop(now)) is not None:
            self._put_back(expired, now)
        lost = [name for name in self.in_flight if not sessions.alive(self.jobs[name].claimed_by, now)]
        for name in lost:
            self._put_back(name, now)
        claimed: list[Job] = []
        size = 0
        while (
            len(claimed) < limit and size < CLAIM_BYTES and (ready := self.ready.pop(due_until)) is not None
        ):
            pending = self.jobs[ready]
            pending.claimed_by = session
            pending.job = pending.job._replace(attempts=pending.job.attempts + 1)
            self.in_flight.add(ready, until)
            self._touched(ready)
            claimed.append(pending.job)
            size += len(pending.job.body)
        return claimed

    def finish(self, name: str) -> None:
        """A job is done."""
        self._remove(name)

    def retry(self, name: str, due: int, *, attempted: bool) -> None:
        """A job is due again then; those of its ordering wait for it, or take its place."""
        pending = self.jobs[name]
        pending.claimed_by = ""
        attempts = pending.job.attempts if attempted else max(pending.job.attempts - 1, 0)
        pending.job = pending.job._replace(due=due, attempts=attempts)
        self._put_back(name, due)
        self._touched(name)

    def expire(self, now: int) -> None:
        """Delete jobs that are too old."""
        while (name := self.ages.pop(now - JOB_MICROSECONDS)) is not None:
            self._remove(name)

    def waiting(self) -> Waiting:
        """See `Engine.waiting`."""
        oldest = self.ages.first()
        return Waiting(len(self.jobs), oldest[0]) if oldest is not None else Waiting()

    def _put_back(self, name: str, ready_at: int) -> None:
        """A job is no longer in flight: it is ready then, or the one behind it that takes its place."""
        self.in_flight.remove(name)
        pending = self.jobs[name]
        chain = self.chains.get(pending.job.ordering)
        if chain and len(chain) > 1 and pending.job.replaceable:
            following = self.jobs[chain[1]]
            following.inherit(self._remove(name))
            name = following.job.id
            self.ages.add(name, following.written)
            self._touched(name)
        self.ready.add(name, ready_at)

    def _append(self, pending: PendingJob) -> None:
        job = pending.job
        self.jobs[job.id] = pending
        self.size += pending.size
        self.ages.add(job.id, pending.written)
        if job.ordering:
            chain = self.chains.setdefault(job.ordering, deque())
            chain.append(job.id)
            if len(chain) > 1:
                return
        self.ready.add(job.id, job.due)

    def _remove(self, name: str) -> PendingJob:
        """Delete a job; the next of its ordering is ready."""
        pending = self.jobs.pop(name)
        self.size -= pending.size
        for places in (self.ready, self.in_flight, self.ages):
            places.remove(name)
        if pending.job.ordering:
            chain = self.chains[pending.job.ordering]
            first = chain[0]
            chain.remove(name)
            if not chain:
                del self.chains[pending.job.ordering]
            elif first == name:
                self.ready.add(chain[0], self.jobs[chain[0]].job.due)
        self._touched(name)
        return pending


class JobQueues:
    """The queues of all receivers.

    Args:
        touched: Called with queue and id of each job that is another now, or gone.

    Attributes:
        order: Of the job that was written last.
    """

    def __init__(self, sessions: Sessions, touched: Callable[[str, str], None]) -> None:
        self._sessions = sessions
        self._touched = touched
        self._queues: dict[str, JobQueue] = {}
        self.order = 0

    def __len__(self) -> int:
        return sum(len(queue.jobs) for queue in self._queues.values())

    @property
    def size(self) -> int:
        """Bytes of all, about."""
        return sum(queue.size for queue in self._queues.values())

    def get(self, queue: str, job: str) -> PendingJob | None:
        """A job that is not finished."""
        jobs = self._queues.get(queue)
        return jobs.jobs.get(job) if jobs is not None else None

    def restore(self, jobs: Iterable[RestoredJob]) -> None:
        """Take jobs as they were, in the order in which they were written; none is in flight."""
        for order, job, written in sorted(jobs, key=lambda restored: restored.order):
            self.order = max(self.order, order)
            queue = self._ensure(job.queue)
            if job.id not in queue.jobs:
                queue.restore(PendingJob(job, order, written))

    def add(self, jobs: Sequence[Job], limits: JobLimits, now: int) -> int:
        """Add jobs; returns how many had no room."""
        dropped = 0
        for job in jobs:
            queue = self._present(job.queue, now) or self._ensure(job.queue)
            self.order += 1
            if not queue.add(PendingJob(job, self.order, now), limits):
                dropped += 1
            self._discard_empty(job.queue)
        return dropped

    def claim(self, session: str, queue: str, limit: int, until: int, due_until: int, now: int) -> list[Job]:
        """See `Engine.claim_jobs`."""
        if not self._sessions.alive(session, now) or (jobs := self._present(queue, now)) is None:
            return []
        return jobs.claim(session, limit, until, due_until, self._sessions, now)

    def finish(self, session: str, queue: str, job: str, retry_at: int, now: int, *, attempted: bool) -> bool:
        """See `Engine.finish_job`."""
        if not self._sessions.alive(session, now) or (jobs := self._present(queue, now)) is None:
            return False
        pending = jobs.jobs.get(job)
        if pending is None or pending.claimed_by != session:
            return False
        if retry_at:
            jobs.retry(job, retry_at, attempted=attempted)
        else:
            jobs.finish(job)
            self._discard_empty(queue)
        return True

    def waiting(self, queue: str, now: int) -> Waiting:
        """See `Engine.waiting`."""
        jobs = self._present(queue, now)
        return jobs.waiting() if jobs is not None else Waiting()

    def drop(self, queue: str) -> int:
        """See `Engine.drop_queue`."""
        jobs = self._queues.pop(queue, None)
        if jobs is None:
            return 0
        for job in jobs.jobs:
            self._touched(queue, job)
        return len(jobs.jobs)

    def expire(self, now: int) -> None:
        """Delete the jobs that are too old."""
        for queue in list(self._queues):
            self._present(queue, now)

    def _present(self, queue: str, now: int) -> JobQueue | None:
        """A queue without jobs that are too old; None if it has no others."""
        jobs = self._queues.get(queue)
        if jobs is not None:
            jobs.expire(now)
            self._discard_empty(queue)
        return self._queues.get(queue)

    def _ensure(self, queue: str) -> JobQueue:
        jobs = self._queues.get(queue)
        if jobs is None:
            jobs = self._queues[queue] = JobQueue(partial(self._touched, queue))
        return jobs

    def _discard_empty(self, queue: str) -> None:
        if not self._queues[queue].jobs:
            del self._queues[queue]
