"""One credential over several replicas: rate, permits, pauses and the circuit, in virtual time."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

from bridge.core.price import PollPrice
from bridge.core.rate_limit import CallKind, Permit
from bridge.core.shared_limit import SharedLimiter
from bridge.errors import UpstreamBusy, UpstreamError, UpstreamUnavailable
from bridge.replica.budget import TAKE_SECONDS, SharedBudgets
from tests.fakes.replicas import House, World
from tests.fakes.virtual import LoopClock, run


class Caller:
    """What calls one provider at one replica, as fast as its limiter lets it."""

    def __init__(
        self,
        house: House,
        starts: list[tuple[float, str]],
        *,
        rate: float | None = None,
        total: int | None = None,
        call_seconds: float = 0.1,
    ) -> None:
        self.house = house
        self.clock = house.clock
        self.starts = starts
        self.call_seconds = call_seconds
        self.limiter = SharedLimiter(32, lambda: 0.5, rate)
        self.limiter.max_in_flight_total = total
        self.woken = asyncio.Event()
        self.errors: deque[UpstreamError] = deque()
        self.always: UpstreamError | None = None
        self.busy = True
        self.in_flight = 0
        self.budgets = SharedBudgets(house.replica, house.clock)
        upstream: Any = SimpleNamespace(
            name="video",
            account="-",
            limiter=self.limiter,
            price=PollPrice(rate),
            wake_waiting=self.woken.set,
        )
        self.budgets.share(upstream)

    async def run(self) -> None:
        """Start calls whenever it may."""
        calls: set[asyncio.Task[None]] = set()
        number = 0
        while True:
            self.woken.clear()
            now = self.clock.monotonic()
            free_at = self.limiter.free_at(CallKind.POLL, now) if self.busy else None
            if free_at is None or free_at > now:
                await self.clock.wait(self.woken, None if free_at is None else free_at - now)
                continue
            number += 1
            permit = self.limiter.start(CallKind.POLL, now, task_id=f"task-{number}", shown=True)
            self.starts.append((now, self.house.name))
            task = asyncio.create_task(self.call(permit))
            calls.add(task)
            task.add_done_callback(calls.discard)

    async def call(self, permit: Permit) -> None:
        self.in_flight += 1
        await asyncio.sleep(self.call_seconds)
        self.in_flight -= 1
        now = self.clock.monotonic()
        error = self.errors.popleft() if self.errors else self.always
        if error is None:
            self.limiter.succeed(permit, now)
        else:
            self.limiter.fail(permit, error, now)
        self.woken.set()


async def callers(world: World, *names: str, **options: Any) -> tuple[list[Caller], list[tuple[float, str]]]:
    """Replicas that share one credential, each with more to ask than it may."""
    starts: list[tuple[float, str]] = []
    found = []
    for name in names:
        caller = Caller(world.house(name), starts, **options)
        found.append(caller)
        caller.house.start()
        await world.until(lambda caller=caller: caller.house.replica.connection.up)  # type: ignore[misc]
        caller.task = asyncio.create_task(caller.run())  # type: ignore[attr-defined]
    return found, starts


async def end(world: World, found: list[Caller]) -> None:
    for caller in found:
        caller.task.cancel()  # type: ignore[attr-defined]
    await world.close()


def fullest_second(starts: list[tuple[float, str]]) -> int:
    times = sorted(at for at, _ in starts)
    window: deque[float] = deque()
    fullest = 0
    for at in times:
        window.append(at)
        while window[0] <= at - 1:
            window.popleft()
        fullest = max(fullest, len(window))
    return fullest


def calls_of(found: list[Caller], operation: str) -> int:
    return sum(caller.house.calls.count(operation) for caller in found)


def test_three_replicas_use_one_rate_and_no_second_has_more() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b", "c", rate=40.0)
        await asyncio.sleep(2)
        starts.clear()
        began = clock.monotonic()
        await asyncio.sleep(10)
        seconds = clock.monotonic() - began
        assert len(starts) / seconds >= 39.0
        assert fullest_second(starts) <= 41
        by = [sum(name == caller.house.name for _, name in starts) for caller in found]
        assert min(by) >= 60, by
        # At most every 50 ms each.
        assert calls_of(found, "take") <= 3 * 12.1 / TAKE_SECONDS
        await end(world, found)

    run(play)


def test_a_replica_alone_uses_the_whole_rate() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b", rate=40.0)
        found[1].busy = False
        await asyncio.sleep(2)
        starts.clear()
        await asyncio.sleep(5)
        assert len(starts) >= 195
        assert fullest_second(starts) <= 41
        assert {name for _, name in starts} == {"a"}
        await end(world, found)

    run(play)


def test_a_slow_rate_is_shared_too() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b", "c", rate=0.5)
        await asyncio.sleep(40)
        assert 19 <= len(starts) <= 21
        times = sorted(at for at, _ in starts)
        assert min(later - earlier for earlier, later in pairwise(times)) >= 1.6
        await end(world, found)

    run(play)


def test_one_429_stops_every_replica_within_50_milliseconds() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b", "c", rate=40.0)
        await asyncio.sleep(2)
        found[1].errors.append(UpstreamBusy("slow down", retry_after=3.0, provider_status=429))
        while found[1].errors:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.001)
        met = clock.monotonic()
        starts.clear()
        await asyncio.sleep(2.8)
        assert [at - met for at, _ in starts if at - met > 0.05] == []
        await asyncio.sleep(3)
        after = [at for at, _ in starts if at - met > 0.05]
        assert min(after) >= met + 2.99
        assert fullest_second(starts) <= 41
        assert len(after) >= 100
        await end(world, found)

    run(play)


def test_permits_are_never_more_than_the_total_and_every_replica_has_some() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b", "c", total=8)
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, sum(caller.in_flight for caller in found))
                await asyncio.sleep(0.002)

        watching = asyncio.create_task(watch())
        await asyncio.sleep(2)
        starts.clear()
        await asyncio.sleep(10)
        watching.cancel()
        assert most <= 8
        assert len(starts) >= 8 / 0.1 * 10 * 0.75
        by = [sum(name == caller.house.name for _, name in starts) for caller in found]
        assert min(by) >= 120, by
        await end(world, found)

    run(play)


def test_idle_permits_go_to_who_needs_them() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b", total=8)
        await asyncio.sleep(2)
        found[0].busy = False
        await asyncio.sleep(3)
        starts.clear()
        await asyncio.sleep(5)
        assert len(starts) >= 8 / 0.1 * 5 * 0.8
        await end(world, found)

    run(play)


def test_without_rate_and_total_the_engine_is_never_asked() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b")
        await asyncio.sleep(1)
        assert len(starts) > 100
        assert calls_of(found, "take") + calls_of(found, "report") + calls_of(found, "probe") == 0
        await end(world, found)

    run(play)


def test_a_killed_replica_leaves_its_part_to_the_others() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b", "c", rate=40.0, total=9)
        await asyncio.sleep(2)
        await found[0].house.kill()
        found[0].task.cancel()  # type: ignore[attr-defined]
        await asyncio.sleep(5)
        starts.clear()
        await asyncio.sleep(5)
        assert len(starts) / 5 >= 39.0
        assert fullest_second(starts) <= 41
        await end(world, found)

    run(play)


def test_without_the_engine_each_replica_uses_its_part_and_the_return_is_no_burst() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b", "c", rate=40.0)
        await asyncio.sleep(2)
        starts.clear()
        world.away = True
        await asyncio.sleep(10)
        assert 36.0 <= len(starts) / 10 <= 41.0
        assert fullest_second(starts) <= 42
        starts.clear()
        world.away = False
        await asyncio.sleep(5)
        assert fullest_second(starts) <= 44
        assert len(starts) / 5 >= 36.0
        await end(world, found)

    run(play)


def test_callers_that_wait_for_a_slot_go_on_when_the_engine_goes_away() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", total=2, call_seconds=5.0)
        await asyncio.sleep(0.5)
        world.away = True
        await asyncio.sleep(20)
        assert len(starts) >= 6
        await end(world, found)

    run(play)


def test_failures_of_all_replicas_open_one_circuit_and_one_probes() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        found, starts = await callers(world, "a", "b", "c", rate=20.0)
        await asyncio.sleep(5)  # far from the first successes
        for caller in found:
            caller.limiter._first_start = caller.limiter._last_success = 0.0
            caller.always = UpstreamUnavailable("down")
        await asyncio.sleep(5)
        assert all(caller.limiter.open_circuit for caller in found)
        starts.clear()
        await asyncio.sleep(30)
        # Probes back off; without sharing it would be three times as many.
        assert 1 <= len(starts) <= 8
        for caller in found:
            caller.always = None
        await asyncio.sleep(75)
        assert not any(caller.limiter.open_circuit for caller in found)
        starts.clear()
        await asyncio.sleep(5)
        assert len(starts) >= 90
        assert not any(caller.limiter.reported for caller in found)
        await end(world, found)

    run(play)
