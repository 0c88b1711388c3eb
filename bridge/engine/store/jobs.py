"""Jobs by queue: bounded, claimed for a time, one in flight per ordering key."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

from bridge.engine.base import Job, JobLimits
from bridge.engine.store.due import DueQueue
from bridge.engine.store.sessions import Sessions

JOB_BYTES = 200  # besides its body, id and names


class PendingJob:
    """A job that is not finished.

    Attributes:
        order: Grows with each job that is written, over all queues.
        claimed_by: ReplicaSession that claimed it last, if it has not put it down since.
    """

    __slots__ = ("claimed_by", "job", "order", "size")

    def __init__(self, job: Job, order: int) -> None:
        self.job = job
        self.order = order
        self.claimed_by = ""
        self.size = JOB_BYTES + len(job.body) + len(job.id) + len(job.ordering)


class JobQueue:
    """The jobs of one queue.

    Rule: of an ordering key only the first job is in `ready` or `in_flight`; the others wait behind it.
    """

    __slots__ = ("chains", "in_flight", "jobs", "ready", "size")

    def __init__(self) -> None:
        self.jobs: dict[str, PendingJob] = {}
        self.size = 0
        self.ready: DueQueue[str] = DueQueue()
        self.in_flight: DueQueue[str] = DueQueue()
        self.chains: dict[str, deque[str]] = {}

    def add(self, job: Job, order: int, limits: JobLimits | None) -> bool:
        """Add a job; False if there is no room. One that is there already is not added again."""
        if job.id in self.jobs:
            return True
        pending = PendingJob(job, order)
        if limits is not None and (len(self.jobs) >= limits.jobs or self.size + pending.size > limits.size):
            return False
        self.jobs[job.id] = pending
        self.size += pending.size
        if job.ordering:
            chain = self.chains.setdefault(job.ordering, deque())
            chain.append(job.id)
            if len(chain) > 1:
                return True
        self.ready.add(job.id, job.due)
        return True

    def claim(self, session: str, limit: int, until: int, sessions: Sessions, now: int) -> list[Job]:
        """Take due jobs, those of ended leases and dead sessions first."""
        while (expired := self.in_flight.pop(now)) is not None:
            self.ready.add(expired, now)
        lost = [name for name, pending in self.claimed() if not sessions.alive(pending.claimed_by, now)]
        for job in lost:
            self.in_flight.remove(job)
            self.ready.add(job, now)
        claimed: list[Job] = []
        while len(claimed) < limit and (name := self.ready.pop(now)) is not None:
            pending = self.jobs[name]
            pending.claimed_by = session
            pending.job = pending.job._replace(attempts=pending.job.attempts + 1)
            self.in_flight.add(name, until)
            claimed.append(pending.job)
        return claimed

    def claimed(self) -> Iterator[tuple[str, PendingJob]]:
        """The jobs in flight."""
        return ((name, self.jobs[name]) for name in self.in_flight)

    def finish(self, name: str) -> None:
        """A job is done."""
        pending = self._put_down(name)
        del self.jobs[name]
        self.size -= pending.size
        if pending.job.ordering:
            chain = self.chains[pending.job.ordering]
            chain.popleft()
            if chain:
                self.ready.add(chain[0], self.jobs[chain[0]].job.due)
            else:
                del self.chains[pending.job.ordering]

    def retry(self, name: str, due: int) -> None:
        """A job is due again then; those of its ordering key wait for it."""
        pending = self._put_down(name)
        pending.job = pending.job._replace(due=due)
        self.ready.add(name, due)

    def _put_down(self, name: str) -> PendingJob:
        pending = self.jobs[name]
        pending.claimed_by = ""
        self.in_flight.remove(name)
        self.ready.remove(name)  # its lease may have ended
        return pending


class JobQueues:
    """The queues of all receivers."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._queues: dict[str, JobQueue] = {}
        self._order = 0

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

    def restore(self, jobs: Sequence[Job]) -> None:
        """Take jobs as they were, in the order in which they were written; none is in flight."""
        self._add(jobs, None)

    def add(self, jobs: Sequence[Job], limits: JobLimits) -> int:
        """Add jobs; returns how many had no room."""
        return self._add(jobs, limits)

    def _add(self, jobs: Sequence[Job], limits: JobLimits | None) -> int:
        dropped = 0
        for job in jobs:
            queue = self._queues.get(job.queue)
            if queue is None:
                queue = JobQueue()
            self._order += 1
            if queue.add(job, self._order, limits):
                self._queues[job.queue] = queue
            else:
                dropped += 1
        return dropped

    def claim(self, session: str, queue: str, limit: int, until: int, now: int) -> list[Job]:
        """See `Engine.claim_jobs`."""
        jobs = self._queues.get(queue)
        if jobs is None or not self._sessions.alive(session, now):
            return []
        return jobs.claim(session, limit, until, self._sessions, now)

    def finish(self, session: str, queue: str, job: str, retry_at: int, now: int) -> bool:
        """See `Engine.finish_job`."""
        jobs = self._queues.get(queue)
        pending = jobs.jobs.get(job) if jobs is not None else None
        if jobs is None or pending is None or pending.claimed_by != session:
            return False
        if not self._sessions.alive(session, now):
            return False
        if retry_at:
            jobs.retry(job, retry_at)
            return True
        jobs.finish(job)
        if not jobs.jobs:
            del self._queues[queue]
        return True
