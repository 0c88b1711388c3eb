"""Jobs and details of states over outages: recorded once their state is, by any bridge that records it."""

from __future__ import annotations

import asyncio

import pytest

from bridge.core.details import NO_DETAILS, TaskDetails, decode_details
from bridge.errors import Superseded
from bridge.replica.ledger import SharedLedger
from tests.fakes.ledgers import QUEUE, JobPlans
from tests.fakes.replicas import LEASE, House, World, key
from tests.fakes.tasks import state
from tests.fakes.virtual import LoopClock, run

TASK = key()
DETAILS = TaskDetails("https://app.test/hook", ("a",))


def planning(*houses: House) -> list[JobPlans]:
    planners = [JobPlans() for _ in houses]
    for house, planner in zip(houses, planners, strict=True):
        house.journal.planner = planner
    return planners


async def delivered(house: House) -> list[str]:
    """Claim and finish everything, in order."""
    ledger = SharedLedger(house.replica, house.clock)
    names: list[str] = []
    while jobs := await ledger.claim_jobs(QUEUE, limit=10, lease=60):
        for job in jobs:
            names.append(job.id)
            assert await ledger.finish_job(QUEUE, job.id)
    return names


def test_what_is_shown_unrecorded_has_its_jobs_once_it_is_recorded() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        planner, _ = planning(a, b)
        a.journal.describe(TASK, DETAILS)
        world.provider.shows(TASK, 10)
        a.view(TASK)
        await world.until(lambda: len(planner.wrote) == 1)
        world.away = True
        await asyncio.sleep(3)
        for progress in (20, 100):
            world.provider.shows(TASK, progress)
            await asyncio.sleep(1)
        assert a.states(TASK)[-1] == ("completed", 100)
        assert len(planner.planned) == 1
        world.away = False
        await world.until(lambda: a.replica.unrecorded == 0 and len(planner.wrote) == 2)
        # Of what was shown only the newest is recorded, after the one before the outage.
        previous, last = planner.planned[-1][1:3]
        assert previous is not None
        assert [(one.status, one.progress) for one in (previous, last)] == [
            ("processing", 10),
            ("completed", 100),
        ]
        assert planner.planned[-1][3] == DETAILS
        assert await delivered(b) == ["task-1-processing-10", "task-1-completed-100"]
        await world.close()

    run(play)


def test_an_append_whose_answer_is_lost_has_its_jobs_once() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        planning(a, b)
        a.loses.add("apply")
        await a.journal.append(TASK, state("completed"), free=True)
        a.cut = False
        await world.until(lambda: a.replica.connection.up and a.replica.unrecorded == 0)
        assert await delivered(b) == ["task-1-completed-None"]
        await world.close()

    run(play)


def test_an_engine_that_lost_everything_has_jobs_and_details_of_what_is_recorded_again() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        planning(a, b)
        a.journal.describe(TASK, DETAILS)
        world.provider.shows(TASK, 10)
        a.view(TASK)
        await world.until(lambda: a.states(TASK) != [])
        world.wipe()
        await world.until(lambda: world.engine.store.tasks.get(TASK) is not None)
        await world.until(lambda: a.replica.connection.up and a.replica.unrecorded == 0)
        (record,) = await world.engine.records([TASK])
        assert record.details == DETAILS.encode()
        assert await delivered(b) == ["task-1-processing-10"]
        await world.close()

    run(play)


def test_every_bridge_knows_what_a_task_was_submitted_with() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        planners = planning(a, b)
        b.journal._memory.ensure(TASK)
        a.journal.describe(TASK, DETAILS)
        await a.journal.append(TASK, state("queued"), free=True)
        await world.until(lambda: b.journal.details(TASK) == DETAILS)
        world.provider.shows(TASK, 10)
        a.view(TASK)
        await world.until(lambda: a.states(TASK)[-1] == ("processing", 10))
        await a.kill()
        (c,) = await world.started("c")
        planners += planning(c)
        assert c.journal.details(TASK) == NO_DETAILS
        await asyncio.sleep(LEASE + 2)
        world.provider.shows(TASK, 100)
        c.view(TASK)

        def ends() -> list[TaskDetails]:
            return [plan[3] for one in planners for plan in one.planned if plan[2].status.final]

        await world.until(lambda: ends() != [])
        assert ends() == [DETAILS]
        await world.close()

    run(play)


def test_details_are_recorded_though_another_bridge_recorded_the_state() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await b.journal.append(TASK, state("processing", 10.0), free=True)
        a.journal.describe(TASK, DETAILS)
        with pytest.raises(Superseded):  # the same, recorded before anything of the task was received here
            await a.journal.append(TASK, state("processing", 10.0), free=True)
        await world.until(lambda: b.journal.details(TASK).tags == DETAILS.tags)
        (record,) = await world.engine.records([TASK])
        recorded = decode_details(record.details)
        assert recorded == DETAILS._replace(since=recorded.since)
        assert recorded.since > record.offset, "whoever saw its state before did not know it by its tag"
        await world.close()

    run(play)
