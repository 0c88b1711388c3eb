"""The ledger of a process that is alone: an engine's store that holds no states."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Collection, Sequence

from bridge.clock import Clock
from bridge.engine.base import DEFAULT_JOB_LIMITS, Held, Job, JobLimits, Operation, Put, Waiting
from bridge.engine.embedded import steady_microseconds
from bridge.engine.ledger import Heard
from bridge.engine.store import Store


class StoreLedger:
    """Satisfies `bridge.engine.ledger.Ledger`; what it holds ends with the process.

    Attributes:
        store: What it works on.
        session: Of this process: what an earlier one began and did not finish is of no live session.
        job_limits: Of each queue.
    """

    def __init__(self, clock: Clock, *, job_limits: JobLimits = DEFAULT_JOB_LIMITS) -> None:
        self.store = Store()
        self.session = secrets.token_hex(8)
        self.job_limits = job_limits
        self._now = steady_microseconds(clock)
        self._heard: list[Heard] = []
        self.store.session(
            self.session,
            ttl=math.inf,
            known_head=0,
            new_epoch=self.session,
            about=b"",
            opens=True,
            now=self.now(),
        )

    @property
    def shared(self) -> bool:
        """Never."""
        return False

    @property
    def others(self) -> Collection[str]:
        """None."""
        return ()

    def now(self) -> int:
        """See `Ledger`."""
        return self._now()

    def hear(self, heard: Heard) -> None:
        """See `Ledger`."""
        self._heard.append(heard)

    def on_return(self, returned: Callable[[], None]) -> None:
        """See `Ledger`: it can always be reached."""
        returned()

    def add(self, jobs: Sequence[Job], offset: int) -> int:
        """Add the jobs of a recorded state; returns how many had no room."""
        return self.store.add_state_jobs(jobs, offset, self.job_limits, now=self.now())

    async def add_jobs(self, jobs: Sequence[Job]) -> int:
        """See `Ledger`."""
        return self.store.add_jobs(jobs, limits=self.job_limits, now=self.now())

    async def claim_jobs(self, queue: str, *, limit: int, lease: float, ahead: float = 0.0) -> list[Job]:
        """See `Ledger`."""
        self.store.tidy(self.now())
        return self.store.claim_jobs(
            self.session, queue, limit=limit, lease=lease, ahead=ahead, now=self.now()
        )

    async def finish_job(self, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True) -> bool:
        """See `Ledger`."""
        return self.store.finish_job(
            self.session, queue, job, retry_at=retry_at, attempted=attempted, now=self.now()
        )

    async def waiting(self, queues: Sequence[str]) -> list[Waiting]:
        """See `Ledger`."""
        return self.store.waiting(queues, now=self.now())

    async def drop_queue(self, queue: str) -> int:
        """See `Ledger`."""
        return self.store.drop_queue(queue, now=self.now())

    async def begin(self, name: str, digest: bytes, *, seconds: float) -> Operation:
        """See `Ledger`."""
        self.store.tidy(self.now())
        return self.store.begin(self.session, name, digest, seconds=seconds, now=self.now())

    async def finish(self, name: str, answer: bytes | None) -> bool:
        """See `Ledger`."""
        return self.store.finish(self.session, name, answer, now=self.now())

    async def put(
        self, name: str, value: bytes | None, *, expect: int | None, seconds: float, announced: bool = False
    ) -> Put:
        """See `Ledger`."""
        put = self.store.put(name, value, expect=expect, seconds=seconds, now=self.now())
        if announced and put.written:
            self.announce(name, value)
        return put

    def announce(self, name: str, value: bytes | None) -> None:
        """Report a document that was put with `announced`."""
        for heard in self._heard:
            heard(name, value)

    async def get(self, names: Sequence[str]) -> list[tuple[int, bytes | None]]:
        """See `Ledger`."""
        return self.store.get(names, now=self.now())

    async def learn(self, name: str, samples: Sequence[bytes], *, keep: int) -> None:
        """See `Ledger`."""
        self.store.learn(name, samples, keep=keep, now=self.now())

    async def learned(self, names: Sequence[str]) -> list[list[bytes]]:
        """See `Ledger`."""
        return self.store.learned(names, now=self.now())

    async def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float) -> Held:
        """See `Ledger`."""
        return self.store.hold(counter, hold, amount, limit=limit, window=window, now=self.now())

    async def settle(self, counter: str, hold: str, amount: float) -> None:
        """See `Ledger`."""
        self.store.settle(counter, hold, amount, now=self.now())
