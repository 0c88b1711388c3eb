"""Ends that are amended, on several replicas: all show it, nobody is told, whatever the engine forgets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from bridge.core.task import Output, State, Status
from bridge.errors import EngineUnavailable
from tests.fakes.replicas import LEASE, House, World, key, observation
from tests.fakes.virtual import LoopClock, run

TASK = key()
LINK = "https://s.test/0"
ENDED = observation(100, outputs=(Output(type="video", url="https://p.test/0"),))


def stored(known: State) -> State | None:
    if known.outputs[0].stored_url:
        return None
    return replace(known, outputs=(replace(known.outputs[0], stored_url=LINK),))


async def ended(world: World, owner: House, *others: House) -> None:
    """The task was polled by the first to its end, and that was seen by all."""
    world.provider.shows(TASK, 10)
    for house in (owner, *others):
        house.view(TASK)
    await world.until(lambda: all(house.states(TASK) for house in (owner, *others)))
    world.provider.shown[TASK] = ENDED
    await world.until(lambda: all(house.states(TASK)[-1][0] == "completed" for house in (owner, *others)))


async def url(house: House) -> str | None:
    event = await house.latest(TASK)
    assert event is not None
    return event.state.outputs[0].stored_url


def ends(house: House) -> int:
    return [status for status, _ in house.states(TASK)].count("completed")


def test_every_replica_shows_it_at_the_place_of_the_end_and_tells_nobody() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b, c = await world.started("a", "b", "c")
        await ended(world, a, b)
        cursors, told = b.cursors(TASK), len(b.told.events)
        amended = await c.journal.amend(TASK, stored)
        assert amended is not None
        await asyncio.sleep(0.1)
        for house in (a, b, c):
            event = await house.latest(TASK)
            assert event is not None
            assert (event.cursor, await url(house)) == (cursors[-1], LINK)
        assert [one.cursor for one in b.told.amendments] == [cursors[-1]]
        assert (b.cursors(TASK), len(b.told.events)) == (cursors, told)
        (d,) = await world.started("d")
        d.view(TASK)
        assert await url(d) == LINK
        assert await d.journal.amend(TASK, stored) is None
        assert await b.journal.history([TASK], cursors[-1].offset) == []
        await world.close()

    run(play)


def test_one_that_was_cut_off_learns_of_it_without_hearing_the_end_again() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await ended(world, a, b)
        b.cut = True
        await world.until(lambda: not b.replica.connection.up)
        assert await a.journal.amend(TASK, stored)
        told = len(b.told.events)
        with pytest.raises(EngineUnavailable):
            await b.journal.amend(TASK, stored)
        b.cut = False
        await world.until(lambda: b.replica.connection.up)
        await asyncio.sleep(1)
        assert await url(b) == LINK
        assert (len(b.told.events), ends(b)) == (told, 1)
        await world.close()

    run(play)


def test_two_at_once_make_one_of_it() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await ended(world, a, b)
        results = await asyncio.gather(a.journal.amend(TASK, stored), b.journal.amend(TASK, stored))
        assert sum(result is not None for result in results) == 1
        await asyncio.sleep(0.1)
        assert await url(a) == await url(b) == LINK
        await world.close()

    run(play)


@pytest.mark.parametrize(
    "loses", [World.wipe, World.fail_over, World.restart], ids=lambda loses: loses.__name__
)
def test_an_engine_that_loses_it_is_told_again(loses: Callable[[World], None]) -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await ended(world, a, b)
        world.save()
        assert await a.journal.amend(TASK, stored)
        await asyncio.sleep(0.1)
        loses(world)
        await asyncio.sleep(2 * LEASE)
        assert await url(a) == await url(b) == LINK
        (record,) = await world.engine.records([TASK])
        assert LINK.encode() in (record.document or b"")
        assert ends(a) == ends(b) == 1
        assert a.replica.unrecorded == b.replica.unrecorded == 0
        await world.close()

    run(play)


def test_a_lost_task_is_not_amended_and_its_real_end_is() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        await ended_as(world, a, Status.LOST)
        assert await a.journal.amend(TASK, stored) is None
        await a.watches.observe(TASK, ENDED)
        assert a.states(TASK)[-1][0] == "completed"
        assert await a.journal.amend(TASK, stored)
        assert await url(a) == LINK
        await world.close()

    run(play)


async def ended_as(world: World, house: House, status: Status) -> None:
    world.provider.shows(TASK, 10)
    house.view(TASK)
    await world.until(lambda: house.states(TASK) != [])
    await house.watches.observe(TASK, replace(ENDED, status=status))
