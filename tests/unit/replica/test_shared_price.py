"""One price of a poll over several replicas, in virtual time."""

from __future__ import annotations

import asyncio
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.core.price import PollPrice
from bridge.core.shared_limit import SharedLimiter
from bridge.engine.base import Take
from bridge.replica.budget import PLANS_SECONDS, QUIET_PLANS_SECONDS, SharedBudgets
from tests.fakes.replicas import House, World
from tests.fakes.virtual import LoopClock, run

RATE = 4.0
BASE = 5.0  # seconds between the polls of a task, at the price without a limit


class Planner:
    """A replica whose tasks plan their polls by the price, and never end."""

    def __init__(self, house: House, tasks: int, polls: list[float], *, rate: float | None = RATE) -> None:
        self.house = house
        self.price = PollPrice(rate)
        self.limiter = SharedLimiter(32, lambda: 0.5, rate)
        self.budgets = SharedBudgets(house.replica, house.clock)
        upstream: Any = SimpleNamespace(
            name="video", account="-", limiter=self.limiter, price=self.price, wake_waiting=lambda: None
        )
        self.budgets.share(upstream)
        self.random = random.Random(house.name)
        self._polls = polls
        self._tasks = [asyncio.create_task(self._poll()) for _ in range(tasks)]

    async def _poll(self) -> None:
        plan = None
        try:
            await asyncio.sleep(BASE * self.random.random())
            while True:
                wish = BASE * math.sqrt(self.price.factor) * (0.95 + 0.1 * self.random.random())
                seconds = min(wish, self.price.longest(2 * BASE))
                plan = self.price.replan(plan, seconds, now=self.house.clock.monotonic())
                await asyncio.sleep(seconds)
                self._polls.append(self.house.clock.monotonic())
        finally:
            self.price.replan(plan, None)

    def end(self) -> None:
        for task in self._tasks:
            task.cancel()


async def planners(world: World, polls: list[float], **tasks: int) -> list[Planner]:
    found = []
    for name, number in tasks.items():
        house = world.house(name)
        found.append(Planner(house, number, polls))
        house.start()
        await world.until(lambda house=house: house.replica.connection.up)  # type: ignore[misc]
    return found


def takes(found: list[Planner]) -> int:
    return sum(one.house.calls.count("take") for one in found)


def factors(found: list[Planner]) -> list[float]:
    return [one.price.factor for one in found]


def test_three_replicas_of_different_size_have_one_factor_and_keep_the_rate() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        polls: list[float] = []
        # Together they would like 16 polls a second.
        found = await planners(world, polls, a=60, b=15, c=5)
        await asyncio.sleep(120)
        polls.clear()
        spread = []
        for _ in range(8):
            await asyncio.sleep(15)
            spread.append(max(factors(found)) / min(factors(found)))
        assert max(spread) <= 1.1
        assert len(polls) / 120 <= RATE
        assert len(polls) / 120 >= 0.85 * RATE
        # As in one process: for intervals twice as long the price is four times as high.
        assert factors(found)[0] == pytest.approx((16 / (0.95 * RATE)) ** 2, rel=0.25)
        # Each sends and receives plans every two seconds, and no more often.
        assert takes(found) <= 3 * 240 / PLANS_SECONDS * 1.1
        for one in found:
            one.end()
        await world.close()

    run(play)


def test_the_share_of_a_replica_that_died_ends_with_its_lease() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        polls: list[float] = []
        found = await planners(world, polls, a=10, b=70)
        await asyncio.sleep(100)
        assert min(factors(found)) > 8
        found[1].end()
        await found[1].house.kill()
        await asyncio.sleep(100)
        assert factors(found)[0] < 1.5  # ten tasks every five seconds fit
        found[0].end()
        await world.close()

    run(play)


def test_a_quiet_replica_is_counted_and_hears_the_others() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (quiet,) = await planners(world, [], a=0)
        plan = quiet.price.replan(None, 50.0)  # one task that is polled every 50 s
        await asyncio.sleep(QUIET_PLANS_SECONDS + 2)
        calls = takes([quiet])
        await asyncio.sleep(60)
        assert takes([quiet]) - calls <= 60 / QUIET_PLANS_SECONDS + 1
        (other,) = await planners(world, [], b=80)
        await asyncio.sleep(120)
        assert other.price.factor > 8
        assert quiet.price.factor == pytest.approx(other.price.factor, rel=0.1)
        lent = await world.engine.take("nobody", Take("video/-", rate=RATE))
        assert lent.open_tasks == 81
        assert lent.planned == pytest.approx(other.price.planned + 1 / 50, rel=0.15)
        # Without plans it is counted no longer, and asks no more.
        quiet.price.replan(plan, None)
        other.end()
        await asyncio.sleep(2 * PLANS_SECONDS)
        lent = await world.engine.take("nobody", Take("video/-", rate=RATE))
        assert (lent.open_tasks, lent.planned) == (0, 0.0)
        calls = takes([quiet, other])
        await asyncio.sleep(60)
        assert takes([quiet, other]) == calls
        await world.close()

    run(play)


def test_a_new_history_of_the_engine_keeps_the_price_and_counts_again() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found = await planners(world, [], a=40, b=40)
        await asyncio.sleep(100)
        before = factors(found)[0]
        world.away = True
        await asyncio.sleep(30)
        # Without the engine the newest sums count.
        assert factors(found) == pytest.approx([before, before], rel=0.4)
        world.wipe()
        world.away = False
        await asyncio.sleep(30)
        assert factors(found)[0] == pytest.approx(factors(found)[1], rel=0.1)
        assert min(factors(found)) > before / 2
        await asyncio.sleep(100)
        assert factors(found) == pytest.approx([before, before], rel=0.25)
        for one in found:
            one.end()
        await world.close()

    run(play)
