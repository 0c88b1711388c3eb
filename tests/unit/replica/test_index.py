"""By what names tasks are known, over several bridges: registered, listed, forgotten, through outages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from bridge.core.details import NO_DETAILS, TaskDetails, decode_details
from bridge.core.event import Event, Notice
from bridge.core.task import Source, Status, TaskKey
from bridge.engine.base import Entry, ForgetEntry
from bridge.errors import JournalError
from bridge.replica.journal import SharedJournal
from tests.fakes.replicas import LEASE, House, World, key
from tests.fakes.tasks import state
from tests.fakes.virtual import LoopClock, run

TASK, OTHER = key(1), key(2)
RED = TaskDetails(tags=("red",), group="g", deadline_seconds=90.0)
BLUE = TaskDetails(tags=("blue",))


@dataclass
class IndexTold:
    """What a follower of the index was told, with the states in between."""

    told: list[tuple[str, TaskKey | None, object]] = field(default_factory=list)

    def described(self, task: TaskKey, details: TaskDetails) -> None:
        self.told.append(("described", task, details._replace(since=0)))

    def forgotten(self, task: TaskKey) -> None:
        self.told.append(("forgotten", task, None))

    def reset(self) -> None:
        self.told.append(("reset", None, None))

    def recorded(self, event: Event) -> None:
        self.told.append(("recorded", event.key, event.state.status.value))

    def noticed(self, task: TaskKey, notice: Notice) -> None:
        pass

    def new_epoch(self) -> None:
        pass

    def of(self, what: str) -> list[TaskKey | None]:
        return [task for kind, task, _ in self.told if kind == what]


def follow(*houses: House) -> list[IndexTold]:
    told = []
    for house in houses:
        told.append(IndexTold())
        house.journal.follow_index(told[-1])
        house.journal.follow(told[-1])
    return told


async def listed(journal: SharedJournal, **which: str) -> list[TaskKey]:
    return [one.key for one in await journal.listing("qingbo", "-", **which)]  # type: ignore[arg-type]


def test_every_bridge_hears_by_what_a_task_is_known_before_its_state() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        told = follow(a, b)
        a.journal.describe(TASK, RED)
        await a.journal.append(TASK, state("queued"), free=True)
        await a.journal.append(TASK, state("processing"), free=True)
        await a.journal.append(OTHER, state("queued"), free=True)
        await world.until(lambda: b.replica.connection.received == a.replica.connection.received)
        assert told[0].told == [
            ("described", TASK, RED),
            ("recorded", TASK, "queued"),
            ("recorded", TASK, "processing"),
            ("recorded", OTHER, "queued"),
        ]
        # Nobody there has asked for the task: its states are not received, by what it is known is.
        assert told[1].told == [("described", TASK, RED)]
        assert await listed(b.journal, tag="red") == await listed(b.journal, group="g") == [TASK]
        assert await listed(b.journal) == [OTHER, TASK]
        (one,) = await b.journal.listing("qingbo", "-", tag="red")
        assert one.details == RED
        assert await b.journal.details_of([OTHER, TASK, key(3)]) == [NO_DETAILS, RED, NO_DETAILS]
        await world.close()

    run(play)


def test_the_place_of_a_task_is_known_from_its_first_state_on() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        for house in (a, b):  # asked about before it is recorded
            assert await house.latest(TASK) is None
        event = await a.journal.append(TASK, state("queued"), free=True)
        await a.journal.append(TASK, state("processing"), free=True)
        await world.until(lambda: b.replica.connection.received == a.replica.connection.received)
        for house in (a, b):
            assert await house.journal.places([TASK, OTHER]) == [event.cursor.offset, 0]
            assert await house.journal.first_seen([TASK]) == [event.cursor.offset / 1e6]
        await world.close()

    run(play)


def test_a_task_is_registered_durably_and_for_every_cursor_before_it() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await a.journal.append(TASK, state("completed"), free=True)
        await b.latest(TASK)
        told = follow(a, b)
        head = world.engine.store.log.head
        await b.journal.register(TASK, BLUE)
        # Received here when it returns, and recorded.
        assert told[1].told == [("described", TASK, BLUE)]
        (record,) = await world.engine.records([TASK])
        details = decode_details(record.details)
        assert details._replace(since=0) == b.journal.details(TASK)._replace(since=0) == BLUE
        entry = (await world.engine.read(head, block=0))[-1]
        assert entry.offset <= details.since
        await world.until(lambda: told[0].of("described") == [TASK])
        assert (await a.journal.details_of([TASK]))[0] == details
        assert await listed(a.journal, tag="blue") == [TASK]
        # Replaced as a whole.
        await a.journal.register(TASK, NO_DETAILS)
        assert await listed(b.journal, tag="blue") == []
        await world.until(lambda: told[1].told[-1] == ("described", TASK, NO_DETAILS))
        await world.close()

    run(play)


@pytest.mark.parametrize("ahead", [0.0, 3600.0])
def test_a_registration_counts_from_an_offset_that_is_not_below_its_entry(ahead: float) -> None:
    """Also if offsets are ahead of the clock, or the call is slow."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        world.engine.store.log.head += round(ahead * 1e6)
        await a.journal.append(TASK, state("completed"), free=True)
        for delay in (0.0, 0.4):
            a.delay = delay
            head = world.engine.store.log.head
            await a.journal.register(TASK, BLUE)
            (entry,) = [
                one for one in await world.engine.read(head, block=0) if getattr(one, "key", None) == TASK
            ]
            assert entry.offset <= (await a.journal.details_of([TASK]))[0].since
        await world.close()

    run(play)


