"""Clients that move between replicas of one log that loses entries and is away: nothing missed or twice.

The replicas are models: each has a real hub and the real decisions about cursors, and hears the log when the
test says so. Every state of a task has a progress of its own, so that a state is known by it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from prometheus_client import CollectorRegistry

from bridge.config.settings import Settings
from bridge.core.cursor import Cursor, EventId, is_later, new_epoch
from bridge.core.event import Event
from bridge.core.resume import Relation, compare, unrecorded
from bridge.core.task import State, TaskKey
from bridge.delivery.subscriptions import PendingSubscription, SubscribeRequest, Subscriptions
from bridge.hub import connections
from bridge.hub.hub import Hub
from bridge.hub.subscription import Subscription
from bridge.telemetry.metrics import Metrics
from bridge.wire.formats import SseFormat
from bridge.wire.frames import format_of
from tests.fakes.clock import FakeClock
from tests.fakes.hub import Interests
from tests.fakes.loop import ManualLoop
from tests.fakes.tasks import WALL, state
from tests.fakes.writers import RecordingWriter

KEYS = [TaskKey("qingbo", f"task-{number}") for number in range(3)]
LAST = 8  # versions of a task; the last is its end
lists = st.lists(st.sampled_from(KEYS), min_size=2, max_size=3, unique=True)
some = st.integers(0, 1_000_000)


def version(number: int) -> State:
    """The state of a task after so many changes."""
    status = "completed" if number == LAST else "processing" if number > 1 else "queued"
    return state(status, 100.0 if number == LAST else float(number * 10), changed_at=WALL + number)


def number_of(known: State) -> int:
    """The other way round."""
    return LAST if known.status.final else int((known.progress or 0) / 10)


@dataclass(slots=True)
class Engine:
    """One log, one record for each task, and what each epoch's history was."""

    clock: int = 1_795_905_000_000_000
    epoch: str = ""
    log: list[Event] = field(default_factory=list)
    histories: dict[str, list[Event]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin_epoch()

    def begin_epoch(self, *, forgets: int = 0) -> None:
        """Another history: without the newest entries; offsets go on growing."""
        self.clock += 1000
        self.epoch = new_epoch(self.clock / 1e6, self.clock)
        kept = self.log[: max(0, len(self.log) - forgets)]
        self.log = [Event(one.key, Cursor(self.epoch, one.cursor.offset), one.state) for one in kept]
        self.histories[self.epoch] = self.log

    @property
    def head(self) -> int:
        """The newest offset."""
        return self.log[-1].cursor.offset if self.log else 0

    def record(self, key: TaskKey) -> Event | None:
        """The newest state of a task."""
        return next((one for one in reversed(self.log) if one.key == key), None)

    def append(self, key: TaskKey, known: State) -> None:
        """Record what goes beyond the record."""
        before = self.record(key)
        if before is None or number_of(before.state) < number_of(known):
            self.clock += 10
            self.log.append(Event(key, Cursor(self.epoch, self.clock), known))


class NoPool:
    """A pool that polls nothing."""

    def known_missing(self, key: TaskKey) -> None:
        """No task is missing."""

    def watcher(self, key: TaskKey) -> None:
        """Nothing is watched."""


class Replica:
    """A process: the log tells it of its tasks, and it holds what it saw while the engine was away."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.epoch = engine.epoch
        self.heard = len(engine.log)
        self.head = engine.head
        self.up = True
        self.unsettled: set[TaskKey] = set()
        self.held: dict[TaskKey, Event] = {}
        metrics = Metrics(CollectorRegistry(), ["qingbo"])
        self.hub = Hub(Interests(), metrics, FakeClock())
        self.hub.share(self)
        arguments: Any = (self.hub, NoPool(), self, FakeClock(), metrics)
        waits = Settings.model_construct(first_state_timeout_seconds=0.0, max_connection_age_seconds=600.0)
        self.subscriptions = Subscriptions(*arguments, random=lambda: 0.5, settings=waits)

    # As a journal

    def settled(self, keys: Collection[TaskKey]) -> bool:
        """See `Journal`."""
        return self.up and self.unsettled.isdisjoint(keys)

    async def caught_up(self, cursor: Cursor) -> bool:
        """The wait is over before it begins: the test decides what is heard meanwhile."""
        if cursor.epoch != self.epoch:
            return (self.up and not self.unsettled) or not is_later(cursor.epoch, self.epoch)
        return cursor.offset <= self.head or (self.up and cursor.offset > self.engine.head)

    async def latest(self, keys: Sequence[TaskKey]) -> list[Event | None]:
        """What is held, or asked for."""
        for key in keys:
            if self.up and key in self.unsettled:
                self.ask(key)
        return [self.held.get(key) for key in keys]

    # What happens to it

    def tell(self, event: Event) -> None:
        """A recorded state is heard: it is held, unless what is held goes beyond it."""
        held = self.held.get(event.key)
        if held is not None and held.cursor.epoch == event.cursor.epoch and not held.cursor.shown:
            if event.cursor.offset > held.cursor.offset:
                self.held[event.key] = event
        elif held is None or compare(held.state, event.state) is not Relation.BEHIND:
            self.held[event.key] = event
        else:
            self.held[event.key] = unrecorded(held, self.epoch, event.cursor.offset)
        self.hub.recorded(event)

    def ask(self, key: TaskKey) -> None:
        """What `want` answers."""
        self.unsettled.discard(key)
        record = self.engine.record(key)
        if record is not None:
            self.tell(record)
        held = self.held.get(key)
        if held is not None and (held.cursor.shown or held.cursor.epoch != self.epoch):
            known = 0 if record is None else record.cursor.offset
            self.held[key] = unrecorded(held, self.epoch, known)
            self.hub.recorded(self.held[key])
            self.engine.append(key, held.state)

    def hear(self, entries: int) -> None:
        """Some of the log."""
        if self.up and not self.unsettled:
            for event in self.engine.log[self.heard : self.heard + entries]:
                self.head = event.cursor.offset
                self.tell(event)
            self.heard = min(len(self.engine.log), self.heard + entries)

    def see(self, key: TaskKey, known: State) -> None:
        """It polls a task."""
        held = self.held.get(key)
        if held is not None and number_of(held.state) >= number_of(known):
            return
        if self.up and not self.unsettled:
            self.engine.append(key, known)
        elif not self.up:
            same = held is not None and held.cursor.epoch == self.epoch
            base = held.cursor.offset if held is not None and same else 0
            self.held[key] = unrecorded(Event(key, Cursor(self.epoch, 0), known), self.epoch, base)
            self.hub.recorded(self.held[key])

    def connect(self) -> None:
        """The engine is reached again, perhaps another one: what is known has to be asked for."""
        self.up = True
        self.unsettled = set(KEYS)
        self.heard, self.head = len(self.engine.log), self.engine.head
        if self.epoch != self.engine.epoch:
            self.epoch = self.engine.epoch
            self.hub.new_epoch()


class Client:
    """A viewer: what it holds outlives its streams."""

    def __init__(self, keys: list[TaskKey]) -> None:
        self.keys = keys
        self.token: str | None = None
        self.best = dict.fromkeys(keys, 0)
        self.finals: set[TaskKey] = set()
        self.over = False
        self.replica: Replica | None = None
        self.subscription: Subscription | None = None
        self.pending: PendingSubscription | None = None
        self.writer = RecordingWriter()
        self.parsed = 0
        self.stream: dict[TaskKey, int] = {}

    @property
    def many(self) -> bool:
        """Whether its streams have a list."""
        return len(self.keys) > 1

    def read(self) -> None:
        """Take in what was written, and judge it."""
        for event in self.writer.events[self.parsed :]:
            self.parsed += 1
            if event.name == "reset":
                self.stream.clear()
                self.best = dict.fromkeys(self.keys, 0)
            elif event.name is None:
                document = orjson.loads(event.data)
                key = TaskKey("qingbo", document["task_id"])
                if document["status"] != "unknown":
                    self._take(key, int(document["progress"] / 10), final=document["status"] == "completed")
                assert not (self.many and "~" in (event.id or "")), "an id of an unrecorded state in a list"
            elif event.name == "done":
                assert TaskKey.parse(orjson.loads(event.data)["task"]) in self.finals, "done without the end"
            self.token = event.id or self.token

    def _take(self, key: TaskKey, number: int, *, final: bool) -> None:
        number = LAST if final else number
        before = self.stream.get(key, 0)
        assert number > before, f"{key} went from {before} to {number} on one stream"
        # What a stream of one task has shown is in its cursor. A list's cursor says nothing of what is
        # not recorded: its resume may repeat.
        assert self.many or number > self.best[key], f"{key}: {number} after {self.best[key]} and no reset"
        self.stream[key] = number
        self.best[key] = max(self.best[key], number)
        if final:
            self.finals.add(key)


class Replicas(RuleBasedStateMachine):
    """Three of them, and clients that move."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = ManualLoop()
        self.per_turn = connections.PUSHED_PER_TURN
        self.engine = Engine()
        self.replicas = [Replica(self.engine) for _ in range(3)]
        self.clients: list[Client] = []
        self.truth = dict.fromkeys(KEYS, 0)

    def teardown(self) -> None:
        try:
            self.all_is_well_again()
        finally:
            connections.PUSHED_PER_TURN = self.per_turn

    @initialize(per_turn=st.sampled_from([1, 2, 100]))
    def turns(self, per_turn: int) -> None:
        connections.PUSHED_PER_TURN = per_turn

    def read(self) -> None:
        for client in self.clients:
            client.read()

    # The provider, the log and the engine

    @rule(key=st.sampled_from(KEYS), replica=st.integers(0, 2), steps=st.integers(1, 3))
    def see(self, key: TaskKey, replica: int, steps: int) -> None:
        self.truth[key] = min(LAST, self.truth[key] + steps)
        with self.loop.running():
            self.replicas[replica].see(key, version(self.truth[key]))

    @rule(replica=st.integers(0, 2), entries=st.integers(1, 4))
    def hear(self, replica: int, entries: int) -> None:
        with self.loop.running():
            self.replicas[replica].hear(entries)

    @rule(turns=st.integers(1, 5))
    def some_turns(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.turn()
        self.read()

    @rule(replica=st.integers(0, 2))
    def cut_off(self, replica: int) -> None:
        self.replicas[replica].up = False

    @rule(replica=st.integers(0, 2))
    def heal(self, replica: int) -> None:
        one = self.replicas[replica]
        if not one.up:
            with self.loop.running():
                one.connect()

    @rule(replica=st.integers(0, 2), key=st.sampled_from(KEYS))
    def ask(self, replica: int, key: TaskKey) -> None:
        one = self.replicas[replica]
        if one.up and key in one.unsettled:
            with self.loop.running():
                one.ask(key)

    @rule(forgets=st.integers(0, 6))
    def fail_over(self, forgets: int) -> None:
        self.engine.begin_epoch(forgets=forgets)
        for one in self.replicas:
            one.up = False

    # Clients

    @rule(keys=lists | st.sampled_from(KEYS).map(lambda key: [key]))
    def arrive(self, keys: list[TaskKey]) -> None:
        if len(self.clients) < 8:
            self.clients.append(Client(keys))

    @rule(choice=some, replica=st.integers(0, 2))
    def open(self, choice: int, replica: int) -> None:
        there = [one for one in self.clients if one.subscription is None and not one.over]
        if there:
            self._open(there[choice % len(there)], self.replicas[replica])

    def _open(self, client: Client, replica: Replica) -> None:
        request = SubscribeRequest(client.keys, client.token)
        client.writer, client.parsed, client.stream = RecordingWriter(), 0, {}
        fmt = format_of(SseFormat, mark=request.mark)
        subscription = replica.subscriptions.reserve(fmt)
        pending = self.loop.run(replica.subscriptions.open(subscription, request, wait_for_state=False))
        if pending.ended:
            assert set(client.keys) == client.finals, "204 to a client that lacks an end"
            client.over = True
            replica.hub.leave(subscription, "left")
            return
        client.replica, client.subscription, client.pending = replica, subscription, pending

    @rule(choice=some)
    def begin(self, choice: int) -> None:
        there = [one for one in self.clients if one.pending is not None]
        if there:
            self._begin(there[choice % len(there)])

    def _begin(self, client: Client) -> None:
        assert client.subscription is not None
        assert client.replica is not None
        assert client.pending is not None
        pending, client.pending = client.pending, None
        client.subscription.begin(client.writer, client.subscription.fmt)
        self.loop.run(client.replica.subscriptions.begin(pending))
        client.read()

    @rule(choice=some)
    def leave(self, choice: int) -> None:
        there = [one for one in self.clients if one.subscription is not None]
        if there:
            self._leave(there[choice % len(there)])

    def _leave(self, client: Client) -> None:
        client.read()
        assert client.subscription is not None
        assert client.replica is not None
        client.replica.hub.leave(client.subscription, "left")
        client.over = client.writer.finished is not None and client.finals >= set(client.keys)
        client.subscription = client.pending = client.replica = None

    @rule(choice=some, paused=st.booleans())
    def stall_or_wake(self, choice: int, paused: bool) -> None:
        there = [one for one in self.clients if one.subscription is not None]
        if there:
            writer = there[choice % len(there)].writer
            with self.loop.running():
                writer.pause() if paused else writer.wake()

    @invariant()
    def a_cursor_covers_what_was_recorded(self) -> None:
        for client in self.clients:
            client.read()
            event_id = EventId.parse(client.token) if client.token else None
            history = self.engine.histories.get(event_id.cursor.epoch, []) if event_id is not None else []
            for event in history:
                if event_id is not None and event.key in client.keys:
                    held = LAST if event.key in client.finals else client.best[event.key]
                    if event.cursor.offset <= event_id.cursor.offset:
                        assert held >= number_of(event.state), f"{client.token} covers an unseen {event}"

    def all_is_well_again(self) -> None:
        """Every client holds the truth in the end, wherever it is."""
        for number in range(3):
            self.heal(number)
            for key in KEYS:
                self.ask(number, key)
        for key in KEYS:
            self.see(key, 0, LAST)
        for client in self.clients:
            if client.pending is not None:
                self._begin(client)
            elif client.subscription is None and not client.over:
                self._open(client, self.replicas[1])
                if client.pending is not None:
                    self._begin(client)
            with self.loop.running():
                client.writer.wake()
        for number in range(3):
            self.hear(number, len(self.engine.log))
        self.loop.settle()
        self.read()
        for client in self.clients:
            assert client.finals >= set(client.keys), f"{client.token}: an end was missed"


TestReplicas = Replicas.TestCase
TestReplicas.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
