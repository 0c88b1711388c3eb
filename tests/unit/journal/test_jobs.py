from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from bridge.engine.base import Job
from bridge.errors import JournalError
from bridge.journal.jobs import CHECK_SECONDS, RETRY_SECONDS, Handle, JobRunner
from bridge.journal.ledger import StoreLedger
from tests.fakes.clock import FakeClock, settle

pytestmark = pytest.mark.anyio


class FailingLedger(StoreLedger):
    """Can be away."""

    away = False

    async def claim_jobs(self, queue: str, *, limit: int, lease: float, ahead: float = 0.0) -> list[Job]:
        if self.away:
            raise JournalError("away")
        return await super().claim_jobs(queue, limit=limit, lease=lease, ahead=ahead)

    async def finish_job(self, queue: str, job: str, *, retry_at: int = 0, attempted: bool = True) -> bool:
        if self.away:
            raise JournalError("away")
        return await super().finish_job(queue, job, retry_at=retry_at, attempted=attempted)


class Room:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.ledger = FailingLedger(self.clock)
        self.handled: list[str] = []

    async def add(self, *ids: str) -> None:
        await self.ledger.add_jobs([Job("q", one, one.encode(), due=self.ledger.now()) for one in ids])

    @asynccontextmanager
    async def running(
        self, handle: Callable[[Job], object] | Handle, room: int = 2
    ) -> AsyncIterator[JobRunner]:
        async def note(job: Job) -> float | None:
            self.handled.append(job.id)
            result = handle(job)
            if asyncio.iscoroutine(result):
                result = await result
            return result  # type: ignore[return-value]

        runner = JobRunner(self.ledger, "q", note, self.clock, lease=30.0, room=2)
        task = asyncio.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def left(self) -> int:
        (waiting,) = await self.ledger.waiting(["q"])
        return waiting.jobs


async def test_each_job_is_done_once_with_as_many_in_flight_as_there_is_room() -> None:
    room = Room()
    gate = asyncio.Event()
    await room.add("a", "b", "c", "d", "e")
    async with room.running(lambda job: _none(gate)) as runner:
        await settle()
        assert room.handled == ["a", "b"]
        gate.set()
        await settle()
        assert (room.handled, await room.left()) == (["a", "b", "c", "d", "e"], 0)
        await room.add("f")
        runner.wake()
        await settle()
        assert room.handled[-1] == "f"


async def _none(gate: asyncio.Event) -> None:
    await gate.wait()


async def test_one_that_is_not_done_or_raised_is_due_again() -> None:
    room = Room()
    answers: dict[str, list[object]] = {"later": [5.0, None], "fault": [ValueError(), None]}

    def handle(job: Job) -> object:
        answer = answers[job.id].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    await room.add("later", "fault")
    async with room.running(handle):
        await settle()
        assert sorted(room.handled) == ["fault", "later"]
        await room.clock.advance(5.0 + CHECK_SECONDS)
        assert room.handled[2:] == ["later"]
        await room.clock.advance(60.0)
        assert (room.handled[3:], await room.left()) == (["fault"], 0)


async def test_a_ledger_that_is_away_keeps_what_was_done_from_being_done_again() -> None:
    room = Room()
    await room.add("a")

    def leave(job: Job) -> None:
        room.ledger.away = True

    async with room.running(leave):
        await settle()
        await room.clock.advance(3 * RETRY_SECONDS)
        assert await room.left() == 1
        room.ledger.away = False
        await room.clock.advance(CHECK_SECONDS)
        assert (room.handled, await room.left()) == (["a"], 0)


async def test_a_drain_claims_nothing_more() -> None:
    room = Room()
    async with room.running(lambda job: None) as runner:
        await runner.drain(1.0)
        await room.add("a")
        runner.wake()
        await room.clock.advance(2 * CHECK_SECONDS)
        assert room.handled == []