def test_without_the_engine_nothing_is_registered_listed_or_forgotten_and_nobody_waits() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        (told,) = follow(a)
        await a.journal.append(TASK, state("completed"), free=True)
        await a.latest(TASK)
        world.away = True
        await world.until(lambda: not a.replica.connection.up)
        began = clock.monotonic()
        for asked in (
            a.journal.register(TASK, RED),
            a.journal.forget(TASK),
            a.journal.listing("qingbo", "-"),
            a.journal.details_of([OTHER]),
        ):
            with pytest.raises(JournalError):
                await asked
        assert clock.monotonic() - began < 0.1
        assert await a.journal.details_of([TASK]) == [NO_DETAILS], "which is known here"
        # Submitted meanwhile: described once it is recorded.
        a.journal.describe(OTHER, RED)
        await a.journal.append(OTHER, state("queued"), free=True)
        assert told.of("described") == []
        world.away = False
        await world.until(lambda: told.of("described") == [OTHER])
        assert await listed(a.journal, tag="red") == [OTHER]
        await world.close()

    run(play)


def test_what_was_missed_is_to_be_read_again() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await a.journal.append(TASK, state("queued"), free=True)
        told = follow(a, b)
        b.cut = True
        await world.until(lambda: not b.replica.connection.up)
        await a.journal.register(TASK, RED)
        b.cut = False
        await world.until(lambda: told[1].of("reset") == [None])
        assert told[1].of("described") == []
        await world.until(lambda: b.replica.connection.up)
        assert await listed(b.journal, tag="red") == [TASK]
        assert told[0].of("reset") == []
        world.restart()
        await world.until(lambda: told[0].of("reset") == [None])
        await world.until(lambda: a.replica.connection.up)
        assert await listed(a.journal, tag="red") == [TASK]
        await world.close()

    run(play)


def test_a_forgotten_task_is_gone_on_every_bridge() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        world.provider.shows(TASK, 100)
        a.view(TASK)
        b.view(TASK)
        await world.until(lambda: b.states(TASK)[-1:] == [("completed", 100)])
        await a.journal.register(TASK, RED)
        await world.until(lambda: b.journal.details(TASK).tags == ("red",))
        told = follow(a, b)
        assert await b.journal.forget(TASK)
        assert told[1].of("forgotten") == [TASK]
        assert b.journal.details(TASK) == NO_DETAILS
        await world.until(lambda: told[0].of("forgotten") == [TASK])
        for house in (a, b):
            assert await house.latest(TASK) is None
            assert list(await house.journal.history([TASK], 0)) == []
            assert await house.journal.details_of([TASK]) == [NO_DETAILS]
            assert await listed(house.journal) == []
            assert await house.journal.first_seen([TASK]) == [None]
            assert not await house.journal.forget(TASK)
        await clock.sleep(2 * LEASE)
        assert (await world.engine.records([TASK]))[0].version == 0
        # Submitted again, it is another one.
        await b.journal.append(TASK, state("queued"), free=True)
        event = await a.latest(TASK)
        assert event is not None
        assert event.state.status is Status.QUEUED
        await world.close()

    run(play)


@pytest.mark.parametrize("epoch", ["same", "another"])
def test_a_bridge_that_was_away_does_not_record_a_forgotten_task_again(epoch: str) -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        world.provider.shows(TASK, 10)
        a.view(TASK)
        b.view(TASK)
        await world.until(lambda: b.states(TASK)[-1:] == [("processing", 10)])
        a.cut = True
        await clock.sleep(1.5)
        world.provider.shows(TASK, 100)  # it ends while the owner is alone, which is told so
        await world.until(lambda: a.states(TASK)[-1] == ("completed", 100))
        assert a.replica.unrecorded == 1
        await world.until(lambda: b.states(TASK)[-1] == ("completed", 100), 60)
        (told,) = follow(a)
        assert await b.journal.forget(TASK)
        b.unview(TASK)
        if epoch == "another":
            world.restart()
            await world.until(lambda: b.replica.connection.up)
        a.cut = False
        await world.until(lambda: a.replica.connection.up)
        await clock.sleep(3.0)
        assert (await world.engine.records([TASK]))[0].version == 0
        assert a.replica.unrecorded == 0
        assert TASK in told.of("forgotten")
        assert await a.latest(TASK) is None
        await world.close()

    run(play)


