"""Several replicas on one engine: whatever dies, stops or forgets, it never lets two of them be right.

The replicas are models that do what the operations allow, in any order and at any time. The engine is the one
that all others are held to (`bridge.engine.store`).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.core.task import TaskKey
from bridge.engine.base import (
    Apply,
    ApplyOutcome,
    BudgetEntry,
    End,
    Entry,
    Mode,
    OperationState,
    Owner,
    Record,
    Release,
    Released,
    Report,
    SessionState,
    Stamp,
    StateEntry,
    Take,
    Want,
)
from bridge.engine.store import Store

KEYS = [TaskKey("qingbo", f"task-{number}") for number in range(3)]
ENDS_AT = 6
"""Which state of a task is its last: 1 is the first."""

SECOND = 1_000_000
LEASE = 3.0
LINGER = 4.0
RATE, MOST = 4.0, 3
CREDENTIAL = "qingbo/-"
START = 1_800_000_000 * SECOND
which = st.integers(0, 2)
task = st.sampled_from(KEYS)


@dataclass
class Model:
    """One replica: what it believes.

    Attributes:
        until: Until when it may poll, by the lease it asked for last; microseconds of its own clock.
        owned: The tasks it was given.
        known: The newest record it has of each task.
        heard: The offset of the newest log entry.
        epoch: Of the engine, when its session began.
        permits: Lent to it.
    """

    name: int
    session: str = ""
    until: int = 0
    epoch: str = ""
    heard: int = 0
    owned: set[TaskKey] = field(default_factory=set)
    known: dict[TaskKey, Record] = field(default_factory=dict)
    permits: int = 0

    def forget(self) -> None:
        """It has died, or its session is over: nobody may act in its name."""
        self.session, self.until, self.permits = "", 0, 0
        self.owned.clear()


class AnyReplicas(RuleBasedStateMachine):
    """Three replicas, one engine, virtual time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.store = Store()
        self.replicas = [Model(number) for number in range(3)]
        self.sessions = self.epochs = 0
        self.truth = dict.fromkeys(KEYS, 1)
        self.entries: dict[tuple[str, int], Entry] = {}
        self.newest_offset = 0
        self.alive_until: dict[str, int] = {}
        self.slots: list[int] = []
        self.lost = False
        self.copies: list[Store] = []
        self.begun: dict[str, str] = {}
        self.sent: dict[str, int] = {}
        self.polls: dict[TaskKey, list[tuple[int, str]]] = {key: [] for key in KEYS}

    def call(self, operation: str, *args: Any, **more: Any) -> Any:
        """One operation of the engine, at this time."""
        answer = getattr(self.store, operation)(*args, **more, now=self.now)
        self.hear()
        return answer

    # Time and the provider

    @rule(milliseconds=st.sampled_from([1, 20, 400, 1000, 2900, 3100, 7000]))
    def time_passes(self, milliseconds: int) -> None:
        self.now += milliseconds * 1000

    @rule(key=task)
    def the_provider_goes_on(self, key: TaskKey) -> None:
        self.truth[key] = min(self.truth[key] + 1, ENDS_AT)

    # Sessions

    @initialize()
    def all_begin(self) -> None:
        for number in range(3):
            self.begin(number)

    @rule(number=which)
    def begin(self, number: int) -> None:
        """It starts, or comes back after its session has ended."""
        replica = self.replicas[number]
        if replica.session:
            return
        self.sessions += 1
        replica.session = f"s{self.sessions}"
        self.renew(number, opens=True)

    @rule(number=which, opens=st.just(value=False))
    def renew(self, number: int, *, opens: bool) -> None:
        replica = self.replicas[number]
        if not replica.session:
            return
        sent, self.epochs = self.now, self.epochs + 1
        # As the engine of Redis: another history than before is a new epoch.
        known = max(replica.heard, self.store.log.head + 1) if self.lost else replica.heard
        before = self.store.log.epoch
        welcome = self.call(
            "session",
            replica.session,
            ttl=LEASE,
            known_head=known,
            new_epoch=f"e{self.epochs:06}",
            about=b"",
            opens=opens,
        )
        self.lost = False
        assert (welcome.epoch > before) if welcome.epoch != before else True, "I4: epochs grow"
        if welcome.state is SessionState.EXPIRED:
            assert self.alive_until.get(replica.session, 0) <= self.now or self.forgotten(replica)
            replica.forget()
            return
        self.alive_until[replica.session] = self.now + round(LEASE * SECOND)
        if opens or welcome.epoch != replica.epoch:
            replica.epoch, replica.heard = welcome.epoch, welcome.head
            self.resync(replica)
        replica.until = sent + round(LEASE * SECOND)

    def forgotten(self, replica: Model) -> bool:
        """Whether the engine lost the session itself."""
        return self.store.sessions.get(replica.session) is None

    @rule(number=which)
    def kill(self, number: int) -> None:
        self.replicas[number].forget()
        self.replicas[number].known.clear()

    @rule(number=which)
    def leave(self, number: int) -> None:
        replica = self.replicas[number]
        if replica.session:
            self.call("leave", replica.session)
            self.alive_until[replica.session] = min(self.alive_until.get(replica.session, 0), self.now)
            replica.forget()

    # Ownership

    @rule(number=which, keys=st.lists(task, min_size=1, max_size=3, unique=True), may_own=st.booleans())
    def want(self, number: int, keys: list[TaskKey], *, may_own: bool) -> None:
        replica = self.replicas[number]
        if not replica.session:
            return
        answers = self.call("want", replica.session, [Want(key, may_own) for key in keys], linger=LINGER)
        for key, answer in zip(keys, answers, strict=True):
            replica.known[key] = answer.record
            replica.owned.discard(key)
            if answer.owner is Owner.ME:
                assert self.is_alive(replica), "a dead session was given a task"
                assert answer.record.end is not End.ENDED
                replica.owned.add(key)

    def resync(self, replica: Model) -> None:
        """What it holds after a new epoch is what the engine says."""
        owned = sorted(replica.owned)
        replica.known.clear()
        if owned:
            self.want(replica.name, owned, may_own=True)

    @rule(number=which, key=task, called_back=st.booleans())
    def keep(self, number: int, key: TaskKey, *, called_back: bool) -> None:
        replica = self.replicas[number]
        if replica.session:
            self.call("keep", replica.session, key, called_back=called_back)

    @rule(limit=st.integers(1, 4))
    def bury(self, limit: int) -> None:
        self.call("bury", limit=limit, spacing=0.1)

    @rule(number=which)
    def claim(self, number: int) -> None:
        replica = self.replicas[number]
        if not replica.session:
            return
        for record in self.call("claim", replica.session, account="-", limit=2):
            assert self.is_alive(replica), "a dead session claimed a task"
            assert record.end is not End.ENDED
            replica.owned.add(record.key)
            replica.known[record.key] = record

    @rule(number=which, key=task)
    def call_owner(self, number: int, key: TaskKey) -> None:
        replica = self.replicas[number]
        if replica.session:
            self.call("call", replica.session, key)

    @rule(number=which, transfer=st.booleans(), milliseconds=st.integers(0, 2000))
    def release(self, number: int, milliseconds: int, *, transfer: bool) -> None:
        replica = self.replicas[number]
        if not replica.session or not replica.owned:
            return
        keys = sorted(replica.owned)
        due = [Release(key, self.now + milliseconds * 1000, 0) for key in keys]
        for key, answer in zip(
            keys, self.call("release", replica.session, due, transfer=transfer), strict=True
        ):
            if answer is not Released.WANTED:
                replica.owned.discard(key)

    # Polls and states

    @rule(number=which, key=task)
    def poll(self, number: int, key: TaskKey) -> None:
        """The owner polls while its lease, as it knows it, has not run out."""
        replica = self.replicas[number]
        if key not in replica.owned or self.now >= replica.until:
            return
        others = [
            one.name
            for one in self.replicas
            if one is not replica and key in one.owned and self.now < one.until
        ]
        assert not others or self.history_was_lost, "I2: two replicas may poll one task"
        self.polls[key].append((self.now, replica.session))
        self.record(replica, key, Mode.OWNER)

    @rule(number=which, key=task)
    def late_write(self, number: int, key: TaskKey) -> None:
        """A replica that was stopped writes what it saw, whatever has happened since."""
        replica = self.replicas[number]
        if replica.session and key in replica.owned:
            self.record(replica, key, Mode.OWNER)

    @rule(number=which, key=task)
    def proxied_read(self, number: int, key: TaskKey) -> None:
        replica = self.replicas[number]
        if replica.session:
            self.record(replica, key, Mode.FREE)

    def record(self, replica: Model, key: TaskKey, mode: Mode) -> None:
        known = replica.known.get(key, Record(key))
        seen = self.truth[key]
        if known.document is not None and int(known.document) >= seen:
            return  # no news
        end = End.ENDED if seen == ENDS_AT else End.OPEN
        state = Apply(
            key=key,
            mode=mode,
            expect=known.version,
            stamp=Stamp(known.version + 1, replica.session),
            end=end,
            digest=b"%d" % seen,
            document=b"%d" % seen,
        )
        before = self.newest_offset
        owner = self.call("records", [key])[0].owner
        (applied,) = self.call("apply", replica.session, [state])
        alive = self.is_alive(replica)
        match applied.outcome:
            case ApplyOutcome.RECORDED:
                assert alive, "a dead session recorded a state"
                assert mode is Mode.FREE or owner == replica.session, "I2: a state of who does not own it"
                assert applied.offset > before, "I4: offsets grow"
            case ApplyOutcome.FENCED:
                assert not alive or (mode is Mode.OWNER and owner != replica.session)
                replica.owned.discard(key)
            case ApplyOutcome.DUPLICATE:
                (record,) = self.call("records", [key])
                assert record.digest == state.digest or record.stamp == state.stamp
        (replica.known[key],) = self.call("records", [key])
        if replica.known[key].end is End.ENDED:
            replica.owned.discard(key)

    # Budget

    @rule(number=which, slots=st.integers(0, 3), permits=st.integers(0, 4))
    def take(self, number: int, slots: int, permits: int) -> None:
        replica = self.replicas[number]
        if not replica.session:
            return
        take = Take(CREDENTIAL, rate=RATE, slots=slots, permits=permits, max_permits=MOST)
        lent = self.call("take", replica.session, take)
        replica.permits = lent.permits
        assert len(lent.slots) <= slots
        assert all(self.now <= at <= self.now + SECOND // 2 for at in lent.slots)
        assert all(at >= lent.paused_until for at in lent.slots)
        self.slots += lent.slots

    @rule(number=which, report=st.sampled_from(Report), seconds=st.sampled_from([0.0, 2.0, math.inf]))
    def report(self, number: int, report: Report, seconds: float) -> None:
        replica = self.replicas[number]
        if replica.session:
            self.call("report", replica.session, CREDENTIAL, report, seconds=seconds)

    # Creates

    @rule(number=which, name=st.sampled_from(["a", "b"]), dies=st.booleans())
    def submit(self, number: int, name: str, *, dies: bool) -> None:
        """A keyed create; its replica may die between the create and the record of it."""
        replica = self.replicas[number]
        if not replica.session:
            return
        operation = self.call("begin", replica.session, name, b"body", seconds=1e6)
        if operation.state is not OperationState.NEW:
            return
        assert self.is_alive(replica), "a dead session began an operation"
        self.sent[name] = self.sent.get(name, 0) + 1
        if dies:
            replica.forget()
        else:
            assert self.call("finish", replica.session, name, b"done")

    # The engine forgets

    @rule()
    def copy_engine(self) -> None:
        """A replica of the engine that lags behind from now on."""
        self.copies = [*self.copies[-1:], copy.deepcopy(self.store)]

    @precondition(lambda self: self.copies)
    @rule()
    def fail_over(self) -> None:
        self.become(self.copies.pop())

    @rule(again=st.integers(0, 9))
    def wipe(self, again: int) -> None:
        if again == 0:
            self.become(Store())

    def become(self, store: Store) -> None:
        self.now += 1000
        self.store, self.lost = store, True
        self.history_was_lost = True
        self.slots.clear()
        self.sent.clear()
        for replica in self.replicas:  # their connections broke: nothing before a session of the new history
            replica.until, replica.permits = min(replica.until, self.now), 0
        self.alive_until = {name: session.until for name, session in self.store.sessions.live(self.now)}
        for number in range(3):
            self.renew(number, opens=False)
            self.begin(number)
        self.history_was_lost = False

    history_was_lost = False

    # What always holds

    def is_alive(self, replica: Model) -> bool:
        return self.now < self.alive_until.get(replica.session, 0)

    def hear(self) -> None:
        """Take in new log entries."""
        epoch = self.store.log.epoch
        for entry in self.store.read(0):
            place = (epoch, entry.offset)
            if place in self.entries:
                assert self.entries[place] == entry, "I5: an epoch has two histories"
                continue
            if entry.offset <= self.newest_offset:
                continue  # of an earlier epoch, still in the log
            assert entry.previous < entry.offset < 2**53
            self.newest_offset = entry.offset
            self.entries[place] = entry
            if isinstance(entry, StateEntry):
                self.check_state(epoch, entry)
            elif isinstance(entry, BudgetEntry):
                assert entry.failures >= 0

    def check_state(self, epoch: str, entry: StateEntry) -> None:
        before = [
            one
            for (of, _), one in self.entries.items()
            if of == epoch and isinstance(one, StateEntry) and one.key == entry.key and one is not entry
        ]
        if before:
            last = before[-1]
            assert last.offset < entry.offset, "I1: offsets of a task grow"
            assert last.stamp.version < entry.stamp.version, "I1: versions grow"
            assert last.end is not End.ENDED or entry.amended, "I1: nothing after the end"

    @invariant()
    def one_owner_each(self) -> None:
        """I2: a task names one session; every replica but that one is refused."""
        for key in KEYS:
            (record,) = self.store.records([key], now=self.now)
            assert record.end is not End.ENDED or not record.owner
            believers = [
                one.name
                for one in self.replicas
                if key in one.owned and self.now < one.until and one.session != record.owner
            ]
            if record.end is End.ENDED:
                continue  # its owner hears of it through the log
            assert not believers, f"I2: {believers} believe to own {key}, and {record.owner!r} does"

    @invariant()
    def the_budget_holds(self) -> None:
        """I6: permits within `most`, start times apart."""
        held = sum(one.permits for one in self.replicas if one.session and self.is_alive(one))
        assert held <= MOST
        apart = round(SECOND / RATE)
        ordered = sorted(self.slots)
        assert all(later - earlier >= apart for earlier, later in pairwise(ordered))

    @invariant()
    def a_create_is_sent_once(self) -> None:
        """I7."""
        assert all(count == 1 for count in self.sent.values()), self.sent

    def teardown(self) -> None:
        """Everybody heals, and the engine ends with the truth."""
        for key in KEYS:
            self.truth[key] = ENDS_AT
        for number in range(3):
            self.renew(number, opens=False)
            self.begin(number)
            self.want(number, KEYS, may_own=True)
        for _ in range(3):
            for number in range(3):
                for key in KEYS:
                    self.poll(number, key)
        if any(self.call("records", [key])[0].end is not End.ENDED for key in KEYS):
            self.now += round(LEASE * SECOND) + SECOND  # who died is found dead
            for number in range(3):
                self.renew(number, opens=False)
                self.begin(number)
            self.want(0, KEYS, may_own=True)
            for key in KEYS:
                self.poll(0, key)
        for record in self.call("records", KEYS):
            assert (record.document, record.end) == (b"%d" % ENDS_AT, End.ENDED), record


TestReplicas = AnyReplicas.TestCase
TestReplicas.settings = settings(max_examples=60, stateful_step_count=40)
