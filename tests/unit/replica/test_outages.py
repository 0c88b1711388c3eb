"""The engine is away, comes back with less than it had, or with nothing: what was told is recorded, once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.core.task import Status
from bridge.engine.base import Owner, Want, Welcome
from bridge.errors import EngineRefused, EngineUnavailable, NotOwner
from tests.fakes.replicas import LEASE, PACE, House, World, key, observation
from tests.fakes.tasks import state
from tests.fakes.virtual import LoopClock, run

TASK = key()


async def polled(world: World, owner: House, *others: House) -> None:
    """The task is polled by the first, and seen by all."""
    world.provider.shows(TASK, 10)
    owner.view(TASK)
    await world.until(lambda: owner.states(TASK) != [])
    for other in others:
        other.view(TASK)
        await other.latest(TASK)
    await asyncio.sleep(0.05)


def healed(*houses: House) -> bool:
    """Whether nothing is unrecorded, and all hold the same."""
    events = {
        (event.cursor, event.state.status) if event is not None else None
        for house in houses
        for event in [house.replica._memory.ensure(TASK).event(house.journal.epoch)]
    }
    return len(events) == 1 and all(house.replica.unrecorded == 0 for house in houses)


def test_the_owner_goes_on_for_a_minute_and_its_viewers_hear_at_once() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await polled(world, a, b)
        world.away = True
        began = clock.monotonic()
        for progress in range(11, 71):
            world.provider.shows(TASK, progress)
            await asyncio.sleep(1)
            if progress > 13:
                assert a.states(TASK)[-1][1] == progress
        assert {by for _, by in world.provider.polls_of(TASK, began)} == {"a"}
        assert world.provider.doubles() == 0
        cursor = a.cursors(TASK)[-1]
        assert cursor.shown == "p700"
        assert cursor.offset == b.cursors(TASK)[-1].offset
        assert a.replica.unrecorded == 1
        assert b.states(TASK) == [("processing", 10)]
        assert b.watches.cut_offs[-1] is not None
        world.away = False
        returned = clock.monotonic()
        await world.until(lambda: b.states(TASK)[-1] == ("processing", 70))
        assert clock.monotonic() - returned < 2
        await world.until(lambda: healed(a, b))
        assert a.watches.cut_offs[-1] is b.watches.cut_offs[-1] is None
        assert len(a.states(TASK)) == len(set(a.states(TASK)))
        await world.close()

    run(play)


def test_owners_go_on_for_so_long_and_no_longer() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        await polled(world, a)
        world.away = True
        await asyncio.sleep(590)
        assert a.ownership.may_poll(TASK)
        await asyncio.sleep(20)
        assert not a.ownership.may_poll(TASK)
        with pytest.raises(EngineUnavailable):
            await a.journal.append(TASK, state("processing", 90.0))
        assert a.journal.usable
        await world.close()

    run(play)


def test_a_bridge_that_never_reached_its_engine_is_not_usable() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        world.away = True
        a = world.house("a")
        a.start()
        await asyncio.sleep(20)
        assert not a.journal.usable
        with pytest.raises(EngineUnavailable):
            await a.journal.latest([TASK])
        with pytest.raises(EngineUnavailable):
            await a.journal.append(TASK, state())
        world.away = False
        await world.until(lambda: a.journal.usable)
        await world.close()

    run(play)


def test_a_submit_in_an_outage_is_recorded_once_on_return_and_watched() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        world.away = True
        await asyncio.sleep(3)
        event = await a.journal.append(TASK, state("queued", 0.0), free=True)
        assert event.cursor.shown == "q0"
        a.view(TASK)
        a.ownership.keep(TASK, called_back=True)
        world.provider.shows(TASK, 30)
        await asyncio.sleep(3)
        assert a.states(TASK) == [("queued", 0.0), ("processing", 30.0)]
        world.away = False
        await world.until(lambda: healed(a))
        (record,) = await world.engine.records([TASK])
        assert record.persistent
        assert record.called_back
        assert record.owner == a.replica.connection.session
        event_at_b = await b.latest(TASK)
        assert event_at_b is not None
        assert event_at_b.state.progress == 30
        await world.close()

    run(play)


@pytest.mark.parametrize("fault", ["wipe", "restart", "stale"])
def test_what_the_engine_lost_is_recorded_again_by_those_who_saw_it(fault: str) -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await polled(world, a, b)
        world.save()
        for progress in (30, 60):
            world.provider.shows(TASK, progress)
            await asyncio.sleep(1)
        assert b.states(TASK)[-1] == ("processing", 60)
        told = (len(a.states(TASK)), len(b.states(TASK)))
        {"wipe": world.wipe, "restart": world.restart, "stale": world.fail_over}[fault]()
        await asyncio.sleep(3)
        assert healed(a, b)
        (record,) = await world.engine.records([TASK])
        assert record.document is not None
        assert b'"progress":60' in record.document
        assert (len(a.states(TASK)), len(b.states(TASK))) == told
        assert a.told.epochs == b.told.epochs == 2
        assert a.cursors(TASK)[-1] == b.cursors(TASK)[-1]
        assert world.provider.doubles() == 0
        world.provider.shows(TASK, 100)
        await asyncio.sleep(2)
        assert a.states(TASK)[-1] == b.states(TASK)[-1] == ("completed", 100)
        await world.close()

    run(play)


def test_a_state_that_only_a_dead_owner_recorded_survives_a_wipe_in_the_memory_of_its_viewers() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await polled(world, a, b)
        world.provider.shows(TASK, 100)
        await world.until(lambda: b.states(TASK)[-1] == ("completed", 100))
        await a.kill()
        world.provider.shown.clear()
        world.wipe()
        await asyncio.sleep(4)
        (record,) = await world.engine.records([TASK])
        assert record.document is not None
        assert b'"completed"' in record.document
        (wanted,) = await world.engine.want(b.replica.connection.session, [Want(TASK)], linger=1)
        assert wanted.owner is Owner.OVER
        await world.close()

    run(play)


def test_an_answer_that_is_lost_counts_as_both() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await polled(world, a, b)
        for progress in range(20, 100, 10):
            a.loses.add("apply")
            world.provider.shows(TASK, progress)
            await world.until(lambda: a.cut)
            await asyncio.sleep(0.3)
            a.cut = False
            await world.until(lambda: a.replica.connection.up)
            await asyncio.sleep(0.5)
        await world.until(lambda: healed(a, b))
        for house in (a, b):
            told = house.states(TASK)
            assert len(told) == len(set(told))
            assert [one[1] for one in told] == sorted(one[1] or 0 for one in told)
        versions = [past.offset for past in await world.engine.history(TASK, 0)]
        assert len(versions) <= 9
        await world.close()

    run(play)


def test_a_task_nobody_has_seen_is_polled_alone_and_given_back() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        world.provider.shows(TASK, 10)
        world.away = True
        await asyncio.sleep(2)
        a.view(TASK)
        await world.until(lambda: a.states(TASK) == [("processing", 10)])
        world.away = False
        await world.until(lambda: healed(a))
        await world.until(lambda: a.ownership.owns(TASK))
        del b
        await world.close()

    run(play)


def test_who_attends_polls_nothing_that_it_knows_another_one_polls() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await polled(world, a, b)
        world.away = True
        await asyncio.sleep(2 * LEASE)
        assert a.ownership.may_poll(TASK)
        assert not b.ownership.may_poll(TASK)
        with pytest.raises(NotOwner):
            await b.journal.append(TASK, state("processing", 50.0))
        await world.close()

    run(play)


def test_a_cancel_in_an_outage_is_shown_and_recorded_on_return() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await polled(world, a, b)
        world.away = True
        await asyncio.sleep(2)
        await b.watches.observe(TASK, observation(10, Status.CANCELLED), free=True)
        assert b.states(TASK)[-1] == ("cancelled", 10)
        world.away = False
        await world.until(lambda: a.states(TASK)[-1] == ("cancelled", 10))
        await world.until(lambda: healed(a, b))
        await world.close()

    run(play)


def test_two_different_ends_are_settled_by_what_is_recorded_first() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await polled(world, a, b)
        a.cut = True
        await asyncio.sleep(LEASE + 2)
        await b.watches.observe(TASK, observation(10, Status.CANCELLED))
        await a.watches.observe(TASK, observation(100))
        await asyncio.sleep(0.5)
        assert a.states(TASK)[-1] == ("completed", 100)
        assert b.states(TASK)[-1] == ("cancelled", 10)
        a.cut = False
        await world.until(lambda: healed(a, b))
        event = await a.latest(TASK)
        assert event is not None
        assert event.state.status is Status.CANCELLED
        await world.close()

    run(play)


def test_a_log_that_one_process_wrote_long_ago_is_no_lag() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        [a] = await world.started("a")
        connection = a.replica.connection
        connection.received = 8  # the offsets of one process count from 1
        assert connection.lag_seconds() <= clock.monotonic()
        await asyncio.sleep(3)
        assert connection.lag_seconds() < 2
        await world.close()

    run(play)


def test_an_engine_that_answers_and_whose_log_does_not_arrive_is_away() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await polled(world, a, b)
        connected = b.calls.count("session")

        async def nothing(*_: object, **__: object) -> list[object]:
            await asyncio.sleep(0.3)
            return []

        b.replica.connection.call_read = nothing  # type: ignore[assignment,method-assign]
        await asyncio.sleep(3)
        assert b.replica.connection.lag_seconds() > 2
        await world.until(lambda: not b.replica.connection.up, 10)
        assert b.calls.count("session") > connected
        await world.close()

    run(play)


def test_a_silent_engine_costs_no_more_than_the_timeout() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        await polled(world, a)
        a.silent = True
        world.provider.shows(TASK, 40)
        began = clock.monotonic()
        await world.until(lambda: a.states(TASK)[-1] == ("processing", 40))
        assert clock.monotonic() - began < PACE + 1.6
        a.silent = False
        await world.until(lambda: healed(a), 20)
        await world.close()

    run(play)


def test_a_full_engine_costs_the_lease_once_and_its_calls_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It answers reads, and refuses writes: each attempt of a bridge ends at opening its session."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        lost: list[int] = []
        outcomes: list[tuple[str, str]] = []
        a.replica.connection.counted["leases_lost"] = lambda: lost.append(1)
        a.replica.connection.measure(lambda operation, outcome, _: outcomes.append((operation, outcome)))
        await polled(world, a)
        open_session = world.engine.session

        async def full(session: str, **fields: Any) -> Welcome:
            live = world.engine.store.sessions.alive(session, int(clock.time() * 1e6))
            if live or fields["opens"]:
                raise EngineRefused("the engine is full")
            return await open_session(session, **fields)

        world.engine.session = full  # type: ignore[method-assign]
        await asyncio.sleep(5 * LEASE)
        assert len(lost) == 1
        assert {outcome for operation, outcome in outcomes if operation == "session"} == {"ok", "refused"}
        del world.engine.session
        await world.until(lambda: a.replica.connection.up)
        await world.until(lambda: a.ownership.owns(TASK))
        assert len(lost) == 1
        await world.close()

    run(play)
    lines = [(one.getMessage(), getattr(one, "error", "")) for one in caplog.records]
    assert [line for line in lines if line[0] == "lease lost"] == [("lease lost", "the engine is full")]
    assert [line for line in lines if line[0] == "engine away"] == [("engine away", "the engine is full")]