def test_a_task_that_began_again_while_a_bridge_was_away_is_known_there_by_what_it_is_now() -> None:
    """Its followers may have read that before the bridge itself learns that the task of before is gone."""

    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        (told,) = follow(b)
        await b.journal.append(TASK, state("processing", 10.0), free=True)
        b.cut = True
        await world.until(lambda: not b.replica.connection.up)
        await b.journal.append(
            TASK, state("processing", 20.0), observed_at=clock.monotonic(), free=True
        )  # shown alone
        await a.latest(TASK)
        await a.journal.append(TASK, state("completed"), free=True)
        assert await a.journal.forget(TASK)
        a.journal.describe(TASK, RED)
        await a.journal.append(TASK, state("queued"), free=True)
        b.cut = False
        await world.until(lambda: told.of("reset") == [None])
        await clock.sleep(3.0)
        assert b.replica.unrecorded == 0
        assert told.of("forgotten") == []
        assert ("described", TASK, RED) in told.told
        event = await b.latest(TASK)
        assert event is not None
        assert event.state.status is Status.QUEUED
        await world.close()

    run(play)


def test_a_deletion_whose_entry_did_not_arrive_does_not_delete_what_began_since() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await b.journal.append(TASK, state("completed"), free=True)
        (told,) = follow(b)
        connection = b.replica.connection
        real = connection.call_read

        async def nothing(after: int) -> Sequence[Entry]:
            await real(after)
            return ()

        connection.call_read = nothing  # type: ignore[method-assign]
        deleting = asyncio.create_task(b.journal.forget(TASK))
        await world.until(lambda: world.engine.store.log.head > connection.received)
        connection.drop("a test")
        connection.call_read = real  # type: ignore[method-assign]
        await world.until(lambda: told.of("reset") == [None])
        a.journal.describe(TASK, RED)
        await a.journal.append(TASK, state("queued"), free=True)
        await world.until(lambda: ("described", TASK, RED) in told.told)
        assert await deleting
        assert told.told[-1] != ("forgotten", TASK, None)
        assert b.journal.details(TASK) == RED
        event = await b.latest(TASK)
        assert event is not None
        assert event.state.status is Status.QUEUED
        await world.close()

    run(play)


def test_a_state_that_is_on_its_way_while_a_task_is_forgotten_does_not_bring_it_back() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        await a.journal.append(TASK, state("processing", 10.0), free=True)
        await b.latest(TASK)
        a.delay = 0.2
        appending = asyncio.create_task(a.journal.append(TASK, state("processing", 20.0), free=True))
        await asyncio.sleep(0.05)
        assert await b.journal.forget(TASK)
        with pytest.raises(JournalError):
            await appending
        await clock.sleep(1.0)
        assert (await world.engine.records([TASK]))[0].version == 0
        entries = await world.engine.read(0, block=0)
        assert sum(isinstance(entry, ForgetEntry) for entry in entries) == 1
        await world.close()

    run(play)


def test_a_submitted_task_is_kept_though_its_bridge_dies_right_after_recording_it() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        a, b = await world.started("a", "b")
        world.provider.shows(TASK, 40)
        a.journal.describe(TASK, RED)
        await a.journal.append(TASK, state("unknown", source=Source.SUBMIT), free=True)
        await a.kill()
        await world.until(lambda: world.provider.polls != [], 20)
        assert world.provider.polls[0][1:] == ("b", TASK)
        assert clock.monotonic() - world.provider.polls[0][0] < 3.0
        assert b.journal.details(TASK) == RED
        await world.close()

    run(play)


def test_who_takes_a_task_over_knows_its_details_before_it_polls() -> None:
    async def play(clock: LoopClock) -> None:
        world = World(clock)
        (a,) = await world.started("a")
        a.journal.describe(TASK, RED)
        world.provider.shows(TASK, 10)
        a.view(TASK)
        await world.until(lambda: a.states(TASK)[-1:] == [("processing", 10)])
        a.ownership.keep(TASK, called_back=False)
        (b,) = await world.started("b")
        known: list[TaskDetails] = []
        granted = b.watches.granted

        def note(task: TaskKey, decided: object) -> None:
            known.append(b.journal.details(task))
            granted(task, decided)  # type: ignore[arg-type]

        b.watches.granted = note  # type: ignore[method-assign]
        await clock.sleep(0.1)
        await a.kill()
        await world.until(lambda: known != [], 20)
        assert known[0] == RED
        assert known[0].deadline_seconds == 90.0
        await world.close()

    run(play)
