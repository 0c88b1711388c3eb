"""What is forgotten, what never is, and that the disk gets its room back."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from bridge.core.task import State, TaskKey
from bridge.journal.sqlite.database import MAX_HISTORY
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.journal.sqlite.retention import OPEN_SECONDS
from bridge.journal.sqlite.storage import EVENTS_PER_TASK
from tests.fakes.clock import FakeClock
from tests.fakes.disk import Witness, opened
from tests.fakes.journal import recorded_after
from tests.fakes.tasks import OTHER, TASK, WALL, state

pytestmark = pytest.mark.anyio

RETENTION = 100.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(unix_time=WALL)


def key(number: int) -> TaskKey:
    return TaskKey("qingbo", f"task-{number}")


async def record(journal: SqliteJournal, *states: tuple[TaskKey, State]) -> None:
    """Append all, in this order."""
    await asyncio.gather(*(journal.append(*one) for one in states))


async def known(journal: SqliteJournal, *numbers: int) -> list[int]:
    """Which of the tasks the journal still knows."""
    found = await journal.latest([key(number) for number in numbers])
    return [number for number, event in zip(numbers, found, strict=True) if event is not None]


def count(path: Path) -> int:
    with sqlite3.connect(path) as peek:
        (events,) = peek.execute("SELECT count(*) FROM events").fetchone()
    peek.close()
    return int(events)


def size(path: Path) -> int:
    return path.stat().st_size


async def test_a_finished_task_is_forgotten_as_a_whole_when_its_time_is_over(
    path: Path, clock: FakeClock
) -> None:
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        await journal.append(TASK, state(progress=1))
        await journal.append(TASK, state("completed"))
        clock.skip(50)
        await journal.append(OTHER, state("completed"))
        clock.skip(RETENTION - 50)
        await journal.tidy()
        assert len(await recorded_after(journal, TASK, 0)) == 2
        clock.skip(1)
        await journal.tidy()
        assert await journal.latest([TASK]) == [None]
        assert await recorded_after(journal, TASK, 0) == []
        assert len(await recorded_after(journal, OTHER, 0)) == 1


async def test_an_open_task_is_kept_a_week(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        event = await journal.append(TASK, state())
        clock.skip(OPEN_SECONDS - 1)
        await journal.tidy()
        assert await journal.unfinished() == [event]
        clock.skip(2)
        await journal.tidy()
        assert await journal.unfinished() == []


async def test_a_task_that_comes_again_is_not_forgotten(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        await journal.append(TASK, state("lost"))
        clock.skip(RETENTION + 1)
        event = await journal.append(TASK, state("completed", changed_at=clock.time()))
        await journal.tidy()
        assert await journal.latest([TASK]) == [event]


async def test_offsets_go_on_although_everything_is_forgotten(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        epoch = journal.epoch
        await record(journal, *((key(number), state("completed")) for number in range(200)))
        clock.skip(RETENTION + 1)
        await journal.tidy()
        assert count(path) == 0
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        assert (journal.epoch, journal.head) == (epoch, 200)
        assert (await journal.append(TASK, state())).cursor.offset == 201


async def test_a_task_keeps_its_newest_256(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock) as journal:
        await record(journal, *((TASK, state(progress=number)) for number in range(EVENTS_PER_TASK + 100)))
        assert len(await recorded_after(journal, TASK, 0)) == EVENTS_PER_TASK
        await journal.tidy()
        kept = await recorded_after(journal, TASK, 0)
        assert [one.state.progress for one in kept] == list(range(100, EVENTS_PER_TASK + 100))
        assert count(path) <= MAX_HISTORY


async def test_by_count_the_finished_go_first_the_longest_quiet_ahead(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock, max_events=10) as journal:
        for number in range(12):
            await journal.append(key(number), state("queued" if number < 4 else "completed"))
        await journal.append(key(4), state("completed", progress=100))
        await journal.tidy()
        assert await known(journal, *range(12)) == [0, 1, 2, 3, 4, 8, 9, 10, 11]
        assert count(path) == 10


async def test_by_count_open_tasks_lose_their_past_before_their_present(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock, max_events=50) as journal:
        await record(journal, *((key(number % 40), state(progress=number)) for number in range(400)))
        await journal.append(key(40), state("completed"))
        await journal.tidy()
        assert len(await journal.unfinished()) == 40
        assert await known(journal, 40) == []
        assert count(path) <= 50
        await record(journal, *((key(number), state()) for number in range(41, 101)))
        await journal.tidy()
        assert [one.key for one in await journal.unfinished()] == [key(number) for number in range(51, 101)]


async def test_a_long_past_goes_in_steps_oldest_first(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock, max_events=20) as journal:
        await record(journal, *((TASK, state(progress=progress)) for progress in range(200)))
        await journal.tidy()
        assert [one.state.progress for one in await recorded_after(journal, TASK, 0)] == list(range(180, 200))


async def test_forgetting_keeps_appends_coming(path: Path, clock: FakeClock) -> None:
    witness = Witness()
    async with opened(path, clock, max_events=100) as journal:
        journal.follow(witness)
        await record(journal, *((key(number), state("completed")) for number in range(600)))
        await journal.tidy()
        assert witness.offsets == list(range(1, 601))
        assert await known(journal, *range(600)) == list(range(500, 600))


async def test_the_disk_gets_its_room_back(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        await record(
            journal, *((key(number), state("completed", raw=bytes(100_000))) for number in range(150))
        )
        large = size(path) + size(path.with_name("bridge.db-wal"))
        clock.skip(RETENTION + 1)
        await journal.tidy()
    assert large > 15_000_000
    assert size(path) < 6_000_000


async def test_forgetting_large_documents_does_not_write_them_again(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        await record(
            journal, *((key(number), state("completed", raw=bytes(400_000))) for number in range(64))
        )
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        clock.skip(RETENTION + 1)
        await journal.tidy()
        written = size(path.with_name("bridge.db-wal"))
        assert count(path) == 0
    assert written < 6_000_000
