"""Several replicas on one engine that works: one polls, all hear."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from bridge.core.task import Status
from tests.fakes.replicas import LEASE, PACE, World, key, observation
from tests.fakes.virtual import LoopClock, run

TASK = key()


def test_a_viewer_at_b_hears_what_a_polls() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        world.provider.shows(TASK, 10)
        a.view(TASK)
        await world.until(lambda: a.states(TASK) == [("processing", 10)])
        b.view(TASK)
        event = await b.latest(TASK)
        assert event is not None
        assert event.state.progress == 10
        for progress in (20, 55, 100):
            world.provider.shows(TASK, progress)
            await asyncio.sleep(2 * PACE)
        expected = [("processing", 10), ("processing", 20), ("processing", 55), ("completed", 100)]
        assert a.states(TASK) == b.states(TASK) == expected
        assert a.cursors(TASK)[-1] == b.cursors(TASK)[-1]
        assert {by for _, by in world.provider.polls_of(TASK)} == {"a"}
        assert world.provider.doubles() == 0
        assert b.journal.settled([TASK])
        await world.close()

    run(play)


def test_a_killed_owner_is_replaced_within_the_lease_and_a_second() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b, c = await world.started("a", "b", "c")
        tasks = [key(number) for number in range(40)]
        for task in tasks:
            world.provider.shows(task, 10)
            a.view(task)
            b.view(task)
        await asyncio.sleep(3)
        await a.kill()
        killed = clock.monotonic()
        await asyncio.sleep(LEASE + 3)
        for task in tasks:
            first = min(at for at, by in world.provider.polls_of(task, killed) if by != "a")
            assert first - killed <= LEASE + 1.0
        assert world.provider.doubles() == 0
        for task in tasks:
            world.provider.shows(task, 100)
        await asyncio.sleep(2)
        for task in tasks:
            assert b.states(task)[-1] == ("completed", 100)
            assert [one[0] for one in b.states(task)].count("completed") == 1
        del c
        await world.close()

    run(play)


def test_a_drain_hands_every_task_over_with_the_time_of_its_next_poll() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        tasks = [key(number) for number in range(40)]
        for number, task in enumerate(tasks):
            world.provider.shows(task, 10)
            a.view(task)
            b.view(task)
            await asyncio.sleep(PACE / 40 if number else 0)
        await asyncio.sleep(3)
        began = clock.monotonic()
        await a.drain()
        await asyncio.sleep(3)
        assert world.provider.doubles() == 0
        for task in tasks:
            times = [at for at, _ in world.provider.polls_of(task, began - 2 * PACE)]
            gaps = [later - earlier for earlier, later in pairwise(times)]
            assert max(gaps) < 2 * PACE + 0.5
        per_second = [
            sum(began + start <= at < began + start + 1 for at, _, _ in world.provider.polls)
            for start in range(3)
        ]
        assert max(per_second) <= 1.5 * 40 / PACE
        assert b.replica.ownership.owned == 40
        await world.close()

    run(play)


def test_a_stopped_owner_polls_nothing_when_it_wakes_and_its_late_write_is_refused() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        world.provider.shows(TASK, 10)
        a.view(TASK)
        await world.until(lambda: a.states(TASK) != [])
        b.view(TASK)
        await asyncio.sleep(1)
        lost: list[int] = []
        a.replica.connection.counted["leases_lost"] = lambda: lost.append(1)
        a.stop()
        await asyncio.sleep(2 * LEASE)
        assert b.ownership.owns(TASK)
        world.provider.shows(TASK, 40)
        a.go_on()
        await asyncio.sleep(2)
        assert world.provider.doubles() == 0
        assert not a.ownership.owns(TASK)
        assert lost == [1]
        world.provider.shows(TASK, 100)
        await asyncio.sleep(2)
        assert a.states(TASK)[-1] == b.states(TASK)[-1] == ("completed", 100)
        assert a.states(TASK) == [("processing", 10), ("processing", 40), ("completed", 100)]
        await world.close()

    run(play)


def test_a_cancel_at_b_is_recorded_while_a_owns() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        world.provider.shows(TASK, 10)
        a.view(TASK)
        await world.until(lambda: a.states(TASK) != [])
        b.view(TASK)
        await b.latest(TASK)
        await asyncio.sleep(0.1)
        await b.watches.observe(TASK, observation(10, Status.CANCELLED), free=True)
        await asyncio.sleep(0.1)
        assert a.states(TASK)[-1] == b.states(TASK)[-1] == ("cancelled", 10)
        assert not a.ownership.owns(TASK)
        await world.close()

    run(play)


def test_a_task_that_is_owned_without_knowing_it_is_polled_all_the_same() -> None:
    """The answer to `claim` is lost, and the session lives on: nobody else may take what it was given."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        world.provider.shows(TASK, 10)
        a.view(TASK)
        a.ownership.keep(TASK, called_back=False)
        await world.until(lambda: a.states(TASK) != [])
        session = b.replica.connection.session
        b.loses.add("claim")
        await a.kill()
        killed = clock.monotonic()
        await world.until(lambda: b.cut)
        b.cut = False
        await world.until(lambda: len(world.provider.polls_of(TASK, killed)) > 3, LEASE)
        assert b.replica.connection.session == session
        assert world.provider.doubles() == 0
        await world.close()

    run(play)


def test_a_task_that_an_older_copy_gives_back_to_who_released_it_is_polled() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b", linger=0.2)
        world.provider.shows(TASK, 10)
        a.view(TASK)
        await world.until(lambda: a.states(TASK) != [])
        a.unview(TASK)  # it is still wanted: polled on
        await asyncio.sleep(11)
        world.save()
        a.unview(TASK)
        await asyncio.sleep(0.1)
        b.view(TASK)
        await world.until(lambda: b.ownership.owns(TASK))
        session = a.replica.connection.session
        world.fail_over()
        took_over = clock.monotonic()
        await world.until(lambda: len(world.provider.polls_of(TASK, took_over)) > 3, LEASE)
        assert a.replica.connection.session == session
        assert a.watches.standings[TASK].polled_at > took_over  # nobody knows who has polled it meanwhile
        await world.close()

    run(play)
