"""The price of a poll under a rate limit."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.price import LATEST_SECONDS, PlannedPoll, PollPrice


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.floats(0.1, 1000)), max_size=200))
def test_what_is_planned_is_the_sum_of_the_plans(steps: list[tuple[int, float | None]]) -> None:
    price = PollPrice(rate=2.0)
    plans: dict[int, PlannedPoll | None] = {}
    for task, after in steps:
        plans[task] = price.replan(plans.get(task), after)
        kept = [plan for plan in plans.values() if plan is not None]
        assert price.planned == pytest.approx(sum(plan.rate for plan in kept), abs=1e-6)
        assert price.open_tasks == len(kept)
        assert price.factor >= 1.0


def test_without_a_rate_a_poll_has_its_plain_price() -> None:
    price = PollPrice()
    for _ in range(100):
        price.replan(None, 0.1)
    assert price.factor == 1.0
    assert price.longest(15) == 15


def test_the_price_rises_until_the_plans_fit_the_rate_and_falls_when_there_is_room() -> None:
    rng, price = Random(3), PollPrice(rate=5.0)
    plans: dict[int, PlannedPoll | None] = dict.fromkeys(range(100))

    def plan_again(task: int) -> None:
        plans[task] = price.replan(plans[task], 2.0 * math.sqrt(price.factor))

    for task in plans:
        plan_again(task)
    highest = 0.0
    for _ in range(2000):
        plan_again(rng.randrange(100))
        highest = max(highest, price.factor)
    fits = (100 / 2.0 / (0.95 * 5.0)) ** 2
    assert price.planned == pytest.approx(0.95 * 5.0, rel=0.1)
    assert price.factor == pytest.approx(fits, rel=0.2)
    assert highest < 1.3 * fits  # plans made before it rose have it rise no further
    for task in range(90):
        price.replan(plans[task], None)
    for _ in range(60):
        plan_again(99)
    assert price.factor < 1.5


def test_replicas_share_one_price() -> None:
    here, there = PollPrice(rate=5.0), PollPrice(rate=5.0)
    for _ in range(20):
        there.replan(None, 2.0)
    plan = here.replan(None, 2.0)
    here.factor = 1.0  # its own would fit alone
    for _ in range(200):
        here.receive(there.planned, there.open_tasks)
        plan = here.replan(plan, 2.0)
    assert here.factor > 2


@given(st.floats(1, 1e6), st.integers(0, 10_000), st.floats(1, 600))
def test_no_healthy_task_waits_longer_than_five_minutes_unless_there_are_too_many(
    factor: float, tasks: int, longest: float
) -> None:
    price = PollPrice(rate=4.0, factor=factor)
    price.receive(0.0, tasks)
    assert longest <= price.longest(longest) <= max(LATEST_SECONDS, tasks / 4, longest)


def test_without_open_tasks_the_price_begins_again() -> None:
    price = PollPrice(1.0)
    plans = [price.replan(None, 1.0) for _ in range(20)]
    assert price.factor > 2
    for plan in plans:
        price.replan(plan, None)
    assert (price.factor, price.shown, price.raised) == (1.0, 1.0, 1.0)
    # Not while another replica has some: then it is theirs too, and not shown here.
    price.receive(5.0, 10, 8.0)
    price.replan(price.replan(None, 1.0), None)
    assert price.factor > 2
    assert price.shown == 1.0


def test_what_is_planned_counts_how_late_polls_are_answered() -> None:
    price, now, plan = PollPrice(rate=1.0), 0.0, None
    for _ in range(600):
        plan = price.replan(plan, 2.0, now=now)
        now += 2.7  # it waits for its turn, and the provider takes its time
    assert price.planned == pytest.approx(1 / 2.7, rel=0.02)


def test_the_price_falls_within_seconds_when_only_a_few_tasks_are_left() -> None:
    price = PollPrice(rate=1.0, factor=25.0)
    for _ in range(3):
        price.replan(None, 300.0)
    for second in range(30):
        price.settle(float(second))
    assert price.factor == 1.0
