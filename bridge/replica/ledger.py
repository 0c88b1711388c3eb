"""The ledger of replicas: in the engine they share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from bridge.clock import Clock
from bridge.engine.base import DocumentEntry, Held, Job, Operation, Put, Waiting
from bridge.engine.ledger import Heard
from bridge.replica.replica import Replica
from bridge.replica.shared import is_knowledge


class SharedLedger:
    """Satisfies `bridge.engine.ledger.Ledger`; every method that waits raises `EngineUnavailable` while the
    engine is away.
    """

    def __init__(self, replica: Replica, clock: Clock) -> None:
        self._replica = replica
        self._connection = replica.connection
        self._clock = clock

    @property
    def shared(self) -> bool:
        """Always."""
        return True

    @property
    def others(self) -> Collection[str]:
        """See `Ledger`: as of the last renewal."""
        return self._connection.sessions.keys() - {self._connection.session}

    def now(self) -> int:
        """See `Ledger`: the engine's clock, as estimated here."""
        return self._connection.engine_time(self._clock.monotonic())

    def hear(self, heard: Heard) -> None:
        """See `Ledger`; not for what replicas learn for one another (`SharedKnowledge`)."""

        def on_document(entry: DocumentEntry) -> None:
            if not is_knowledge(entry.name):
                heard(entry.name, entry.value)

        self._replica.on_document.append(on_document)

    def on_return(self, returned: Callable[[], None]) -> None:
        """See `Ledger`."""
        self._replica.on_up.append(returned)
        if self._connection.up:
            returned()

    async def add_jobs(self, jobs: Sequence[Job]) -> int:
        """See `Ledger`."""
        return await self._connection.call("add_jobs", lambda engine: engine.add_jobs(jobs))

    async def claim_jobs(self, queue: str, *, limit: int, lease: float, ahead: float = 0.0) -> list[Job]:
        """See `Ledger`."""
        session = self._connection.session
        return await self._connection.call(
            "claim_jobs",
            lambda engine: engine.claim_jobs(session, queue, limit=limit, lease=lease, ahead=ahead),
        )

    async def finish_job(self, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True) -> bool:
        """See `Ledger`."""
        session = self._connection.session
        return await self._connection.call(
            "finish_job",
            lambda engine: engine.finish_job(session, queue, job, retry_at=retry_at, attempted=attempted),
        )

    async def waiting(self, queues: Sequence[str]) -> list[Waiting]:
        """See `Ledger`."""
        return await self._connection.call("waiting", lambda engine: engine.waiting(queues))

    async def drop_queue(self, queue: str) -> int:
        """See `Ledger`."""
        return await self._connection.call("drop_queue", lambda engine: engine.drop_queue(queue))

    async def begin(self, name: str, digest: bytes, *, seconds: float) -> Operation:
        """See `Ledger`."""
        session = self._connection.session
        return await self._connection.call(
            "begin", lambda engine: engine.begin(session, name, digest, seconds=seconds)
        )

    async def finish(self, name: str, answer: bytes | None) -> bool:
        """See `Ledger`."""
        session = self._connection.session
        return await self._connection.call("finish", lambda engine: engine.finish(session, name, answer))

    async def put(
        self, name: str, value: bytes | None, *, expect: int | None, seconds: float, announced: bool = False
    ) -> Put:
        """See `Ledger`."""
        return await self._connection.call(
            "put",
            lambda engine: engine.put(name, value, expect=expect, seconds=seconds, announced=announced),
        )

    async def get(self, names: Sequence[str]) -> list[tuple[int, bytes | None]]:
        """See `Ledger`."""
        return await self._connection.call("get", lambda engine: engine.get(names))

    async def learn(self, name: str, samples: Sequence[bytes], *, keep: int) -> None:
        """See `Ledger`."""
        await self._connection.call("learn", lambda engine: engine.learn(name, samples, keep=keep))

    async def learned(self, names: Sequence[str]) -> list[list[bytes]]:
        """See `Ledger`."""
        return await self._connection.call("learned", lambda engine: engine.learned(names))

    async def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float) -> Held:
        """See `Ledger`."""
        return await self._connection.call(
            "hold", lambda engine: engine.hold(counter, hold, amount, limit=limit, window=window)
        )

    async def settle(self, counter: str, hold: str, amount: float) -> None:
        """See `Ledger`."""
        await self._connection.call("settle", lambda engine: engine.settle(counter, hold, amount))
