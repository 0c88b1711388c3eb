"""Jobs of a store: never lost, in order, replaced only where that is allowed, and kept over restarts."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bridge.core.task import TaskKey
from bridge.engine.base import JOB_SECONDS, Job, JobLimits, Mode, Waiting
from bridge.engine.store import Store
from bridge.engine.store.changes import Changes, PartKind
from bridge.engine.store.rows import StoreRow, dump, restore
from tests.fakes.engines import START, VirtualTime, state_of

SECOND = 1_000_000
SESSIONS = ("a", "b")


def opened(store: Store, *names: str, now: int, ttl: float = 1e9) -> Store:
    for name in names:
        store.session(name, ttl=ttl, known_head=0, new_epoch="e1", about=b"", opens=True, now=now)
    return store


class Written(NamedTuple):
    """A job of the model."""

    number: int
    replaceable: bool


class JobsOfAStore(RuleBasedStateMachine):
    """Claims, failures, dead sessions and restarts in any order, beside a model of what may be delivered.

    The model is a list per ordering of what was written and neither done nor replaced.
    """

    def __init__(self) -> None:
        super().__init__()
        self.time = VirtualTime()
        self.store = opened(Store(), "writer", *SESSIONS, now=self.time.now)
        self.store.changes = Changes()
        self.rows: dict[tuple[str, bytes], StoreRow] = {}
        self.number = 0
        self.crashes = 0
        self.sessions = list(SESSIONS)
        self.open: dict[str, list[Written]] = {}
        self.held: dict[int, tuple[str, str]] = {}  # number -> session, ordering

    @rule(ordering=st.sampled_from(["x", "y", ""]), replaceable=st.booleans(), later=st.booleans())
    def write(self, ordering: str, replaceable: bool, later: bool) -> None:
        self.number += 1
        due = self.time.now + 3 * SECOND if later else 0
        job = Job("hook", str(self.number), b"body", ordering, due, replaceable=replaceable)
        key = TaskKey("video", str(self.number))
        state = state_of(key, 1, "writer", mode=Mode.FREE, jobs=[job])
        (applied,) = self.store.apply("writer", [state], now=self.time.now)
        assert applied.dropped == 0
        self.open.setdefault(ordering, []).append(Written(self.number, replaceable))

    @rule(which=st.sampled_from([0, 1]), lease=st.sampled_from([1.0, 30.0]), limit=st.integers(1, 3))
    def claim(self, which: int, lease: float, limit: int) -> None:
        session = self.sessions[which]
        for job in self.store.claim_jobs(session, "hook", limit=limit, lease=lease, now=self.time.now):
            self._claimed(session, job)

    def _claimed(self, session: str, job: Job) -> None:
        chain = self.open[job.ordering]
        numbers = [written.number for written in chain]
        place = numbers.index(int(job.id))  # it is neither done nor replaced
        if job.ordering:
            # All before it were replaceable: they have given it their place.
            assert all(written.replaceable for written in chain[:place])
            del chain[:place]
        self.held[int(job.id)] = (session, job.ordering)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), retry=st.booleans())
    def finish(self, data: st.DataObject, retry: bool) -> None:
        number = data.draw(st.sampled_from(sorted(self.held)))
        session, ordering = self.held.pop(number)
        retry_at = self.time.now + 2 * SECOND if retry else 0
        done = self.store.finish_job(session, "hook", str(number), retry_at=retry_at, now=self.time.now)
        if done and not retry:
            self.open[ordering] = [one for one in self.open[ordering] if one.number != number]

    @rule(seconds=st.sampled_from([0.5, 2.0, 31.0]))
    def advance(self, seconds: float) -> None:
        self.time.advance(seconds)

    @rule(which=st.sampled_from([0, 1]))
    def crash(self, which: int) -> None:
        self.store.crash(self.sessions[which], now=self.time.now)
        self.crashes += 1
        self.sessions[which] = f"{SESSIONS[which]}{self.crashes}"
        opened(self.store, self.sessions[which], now=self.time.now)

    @rule()
    def restart(self) -> None:
        self._flush()
        self.store = opened(Store(), "writer", *SESSIONS, now=self.time.now)
        self.sessions = list(SESSIONS)
        restore(self.store, list(self.rows.values()), self.time.now)
        self.store.changes = Changes()
        self.held.clear()

    def _flush(self) -> None:
        assert self.store.changes is not None
        for kind, name in self.store.changes.take()[1]:
            if kind is PartKind.JOB:
                row = dump(self.store, kind, name)
                self.rows[row.kind, row.name] = row
                if row.value is None:
                    del self.rows[row.kind, row.name]

    @invariant()
    def nothing_is_lost(self) -> None:
        (waiting,) = self.store.waiting(["hook"], now=self.time.now)
        kept = {one.number for chain in self.open.values() for one in chain if not one.replaceable}
        have = {int(name) for name in self.store.jobs._queues["hook"].jobs} if waiting.jobs else set()
        assert kept <= have
        for ordering, chain in self.open.items():
            if chain:  # the newest is always there
                assert chain[-1].number in have, ordering

    def _claim_all(self) -> list[Job]:
        return self.store.claim_jobs(self.sessions[0], "hook", limit=9, lease=30, now=self.time.now)

    def teardown(self) -> None:
        """In the end everything that is left arrives, in order."""
        self.time.advance(60)
        while jobs := self._claim_all():
            for job in jobs:
                self._claimed(self.sessions[0], job)
                assert self.store.finish_job(self.sessions[0], "hook", job.id, now=self.time.now)
                chain = self.open[job.ordering]
                self.open[job.ordering] = [one for one in chain if one.number != int(job.id)]
        assert not any(self.open.values())
        assert not self.store.jobs._queues
        self._flush()
        assert not self.rows


TestJobsOfAStore = JobsOfAStore.TestCase
TestJobsOfAStore.settings = settings(max_examples=15, stateful_step_count=40)


def kept_rows(store: Store) -> list[StoreRow]:
    assert store.changes is not None
    rows = [dump(store, kind, name) for kind, name in store.changes.take()[1] if kind is PartKind.JOB]
    return [row for row in rows if row.value is not None]


def restored(rows: list[StoreRow], now: int) -> Store:
    store = opened(Store(), "a", now=now)
    restore(store, rows, now)
    store.changes = Changes()
    return store


def with_jobs(*jobs: Job) -> Store:
    store = opened(Store(), "a", now=START)
    store.changes = Changes()
    store.add_state_jobs(jobs, 7, JobLimits(), now=START)
    return store


def test_a_job_comes_back_as_it_was() -> None:
    store = with_jobs(Job("hook \ud800", "id \xff", b"\xff\0", "x\udcff", 5, replaceable=True))
    again = restored(kept_rows(store), START + SECOND)
    assert again.waiting(["hook \ud800"], now=START + SECOND) == [Waiting(1, START)]
    assert again.claim_jobs("a", "hook \ud800", limit=9, lease=30, now=START + SECOND) == [
        Job("hook \ud800", "id \xff", b"\xff\0", "x\udcff", 5, 1, True, 7)
    ]


def test_a_job_in_flight_at_the_end_gives_its_place_to_the_next_one_and_is_gone_for_good() -> None:
    store = with_jobs(Job("hook", "1", b"", "x", 0, replaceable=True))
    store.claim_jobs("a", "hook", limit=9, lease=30, now=START)
    store.add_state_jobs([Job("hook", "2", b"", "x")], 8, JobLimits(), now=START + SECOND)
    again = restored(kept_rows(store), START + 2 * SECOND)
    (job,) = again.claim_jobs("a", "hook", limit=9, lease=30, now=START + 2 * SECOND)
    assert (job.id, job.attempts) == ("2", 2)
    assert again.waiting(["hook"], now=START + 2 * SECOND) == [Waiting(1, START)]
    assert again.changes is not None
    assert (PartKind.JOB, ("hook", "1")) in again.changes.take()[1]  # so that its row is deleted


def test_jobs_of_the_version_before_are_read() -> None:
    rows = [
        StoreRow("job", b"hook\0second", 0, json.dumps([2, "b", "x", 4, 1]).encode()),
        StoreRow("job", b"hook\0first", 0, json.dumps([1, "a", "x", 3, 2]).encode()),
        StoreRow("job", b"hook\0broken", 0, json.dumps([1, "a", "x", 3, 2, True]).encode()),
        StoreRow("job", b"hook\0broken", 0, json.dumps([1, None, "x", 3, 2, True, 0, 0]).encode()),
        StoreRow("job", b"broken", 0, json.dumps([1, "a", "x", 3, 2, True, 0, 0]).encode()),
    ]
    store = restored(rows, START)
    assert store.waiting(["hook"], now=START) == [Waiting(2, START)]
    assert store.claim_jobs("a", "hook", limit=9, lease=30, now=START) == [
        Job("hook", "first", b"a", "x", 3, 3)
    ]
    # Later ones come behind.
    store.add_state_jobs([Job("hook", "third", b"", "x")], 9, JobLimits(), now=START)
    found = []
    while jobs := store.claim_jobs("a", "hook", limit=9, lease=30, now=START + 40 * SECOND):
        found += [job.id for job in jobs]
        store.finish_job("a", "hook", jobs[0].id, now=START + 40 * SECOND)
    assert found == ["first", "second", "third"]


def test_jobs_that_are_too_old_do_not_come_back() -> None:
    rows = kept_rows(with_jobs(Job("hook", "1", b"", "x"), Job("hook", "2", b"")))
    end = START + round(JOB_SECONDS * SECOND)
    assert restored(rows, end - 1).waiting(["hook"], now=end - 1) == [Waiting(2, START)]
    assert restored(rows, end).waiting(["hook"], now=end) == [Waiting()]


def test_jobs_that_nobody_claims_are_deleted_with_time() -> None:
    store = with_jobs(*(Job(f"q{number}", "1", b"x", "o") for number in range(50)))
    store.session("a", ttl=1e9, known_head=0, new_epoch="e1", about=b"", opens=False,
                  now=START + round(JOB_SECONDS * SECOND))  # fmt: skip
    assert not store.jobs._queues
    assert store.jobs.size == 0


@pytest.mark.parametrize("replaceable", [True, False])
def test_a_queue_takes_the_memory_of_what_is_in_it(replaceable: bool) -> None:
    store = opened(Store(), "a", now=START)
    for number in range(2000):
        job = Job("hook", str(number), b"x" * (number % 7), str(number % 5), replaceable=replaceable)
        store.add_state_jobs([job], number, JobLimits(), now=START + number)
    queue = store.jobs._queues["hook"]
    count = 5 if replaceable else 2000
    assert len(queue.jobs) == len(queue.ages) == sum(map(len, queue.chains.values())) == count
    assert len(queue.ages._heap) <= 2 * count + 64
    assert len(queue.ready) == 5
    while jobs := store.claim_jobs("a", "hook", limit=9, lease=30, now=START + SECOND):
        for one in jobs:
            store.finish_job("a", "hook", one.id, now=START + SECOND)
    assert not store.jobs._queues


@given(st.lists(st.integers(0, 3), max_size=30))
def test_of_one_ordering_the_attempts_never_fall_while_it_fails(moves: list[int]) -> None:
    """Whatever comes behind, a receiver that is down is asked no more often."""
    store, now, attempts, number = opened(Store(), "a", now=START), START, 0, 0
    for move in moves:
        if move < 2:
            number += 1
            job = Job("hook", str(number), b"", "x", now, replaceable=True)
            store.add_state_jobs([job], number, JobLimits(), now=now)
            continue
        now += 5 * SECOND * (move - 1)
        for job in store.claim_jobs("a", "hook", limit=1, lease=600, now=now):
            assert job.attempts == attempts + 1
            attempts = job.attempts
            store.finish_job("a", "hook", job.id, retry_at=now + 5 * SECOND, now=now)
