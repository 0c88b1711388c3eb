"""What every ledger promises: `bridge.engine.ledger.Ledger`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.clock import SystemClock
from bridge.engine.base import Operation, OperationState
from bridge.engine.ledger import Ledger
from tests.fakes.ledgers import MAKERS, QUEUE, JobPlans, Remembering, in_a_file, in_memory, job_id, job_of
from tests.fakes.tasks import OTHER, TASK, state

pytestmark = pytest.mark.anyio

DAY = 86_400.0
SECOND = 1_000_000


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
async def made(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Remembering]:
    async with request.param(tmp_path) as made:
        yield made


@pytest.fixture
def ledger(made: Remembering) -> Ledger:
    return made.ledger


async def test_it_says_who_else_uses_it_and_what_time_it_is(
    ledger: Ledger, request: pytest.FixtureRequest
) -> None:
    alone = request.node.callspec.params["made"] in (in_memory, in_a_file)
    assert ledger.shared is not alone
    assert abs(ledger.now() - SystemClock().time() * 1e6) < 10 * SECOND
    returned: list[bool] = []
    ledger.on_return(lambda: returned.append(True))
    assert returned == [True]


async def test_an_operation_is_carried_out_once(ledger: Ledger) -> None:
    async def begun(digest: bytes = b"d") -> Operation:
        return await ledger.begin("submit:x", digest, seconds=DAY)

    assert await begun() == (OperationState.NEW, None)
    assert (await begun()).state is OperationState.PENDING
    assert (await begun(b"e")).state is OperationState.MISMATCH
    assert await ledger.finish("submit:x", b"\x00answer\xff")
    assert await begun() == (OperationState.DONE, b"\x00answer\xff")
    assert await ledger.finish("submit:x", b"\x00answer\xff")  # noted already
    assert not await ledger.finish("submit:x", b"another")
    assert (await begun(b"e")).state is OperationState.MISMATCH
    assert not await ledger.finish("never begun", b"x")


async def test_of_many_that_begin_one_operation_one_carries_it_out(ledger: Ledger) -> None:
    begun = await asyncio.gather(*(ledger.begin("submit:x", b"d", seconds=DAY) for _ in range(20)))
    states = [one.state for one in begun]
    assert states.count(OperationState.NEW) == 1
    assert states.count(OperationState.PENDING) == 19


async def test_an_operation_that_did_not_happen_can_begin_again(ledger: Ledger) -> None:
    assert (await ledger.begin("submit:x", b"d", seconds=DAY)).state is OperationState.NEW
    assert await ledger.finish("submit:x", None)
    assert (await ledger.begin("submit:x", b"other", seconds=DAY)).state is OperationState.NEW


async def test_small_documents_are_written_by_comparing(ledger: Ledger) -> None:
    first = await ledger.put("webhooks", b"one\xff", expect=0, seconds=DAY)
    assert first.written
    assert await ledger.get(["webhooks", "none"]) == [(first.version, b"one\xff"), (0, None)]
    refused = await ledger.put("webhooks", b"two", expect=0, seconds=DAY)
    assert refused == (False, first.version, b"one\xff")
    second = await ledger.put("webhooks", b"two", expect=first.version, seconds=DAY)
    assert second.written
    assert second.version > first.version
    assert (await ledger.put("webhooks", None, expect=None, seconds=DAY)).written
    assert await ledger.get(["webhooks"]) == [(0, None)]
    third = await ledger.put("webhooks", b"three", expect=0, seconds=DAY)
    assert third.version > second.version


async def test_of_many_that_write_one_version_one_does(ledger: Ledger) -> None:
    puts = await asyncio.gather(
        *(ledger.put("webhooks", bytes([number]), expect=0, seconds=DAY) for number in range(20))
    )
    (written,) = [put for put in puts if put.written]
    assert {(put.version, put.value) for put in puts} == {(written.version, written.value)}


async def test_documents_that_are_announced_are_reported_in_order(ledger: Ledger) -> None:
    heard: list[tuple[str, bytes | None]] = []
    deleted = asyncio.Event()

    def hear(name: str, value: bytes | None) -> None:
        heard.append((name, value))
        if value is None:
            deleted.set()

    ledger.hear(hear)
    await ledger.put("webhooks", b"one", expect=None, seconds=DAY, announced=True)
    await ledger.put("webhooks", b"two", expect=None, seconds=DAY)
    await ledger.put("webhooks", b"three", expect=0, seconds=DAY, announced=True)  # not written
    await ledger.put("callbacks:x/-", b"1", expect=None, seconds=DAY)
    await ledger.put("webhooks", None, expect=None, seconds=DAY, announced=True)
    async with asyncio.timeout(5):
        await deleted.wait()
    assert heard == [("webhooks", b"one"), ("webhooks", None)]


async def test_lists_keep_their_newest_samples(ledger: Ledger) -> None:
    await ledger.learn("deliveries:a", [b"1", b"2\xff"], keep=3)
    await ledger.learn("deliveries:a", [b"3", b"4"], keep=3)
    assert await ledger.learned(["deliveries:a", "none"]) == [[b"2\xff", b"3", b"4"], []]
    await ledger.learn("deliveries:a", [], keep=0)
    assert await ledger.learned(["deliveries:a"]) == [[]]


async def test_an_amount_is_reserved_within_its_limit(ledger: Ledger) -> None:
    assert (await ledger.hold("spend", "one", 6.0, limit=10.0, window=1e6)).ok
    assert not (await ledger.hold("spend", "two", 6.0, limit=10.0, window=1e6)).ok
    await ledger.settle("spend", "one", 1.0)
    assert await ledger.hold("spend", "two", 6.0, limit=10.0, window=1e6) == (True, 7.0)


async def test_jobs_are_claimed_retried_and_done(made: Remembering) -> None:
    ledger, planner = made.ledger, JobPlans()
    made.journal.planner = planner
    event = await made.journal.append(TASK, state("completed"), free=True)
    other = await made.journal.append(OTHER, state("completed"), free=True)
    waiting, none = await ledger.waiting([QUEUE, "none"])
    assert (waiting.jobs, none) == (2, (0, 0))
    assert abs(waiting.oldest - ledger.now()) < 10 * SECOND
    jobs = await ledger.claim_jobs(QUEUE, limit=10, lease=60)
    assert [job.id for job in jobs] == [job_id(one.key, one.state) for one in (event, other)]
    assert [job.offset for job in jobs] == [event.cursor.offset, other.cursor.offset]
    assert [(job.attempts, job.body) for job in jobs] == [(1, b"\xffcompleted")] * 2
    assert await ledger.claim_jobs(QUEUE, limit=10, lease=60) == []
    assert await ledger.finish_job(QUEUE, jobs[0].id)
    assert not await ledger.finish_job(QUEUE, jobs[0].id)
    assert await ledger.finish_job(QUEUE, jobs[1].id, retry_at=ledger.now() - SECOND)
    ((again),) = await ledger.claim_jobs(QUEUE, limit=10, lease=60)
    assert (again.id, again.attempts) == (jobs[1].id, 2)
    assert await ledger.finish_job(QUEUE, again.id, retry_at=ledger.now() + 60 * SECOND)
    assert await ledger.claim_jobs(QUEUE, limit=10, lease=60) == []
    assert await ledger.drop_queue(QUEUE) == 1
    assert await ledger.waiting([QUEUE]) == [(0, 0)]


async def test_jobs_are_added_without_a_state(made: Remembering) -> None:
    ledger = made.ledger
    jobs = [job_of(TASK, state("completed"))._replace(offset=7), job_of(OTHER, state("failed"))]
    assert await ledger.add_jobs(jobs) == 0
    assert await ledger.add_jobs(jobs[:1]) == 0
    found = await ledger.claim_jobs(QUEUE, limit=10, lease=60)
    assert [(job.id, job.body, job.ordering, job.offset) for job in found] == [
        (job.id, job.body, job.ordering, job.offset) for job in jobs
    ]
