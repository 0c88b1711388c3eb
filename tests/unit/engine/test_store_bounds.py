"""A store stays as small as what is in use, and no call deletes much at once."""

from __future__ import annotations

import random

import pytest

from bridge.core.task import TaskKey
from bridge.engine.base import (
    LEARNED_SECONDS,
    Apply,
    ApplyOutcome,
    End,
    Job,
    Mode,
    Release,
    Report,
    Take,
    Want,
)
from bridge.engine.store import Store, StoreLimits
from bridge.engine.store.due import DueQueue
from bridge.engine.store.listings import FirstSeen
from bridge.engine.store.retention import STEP
from tests.fakes.engines import START, VirtualTime, state_of

HOUR = 3600.0
DAY = 24 * HOUR


class Use:
    """A store, its time, and a session that never dies."""

    def __init__(self, **limits: float) -> None:
        self.store = Store(StoreLimits(**limits))  # type: ignore[arg-type]
        self.time = VirtualTime()
        self.open("a", 1e9)

    def open(self, name: str, ttl: float) -> None:
        self.store.session(
            name, ttl=ttl, known_head=0, new_epoch="e1", about=b"", opens=True, now=self.time.now
        )

    def record(self, name: str, *, end: End = End.OPEN, size: int = 10) -> None:
        state = state_of(TaskKey("video", name), 1, mode=Mode.FREE, end=end, document=b"x" * size)
        (applied,) = self.apply(state)
        assert applied.outcome is ApplyOutcome.RECORDED

    def apply(self, *states: Apply) -> list:  # type: ignore[type-arg]
        return self.store.apply("a", states, now=self.time.now)

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Let time pass with a call now and then, as renewals are."""
        until = self.time.now + round(seconds * 1e6)
        while self.time.now < until:
            self.time.advance(step)
            self.store.session(
                "a", ttl=1e9, known_head=0, new_epoch="e1", about=b"", opens=False, now=self.time.now
            )


def test_tasks_that_were_only_wanted_are_forgotten() -> None:
    use = Use()
    for number in range(500):
        use.store.want("a", [Want(TaskKey("video", f"w/{number}"))], linger=5, now=use.time.now)
        due = [Release(TaskKey("video", f"w/{number}"), use.time.now)]
        use.time.advance(0.001)
        if number % 2:
            use.store.release("a", due, transfer=True, now=use.time.now)
    use.pass_time(7)
    for number in range(0, 500, 2):
        due = [Release(TaskKey("video", f"w/{number}"), use.time.now)]
        use.store.release("a", due, transfer=False, now=use.time.now)
    use.store.claim("a", account="-", limit=1000, now=use.time.now)
    use.pass_time(120)
    assert len(use.store.tasks) == 0
    assert use.store.tasks.size == 0
    assert not use.store.assignments._wanted
    assert not use.store.assignments._orphans
    assert not use.store.tasks._by_last_part


def test_ended_tasks_are_kept_for_the_retention_and_open_ones_for_a_week() -> None:
    use = Use(retention_seconds=HOUR)
    use.record("ended", end=End.ENDED)
    use.record("open")
    use.record("lost", end=End.LOST)
    use.pass_time(HOUR - 120, step=60)
    assert len(use.store.tasks) == 3
    use.pass_time(240)
    assert [task.key.task_id for task in use.store.tasks.all()] == ["open"]
    use.pass_time(7 * DAY, step=HOUR)
    assert len(use.store.tasks) == 0
    assert use.store.listing("video", "-", limit=5, now=use.time.now) == []
    assert use.store.newest("video", "-", final=False, limit=5, now=use.time.now) == []
    assert not use.store.tasks.listings._by_name
    assert not use.store.tasks.listings._by_account


def test_what_is_owned_wanted_or_kept_is_not_forgotten_however_old() -> None:
    use = Use(retention_seconds=HOUR)
    for name in ("owned", "kept"):
        use.record(name)
    use.store.want("a", [Want(TaskKey("video", "owned"))], linger=1, now=use.time.now)
    use.store.keep("a", TaskKey("video", "kept"), called_back=False, now=use.time.now)
    use.pass_time(30 * DAY, step=HOUR)
    assert {task.key.task_id for task in use.store.tasks.all()} == {"owned", "kept"}


def test_of_too_many_tasks_the_ended_ones_go_first_and_a_few_at_a_time() -> None:
    use = Use(max_tasks=100)
    for number in range(50):
        use.record(f"open-{number}")
    for number in range(200):
        use.record(f"ended-{number}", end=End.ENDED)
    assert len(use.store.tasks) <= 101
    names = {task.key.task_id for task in use.store.tasks.all()}
    assert {f"open-{number}" for number in range(50)} <= names
    assert "ended-199" in names
    assert "ended-0" not in names


def test_memory_of_all_tasks_is_bounded() -> None:
    use = Use(max_bytes=1_000_000)
    for number in range(300):
        use.record(f"ended-{number}", end=End.ENDED, size=20_000)
    assert use.store.tasks.size <= 1_050_000
    assert use.store.census(now=use.time.now).used <= 1_050_000


def test_one_call_deletes_a_bounded_number() -> None:
    use = Use(retention_seconds=HOUR)
    for number in range(1000):
        use.record(f"ended-{number}", end=End.ENDED)
    use.time.advance(2 * HOUR)
    before = len(use.store.tasks)
    use.pass_time(1)
    assert 0 < before - len(use.store.tasks) <= 3 * STEP
    use.pass_time(1, step=0.02)
    assert len(use.store.tasks) == 0


def test_documents_operations_sessions_and_budgets_that_ended_are_forgotten() -> None:
    use = Use()
    for number in range(300):
        use.store.put(f"d{number}", b"x", expect=None, seconds=5, now=use.time.now)
        use.store.begin("a", f"o{number}", b"", seconds=5, now=use.time.now)
        use.store.take("a", Take(f"video/{number}", rate=1.0, slots=1), now=use.time.now)
        use.store.report("a", f"video/{number}", Report.FAILED, now=use.time.now)
    use.open("dead", 1)
    use.pass_time(2 * HOUR, step=5)
    assert not use.store.documents._documents
    assert not use.store.operations._operations
    assert not use.store.budgets._budgets
    assert use.store.sessions.get("dead") is None
    assert use.store.sessions.get("a") is not None


def test_lists_and_counters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.engine.store.documents.MAX_LISTS", 10)
    monkeypatch.setattr("bridge.engine.store.documents.MAX_COUNTERS", 10)
    use = Use()
    for number in range(30):
        use.store.learn(f"l{number}", [b"x"], keep=3, now=use.time.now)
        use.store.hold(f"c{number}", "h", 1.0, limit=5, window=60, now=use.time.now)
    assert len(use.store.samples._lists) == len(use.store.counters._counters) == 10
    assert use.store.learned(["l29", "l0"], now=use.time.now) == [[b"x"], []]


def test_a_list_to_which_nothing_was_added_for_a_week_is_gone() -> None:
    use = Use()
    for number in range(100):
        use.store.learn(f"l{number}", [b"x"], keep=3, now=use.time.now)
    use.time.advance(LEARNED_SECONDS - 1)
    use.store.learn("l7", [b"y"], keep=3, now=use.time.now)
    use.time.advance(2)
    assert use.store.learned(["l7", "l0"], now=use.time.now) == [[b"x", b"y"], []]
    use.store.tidy(use.time.now)
    use.time.advance(1)
    use.store.tidy(use.time.now)
    assert list(use.store.samples._lists) == ["l7"]


def test_finished_queues_leave_nothing() -> None:
    use = Use()
    for number in range(50):
        key = TaskKey("video", str(number))
        jobs = [Job(f"q{number % 5}", str(number), b"x", "o")]
        use.apply(state_of(key, 1, mode=Mode.FREE, jobs=jobs))
    for queue in range(5):
        while jobs := use.store.claim_jobs("a", f"q{queue}", limit=5, lease=30, now=use.time.now):
            for job in jobs:
                assert use.store.finish_job("a", f"q{queue}", job.id, now=use.time.now)
    assert not use.store.jobs._queues


def test_a_time_that_goes_back_neither_stops_nor_repeats_anything() -> None:
    use = Use()
    use.record("one", end=End.ENDED)
    head = use.store.log.head
    use.time.now = START - 3600 * 1_000_000
    use.record("two")
    assert use.store.log.head == head + 1
    use.pass_time(5)
    assert len(use.store.tasks) == 2


def test_a_due_queue_holds_no_more_than_its_items() -> None:
    queue: DueQueue[int] = DueQueue()
    chance = random.Random(1)
    for _ in range(10_000):
        queue.add(chance.randrange(10), chance.randrange(1000))
    assert len(queue) == 10
    assert len(queue._heap) <= 2 * 10 + 65
    order = []
    while (first := queue.first()) is not None:
        order.append(first)
        assert queue.pop(10**9) == first[1]
    assert order == sorted(order, key=lambda one: one[0])
    assert queue.pop(10**9) is None


def test_first_seen_is_compacted_and_keeps_its_order() -> None:
    listing = FirstSeen()
    for offset in range(1000):
        listing.add(offset, TaskKey("video", str(offset)))
    for offset in range(990):
        listing.remove(offset)
        listing.remove(offset)
    assert len(listing) == 10
    assert len(listing._keys) < 200
    listing.add(5, TaskKey("video", "again"))
    found = listing.after(-1, 100)
    assert [offset for offset, _ in found] == [5, *range(990, 1000)]
