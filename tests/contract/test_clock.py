"""What every clock promises; the fake one too, or the tests that stand on it would prove nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bridge.clock import Clock, SystemClock
from tests.fakes.clock import FakeClock, settle

pytestmark = pytest.mark.anyio
A_MOMENT = 0.002


class Wheel:
    """A clock, and the way to let its time pass while something waits."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    async def let(self, waiting: Awaitable[None], seconds: float) -> bool:
        """Whether `waiting` ended once `seconds` had passed."""
        task = asyncio.ensure_future(waiting)
        if isinstance(self.clock, FakeClock):
            await self.clock.advance(seconds)
        else:
            await asyncio.wait([task], timeout=seconds + 10)
        done = task.done()
        task.cancel()
        return done


@pytest.fixture(params=[SystemClock, FakeClock], ids=lambda make: make.__name__)
def wheel(request: pytest.FixtureRequest) -> Wheel:
    make: Callable[[], Clock] = request.param
    return Wheel(make())


async def test_a_sleep_ends_when_its_time_has_passed(wheel: Wheel) -> None:
    before, wall = wheel.clock.monotonic(), wheel.clock.time()
    assert await wheel.let(wheel.clock.sleep(A_MOMENT), A_MOMENT)
    assert wheel.clock.monotonic() >= before + A_MOMENT * 0.9
    assert wheel.clock.time() >= wall


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_a_sleep_of_nothing_only_gives_others_a_turn(wheel: Wheel, seconds: float) -> None:
    ran = []
    asyncio.get_running_loop().call_soon(ran.append, 1)
    await wheel.clock.sleep(seconds)
    assert ran


async def test_a_wait_ends_with_its_event(wheel: Wheel) -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_soon(event.set)
    await wheel.clock.wait(event, None)
    event.clear()
    asyncio.get_running_loop().call_soon(event.set)
    await wheel.clock.wait(event, 3600)


async def test_a_wait_for_what_has_happened_ends_at_once(wheel: Wheel) -> None:
    event = asyncio.Event()
    event.set()
    await wheel.clock.wait(event, 0)
    await wheel.clock.wait(event, None)


async def test_a_wait_ends_without_its_event_when_its_time_has_passed(wheel: Wheel) -> None:
    assert await wheel.let(wheel.clock.wait(asyncio.Event(), A_MOMENT), A_MOMENT)
    assert await wheel.let(wheel.clock.wait(asyncio.Event(), 0), 0)
    assert await wheel.let(wheel.clock.wait(asyncio.Event(), -1), 0)


async def test_waiting_can_be_cancelled(wheel: Wheel) -> None:
    for waiting in (wheel.clock.sleep(3600), wheel.clock.wait(asyncio.Event(), 3600)):
        task = asyncio.ensure_future(waiting)
        await settle()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_fake_wakes_everybody_at_the_moment_they_wait_for() -> None:
    clock = FakeClock(now=0.0)
    woke: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woke.append((name, clock.monotonic()))

    tasks = [asyncio.ensure_future(sleeper("a", 1, 1)), asyncio.ensure_future(sleeper("b", 1.5, 9))]
    await clock.advance(3)
    assert woke == [("a", 1.0), ("b", 1.5), ("a", 2.0)]
    assert clock.monotonic() == 3.0
    for task in tasks:
        task.cancel()
