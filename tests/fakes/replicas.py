"""Several replicas in one event loop without waiting, over one engine that can be cut off, wiped, set back.

The watches here poll like the pool does, without HTTP: one poll an interval while they may, every state
merged with the one known.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bridge.core.cursor import Cursor
from bridge.core.event import Confirmation, Event, Notice
from bridge.core.merge import merge
from bridge.core.task import Observation, Source, State, Status, TaskKey
from bridge.engine.embedded import EmbeddedEngine
from bridge.engine.ownership import KnownTask
from bridge.engine.store import Store
from bridge.errors import EngineUnavailable, JournalError
from bridge.replica.connection import EngineTimes
from bridge.replica.replica import Replica
from tests.fakes.virtual import LoopClock

PACE = 0.5
LEASE = 3.0
LATENCY = 0.001


def key(number: int = 1, account: str = "-") -> TaskKey:
    """A task."""
    return TaskKey("qingbo", f"task-{number}", account)


def observation(progress: float, status: Status | None = None, **fields: Any) -> Observation:
    """What a poll shows."""
    if status is None:
        status = Status.COMPLETED if progress >= 100 else Status.PROCESSING
    return Observation(status=status, progress=progress, **fields)


class Provider:
    """The truth about every task, and who asked when."""

    def __init__(self, clock: LoopClock) -> None:
        self._clock = clock
        self.shown: dict[TaskKey, Observation] = {}
        self.polls: list[tuple[float, str, TaskKey]] = []

    def shows(self, task: TaskKey, progress: float, status: Status | None = None) -> None:
        """From now on."""
        self.shown[task] = observation(progress, status)

    async def poll(self, task: TaskKey, by: str) -> Observation | None:
        """One poll."""
        self.polls.append((self._clock.monotonic(), by, task))
        await asyncio.sleep(LATENCY)
        return self.shown.get(task)

    def polls_of(self, task: TaskKey, since: float = 0.0) -> list[tuple[float, str]]:
        """When and by whom it was polled."""
        return [(at, by) for at, by, polled in self.polls if polled == task and at >= since]

    def doubles(self, min_seconds: float = PACE * 0.8, since: float = 0.0) -> int:
        """Polls of a task nearer to the one before than that."""
        last: dict[TaskKey, float] = {}
        count = 0
        for at, _, task in self.polls:
            if at - last.get(task, float("-inf")) < min_seconds and at >= since:
                count += 1
            last[task] = at
        return count


class World:
    """The engine that all replicas of a test share.

    Attributes:
        away: Whether nobody reaches it.
    """

    def __init__(self, clock: LoopClock) -> None:
        self.clock = clock
        self.engine = EmbeddedEngine(clock=clock)
        self.away = False
        self.provider = Provider(clock)
        self.houses: list[House] = []
        self._copy: Store | None = None

    def house(self, name: str, **options: Any) -> House:
        """One replica more; it is not running yet."""
        house = House(name, self, **options)
        self.houses.append(house)
        return house

    async def started(self, *names: str, **options: Any) -> list[House]:
        """Replicas that run and are up."""
        houses = [self.house(name, **options) for name in names]
        for house in houses:
            house.start()
            await self.until(lambda house=house: house.replica.connection.up)  # type: ignore[misc]
        return houses

    async def until(self, holds: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until something holds."""
        end = self.clock.monotonic() + seconds
        while not holds():
            assert self.clock.monotonic() < end, "it never came true"
            await asyncio.sleep(0.005)

    # Faults of the engine

    def wipe(self) -> None:
        """It restarts without its data."""
        self._replace(Store())

    def save(self) -> None:
        """A copy that replication has reached."""
        self._copy = copy.deepcopy(self.engine.store)

    def fail_over(self) -> None:
        """The copy takes over: what was acknowledged since then is gone, and nobody has told it."""
        assert self._copy is not None
        self._replace(copy.deepcopy(self._copy))

    def restart(self, *, history: bool = True) -> None:
        """It restarts with its data; its history is another one, as an engine says that cannot be sure."""
        store = copy.deepcopy(self.engine.store)
        if history:
            store.log.epoch = ""
        self._replace(store)

    def _replace(self, store: Store) -> None:
        old = self.engine
        self.engine = EmbeddedEngine(clock=self.clock, store=store)
        old._closed = True
        old._wake()

    async def close(self) -> None:
        """End every replica."""
        for house in self.houses:
            await house.kill()


