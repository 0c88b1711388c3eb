"""What only the memory journal does: forget a little at a time, and never more tasks than it may keep."""

from __future__ import annotations

import tracemalloc

import pytest

from bridge.core.task import State, TaskKey
from bridge.journal.memory import EVENT_BYTES, EVENTS_PER_TASK, FORGET_BATCH, MemoryJournal
from tests.fakes.clock import FakeClock
from tests.fakes.journal import recorded_after
from tests.fakes.tasks import OTHER, TASK, state

pytestmark = pytest.mark.anyio


def key(number: int) -> TaskKey:
    return TaskKey("qingbo", f"task-{number}")


def now(clock: FakeClock) -> State:
    return state(changed_at=clock.time())


async def kept(journal: MemoryJournal, count: int) -> list[int]:
    latest = await journal.latest([key(number) for number in range(count)])
    return [number for number, event in enumerate(latest) if event is not None]


async def test_each_process_begins_a_new_history() -> None:
    clock = FakeClock()
    assert (
        MemoryJournal(clock, retention_seconds=86_400).epoch
        != MemoryJournal(clock, retention_seconds=86_400).epoch
    )


async def test_above_the_most_bytes_histories_go_and_the_newest_states_stay() -> None:
    clock = FakeClock()
    journal = MemoryJournal(clock, retention_seconds=86_400, max_bytes=3 * EVENT_BYTES)
    for _ in range(4):
        for number in range(3):
            await journal.append(key(number), now(clock))
    assert await kept(journal, 3) == [0, 1, 2]
    histories = [len(await recorded_after(journal, key(number), 0)) for number in range(3)]
    assert sum(histories) - 3 == 3  # besides the newest of each


async def test_above_the_most_tasks_the_one_quiet_for_longest_goes() -> None:
    clock = FakeClock()
    journal = MemoryJournal(clock, retention_seconds=86_400, max_tasks=3)
    for number in (0, 1, 2, 0, 3):
        await journal.append(key(number), now(clock))
    assert await kept(journal, 4) == [0, 2, 3]
    await journal.append(key(4), now(clock))
    assert await kept(journal, 5) == [0, 3, 4]


async def test_an_append_after_a_long_pause_forgets_a_bounded_number() -> None:
    clock = FakeClock()
    journal = MemoryJournal(clock, retention_seconds=60)
    many = 2 * FORGET_BATCH + 5
    for number in range(many):
        await journal.append(key(number), now(clock))
    clock.skip(1000)
    left = [many]
    for _ in range(3):
        await journal.append(OTHER, now(clock))
        left.append(len(await kept(journal, many)))
    assert left == [many, many - FORGET_BATCH, many - 2 * FORGET_BATCH, 0]


async def test_a_task_keeps_a_bounded_number_of_events() -> None:
    clock = FakeClock()
    journal = MemoryJournal(clock, retention_seconds=86_400)
    for _ in range(EVENTS_PER_TASK + 10):
        await journal.append(TASK, now(clock))
    events = await recorded_after(journal, TASK, 0)
    assert len(events) == EVENTS_PER_TASK
    assert events[0].cursor.offset == 11


async def test_the_price_of_an_open_task_in_bytes() -> None:
    journal = MemoryJournal(FakeClock(), retention_seconds=60)
    keys, known = [TaskKey("qingbo", str(number)) for number in range(2000)], state()
    tracemalloc.start()
    try:
        for key in keys:
            await journal.append(key, known)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken / len(keys) < 800  # without its key and state
