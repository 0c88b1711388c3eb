"""What chaos found in earlier designs of the replica, each a rule and a test that fails without it.

The numbers are those of the rules. Rules 4, 5, 7 and 13 are the hub's and the deliveries'.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from bridge.core.cursor import Cursor
from bridge.core.merge import digest_of
from bridge.core.task import Source, State, Status, TaskKey
from bridge.engine.base import Apply, End, Mode, Release, SessionState, Stamp, Want
from bridge.errors import NotOwner, Superseded
from bridge.journal.sqlite.codec import encode
from bridge.replica.connection import ConnectionStage
from bridge.replica.lineage import Lineage, Return, plan_return
from tests.fakes.replicas import LEASE, PACE, House, World, key, observation
from tests.fakes.tasks import state
from tests.fakes.virtual import LoopClock, run

TASK = key()


async def watched(world: World, owner: House, *others: House, progress: float = 10) -> None:
    """The task is polled by the first, and seen by all."""
    world.provider.shows(TASK, progress)
    owner.view(TASK)
    await world.until(lambda: owner.ownership.owns(TASK) and owner.states(TASK) != [])
    for other in others:
        other.view(TASK)
        await other.latest(TASK)
    await asyncio.sleep(0.05)


async def record(world: World, session: str, known: State, *, version: int, task: TaskKey = TASK) -> int:
    """Another replica, far away, records a state; returns its offset."""
    engine = world.engine
    await engine.session(session, ttl=60, known_head=0, new_epoch="x", about=b"", opens=True)
    apply = Apply(
        key=task,
        mode=Mode.FREE,
        expect=version - 1,
        stamp=Stamp(version, session),
        end=End.ENDED if known.status.final else End.OPEN,
        digest=digest_of(known),
        document=encode(known),
    )
    (applied,) = await engine.apply(session, [apply])
    return applied.offset


@pytest.mark.parametrize("error", [ValueError("x"), ExceptionGroup("x", [ValueError("y")]), TimeoutError()])
def test_1_no_error_of_any_part_ends_the_loop_that_reconnects(error: Exception) -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        following = a.replica

        async def fails(*_: object) -> None:
            del following.received  # type: ignore[attr-defined] # the class's own again
            raise error

        following.received = fails  # type: ignore[method-assign]
        await world.until(lambda: not a.replica.connection.up)
        await world.until(lambda: a.replica.connection.up)
        world.provider.shows(TASK, 60)
        await asyncio.sleep(2)
        assert a.states(TASK)[-1] == b.states(TASK)[-1] == ("processing", 60)
        assert world.provider.doubles() == 0
        await world.close()

    run(play)


def test_1_an_error_while_it_comes_back_is_not_the_end() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")

        async def resync() -> None:
            del a.replica.resync  # type: ignore[attr-defined]
            raise ExceptionGroup("x", [ValueError("y")])

        a.replica.resync = resync  # type: ignore[method-assign]
        a.replica.connection.drop("for the test")
        await asyncio.sleep(3)
        assert a.replica.connection.up
        await world.close()

    run(play)


def test_1_a_cancellation_from_within_is_not_the_end() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")

        async def fails(*_: object) -> None:
            del a.replica.resync  # type: ignore[attr-defined]
            raise asyncio.CancelledError

        async def resync(*_: object, **__: object) -> None:
            await fails()

        a.replica.resync = resync  # type: ignore[method-assign]
        a.replica.connection.drop("for the test")
        await asyncio.sleep(3)
        assert a.replica.connection.up
        await world.close()

    run(play)


def test_2_after_a_wipe_owners_come_first() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        tasks = [key(number) for number in range(20)]
        for task in tasks:
            world.provider.shows(task, 10)
            a.view(task)
        await world.until(lambda: a.replica.ownership.owned == 20)
        for task in tasks:
            b.view(task)
        await asyncio.sleep(1)
        a.cut = True  # the owner is the last to come back
        world.wipe()
        await world.until(lambda: b.replica.connection.epoch != a.replica.connection.epoch)
        await world.until(lambda: b.replica.connection.up)
        a.cut = False
        await asyncio.sleep(4)
        assert world.provider.doubles() == 0
        assert {by for _, by, _ in world.provider.polls} == {"a"}
        await world.close()

    run(play)


def test_2_who_is_asked_first_after_a_wipe_waits_too() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a)
        a.cut = True
        epoch = b.journal.epoch
        world.wipe()
        await world.until(lambda: b.journal.epoch != epoch and b.replica.connection.up)
        b.view(TASK)
        a.cut = False
        await asyncio.sleep(3)
        assert a.ownership.owns(TASK)
        assert {by for _, by in world.provider.polls_of(TASK)} == {"a"}
        await world.close()

    run(play)


def test_2_what_nobody_takes_back_is_taken_after_a_second() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        await a.kill()
        world.wipe()
        wiped = clock.monotonic()
        await asyncio.sleep(3)
        first = min(at for at, by in world.provider.polls_of(TASK, wiped) if by == "b")
        assert 1.0 < first - wiped < 2.5
        await world.close()

    run(play)


def test_3_and_11_an_older_record_is_not_told_to_who_saw_more() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        a.cut = True
        await asyncio.sleep(LEASE + 2)  # b owns it now; a goes on for its viewers
        assert b.ownership.owns(TASK)
        world.provider.shows(TASK, 55)
        await asyncio.sleep(2 * PACE)
        b.cut = True
        world.provider.shows(TASK, 85)
        await world.until(lambda: a.states(TASK)[-1] == ("processing", 85))
        a.cut = False  # it hears the 55 that b recorded
        await asyncio.sleep(3)
        progress = [told[1] for told in a.states(TASK)]
        assert progress == sorted(progress)  # type: ignore[type-var]
        b.cut = False
        world.provider.shows(TASK, 100)
        await asyncio.sleep(4)
        for house in (a, b):
            progress = [told[1] for told in house.states(TASK)]
            assert progress == sorted(progress)  # type: ignore[type-var]
            assert house.states(TASK)[-1] == ("completed", 100)
            event = await house.latest(TASK)
            assert event is not None
            assert not event.cursor.shown
        await world.close()

    run(play)


def test_6_a_version_says_nothing_about_another_session() -> None:
    """Two states of version 14: what was not built on the recorded one is merged, not written over it."""
    ours, recorded = state("processing", 40.0), state("processing", 70.0)
    lineage = Lineage()
    for version in range(1, 14):
        lineage.add(Stamp(version, "both"))
    lineage.add(Stamp(14, "ours"))
    lineage.add(Stamp(15, "ours"))
    plan = plan_return(
        ours,
        stamp=Stamp(15, "ours"),
        digest=digest_of(ours),
        lineage=lineage,
        recorded=recorded,
        recorded_stamp=Stamp(14, "theirs"),
        recorded_digest=digest_of(recorded),
    )
    assert plan.become is Return.GIVEN_UP
    ended = state("completed", 100.0)
    plan = plan_return(
        ended,
        stamp=Stamp(15, "ours"),
        digest=digest_of(ended),
        lineage=lineage,
        recorded=recorded,
        recorded_stamp=Stamp(14, "theirs"),
        recorded_digest=digest_of(recorded),
    )
    assert plan.become is Return.MERGED
    assert plan.state is not None
    assert plan.state.status is Status.COMPLETED
    for version in (3, 14):
        plan = plan_return(
            ours,
            stamp=Stamp(15, "ours"),
            digest=digest_of(ours),
            lineage=lineage,
            recorded=recorded,
            recorded_stamp=Stamp(version, "both" if version < 14 else "ours"),
            recorded_digest=digest_of(recorded),
        )
        assert plan.become is Return.AGAIN


def test_8_and_i10_nothing_is_settled_from_a_change_of_epoch_until_the_engine_has_answered() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        assert b.journal.settled([TASK])
        b.delay = 0.2
        world.wipe()
        await world.until(lambda: not b.replica.connection.up)
        assert not b.journal.settled([TASK])
        epoch = b.replica.connection.epoch
        await world.until(lambda: b.replica.connection.epoch != epoch)
        asked = b.calls.count("want")
        while b.calls.count("want") == asked:
            assert not b.journal.settled([TASK])
            await asyncio.sleep(0.01)
        await world.until(lambda: b.journal.settled([TASK]))
        await world.close()

    run(play)


def test_8_a_record_that_the_log_has_not_brought_yet_is_told_in_the_order_of_the_log() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        tasks = [key(number) for number in range(10)]
        for task in tasks:
            a.view(task)
        b.delay = 0.05  # b hears everything late
        for progress in range(0, 100, 5):
            for number, task in enumerate(tasks):
                world.provider.shows(task, progress + number / 10)
            if progress == 40:
                for task in tasks:
                    b.view(task)
                    await asyncio.sleep(0.06)
            await asyncio.sleep(0.23)
        offsets = [event.cursor.offset for event in b.told.events]
        # What was recorded before b asked comes first, sorted by nothing but the answers; then the log.
        seen: dict[TaskKey, int] = {}
        late = 0
        newest = 0
        for event in b.told.events:
            assert event.cursor.offset > seen.get(event.key, 0)
            if event.key in seen:
                late += event.cursor.offset < newest
            seen[event.key] = event.cursor.offset
            newest = max(newest, event.cursor.offset)
        assert late == 0
        assert len(offsets) > 50
        await world.close()

    run(play)


def test_9_a_state_of_the_old_history_has_no_offset_in_the_new_one() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        world.provider.shows(TASK, 100)
        await world.until(lambda: b.states(TASK)[-1] == ("completed", 100))
        (end,) = b.cursors(TASK)[-1:]
        a.cut = True  # who could record it again is away
        b.ownership.drop(TASK)  # and b keeps nothing but what its memory has
        b.ownership.want(TASK)
        world.wipe()
        await world.until(lambda: b.replica.connection.epoch != end.epoch)
        event = await b.latest(TASK)
        assert event is not None
        assert event.cursor.epoch == b.replica.connection.epoch
        assert event.cursor.shown or event.cursor.offset > end.offset
        await world.close()

    run(play)


def test_10_a_renewal_that_names_another_epoch_drops_the_connection() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        stages: list[tuple[str, ConnectionStage]] = []
        connection = b.replica.connection
        before = connection.epoch
        # The engine loses its history under open connections, as a failover behind a proxy does.
        world.engine.store.log.begin("zzzzzzzz99", 0, 0)
        end = clock.monotonic() + 4
        while clock.monotonic() < end:
            stages.append((connection.epoch, connection.stage))
            await asyncio.sleep(0.0005)
        assert connection.epoch == "zzzzzzzz99"
        epochs = [epoch for epoch, _ in stages]
        first = epochs.index("zzzzzzzz99")
        assert stages[first][1] in (ConnectionStage.SESSION, ConnectionStage.RESYNC)
        assert (before, ConnectionStage.AWAY) in stages
        assert all(cursor.epoch == "zzzzzzzz99" for cursor in b.cursors(TASK)[-1:])
        assert b.told.epochs == 2
        await world.close()

    run(play)


def test_11_the_same_content_by_two_replicas_is_recorded_once() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        seen = observation(50)
        await asyncio.gather(a.watches.observe(TASK, seen), b.watches.observe(TASK, seen, free=True))
        await asyncio.sleep(0.1)
        recorded = [past.offset for past in await world.engine.history(TASK, 0)]
        assert len(recorded) == 2
        assert a.states(TASK) == b.states(TASK) == [("processing", 10), ("processing", 50)]
        await world.close()

    run(play)


def test_12_a_cursor_of_a_later_epoch_waits_until_this_replica_is_there() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        b.cut = True
        world.wipe()
        await world.until(lambda: a.replica.connection.up and a.replica.connection.epoch != b.journal.epoch)
        cursor = Cursor(a.journal.epoch, a.journal.head)
        assert not await b.journal.caught_up(cursor)  # nobody can be asked: no reset
        waiting = asyncio.create_task(b.journal.caught_up(cursor))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        b.cut = False
        assert await waiting
        assert b.journal.epoch == cursor.epoch
        await world.close()

    run(play)


def test_12_after_a_change_of_epoch_old_cursors_wait_a_second_for_who_knows_more() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        old = Cursor(a.journal.epoch, a.journal.head)
        assert await a.journal.caught_up(old)
        world.wipe()
        await world.until(lambda: a.journal.epoch != old.epoch and a.replica.connection.up)
        changed = clock.monotonic()
        assert await a.journal.caught_up(old)
        assert 0.5 < clock.monotonic() - changed <= 1.0
        await world.close()

    run(play)


def test_12_an_outage_right_after_a_change_of_epoch_makes_old_cursors_wait_for_its_end() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        old = Cursor(a.journal.epoch, a.journal.head)
        world.wipe()
        await world.until(lambda: a.journal.epoch != old.epoch and a.replica.connection.up)
        world.away = a.cut = True
        a.replica.connection.drop("the engine is away")
        await asyncio.sleep(3.0)
        assert not await a.journal.caught_up(old)  # who knows more cannot record it: no reset
        world.away = a.cut = False
        await world.until(lambda: a.replica.connection.up)
        back = clock.monotonic()
        assert not a.journal.reconciled
        assert await a.journal.caught_up(old)
        assert 0.9 < clock.monotonic() - back <= 1.01
        await world.close()

    run(play)


def test_15_what_was_made_from_a_refused_state_does_not_follow_the_one_recorded_instead() -> None:
    """Two states on their way, and another replica's has the version of the first."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        await watched(world, a)
        (before,) = await world.engine.records([TASK])
        await record(world, "far", state("processing", 80.0), version=before.version + 1)
        appends = [a.journal.append(TASK, state("processing", progress)) for progress in (50.0, 60.0)]
        answers = await asyncio.gather(*appends, return_exceptions=True)
        assert [type(one) for one in answers] == [Superseded, Superseded]
        (after,) = await world.engine.records([TASK])
        assert after.version == before.version + 1
        assert a.states(TASK)[-1] == ("processing", 80)
        await world.close()

    run(play)


