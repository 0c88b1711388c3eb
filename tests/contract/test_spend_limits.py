"""What a caller may spend a day, over every ledger; a model of holds and settlements."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from bridge.clock import SystemClock
from bridge.core.details import NO_DETAILS
from bridge.core.task import State, Status, TaskKey
from bridge.errors import SpendLimitExceeded
from bridge.spend.limits import (
    QUEUE,
    SpendHold,
    SpendLimit,
    SpendLimits,
    SpendPlanner,
    Spent,
    final_cost,
)
from tests.fakes.ledgers import MAKERS, Remembering
from tests.fakes.tasks import state

pytestmark = pytest.mark.anyio

KEY = TaskKey("bytespike", "t-1")


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
async def made(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Remembering]:
    async with request.param(tmp_path) as made:
        yield made


def limits_of(made: Remembering, amount: float = 10.0) -> SpendLimits:
    return SpendLimits(made.ledger, SystemClock(), {"bytespike": SpendLimit(amount, "credits")})


def ended(status: Status, used: float | None = None, estimated: float | None = None) -> State:
    return state(status, credits_used=used, credits_estimated=estimated, model="m")


async def hold(limits: SpendLimits, caller: str = "ann", model: str | None = "m") -> SpendHold:
    held = await limits.hold("bytespike", caller, model)
    assert held is not None
    return held


async def end(made: Remembering, limits: SpendLimits, held: SpendHold, final: State) -> None:
    """What a bridge does that records the end, and one that carries out the job; twice, as after a kill."""
    planner = SpendPlanner(made.ledger)
    jobs = planner.plan(KEY, None, final, NO_DETAILS._replace(spend=held.name))
    assert await made.ledger.add_jobs(jobs) == 0
    for job in await made.ledger.claim_jobs(QUEUE, limit=8, lease=30.0):
        assert await limits.carry_out(job) is None
        assert await limits.carry_out(job) is None
        assert await made.ledger.finish_job(QUEUE, job.id)


async def test_what_is_not_limited_is_not_counted(made: Remembering) -> None:
    limits = limits_of(made)
    assert await limits.hold("qingbo", "ann", "m") is None


async def test_a_caller_spends_what_it_may_and_others_are_not_touched(made: Remembering) -> None:
    limits = limits_of(made)
    for _ in range(2):
        held = await hold(limits)
        await limits.estimated(held, state(Status.QUEUED, credits_estimated=5.0), "m")
        await end(made, limits, held, ended(Status.COMPLETED, used=5.0))
    assert await limits.spent("bytespike") == [Spent("ann", 10.0)]
    with pytest.raises(SpendLimitExceeded, match=r"at most 10 credits a day .* 10 are spent") as refused:
        await hold(limits)
    assert 1 <= (refused.value.retry_after or 0) <= 86_401
    assert await hold(limits, "bob")
    # Now it is known what such a task costs: a third one of bob's would be too much.
    other = SpendLimits(made.ledger, SystemClock(), limits.limits)
    assert await hold(other, "cleo")
    assert await hold(other, "cleo")
    with pytest.raises(SpendLimitExceeded, match="will probably cost 5"):
        await hold(other, "cleo")
    assert await limits.spent("bytespike") == [Spent("ann", 10.0), Spent("cleo", 10.0), Spent("bob", 5.0)]


async def test_a_limit_that_is_used_up_admits_no_task_of_unknown_cost(made: Remembering) -> None:
    limits = limits_of(made)
    held = await hold(limits)
    await limits.estimated(held, state(Status.QUEUED, credits_estimated=10.0), "m")
    with pytest.raises(SpendLimitExceeded):
        await hold(limits, model="another")
    assert await limits.spent("bytespike") == [Spent("ann", 10.0)]


async def test_what_was_not_created_or_cost_nothing_is_given_back(made: Remembering) -> None:
    limits = limits_of(made)
    for final in (Status.FAILED, Status.CANCELLED):
        held = await hold(limits)
        await limits.estimated(held, state(Status.QUEUED, credits_estimated=9.0), "m")
        await end(made, limits, held, ended(final, estimated=9.0))
    held = await hold(limits)
    await limits.estimated(held, state(Status.QUEUED, credits_estimated=9.0), "m")
    await limits.release(held)
    assert await limits.spent("bytespike") == [Spent("ann", 0.0)]


async def test_a_lost_task_stays_held_and_settles_when_it_really_ends(made: Remembering) -> None:
    limits = limits_of(made)
    held = await hold(limits)
    await limits.estimated(held, state(Status.QUEUED, credits_estimated=4.0), "m")
    planner = SpendPlanner(made.ledger)
    details = NO_DETAILS._replace(spend=held.name)
    assert not planner.plan(KEY, None, state(Status.LOST), details)
    assert not planner.plan(KEY, None, state(Status.PROCESSING), details)
    assert not planner.plan(KEY, None, state(Status.COMPLETED), NO_DETAILS)
    assert not planner.plan(KEY, ended(Status.COMPLETED), ended(Status.COMPLETED, used=1.0), details)
    assert planner.plan(KEY, state(Status.LOST), ended(Status.COMPLETED, used=1.0), details)
    assert await limits.spent("bytespike") == [Spent("ann", 4.0)]
    await end(made, limits, held, ended(Status.COMPLETED, used=3.0))
    assert await limits.spent("bytespike") == [Spent("ann", 3.0)]


async def test_without_a_limit_it_only_counts(made: Remembering) -> None:
    limits = limits_of(made, float("inf"))
    held = await hold(limits)
    await end(made, limits, held, ended(Status.COMPLETED, used=1e9))
    await hold(limits)
    assert (await limits.spent("bytespike"))[0].used >= 1e9


@pytest.mark.parametrize(
    ("final", "cost"),
    [
        (ended(Status.COMPLETED, used=2.0, estimated=3.0), (2.0, True)),
        (ended(Status.COMPLETED, estimated=3.0), (3.0, True)),
        (ended(Status.COMPLETED), (0.0, False)),
        (ended(Status.FAILED, estimated=3.0), (0.0, False)),
        (ended(Status.FAILED, used=1.0), (1.0, True)),
    ],
)
def test_the_final_cost_is_the_providers_word(final: State, cost: tuple[float, bool]) -> None:
    assert final_cost(final) == cost


async def test_what_others_wrote_into_the_ledger_is_not_trusted(made: Remembering) -> None:
    limits = limits_of(made)
    samples = [b"", b"{}", b'["m"]', b'["m", "x"]', b'["m", -1]', b'["m", null]', orjson.dumps([7, 2.0])]
    await made.ledger.learn("costs:bytespike", samples, keep=100)
    assert await hold(limits)
    assert await limits.spent("bytespike") == [Spent("ann", 2.0)]
    planner, details = SpendPlanner(made.ledger), NO_DETAILS._replace(spend="a:b")
    for body in (b"", b"[]", b'{"a": 1}', b'["x", "y", "m", "cost", true]', b'["x", "y", "m", -5, true]'):
        (job,) = planner.plan(KEY, None, ended(Status.COMPLETED), details)
        assert await limits.carry_out(job._replace(body=body)) is None
    assert await limits.spent("bytespike") == [Spent("ann", 2.0)]
