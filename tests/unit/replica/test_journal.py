"""`SharedJournal` as a journal: order, groups, large documents, notices, confirmations, history, memory."""

from __future__ import annotations

import asyncio

import pytest

from bridge.core.cursor import Cursor
from bridge.core.event import Confirmation, Notice, NoticeCode
from bridge.core.task import TaskKey
from bridge.engine.base import ENTRY_BYTES, MAX_STATES
from bridge.engine.store import Store, StoreLimits
from bridge.errors import Superseded
from bridge.replica.outbox import MAX_BYTES
from tests.fakes.replicas import House, World, key
from tests.fakes.tasks import WALL, state
from tests.fakes.virtual import LoopClock, run

TASK = key()
STALE = Notice(NoticeCode.UPSTREAM_UNAVAILABLE, "it answers 503")
MISSING = Notice(NoticeCode.TASK_NOT_FOUND, "no such task", retriable=False)
FRESH = Notice(NoticeCode.FRESH, "again")


async def owned(world: World, house: House, *tasks: TaskKey) -> None:
    """The tasks are owned there, and nobody polls them."""
    for task in tasks:
        house.ownership.want(task)
    await world.until(lambda: all(house.ownership.owns(task) for task in tasks))


def test_appends_go_in_groups_with_one_call_in_flight() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        tasks = [key(number) for number in range(200)]
        await owned(world, a, *tasks)
        a.calls.clear()
        events = await asyncio.gather(*(a.journal.append(task, state("queued")) for task in tasks))
        assert a.calls.count("apply") <= 1 + -(-199 // MAX_STATES)
        offsets = [event.cursor.offset for event in events]
        assert offsets == sorted(offsets)
        assert [event.cursor.offset for event in a.told.events] == offsets
        await world.close()

    run(play)


def test_of_large_states_few_go_in_one_call() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        tasks = [key(number) for number in range(9)]
        await owned(world, a, *tasks)
        raw = b"[%b]" % (b"1," * (MAX_BYTES // 4) + b"1")
        a.calls.clear()
        await asyncio.gather(*(a.journal.append(task, state("queued", raw=raw)) for task in tasks))
        assert a.calls.count("apply") == 5, "the first alone, then two at a time"
        await world.close()

    run(play)


def test_a_steady_load_gathers_and_a_single_state_waits_for_nothing() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        tasks = [key(number) for number in range(101)]
        await owned(world, a, *tasks)
        a.calls.clear()
        appends = []
        for task in tasks[1:]:
            appends.append(asyncio.create_task(a.journal.append(task, state("queued"))))
            await clock.sleep(0.0005)
        await asyncio.gather(*appends)
        assert a.calls.count("apply") <= 15  # in 50 ms
        await clock.sleep(1.0)
        began = clock.monotonic()
        await a.journal.append(tasks[0], state("queued"))
        assert clock.monotonic() - began < 0.004
        await world.close()

    run(play)


def test_a_second_append_builds_on_the_first_that_is_still_in_flight() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        await owned(world, a, TASK)
        states = [state("processing", float(progress)) for progress in range(20)]
        events = await asyncio.gather(*(a.journal.append(TASK, one) for one in states))
        assert [event.state.progress for event in events] == list(range(20))
        (record,) = await world.engine.records([TASK])
        assert record.version == 20
        await world.close()

    run(play)


def test_a_caller_that_leaves_does_not_take_its_state_back() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        await owned(world, a, TASK)
        appending = asyncio.create_task(a.journal.append(TASK, state("queued")))
        await asyncio.sleep(0)
        appending.cancel()
        await asyncio.sleep(0.1)
        assert a.states(TASK) == [("queued", None)]
        await a.journal.append(TASK, state("processing", 5.0))
        await world.close()

    run(play)


def test_superseded_is_raised_once_the_newer_state_is_known_here() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await owned(world, a, TASK)
        b.ownership.want(TASK)
        await b.latest(TASK)
        b.delay = 0.05
        first = asyncio.create_task(b.journal.append(TASK, state("queued"), free=True))
        await asyncio.sleep(0)
        await a.journal.append(TASK, state("processing", 40.0))
        with pytest.raises(Superseded):
            await first
        event = await b.latest(TASK)
        assert event is not None
        assert event.state.progress == 40
        again = await b.journal.append(TASK, state("processing", 50.0), free=True)
        assert again.cursor.offset > event.cursor.offset
        await world.close()

    run(play)


def test_a_document_too_large_for_the_log_is_read_from_the_record_in_order() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        other = key(2)
        await owned(world, a, TASK, other)
        for task in (TASK, other):
            b.ownership.want(task)
            await b.latest(task)
        large = state("processing", 40.0, raw=b'"' + b"x" * ENTRY_BYTES + b'"')
        await asyncio.gather(
            a.journal.append(TASK, large),
            a.journal.append(other, state("processing", 1.0)),
            a.journal.append(TASK, state("processing", 41.0)),
        )
        await asyncio.sleep(0.1)
        offsets = [event.cursor.offset for event in b.told.events]
        assert offsets == sorted(offsets)
        assert b.states(TASK)[-1] == ("processing", 41.0)
        await a.journal.append(TASK, large.__class__(**{**_fields(large), "progress": 50.0}))
        await asyncio.sleep(0.1)
        event = await b.latest(TASK)
        assert event is not None
        assert event.state.raw == large.raw
        await world.close()

    run(play)


def _fields(one: object) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}  # type: ignore[attr-defined]


def test_the_owners_notices_reach_viewers_elsewhere_and_later_joiners() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b, c = await world.started("a", "b", "c")
        await owned(world, a, TASK)
        b.ownership.want(TASK)
        await b.latest(TASK)
        a.journal.announce(TASK, STALE)
        await asyncio.sleep(0.1)
        assert a.told.notices == b.told.notices == [(TASK, STALE)]
        assert b.watches.notices == [(TASK, STALE)]
        assert a.watches.notices == []
        c.ownership.want(TASK)
        await c.latest(TASK)
        await asyncio.sleep(0.1)
        assert c.told.notices == [(TASK, STALE)]
        assert list(c.watches.standings[TASK].notices) == [STALE]
        a.journal.announce(TASK, STALE)  # for a first viewer: nobody else hears it again
        await asyncio.sleep(0.1)
        assert len(a.told.notices) == 2
        assert len(b.told.notices) == 1
        b.journal.announce(TASK, STALE, here=True)
        await asyncio.sleep(0.1)
        assert len(b.told.notices) == 2
        a.journal.announce(TASK, FRESH)
        await asyncio.sleep(0.1)
        assert b.told.notices[-1] == c.told.notices[-1] == (TASK, FRESH)
        (record,) = await world.engine.records([TASK])
        assert not record.notices
        await world.close()

    run(play)


def test_a_404_found_again_reaches_the_engine_although_nothing_in_it_is_new() -> None:
    """Replicas that had it asked for again wait for it."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await owned(world, a, TASK)
        b.ownership.want(TASK)
        await b.latest(TASK)
        for _ in range(3):
            a.journal.announce(TASK, MISSING)
            await asyncio.sleep(0.1)
        assert a.calls.count("announce") == 3
        assert b.told.notices == [(TASK, MISSING)] * 3
        await world.close()

    run(play)


def test_confirmations_cost_one_entry_a_second() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        tasks = [key(number) for number in range(30)]
        await owned(world, a, *tasks)
        for task in tasks:
            await a.journal.append(task, state("queued"))
            b.ownership.want(task)
        await b.latest(tasks[0])
        a.calls.clear()
        for _ in range(50):
            for task in tasks:
                a.journal.confirm(task, Confirmation(clock.time(), WALL + 60))
            await asyncio.sleep(0.1)
        assert 4 <= a.calls.count("confirm") <= 6
        newest = a.journal.confirmation(tasks[0])
        assert newest is not None
        for task in tasks:
            heard = b.journal.confirmation(task)
            assert heard is not None
            assert newest.observed_at - 1.1 <= heard.observed_at <= newest.observed_at
            assert heard.eta_at == WALL + 60
        await world.close()

    run(play)


def test_history_and_first_seen_come_from_the_engine() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await owned(world, a, TASK)
        events = [await a.journal.append(TASK, state("processing", float(n))) for n in range(5)]
        recorded = await b.journal.history([TASK], events[1].cursor.offset)
        assert [one.offset for one in recorded] == [event.cursor.offset for event in events[2:]]
        read = await b.journal.read(recorded)
        assert [event.state.progress for event in read] == [2.0, 3.0, 4.0]
        assert [event.cursor for event in read] == [event.cursor for event in events[2:]]
        assert [event.state for event in await b.journal.read(recorded)] == [event.state for event in read]
        (seen, never) = await b.journal.first_seen([TASK, key(99)])
        assert seen == pytest.approx(events[0].cursor.offset / 1e6)
        assert never is None
        assert list(await b.journal.newest("qingbo", "-", final=False, limit=10)) == [TASK]
        assert await b.journal.history([TASK], events[-1].cursor.offset) == []
        await world.close()

    run(play)


def test_a_log_that_was_trimmed_is_a_gap_and_the_records_are_read() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        world.engine.store = Store(StoreLimits(log=16))
        a, b = await world.started("a", "b")
        gaps: list[int] = []
        b.replica.connection.counted["gaps"] = lambda: gaps.append(1)
        tasks = [key(number) for number in range(60)]
        await owned(world, a, *tasks)
        for task in tasks:
            b.ownership.want(task)
        await world.until(lambda: b.journal.settled(tasks))
        b.delay = 0.2
        await asyncio.gather(*(a.journal.append(task, state("processing", 7.0)) for task in tasks))
        await asyncio.sleep(3)
        assert gaps
        for task in tasks:
            assert b.states(task) == [("processing", 7.0)]
        assert b.journal.settled(tasks)
        assert b.journal.head >= a.cursors(tasks[-1])[-1].offset
        await world.close()

    run(play)


@pytest.mark.parametrize("tenths", range(10))
def test_a_log_that_was_emptied_is_never_heard_under_the_name_of_its_old_epoch(tenths: int) -> None:
    """FLUSHALL: no connection breaks, and who renews first begins the new epoch."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (b,) = await world.started("b")
        await asyncio.sleep(0.5)
        (a,) = await world.started("a")
        await owned(world, a, TASK)
        b.ownership.want(TASK)
        await world.until(lambda: b.journal.settled([TASK]))
        await a.journal.append(TASK, state("processing", 7.0))
        await asyncio.sleep(tenths / 10)
        old, head = b.journal.epoch, b.journal.head
        world.engine.store = Store()
        await world.until(lambda: a.journal.epoch == b.journal.epoch != old)
        await owned(world, a, TASK)
        await a.journal.append(TASK, state("processing", 8.0))
        await asyncio.sleep(2)
        assert b.states(TASK) == [("processing", 7.0), ("processing", 8.0)]
        assert [cursor for cursor in b.cursors(TASK) if cursor.epoch == old and cursor.offset > head] == []
        await world.close()

    run(play)


@pytest.mark.parametrize("tenths", range(0, 10, 3))
def test_who_joins_while_a_log_is_emptied_gets_no_offset_of_another_epoch(tenths: int) -> None:
    """FLUSHALL, and another replica already records in the new epoch: answers to `want` bring its offsets."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (b,) = await world.started("b")
        await asyncio.sleep(0.5)
        (a,) = await world.started("a")
        tasks = [key(number) for number in range(60)]
        await owned(world, a, *tasks)
        for task in tasks:
            await a.journal.append(task, state("processing", 7.0))
        await asyncio.sleep(tenths / 10)
        old, head = b.journal.epoch, b.journal.head
        world.engine.store = Store()
        told: list[Cursor] = []

        async def join(task: TaskKey, *, attends: bool) -> None:
            if attends:
                b.ownership.want(task)
            event = await b.latest(task)
            if event is not None:
                told.append(event.cursor)

        joining = []
        for number, task in enumerate(tasks):
            joining.append(asyncio.create_task(join(task, attends=number % 2 == 0)))
            if a.journal.epoch != old and a.replica.connection.up:
                await a.journal.append(task, state("processing", 8.0), free=True)
            await asyncio.sleep(0.025)
        await asyncio.gather(*joining)
        await world.until(lambda: b.journal.epoch != old)
        heard = [event.cursor for event in b.told.events]
        assert [one for one in [*told, *heard] if one.epoch == old and one.offset > head] == []
        assert any(one.epoch != old for one in told)
        await world.close()

    run(play)


def test_an_entry_of_an_emptied_log_without_an_epoch_is_not_heard_under_the_old_one() -> None:
    """Documents are written without a session, before anybody begins the new epoch."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (b,) = await world.started("b")
        await world.until(lambda: b.calls[-1] == "session")
        await asyncio.sleep(0.02)
        old, head = b.journal.epoch, b.journal.head
        world.engine.store = Store()
        await world.engine.put("times", b"1", expect=None, seconds=60.0, announced=True)
        await asyncio.sleep(0.1)
        assert b.journal.epoch != old or b.journal.head == head
        await world.until(lambda: b.journal.epoch != old)
        await world.close()

    run(play)


def test_a_cursor_ahead_waits_for_the_log_and_one_beyond_everything_is_known_as_such() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await owned(world, a, TASK)
        b.delay = 0.3
        event = await a.journal.append(TASK, state("queued"))
        assert b.journal.head < event.cursor.offset
        assert await b.journal.caught_up(event.cursor)
        assert b.journal.head >= event.cursor.offset
        beyond = Cursor(b.journal.epoch, event.cursor.offset + 10**12)
        assert await b.journal.caught_up(beyond)
        assert b.journal.head < beyond.offset
        world.away = True
        await asyncio.sleep(5)
        assert not await b.journal.caught_up(beyond)
        await world.close()

    run(play)


def test_memory_of_tasks_without_a_watch_is_bounded() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        tasks = [key(number) for number in range(300)]
        await owned(world, a, *tasks)
        await asyncio.gather(*(a.journal.append(task, state("queued", raw=b"x" * 1000)) for task in tasks))
        memory = b.replica._memory
        memory._max_bytes = 100_000
        for task in tasks:
            event = await b.latest(task)
            assert event is not None
        assert sum(1 for _ in memory) < 60
        assert memory._bytes <= 110_000
        await world.close()

    run(play)


def test_a_resync_that_breaks_off_makes_nobody_believe_what_was_missed() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await owned(world, a, TASK)
        b.ownership.want(TASK)
        first = await a.journal.append(TASK, state("queued"))
        await b.latest(TASK)
        b.cut = True
        await world.until(lambda: not b.replica.connection.up)
        event = await a.journal.append(TASK, state("processing", 40.0))
        b.loses.add("want")  # the session opens, and then the connection breaks
        b.cut = False
        await world.until(lambda: b.cut)
        await asyncio.sleep(0.05)
        assert b.replica.connection.received >= event.cursor.offset
        assert b.journal.head < event.cursor.offset
        assert b.journal.head >= first.cursor.offset
        assert not b.journal.settled([TASK])
        waiting = asyncio.create_task(b.journal.caught_up(event.cursor))
        await asyncio.sleep(0.5)
        assert not waiting.done()
        b.cut = False
        assert await waiting
        newest = await b.latest(TASK)
        assert newest is not None
        assert newest.cursor == event.cursor
        await world.close()

    run(play)
