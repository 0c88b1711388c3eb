"""Three running replicas over one engine in virtual time: whatever happens, one polls, and all end right.

Unlike in `test_replicas.py`, the replicas are the real ones (`bridge.replica`), with watches that poll. Rules
cut, delay, stop, kill, drain, empty and set back; after each, the invariants that always hold; in
the end everything heals, and every replica holds the truth.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge.core.event import Event
from bridge.core.task import Status, TaskKey
from bridge.engine.base import End, Entry, StateEntry
from bridge.engine.store import Store
from tests.fakes.replicas import LEASE, PACE, House, World, key
from tests.fakes.virtual import LoopClock, VirtualLoop

KEYS = [key(number) for number in range(3)]
HEALS = LEASE + 3.0
which = st.integers(0, 2)
task = st.sampled_from(KEYS)


class AnyFleet(RuleBasedStateMachine):
    """Everything that may happen to three replicas and their engine."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.runner = asyncio.Runner(loop_factory=lambda: self.loop)
        self.clock = LoopClock(self.loop)
        self.truth = dict.fromkeys(KEYS, 0)
        self.entries: dict[tuple[str, int], Entry] = {}
        self.newest_offset = 0
        self.disturbed_until = 0.0
        self.copies: list[Store] = []
        self.run(self.begin())

    def run(self, playing: Coroutine[Any, Any, None]) -> None:
        self.runner.run(playing)

    async def begin(self) -> None:
        self.world = World(self.clock)
        for one in KEYS:
            self.world.provider.shows(one, 0)
        self.houses = await self.world.started("a", "b", "c")
        self.viewed: set[tuple[int, TaskKey]] = set()
        for number in range(3):
            self.view(number, KEYS[number])

    def view(self, number: int, one: TaskKey) -> None:
        if (number, one) not in self.viewed and self.is_up(number):
            self.viewed.add((number, one))
            self.houses[number].view(one)

    def is_up(self, number: int) -> bool:
        """Whether it runs: neither killed nor stopped."""
        house = self.houses[number]
        return house._task is not None and house.running.is_set()

    # Time and the provider

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.5, 1.0, 2.0, 4.0]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))
        self.hear()

    @rule(one=task, ends=st.booleans())
    def the_provider_goes_on(self, one: TaskKey, *, ends: bool) -> None:
        self.truth[one] = 100 if ends else min(self.truth[one] + 10, 90) if self.truth[one] < 100 else 100
        self.world.provider.shows(one, self.truth[one])

    # Viewers

    @rule(number=which, one=task)
    def a_viewer_comes(self, number: int, one: TaskKey) -> None:
        async def come() -> None:
            self.view(number, one)
            await asyncio.sleep(0.05)

        self.run(come())

    @rule(number=which, one=task)
    def its_last_viewer_leaves(self, number: int, one: TaskKey) -> None:
        async def leave() -> None:
            if (number, one) in self.viewed and self.is_up(number):
                self.viewed.discard((number, one))
                self.houses[number].unview(one)

        self.run(leave())

    # Replicas

    @rule(number=which)
    def kill(self, number: int) -> None:
        if self.is_up(number):
            self.run(self.houses[number].kill())
            self.viewed = {one for one in self.viewed if one[0] != number}

    @rule(number=which)
    def start(self, number: int) -> None:
        if self.houses[number]._task is None:
            self.run(self.start_again(number))

    async def start_again(self, number: int) -> None:
        self.houses[number] = self.world.house(f"{self.houses[number].name}+")
        self.houses[number].start()
        await asyncio.sleep(0.01)

    @rule(number=which)
    def stop(self, number: int) -> None:
        if self.is_up(number):
            self.houses[number].stop()

    @rule(number=which)
    def go_on(self, number: int) -> None:
        self.houses[number].go_on()

    @rule(number=which)
    def drain(self, number: int) -> None:
        if self.is_up(number):
            self.run(asyncio.wait_for(self.houses[number].drain(), 60))
            self.viewed = {one for one in self.viewed if one[0] != number}

    # The engine, and the way to it

    @rule(number=which, cut=st.booleans())
    def cut_one(self, number: int, *, cut: bool) -> None:
        self.houses[number].cut = cut
        self.disturb()

    @rule(number=which, seconds=st.sampled_from([0.0, 0.05, 0.2]))
    def delay(self, number: int, seconds: float) -> None:
        self.houses[number].delay = seconds

    @rule(number=which, operation=st.sampled_from(["apply", "want", "session", "read", "claim", "release"]))
    def an_answer_is_lost(self, number: int, operation: str) -> None:
        self.houses[number].loses.add(operation)
        self.disturb()

    @rule(away=st.booleans())
    def engine_away(self, *, away: bool) -> None:
        self.world.away = away
        self.disturb()

    @rule()
    def restart_engine(self) -> None:
        self.lose(copy.deepcopy(self.world.engine.store))

    @rule()
    def copy_engine(self) -> None:
        self.copies = [*self.copies[-1:], copy.deepcopy(self.world.engine.store)]

    @precondition(lambda self: self.copies)
    @rule()
    def fail_over(self) -> None:
        self.lose(self.copies.pop())

    @rule()
    def wipe_engine(self) -> None:
        self.lose(Store())

    def lose(self, store: Store) -> None:
        """The engine goes on with other data; its history is another one."""
        store.log.epoch = ""

        async def replace() -> None:
            self.world._replace(store)

        self.run(replace())
        self.disturb()

    def disturb(self) -> None:
        self.disturbed_until = self.clock.monotonic() + HEALS

    @property
    def calm(self) -> bool:
        """Whether all replicas have been able to agree for long enough."""
        troubled = self.world.away or any(one.cut or one.loses for one in self.houses)
        if troubled:
            self.disturb()
        return self.clock.monotonic() > self.disturbed_until

    # What always holds

    def hear(self) -> None:
        """I1, I4, I5: the log."""
        log = self.world.engine.store.log
        for entry in self.world.engine.store.read(0):
            place = (log.epoch, entry.offset)
            if place in self.entries:
                assert self.entries[place] == entry, "I5: an epoch has two histories"
                continue
            if not log.epoch or entry.offset <= self.newest_offset:
                continue
            self.newest_offset = entry.offset
            self.entries[place] = entry
            if isinstance(entry, StateEntry):
                self.check_order(log.epoch, entry)

    def check_order(self, epoch: str, entry: StateEntry) -> None:
        for (of, _), one in self.entries.items():
            if of == epoch and isinstance(one, StateEntry) and one.key == entry.key and one is not entry:
                assert one.stamp.version < entry.stamp.version, "I1: versions grow"
                assert one.end is not End.ENDED, "I1: nothing after the end"

    @invariant()
    def one_polls(self) -> None:
        """I2: while all can reach the engine, at most one may poll a task."""
        if not self.calm:
            return
        for one in KEYS:
            polling = [house.name for house in self.houses if self.polls(house, one)]
            assert len(polling) <= 1, f"I2: {polling} may poll {one.ref}"

    def polls(self, house: House, one: TaskKey) -> bool:
        return house._task is not None and house.running.is_set() and house.ownership.may_poll(one)

    @invariant()
    def cursors_grow(self) -> None:
        """Followers of a replica are told a task's recorded states in order, in each epoch."""
        for house in self.houses:
            newest: dict[tuple[TaskKey, str], Event] = {}
            for event in house.told.events:
                if event.cursor.shown:
                    continue
                place = (event.key, event.cursor.epoch)
                before = newest.get(place)
                if before is not None and event.cursor.offset > before.cursor.offset:
                    ended = before.state.status.final and before.state.status is not Status.LOST
                    assert not ended or event.state.status is before.state.status, (before, event)
                newest[place] = event

    def teardown(self) -> None:
        try:
            self.run(self.heal())
        finally:
            self.run(self.world.close())
            self.runner.close()

    async def heal(self) -> None:
        """Everybody heals, and holds the truth; nobody has polled twice since."""
        self.world.away = False
        for number, house in enumerate(self.houses):
            house.cut, house.delay = False, 0.0
            house.loses.clear()
            house.go_on()
            if house._task is None:
                await self.start_again(number)
        await asyncio.sleep(2 * HEALS)
        for number, house in enumerate(self.houses):
            assert house.replica.connection.up, f"{house.name} is not up"
            for one in KEYS:
                self.view(number, one)
        await asyncio.sleep(2.0)
        calm_since = self.clock.monotonic()
        await asyncio.sleep(5 * PACE)
        assert self.world.provider.doubles(since=calm_since) == 0
        for one in KEYS:
            self.world.provider.shows(one, 100)
        await asyncio.sleep(HEALS)
        for house in self.houses:
            assert house.replica.unrecorded == 0, f"{house.name} holds what it told and nobody recorded (I8)"
            assert house.journal.settled(KEYS), f"{house.name} is not settled (I10)"
            for one in KEYS:
                event = await house.latest(one)
                assert event is not None, f"{house.name} knows nothing of {one.ref}"
                assert event.state.status is Status.COMPLETED, (
                    f"{house.name} holds {event.state} of {one.ref}"
                )
                assert not event.cursor.shown


TestFleet = AnyFleet.TestCase
TestFleet.settings = settings(max_examples=10, stateful_step_count=25)