def test_15_the_same_when_the_connection_breaks_before_they_were_sent() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        await watched(world, a)
        (before,) = await world.engine.records([TASK])
        a.delay = 0.3
        appends = [a.journal.append(TASK, state("processing", progress)) for progress in (50.0, 60.0)]
        both = asyncio.gather(*appends, return_exceptions=True)
        await asyncio.sleep(0.02)
        offset = await record(world, "far", state("processing", 80.0), version=before.version + 1)
        (newer,) = await world.engine.records([TASK])
        a.journal.learn(newer)
        await a.replica.connection.reached_offset(offset, 5.0)
        a.cut = True
        a.replica.connection.drop("broken")
        await both
        assert a.states(TASK)[-1] == ("processing", 80)
        await world.close()

    run(play)


@pytest.mark.parametrize("progress", [63.0, 50.0])
def test_16_a_stamp_used_again_after_its_state_was_lost_is_told_apart_by_content(progress: float) -> None:
    """Its session did not know any more that it had recorded something."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        (before,) = await world.engine.records([TASK])
        world.save()
        await record(world, "far", state("processing", progress), version=before.version + 1)
        await world.until(lambda: b.states(TASK)[-1] == ("processing", progress))
        epoch = b.journal.epoch
        b.cut = a.cut = True
        world.fail_over()
        again = state("processing", 83.0)
        engine = world.engine
        await engine.session(
            "far", ttl=60, known_head=b.journal.head, new_epoch="zzzzzzzzzz", about=b"", opens=True
        )
        await record(world, "far", again, version=before.version + 1)
        b.cut = a.cut = False
        await world.until(lambda: b.journal.epoch != epoch and b.replica.connection.up)
        await asyncio.sleep(2.0)
        assert b.states(TASK)[-1] == ("processing", 83)
        assert a.states(TASK)[-1] == ("processing", 83)
        await world.close()

    run(play)


def test_16_an_older_state_is_not_written_over_one_that_only_bears_the_stamp_of_an_ancestor() -> None:
    """A failover lost three states of an owner, and another's began the next ones: it counted up again."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        world.save()
        for progress in (20, 30, 40):
            world.provider.shows(TASK, progress)
            await world.until(lambda shown=progress: b.states(TASK)[-1] == ("processing", shown))  # type: ignore[misc]
        epoch = a.journal.epoch
        a.cut = b.cut = True
        world.fail_over()
        (before,) = await world.engine.records([TASK])
        await world.engine.session(
            "far", ttl=60, known_head=b.journal.head, new_epoch="zzzzzzzzzz", about=b"", opens=True
        )
        await record(world, "far", state("processing", 45.0), version=before.version + 1)
        a.cut = False
        await world.until(lambda: a.journal.epoch != epoch and a.states(TASK)[-1] == ("processing", 45))
        world.provider.shows(TASK, 50)
        await world.until(lambda: a.states(TASK)[-1] == ("processing", 50))
        (newest,) = await world.engine.records([TASK])
        assert newest.version < before.version + 4  # as many as were lost: each of these versions was there
        b.cut = False
        await world.until(lambda: b.journal.epoch != epoch and b.replica.connection.up)
        await asyncio.sleep(3.0)
        assert b.states(TASK)[-1] == a.states(TASK)[-1] == ("processing", 50)
        assert ("processing", 40) not in a.states(TASK)[-2:]
        (after,) = await world.engine.records([TASK])
        assert after.digest == newest.digest
        await world.close()

    run(play)


