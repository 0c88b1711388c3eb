"""Clients that move between replicas of one log that loses entries and is away: nothing missed or twice.

The replicas are models: each has a real hub and the real decisions about cursors, and hears the log when the
test says so. Every state of a task has a progress of its own, so that a state is known by it.
"""

from __future__ import annotations

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bridge.core.cursor import EventId
from bridge.core.task import TaskKey
from bridge.delivery.subscriptions import PendingSubscription, SubscribeRequest
from bridge.hub import connections
from bridge.hub.subscription import Subscription
from bridge.wire.formats import SseFormat
from bridge.wire.frames import format_of
from tests.fakes.loop import ManualLoop
from tests.fakes.shared import KEYS, LAST, Engine, Replica, number_of, version
from tests.fakes.writers import RecordingWriter

lists = st.lists(st.sampled_from(KEYS), min_size=2, max_size=3, unique=True)
some = st.integers(0, 1_000_000)


class Client:
    """A viewer: what it holds outlives its streams."""

    def __init__(self, keys: list[TaskKey]) -> None:
        self.keys = keys
        self.token: str | None = None
        self.best = dict.fromkeys(keys, 0)  # since the last reset
        self.ever = dict.fromkeys(keys, 0)
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
        self.ever[key] = max(self.ever[key], number)
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

    @rule(replica=st.integers(0, 2))
    def time_passes(self, replica: int) -> None:
        with self.loop.running():
            self.replicas[replica].wait()

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
                covered = event_id is not None and event.cursor.offset <= event_id.cursor.offset
                if covered and event.key in client.keys:
                    unseen = f"{client.token} covers an unseen {event}"
                    assert client.ever[event.key] >= number_of(event.state), unseen

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
            with self.loop.running():
                self.replicas[number].wait()
        self.loop.settle()
        self.read()
        for client in self.clients:
            assert client.finals >= set(client.keys), f"{client.token}: an end was missed"


TestReplicas = Replicas.TestCase
TestReplicas.settings = settings(max_examples=25, stateful_step_count=60, deadline=None)
