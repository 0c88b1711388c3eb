"""What every journal promises of the jobs and details of its states."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.task import State, TaskKey
from bridge.engine.base import DEFAULT_JOB_LIMITS, Job
from bridge.errors import JournalError
from bridge.journal.base import Journal
from tests.fakes.ledgers import MAKERS, QUEUE, JobPlans, Remembering, job_id, job_of
from tests.fakes.tasks import OTHER, TASK, state

pytestmark = pytest.mark.anyio

DETAILS = TaskDetails("https://app.test/hook?token=ü", ("a", "b"), "album")


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
async def made(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Remembering]:
    async with request.param(tmp_path) as made:
        yield made


async def record(journal: Journal, key: TaskKey, known: State) -> int:
    """Record a state; its offset."""
    return (await journal.append(key, known, free=True)).cursor.offset


async def claimed(made: Remembering, queue: str = QUEUE) -> list[tuple[str, int]]:
    """Id and offset of every job, in order, each done at once."""
    found: list[tuple[str, int]] = []
    while jobs := await made.ledger.claim_jobs(queue, limit=10, lease=60):
        for job in jobs:
            found.append((job.id, job.offset))
            assert await made.ledger.finish_job(queue, job.id)
    return found


async def test_each_state_is_planned_with_what_is_known_before_it(made: Remembering) -> None:
    made.journal.planner = planner = JobPlans()
    made.journal.describe(TASK, DETAILS)
    states = [state("queued"), state("processing", 10.0), state("completed", 100.0)]
    offsets = [await record(made.journal, TASK, one) for one in states]
    assert planner.planned == [
        (TASK, previous, one, DETAILS) for previous, one in zip([None, *states], states, strict=False)
    ]
    jobs = [job_of(TASK, one) for one in states]
    await planner.reported(3)
    assert planner.wrote == [(TASK, [job], 0) for job in jobs]
    assert await claimed(made) == [(job.id, offset) for job, offset in zip(jobs, offsets, strict=True)]


async def test_states_on_their_way_are_planned_in_their_order(made: Remembering) -> None:
    made.journal.planner = planner = JobPlans()
    states = [state("processing", float(number)) for number in range(20)]
    results = await asyncio.gather(
        *(made.journal.append(key, one, free=True) for one in states for key in (TASK, OTHER)),
        return_exceptions=True,
    )
    assert not [one for one in results if isinstance(one, Exception)]
    names = [name for name, _ in await claimed(made)]
    for key in (TASK, OTHER):
        assert [previous for task, previous, *_ in planner.planned if task == key] == [None, *states[:-1]]
        of_task = [name for name in names if name.startswith(key.task_id)]
        assert of_task == [job_id(key, one) for one in states]


async def test_a_job_that_is_there_already_is_not_added_again(made: Remembering) -> None:
    def same(key: TaskKey, known: State) -> Sequence[Job]:
        return [Job(QUEUE, "the-one", known.status.value.encode())]

    made.journal.planner = JobPlans(same)
    first = await record(made.journal, TASK, state("queued"))
    await record(made.journal, TASK, state("processing"))
    (job,) = await made.ledger.claim_jobs(QUEUE, limit=10, lease=60)
    assert (job.body, job.offset) == (b"queued", first)
    assert await made.ledger.finish_job(QUEUE, "the-one")
    last = await record(made.journal, TASK, state("completed"))
    assert await claimed(made) == [("the-one", last)]


async def test_what_may_be_replaced_is_and_no_end(made: Remembering) -> None:
    def jobs(key: TaskKey, known: State) -> Sequence[Job]:
        return [job_of(key, known)._replace(replaceable=not known.status.final)]

    made.journal.planner = JobPlans(jobs)
    for number in range(5):
        await record(made.journal, TASK, state("processing", float(number)))
    end = state("lost")
    await record(made.journal, TASK, end)
    real = state("completed")
    await record(made.journal, TASK, real)
    names = [name for name, _ in await claimed(made)]
    assert names == [job_id(TASK, one) for one in (end, real)]


async def test_a_planner_that_fails_costs_no_state(
    made: Remembering, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(key: TaskKey, known: State) -> Sequence[Job]:
        raise ValueError

    made.journal.planner = planner = JobPlans(fail)
    await record(made.journal, TASK, state())
    assert planner.wrote == []
    assert await made.ledger.waiting([QUEUE]) == [(0, 0)]
    assert "unhandled exception in job planner" in caplog.messages


async def test_states_without_jobs_write_none(made: Remembering) -> None:
    made.journal.planner = planner = JobPlans(lambda key, known: ())
    await record(made.journal, TASK, state())
    assert len(planner.planned) == 1
    assert planner.wrote == []
    made.journal.planner = None
    await record(made.journal, TASK, state("completed"))
    assert len(planner.planned) == 1


@pytest.mark.extended
async def test_a_queue_that_is_full_costs_jobs_and_no_state(made: Remembering) -> None:
    def large(key: TaskKey, known: State) -> Sequence[Job]:
        return [Job(QUEUE, key.task_id, b"x" * 9_000_000)]

    made.journal.planner = planner = JobPlans(large)
    room = DEFAULT_JOB_LIMITS.size // 9_000_000
    for number in range(room + 1):
        await record(made.journal, TaskKey("qingbo", str(number)), state("completed"))
        await planner.reported(number + 1)
    assert [dropped for _, _, dropped in planner.wrote] == [0] * room + [1]
    assert [name for name, _ in await claimed(made)] == [str(number) for number in range(room)]


async def test_a_state_that_is_refused_has_no_jobs(made: Remembering, request: pytest.FixtureRequest) -> None:
    if not made.ledger.shared:
        pytest.skip("a process alone is refused nothing by another one")
    made.journal.planner = planner = JobPlans()
    await record(made.journal, TASK, state("completed"))
    with pytest.raises(JournalError):
        await record(made.journal, TASK, state("failed"))
    await record(made.journal, TASK, state("completed"))  # a duplicate
    assert len(planner.planned) == 3
    assert [job_id(TASK, state("completed"))] == [name for name, _ in await claimed(made)]
    await planner.reported(1)
    assert len(planner.wrote) == 1


async def test_details_are_kept_while_a_task_may_change(made: Remembering) -> None:
    journal = made.journal
    assert journal.details(TASK) == NO_DETAILS
    journal.describe(TASK, DETAILS)
    assert journal.details(TASK) == DETAILS
    for status in ("queued", "processing", "lost"):
        await record(journal, TASK, state(status))
        assert journal.details(TASK) == DETAILS
    assert journal.details(OTHER) == NO_DETAILS