def test_14_a_due_handed_over_is_kept_by_who_takes_the_task_through_want() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        tasks = [key(number) for number in range(20)]
        for task in tasks:
            world.provider.shows(task, 10)
            a.view(task)
        await asyncio.sleep(2.2)
        draining = asyncio.create_task(a.drain())
        for _ in range(20):
            await asyncio.sleep(0.01)
            for task in tasks:
                b.view(task)  # their viewers are back at once
        await draining
        await asyncio.sleep(3)
        assert world.provider.doubles() == 0
        for task in tasks:
            times = [at for at, _ in world.provider.polls_of(task)]
            assert max(later - earlier for earlier, later in pairwise(times)) < 2 * PACE + 0.3
        await world.close()

    run(play)


def test_15_the_offset_of_the_state_held_moves_only_together_with_the_state() -> None:
    """It sees the end itself, cannot record it, and the new owner has recorded only progress since."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        a.cut = True
        await asyncio.sleep(LEASE + 2)
        world.provider.shows(TASK, 90)
        await world.until(lambda: b.states(TASK)[-1] == ("processing", 90))
        b.watches.end()  # b polls no more: what is recorded is 90
        world.provider.shows(TASK, 100)
        await world.until(lambda: a.states(TASK)[-1] == ("completed", 100))
        event = await a.latest(TASK)
        assert event is not None
        assert event.cursor.shown == "c1000"
        b_at = b.cursors(TASK)[-1].offset
        a.cut = False
        await world.until(lambda: a.replica.connection.up)
        event = await a.latest(TASK)
        assert event is not None
        # A client that saw 90 at `b_at` must never be told "over" for the end that a holds.
        assert event.cursor.shown or event.cursor.offset > b_at
        await world.until(lambda: b.states(TASK)[-1] == ("completed", 100))
        event = await a.latest(TASK)
        assert event is not None
        assert not event.cursor.shown
        assert event.cursor.offset == b.cursors(TASK)[-1].offset > b_at
        await world.close()

    run(play)


def test_a_write_of_who_no_longer_owns_is_refused() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await watched(world, a, b)
        # The engine gives the task to b behind a's back.
        store = world.engine.store
        task = store.tasks.get(TASK)
        assert task is not None
        await world.engine.release(a.replica.connection.session, [Release(TASK, 0)], transfer=True)
        await world.engine.want(b.replica.connection.session, [Want(TASK)], linger=30)
        late = state("processing", 60.0, source=Source.POLL)
        with pytest.raises(NotOwner):
            await a.journal.append(TASK, late)
        assert b.states(TASK) == [("processing", 10)]
        await asyncio.sleep(0.1)
        assert TASK in a.watches.attended
        await world.close()

    run(play)


def test_an_expired_session_is_never_used_again() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        old = a.replica.connection.session
        a.cut = True
        await asyncio.sleep(2 * LEASE)
        a.cut = False
        await world.until(lambda: a.replica.connection.up)
        assert a.replica.connection.session != old
        welcome = await world.engine.session(old, ttl=3, known_head=0, new_epoch="x", about=b"", opens=False)
        assert welcome.state is SessionState.EXPIRED
        await world.close()

    run(play)
