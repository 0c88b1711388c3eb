"""The engine in this process, over a `Store`: for tests, for tools, and inside the keeper."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from bridge.clock import Clock, SystemClock
from bridge.core.event import Confirmation
from bridge.core.task import TaskKey
from bridge.engine.base import (
    DEFAULT_JOB_LIMITS,
    MAX_TASKS,
    Applied,
    Apply,
    Called,
    Census,
    Entry,
    Held,
    Job,
    JobLimits,
    Lent,
    Listing,
    Operation,
    Past,
    Put,
    Record,
    Release,
    Released,
    Report,
    Take,
    Waiting,
    Want,
    Wanted,
    Welcome,
)
from bridge.engine.store import DEFAULT_LIMITS, Store, StoreLimits
from bridge.errors import EngineUnavailable

Answer = TypeVar("Answer")


class EmbeddedEngine:
    """Satisfies `bridge.engine.base.Engine`; what it holds ends with the process.

    Args:
        now: Microseconds; None for the clock of the system, which is not set back or ahead meanwhile.
        store: What it works on; several engines may share one.
        clock: Times the wait of `read`.
    """

    def __init__(
        self,
        now: Callable[[], int] | None = None,
        *,
        store: Store | None = None,
        limits: StoreLimits = DEFAULT_LIMITS,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._now = now or steady_microseconds(self._clock)
        self.store = store or Store(limits)
        self._more = asyncio.Event()
        self._head = self.store.log.head
        self._closed = False

    async def session(
        self, session: str, *, ttl: float, known_head: int, new_epoch: str, about: bytes, opens: bool
    ) -> Welcome:
        """See `Engine`."""
        return await self._answered(
            self.store.session(
                session,
                ttl=ttl,
                known_head=known_head,
                new_epoch=new_epoch,
                about=about,
                opens=opens,
                now=self._time(),
            )
        )

    async def leave(self, session: str) -> None:
        """See `Engine`."""
        await self._answered(self.store.leave(session, now=self._time()))  # type: ignore[func-returns-value]

    async def bury(self, *, limit: int, spacing: float) -> int:
        """See `Engine`."""
        return await self._answered(self.store.bury(limit=limit, spacing=spacing, now=self._time()))

    async def want(self, session: str, wants: Sequence[Want], *, linger: float) -> list[Wanted]:
        """See `Engine`."""
        return await self._answered(self.store.want(session, wants, linger=linger, now=self._time()))

    async def owned(self, session: str, *, after: TaskKey | None, limit: int) -> list[TaskKey]:
        """See `Engine`."""
        return await self._answered(self.store.owned(session, after=after, limit=limit, now=self._time()))

    async def rewant(self, keys: Sequence[TaskKey], *, linger: float) -> None:
        """See `Engine`."""
        await self._answered(self.store.rewant(keys, linger=linger, now=self._time()))  # type: ignore[func-returns-value]

    async def keep(self, session: str, key: TaskKey, *, called_back: bool) -> None:
        """See `Engine`."""
        await self._answered(self.store.keep(session, key, called_back=called_back, now=self._time()))  # type: ignore[func-returns-value]

    async def claim(self, session: str, *, account: str, limit: int) -> list[Record]:
        """See `Engine`."""
        return await self._answered(self.store.claim(session, account=account, limit=limit, now=self._time()))

    async def release(self, session: str, releases: Sequence[Release], *, transfer: bool) -> list[Released]:
        """See `Engine`."""
        return await self._answered(
            self.store.release(session, releases, transfer=transfer, now=self._time())
        )

    async def call(
        self, session: str, key: TaskKey, *, called_back: bool = False
    ) -> tuple[Called, TaskKey | None]:
        """See `Engine`."""
        return await self._answered(self.store.call(session, key, called_back=called_back, now=self._time()))

    async def apply(
        self, session: str, states: Sequence[Apply], *, limits: JobLimits = DEFAULT_JOB_LIMITS
    ) -> list[Applied]:
        """See `Engine`."""
        return await self._answered(self.store.apply(session, states, limits=limits, now=self._time()))

    async def records(self, keys: Sequence[TaskKey]) -> list[Record]:
        """See `Engine`."""
        return await self._answered(self.store.records(keys, now=self._time()))

    async def history(self, key: TaskKey, after: int) -> list[Past]:
        """See `Engine`."""
        return await self._answered(self.store.history(key, after, now=self._time()))

    async def newest(self, upstream: str, account: str, *, final: bool, limit: int) -> list[TaskKey]:
        """See `Engine`."""
        return await self._answered(
            self.store.newest(upstream, account, final=final, limit=limit, now=self._time())
        )

    async def listing(
        self,
        upstream: str,
        account: str,
        *,
        tag: str = "",
        group: str = "",
        before: int = 0,
        limit: int = MAX_TASKS,
    ) -> list[Listing]:
        """See `Engine`."""
        return await self._answered(
            self.store.listing(
                upstream, account, tag=tag, group=group, before=before, limit=limit, now=self._time()
            )
        )

    async def oldest(self, upstream: str, account: str, *, after: int, limit: int) -> list[Listing]:
        """See `Engine`."""
        return await self._answered(
            self.store.oldest(upstream, account, after=after, limit=limit, now=self._time())
        )

    async def accounts(self, upstream: str) -> list[str]:
        """See `Engine`."""
        return await self._answered(self.store.accounts(upstream, now=self._time()))

    async def forget(self, session: str, key: TaskKey) -> bool:
        """See `Engine`."""
        return await self._answered(self.store.forget(session, key, now=self._time()))

    async def register(self, session: str, key: TaskKey, details: bytes) -> int:
        """See `Engine`."""
        return await self._answered(self.store.register(session, key, details, now=self._time()))

    async def announce(self, session: str, key: TaskKey, code: str, body: bytes | None) -> int:
        """See `Engine`."""
        return await self._answered(self.store.announce(session, key, code, body, now=self._time()))

    async def confirm(self, session: str, confirmed: Sequence[tuple[TaskKey, Confirmation]]) -> None:
        """See `Engine`."""
        await self._answered(self.store.confirm(session, confirmed, now=self._time()))  # type: ignore[func-returns-value]

    async def take(self, session: str, take: Take) -> Lent:
        """See `Engine`."""
        return await self._answered(self.store.take(session, take, now=self._time()))

    async def report(
        self, session: str, credential: str, report: Report, *, seconds: float = 0.0
    ) -> tuple[int, int]:
        """See `Engine`."""
        return await self._answered(
            self.store.report(session, credential, report, seconds=seconds, now=self._time())
        )

    async def probe(self, session: str, credential: str, *, seconds: float) -> bool:
        """See `Engine`."""
        return await self._answered(self.store.probe(session, credential, seconds=seconds, now=self._time()))

    async def learn(self, name: str, samples: Sequence[bytes], *, keep: int) -> None:
        """See `Engine`."""
        await self._answered(self.store.learn(name, samples, keep=keep, now=self._time()))  # type: ignore[func-returns-value]

    async def learned(self, names: Sequence[str]) -> list[list[bytes]]:
        """See `Engine`."""
        return await self._answered(self.store.learned(names, now=self._time()))

    async def put(
        self, name: str, value: bytes | None, *, expect: int | None, seconds: float, announced: bool = False
    ) -> Put:
        """See `Engine`."""
        return await self._answered(
            self.store.put(name, value, expect=expect, seconds=seconds, announced=announced, now=self._time())
        )

    async def get(self, names: Sequence[str]) -> list[tuple[int, bytes | None]]:
        """See `Engine`."""
        return await self._answered(self.store.get(names, now=self._time()))

    async def begin(self, session: str, name: str, digest: bytes, *, seconds: float) -> Operation:
        """See `Engine`."""
        return await self._answered(
            self.store.begin(session, name, digest, seconds=seconds, now=self._time())
        )

    async def finish(self, session: str, name: str, answer: bytes | None) -> bool:
        """See `Engine`."""
        return await self._answered(self.store.finish(session, name, answer, now=self._time()))

    async def add_jobs(self, jobs: Sequence[Job], *, limits: JobLimits = DEFAULT_JOB_LIMITS) -> int:
        """See `Engine`."""
        return await self._answered(self.store.add_jobs(jobs, limits=limits, now=self._time()))

    async def claim_jobs(
        self, session: str, queue: str, *, limit: int, lease: float, ahead: float = 0.0
    ) -> list[Job]:
        """See `Engine`."""
        return await self._answered(
            self.store.claim_jobs(session, queue, limit=limit, lease=lease, ahead=ahead, now=self._time())
        )

    async def finish_job(
        self, session: str, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True
    ) -> bool:
        """See `Engine`."""
        return await self._answered(
            self.store.finish_job(
                session, queue, job, retry_at=retry_at, attempted=attempted, now=self._time()
            )
        )

    async def waiting(self, queues: Sequence[str]) -> list[Waiting]:
        """See `Engine`."""
        return await self._answered(self.store.waiting(queues, now=self._time()))

    async def drop_queue(self, queue: str) -> int:
        """See `Engine`."""
        return await self._answered(self.store.drop_queue(queue, now=self._time()))

    async def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float) -> Held:
        """See `Engine`."""
        return await self._answered(
            self.store.hold(counter, hold, amount, limit=limit, window=window, now=self._time())
        )

    async def settle(self, counter: str, hold: str, amount: float) -> None:
        """See `Engine`."""
        await self._answered(self.store.settle(counter, hold, amount, now=self._time()))  # type: ignore[func-returns-value]

    async def census(self) -> Census:
        """See `Engine`."""
        return await self._answered(self.store.census(now=self._time()))

    async def read(self, after: int, *, block: float, limit: int = 1000) -> list[Entry]:
        """See `Engine`; a waiting reader is woken by the entry."""
        until = self._clock.monotonic() + block
        while True:
            self._time()
            entries = self.store.read(after, limit=limit)
            left = until - self._clock.monotonic()
            if entries or left <= 0:
                return entries
            await self._clock.wait(self._more, left)

    async def close(self) -> None:
        """See `Engine`; a waiting `read` raises `EngineUnavailable`."""
        self._closed = True
        self._wake()

    def _time(self) -> int:
        if self._closed:
            raise EngineUnavailable("the engine is closed")
        return self._now()

    async def _answered(self, answer: Answer) -> Answer:
        """The answer of an operation, once readers are woken by what it wrote."""
        if self.store.log.head != self._head:
            self._head = self.store.log.head
            self._wake()
        return answer

    def _wake(self) -> None:
        self._more.set()
        self._more = asyncio.Event()


def steady_microseconds(clock: Clock) -> Callable[[], int]:
    """Microseconds since 1970 that never step: the wall clock once, then the monotonic one."""
    began = clock.time() - clock.monotonic()
    return lambda: round((began + clock.monotonic()) * 1_000_000)
