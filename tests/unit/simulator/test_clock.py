import asyncio

import pytest

from bridge.simulator.clock import START, ManualClock, RealClock, WaitRegistry

pytestmark = pytest.mark.anyio


async def test_a_manual_clock_stands_still_until_it_is_advanced():
    clock = ManualClock()
    assert clock.now() == START
    clock.advance(2.5)
    assert clock.now() == START + 2.5


async def test_alarms_ring_in_the_order_of_their_time_at_their_time():
    clock = ManualClock()
    rung = []
    clock.call_at(START + 5, lambda: rung.append(("late", clock.now())))
    clock.call_at(START + 1, lambda: rung.append(("early", clock.now())))
    clock.call_at(START + 2, lambda: rung.append(("never", clock.now()))).cancel()
    clock.call_at(START + 9, lambda: rung.append(("beyond", clock.now())))
    clock.advance(6)
    assert rung == [("early", START + 1), ("late", START + 5)]
    assert clock.waiting == 1


async def test_an_alarm_in_the_past_rings_soon():
    clock = ManualClock()
    rung = asyncio.Event()
    clock.call_at(START - 1, rung.set)
    await rung.wait()


async def test_waiting_for_sleepers_ends_when_they_sleep():
    clock = ManualClock()
    waits = WaitRegistry(clock)
    waiting = asyncio.ensure_future(clock.wait_waiting(1))
    await asyncio.sleep(0)
    sleeping = asyncio.ensure_future(waits.sleep(3))
    await waiting
    await clock.wait_waiting(1)
    assert not sleeping.done()
    clock.advance(3)
    await sleeping
    assert clock.waiting == 0


async def test_a_wait_can_be_woken_before_its_time():
    waits = WaitRegistry(ManualClock())
    wakeups = set()
    waiting = asyncio.ensure_future(waits.until(START + 100, wakeups))
    await asyncio.sleep(0)
    next(iter(wakeups)).set_result(None)
    await waiting
    assert not wakeups


async def test_closing_cancels_everybody_who_waits_and_whoever_comes_later():
    waits = WaitRegistry(ManualClock())
    waiting = asyncio.ensure_future(waits.forever())
    await asyncio.sleep(0)
    waits.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(waits.forever())


async def test_the_real_clock_moves_by_itself():
    clock = RealClock()
    before = clock.now()
    await WaitRegistry(clock).sleep(0.001)
    assert clock.now() > before > START