class Wire:
    """The connection of one replica: every call of `Engine`, through what its house suffers."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._engine = house.world.engine
        self._open = True

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)
        house = self._house

        async def call(*args: Any, **options: Any) -> Any:
            await self._travel()
            house.calls.append(name)
            answer = await method(*args, **options)
            if name in house.loses and (answer or name != "claim"):  # an empty one is no loss
                house.loses.discard(name)
                house.cut = True
            await self._travel()
            return answer

        return call

    async def _travel(self) -> None:
        house = self._house
        await house.running.wait()
        await asyncio.sleep(LATENCY + house.delay)
        if house.silent:
            await asyncio.sleep(3600)
        if house.cut or house.world.away or not self._open:
            raise EngineUnavailable("connection reset")

    async def close(self) -> None:
        """Of this connection only."""
        self._open = False


@dataclass
class Told:
    """What followers of one replica were told."""

    events: list[Event] = field(default_factory=list)
    amendments: list[Event] = field(default_factory=list)
    epochs: int = 0
    notices: list[tuple[TaskKey, Notice]] = field(default_factory=list)

    def recorded(self, event: Event) -> None:
        self.events.append(event)

    def amended(self, event: Event) -> None:
        self.amendments.append(event)

    def noticed(self, task: TaskKey, notice: Notice) -> None:
        self.notices.append((task, notice))

    def new_epoch(self) -> None:
        self.epochs += 1


class House:
    """One replica with watches that poll.

    Attributes:
        cut: Whether the engine cannot be reached from here.
        silent: Whether calls get no answer.
        loses: Operations whose next call happens while its answer is lost.
        running: Not set while the process is stopped.
        calls: Operations, in order.
    """

    def __init__(
        self, name: str, world: World, *, linger: float = 30.0, accounts: Iterable[str] = ("-",)
    ) -> None:
        self.name = name
        self.world = world
        self.cut = self.silent = False
        self.delay = 0.0
        self.loses: set[str] = set()
        self.running = asyncio.Event()
        self.running.set()
        self.calls: list[str] = []
        self.clock = StoppableClock(world.clock, self.running)
        self.told = Told()
        self.replica = Replica(
            self._connect,
            self.clock,
            EngineTimes(lease=LEASE, timeout=1.0, alone=600.0),
            linger=linger,
            accounts=lambda: accounts,
            jitter=lambda: 0.5,
        )
        self.journal = self.replica.journal
        self.ownership = self.replica.ownership
        self.journal.follow(self.told)
        self.watches = PollingWatches(self)
        self.ownership.report_to(self.watches)
        self._task: asyncio.Task[None] | None = None

    async def _connect(self) -> Any:
        await self.running.wait()
        await asyncio.sleep(LATENCY)
        if self.cut or self.world.away:
            raise EngineUnavailable("connection refused")
        return Wire(self)

    def start(self) -> None:
        """Run it."""
        self._task = asyncio.create_task(self.replica.run())

    def stop(self) -> None:
        """As SIGSTOP does."""
        self.running.clear()

    def go_on(self) -> None:
        """As SIGCONT does."""
        self.running.set()

    async def kill(self) -> None:
        """As SIGKILL does: nothing is said to anybody."""
        self.watches.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def drain(self) -> None:
        """As SIGTERM does."""
        await self.replica.drain()
        await self.replica.leave()
        await self.kill()

    def view(self, task: TaskKey) -> None:
        """A viewer comes."""
        self.watches.start(task)
        self.ownership.want(task)

    def unview(self, task: TaskKey) -> None:
        """The last viewer has left for long enough."""
        self.watches.forget(task)
        self.ownership.drop(task)

    async def latest(self, task: TaskKey) -> Event | None:
        """What a newcomer gets."""
        (event,) = await self.journal.latest([task])
        return event

    def states(self, task: TaskKey) -> list[tuple[str, float | None]]:
        """What was passed on of a task; what was passed on twice counts once."""
        told: list[tuple[str, float | None]] = []
        for event in self.told.events:
            if event.key == task:
                one = (event.state.status.value, event.state.progress)
                if not told or told[-1] != one:
                    told.append(one)
        return told

    def cursors(self, task: TaskKey) -> list[Cursor]:
        """The cursors of a task that were passed on."""
        return [event.cursor for event in self.told.events if event.key == task]


class StoppableClock(LoopClock):
    """Of a process that can be stopped: time goes on, and nothing runs."""

    def __init__(self, clock: LoopClock, running: asyncio.Event) -> None:
        self._inner = clock
        self._running = running

    def monotonic(self) -> float:
        return self._inner.monotonic()

    def time(self) -> float:
        return self._inner.time()

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)
        await self._running.wait()

    async def wait(self, event: asyncio.Event, seconds: float | None) -> None:
        await self._inner.wait(event, seconds)
        await self._running.wait()


class PollingWatches:
    """The watches of one replica, as the pool has them."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.granted_to: list[TaskKey] = []
        self.attended: list[TaskKey] = []
        self.calls: list[tuple[TaskKey, bool]] = []
        self.notices: list[tuple[TaskKey, Notice]] = []
        self.cut_offs: list[float | None] = []
        self.standings: dict[TaskKey, KnownTask] = {}
        self.errors: list[JournalError] = []
        self.known: dict[TaskKey, State | None] = {}
        self._polls: dict[TaskKey, asyncio.Task[None]] = {}

    def start(self, task: TaskKey) -> None:
        self.known.setdefault(task, None)
        if task not in self._polls:
            self._polls[task] = asyncio.create_task(self._poll(task, None))

    def forget(self, task: TaskKey) -> None:
        self.known.pop(task, None)
        poll = self._polls.pop(task, None)
        if poll is not None:
            poll.cancel()

    def end(self) -> None:
        for poll in self._polls.values():
            poll.cancel()
        self._polls.clear()

    async def _poll(self, task: TaskKey, due: float | None) -> None:
        house = self._house
        clock = house.clock
        if due is not None:
            await clock.sleep(max(due - clock.monotonic(), 0.0))
        while True:
            if not house.ownership.may_poll(task):
                await clock.sleep(0.02)
                continue
            began = clock.monotonic()
            house.ownership.polls(task)
            house.ownership.planned(task, began + PACE)
            seen = await house.world.provider.poll(task, house.name)
            await house.running.wait()
            if seen is not None:
                await self.observe(task, seen)
            known = self.known.get(task)
            if known is not None and known.status.final:
                return
            await clock.sleep(max(began + PACE - clock.monotonic(), 0.0))

    async def observe(self, task: TaskKey, seen: Observation, *, free: bool = False) -> None:
        """Merge and record, as a watch does."""
        house = self._house
        now = house.clock.time()
        state = merge(self.known.get(task), seen, source=Source.POLL, unix_time=now)
        if state is None:
            house.journal.confirm(task, Confirmation(now))
            return
        self.known[task] = state
        try:
            await house.journal.append(task, state, observed_at=house.clock.monotonic(), free=free)
        except JournalError as error:
            self.errors.append(error)
            (event,) = await house.journal.latest([task])
            self.known[task] = event.state if event is not None else None

    # See `bridge.engine.ownership.Watches`

    def granted(self, task: TaskKey, known_task: KnownTask) -> None:
        self.granted_to.append(task)
        self.standings[task] = known_task
        if known_task.event is not None:
            self.known[task] = known_task.event.state
        if task not in self._polls:
            self.known.setdefault(task, None)
            self._polls[task] = asyncio.create_task(self._poll(task, known_task.due))
            self._house.ownership.want(task)
        elif known_task.due is not None:
            self._polls[task].cancel()
            self._polls[task] = asyncio.create_task(self._poll(task, known_task.due))

    def attends(self, task: TaskKey, known_task: KnownTask) -> None:
        self.attended.append(task)
        self.standings[task] = known_task
        if known_task.event is not None and task in self.known:
            self.known[task] = known_task.event.state

    def recorded_elsewhere(self, event: Event) -> None:
        if event.key in self.known:
            self.known[event.key] = event.state

    def forgotten(self, task: TaskKey) -> None:
        known = self.known.get(task)
        if known is not None and known.status.final:
            self._house.unview(task)

    def confirmed_elsewhere(self, task: TaskKey, confirmation: Confirmation) -> None:
        pass

    def noticed_elsewhere(self, task: TaskKey, notice: Notice) -> None:
        self.notices.append((task, notice))

    def called(self, task: TaskKey, *, called_back: bool) -> None:
        self.calls.append((task, called_back))

    def cut_off(self, *, since: float | None) -> None:
        self.cut_offs.append(since)
