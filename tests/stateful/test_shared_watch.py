"""Whoever owns a task, and whenever it is told so, a watch polls only its own and believes the record."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from bridge.core.event import Event, Notice
from bridge.core.merge import merge
from bridge.core.task import Source, State, Status, TaskKey
from bridge.telemetry.metrics import Metrics
from bridge.watchers.pool import Pool
from bridge.watchers.role import Role
from tests.fakes.clock import FakeClock, settle
from tests.fakes.ownership import FakeEngine
from tests.fakes.provider import FakeProvider, make_upstream
from tests.fakes.tasks import TASK, seen

ID = TASK.task_id

shown = st.one_of(
    st.tuples(st.sampled_from(["queued", "processing", "processing", "unknown"]), st.integers(0, 100)),
    st.tuples(st.just("completed"), st.just(100)),
)
faults = st.sampled_from([404, 500, 429, 401])


class Nobody:
    """The watches of another replica, which runs none."""

    def granted(self, *_: Any) -> None:
        pass

    attends = recorded_elsewhere = confirmed_elsewhere = noticed_elsewhere = granted

    def called(self, *_: Any, **__: Any) -> None:
        pass

    cut_off = called


class AnyOwnership(RuleBasedStateMachine):
    """One task that two replicas share: this one, and one that does whatever it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.engine = FakeEngine(self.clock)
        self.here, self.there = self.engine.replica(), self.engine.replica()
        self.there.report_to(Nobody())
        self.provider = FakeProvider(self.clock)
        self.provider.fault = self.polled
        self.provider.shows(ID, "queued", 0)
        metrics = Metrics(CollectorRegistry(), ["qingbo"])
        upstream = make_upstream(self.provider, self.clock, metrics=metrics)
        self.pool = Pool(
            {"qingbo": upstream},
            self.here,
            self.clock,
            metrics,
            random=lambda: 0.5,
            linger_seconds=30.0,
            ownership=self.here,
        )
        self.here.follow(self)
        self.told: list[Event] = []
        self.wanted = 0
        self.polls: list[bool] = []

    # A follower of the journal

    def recorded(self, event: Event) -> None:
        self.told.append(event)

    def noticed(self, key: TaskKey, notice: Notice) -> None:
        pass

    def polled(self, _task: str) -> None:
        """The provider is asked."""
        watcher = self.pool.watcher(TASK)
        assert watcher is not None
        # The lease may end while a poll is on its way, but none begins without it.
        owning = watcher.role is Role.OWNING or (watcher.role is Role.ALONE and not self.here.connected)
        self.polls.append(owning and self.here.may_poll(TASK))

    def do(self, what: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(what, 10))

    @initialize()
    def begin(self) -> None:
        async def start() -> asyncio.Task[None]:
            running = asyncio.ensure_future(self.pool.run())
            await settle()
            return running

        self.running = self.do(start())

    @property
    def record(self) -> Any:
        return self.engine.record(TASK)

    @property
    def newest(self) -> State | None:
        return self.record.events[-1].state if self.record.events else None

    @rule(seconds=st.sampled_from([0.1, 1.0, 2.5, 10.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.clock.advance(seconds))

    @rule(resumes=st.booleans())
    def somebody_comes(self, resumes: bool) -> None:
        async def come() -> None:
            self.pool.want(TASK, resumes=resumes)
            await settle()

        self.do(come())
        self.wanted += 1

    @precondition(lambda self: self.wanted)
    @rule()
    def somebody_leaves(self) -> None:
        self.wanted -= 1
        self.pool.unwant(TASK)

    @rule(what=shown)
    def provider_shows(self, what: tuple[str, int]) -> None:
        self.provider.shows(ID, what[0], float(what[1]))

    @rule(status=faults)
    def provider_fails(self, status: int) -> None:
        self.provider.tasks[ID] = {"http": status}

    @rule(what=shown)
    def recorded_elsewhere(self, what: tuple[str, int]) -> None:
        state = merge(
            self.newest,
            seen(what[0], float(what[1])),
            source=Source.POLL,
            unix_time=self.clock.time(),
        )

        async def record() -> None:
            if state is not None and not self.record.ended:
                self.engine.take(TASK, state, self.there, 0.0)
            await settle()

        self.do(record())

    @rule()
    def another_owns(self) -> None:
        async def take() -> None:
            if not self.record.ended:
                self.record.owner = self.there
                self.here.tell_standing(TASK)
            await settle()

        self.do(take())

    @rule()
    def another_owns_and_nobody_tells(self) -> None:
        if not self.record.ended:
            self.record.owner = self.there

    @rule(due=st.none() | st.floats(-10, 100))
    def granted(self, due: float | None) -> None:
        async def grant() -> None:
            if not self.record.ended and self.here.alive:
                self.record.owner = self.here
                self.record.due = None if due is None else self.clock.monotonic() + due
                self.here.tell_standing(TASK)
            await settle()

        self.do(grant())

    @rule()
    def the_lease_ends(self) -> None:
        self.here.lose_lease()

    @rule()
    def it_hears_late(self) -> None:
        self.here.held = True

    @rule()
    def it_hears_all(self) -> None:
        async def hear() -> None:
            self.here.held = False
            self.here.hear_all()
            await settle()

        self.do(hear())

    @precondition(lambda self: self.here.connected)
    @rule()
    def the_engine_goes_away(self) -> None:
        self.here.cut_off()

    @rule()
    def the_engine_is_back(self) -> None:
        async def back() -> None:
            self.here.held = False
            self.here.come_back()
            await settle()

        self.do(back())

    @rule()
    def a_callback_comes(self) -> None:
        async def call() -> None:
            self.pool.called_back(TASK)
            await settle()

        self.do(call())

    @rule(what=shown)
    def a_call_here_shows_it(self, what: tuple[str, int]) -> None:
        """A submit, a cancel, an alias: recorded whoever polls."""

        async def show() -> None:
            await self.pool.show(TASK, seen(what[0], float(what[1])), Source.SUBMIT)
            await settle()

        if self.here.connected and (self.here.alive or self.record.owner is not self.here):
            before = self.newest
            self.do(show())
            assert (
                merge(self.newest, seen(what[0], float(what[1])), source=Source.POLL, unix_time=0, late=True)
                in (None, self.newest)
                or before != self.newest
            )

    @invariant()
    def it_is_told_in_order_and_nothing_twice(self) -> None:
        recorded = [event for event in self.told if event in self.record.events]
        offsets = [event.cursor.offset for event in recorded]
        assert offsets == sorted(set(offsets))

    @invariant()
    def it_knows_the_newest_state_recorded(self) -> None:
        watcher = self.pool.watcher(TASK)
        if watcher is None or not watcher.hydrated or self.here.held or not self.here.connected:
            return
        if self.newest is not None and watcher.offset:
            assert watcher.watch.known == self.newest

    @invariant()
    def it_polls_what_it_owns(self) -> None:
        assert all(self.polls)
        watcher = self.pool.watcher(TASK)
        if watcher is None or self.here.held or not self.here.connected:
            return
        assert watcher.role is not Role.ALONE
        assert watcher.polls_here == (watcher.role is Role.OWNING)

    def teardown(self) -> None:
        async def end() -> None:
            # Whatever happened: once it owns the task it sees the end, and so does everybody.
            self.here.held, self.here.alive = False, True
            self.here.come_back()
            self.record.persistent = not self.record.ended
            if not self.record.ended:
                self.record.owner = self.here
                self.here.tell_standing(TASK)
            await settle()
            self.provider.shows(ID, "completed", 100.0)
            # A 404 is believed for a minute, and asked about again only for who comes.
            await self.clock.advance(61)
            self.pool.want(TASK)
            for _ in range(40):
                if self.newest is not None and self.newest.status is Status.COMPLETED:
                    break
                await self.clock.advance(10)
            assert self.newest is not None
            assert self.newest.status is Status.COMPLETED
            assert any(event.state.status is Status.COMPLETED for event in self.told)

        async def stop() -> None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)

        try:
            if hasattr(self, "running"):
                self.do(end())
        finally:
            if hasattr(self, "running"):
                self.do(stop())
            self.loop.close()


TestAnyOwnership = AnyOwnership.TestCase
TestAnyOwnership.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
