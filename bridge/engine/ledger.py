"""What a bridge remembers beside states: jobs, operations, small documents, samples and holds.

One process alone keeps them in its journal (`bridge.journal.ledger`), replicas in the engine they share
(`bridge.replica.ledger`). They are used alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from bridge.engine.base import Held, Job, Operation, Put, Waiting

Heard = Callable[[str, bytes | None], None]
"""Called with the name and the value of a small document that was written, or deleted (None)."""


class Ledger(Protocol):
    """The operations of an `Engine` that are about no task, each in the session of this process.

    Raises:
        JournalError: Of every method that waits: it cannot be reached or written; then it happened or not.
    """

    @property
    def shared(self) -> bool:
        """Whether other processes use it too."""

    @property
    def others(self) -> Collection[str]:
        """The sessions of other processes that use it, as far as this one knows."""

    def now(self) -> int:
        """Microseconds of the clock to which `due` belongs."""

    def hear(self, heard: Heard) -> None:
        """Pass on every document that is put with `announced`, by this process or another one.

        Documents that were written while the engine was away are not reported: read them again with
        `on_return`.
        """

    def on_return(self, returned: Callable[[], None]) -> None:
        """Call `returned` when the ledger can be reached again, and at the first time."""

    async def add_jobs(self, jobs: Sequence[Job]) -> int:
        """See `Engine.add_jobs`; written before it answers, as far as this ledger writes anything."""

    async def claim_jobs(self, queue: str, *, limit: int, lease: float, ahead: float = 0.0) -> list[Job]:
        """See `Engine.claim_jobs`."""

    async def finish_job(self, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True) -> bool:
        """See `Engine.finish_job`."""

    async def waiting(self, queues: Sequence[str]) -> list[Waiting]:
        """See `Engine.waiting`."""

    async def drop_queue(self, queue: str) -> int:
        """See `Engine.drop_queue`."""

    async def begin(self, name: str, digest: bytes, *, seconds: float) -> Operation:
        """See `Engine.begin`."""

    async def finish(self, name: str, answer: bytes | None) -> bool:
        """See `Engine.finish`."""

    async def put(
        self, name: str, value: bytes | None, *, expect: int | None, seconds: float, announced: bool = False
    ) -> Put:
        """See `Engine.put`."""

    async def get(self, names: Sequence[str]) -> list[tuple[int, bytes | None]]:
        """See `Engine.get`."""

    async def learn(self, name: str, samples: Sequence[bytes], *, keep: int) -> None:
        """See `Engine.learn`."""

    async def learned(self, names: Sequence[str]) -> list[list[bytes]]:
        """See `Engine.learned`."""

    async def hold(self, counter: str, hold: str, amount: float, *, limit: float, window: float) -> Held:
        """See `Engine.hold`."""

    async def settle(self, counter: str, hold: str, amount: float) -> None:
        """See `Engine.settle`."""
