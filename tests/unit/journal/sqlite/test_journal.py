"""The journal in a file: what it keeps, in which order it tells, and how it ends."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.task import Status, TaskKey
from bridge.errors import JournalError
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.journal.sqlite.storage import MAX_OFFSET
from tests.fakes.clock import FakeClock
from tests.fakes.disk import Disk, Witness, opened
from tests.fakes.journal import recorded_after
from tests.fakes.tasks import OTHER, TASK, state

pytestmark = pytest.mark.anyio

STALE = Notice(NoticeCode.STALE, "not confirmed")
HOSTILE = [
    TaskKey("qingbo", "'; DROP TABLE events; --"),
    TaskKey("qingbo", "a/b/../c?d=%00#e"),
    TaskKey("qingbo", "nul\0inside"),
    TaskKey("qingbo", "half a pair \ud83d"),
    TaskKey("qingbo", "任务" * 80, account="'\" OR 1=1"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


@pytest.fixture(params=[1, 1_000_000], ids=["nothing at hand", "newest at hand"])
def at_hand(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


async def test_what_is_appended_is_found_again(path: Path, at_hand: int) -> None:
    async with opened(path, newest_bytes=at_hand) as journal:
        first = await journal.append(TASK, state(progress=1), observed_at=12.5)
        other = await journal.append(OTHER, state(raw=b"{}"))
        last = await journal.append(TASK, state("completed", progress=100))
        assert [one.cursor.offset for one in (first, other, last)] == [1, 2, 3]
        assert {one.cursor.epoch for one in (first, other, last)} == {journal.epoch}
        assert await journal.latest([TASK, OTHER, TaskKey("vapi", "none"), TASK]) == [last, other, None, last]
        assert await recorded_after(journal, TASK, 0) == [first, last]
        assert await recorded_after(journal, TASK, 1) == [last]
        assert (
            await recorded_after(journal, TASK, 3)
            == await recorded_after(journal, TASK, MAX_OFFSET + 5)
            == []
        )
        assert await recorded_after(journal, TASK, -7) == [first, last]
        assert await journal.unfinished() == [other]
        assert journal.head == 3


async def test_it_goes_on_after_it_was_closed(path: Path, at_hand: int) -> None:
    async with opened(path, newest_bytes=at_hand) as journal:
        epoch = journal.epoch
        for progress in range(3):
            await journal.append(TASK, state(progress=progress, raw=b"\0\xff"), observed_at=99.0)
        await journal.append(OTHER, state("completed"))
    async with opened(path, newest_bytes=at_hand) as journal:
        assert (journal.epoch, journal.head) == (epoch, 4)
        [newest] = await journal.unfinished()
        assert (newest.key, newest.cursor.offset, newest.observed_at) == (TASK, 3, 0.0)
        assert newest.state == state(progress=2, raw=b"\0\xff")
        assert await journal.latest([TASK]) == [newest]
        assert [one.state.progress for one in await recorded_after(journal, TASK, 0)] == [0, 1, 2]
        assert (await journal.append(TASK, state())).cursor.offset == 5


async def test_a_new_file_is_a_new_epoch_and_for_our_eyes_only(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as one, opened(tmp_path / "b.db") as other:
        assert one.epoch != other.epoch
        assert one.epoch.isalnum()
        assert one.head == 0
        assert stat.S_IMODE((tmp_path / "a.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", [":memory:", "file:x?mode=memory", "100% #1.db", "日志.db"])
async def test_any_file_name_is_a_file(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with opened(Path(name)) as journal:
        await journal.append(TASK, state())
    assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize("key", HOSTILE, ids=range(len(HOSTILE)))
async def test_names_are_values_never_statements(path: Path, key: TaskKey) -> None:
    async with opened(path, newest_bytes=1) as journal:
        assert await journal.latest([key]) == [None]
        event = await journal.append(key, state())
        await journal.append(TaskKey(key.upstream, key.task_id, "somebody else"), state(progress=1))
        assert await journal.latest([key]) == [event]
        assert await recorded_after(journal, key, 0) == [event]


async def test_followers_hear_everything_in_journal_order(path: Path) -> None:
    witness = Witness()
    async with opened(path) as journal:
        journal.follow(witness)
        keys = [TaskKey("qingbo", f"task-{number % 50}") for number in range(1000)]
        events = await asyncio.gather(
            *(journal.append(key, state(progress=number)) for number, key in enumerate(keys))
        )
        assert [one.cursor.offset for one in events] == list(range(1, 1001))
        assert [(one.key, one.state.progress) for one in events] == list(zip(keys, range(1000), strict=True))
        assert witness.heard == events
        journal.announce(TASK, STALE)
        assert witness.heard[1000:] == [STALE]
        kept = await recorded_after(journal, keys[7], 0)
        assert kept == [one for one in events if one.key == keys[7]]


async def test_nobody_hears_or_reads_what_is_not_yet_told(path: Path) -> None:
    async with opened(path) as journal:
        appending = asyncio.ensure_future(journal.append(TASK, state()))
        await asyncio.sleep(0)
        peek = sqlite3.connect(path)
        while not peek.execute("SELECT count(*) FROM events").fetchone()[0]:
            pass  # the loop has had no turn to tell anybody
        peek.close()
        assert journal.head == 0
        assert journal._reader.latest([TASK], journal.head) == [None]
        event = await appending
        assert [one and one[0] for one in journal._reader.latest([TASK], journal.head)] == [event]


async def test_a_follower_with_a_bug_keeps_nobody_waiting(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Witness):
        def recorded(self, event: Event) -> None:
            raise ZeroDivisionError

    witness = Witness()
    async with opened(path) as journal:
        journal.follow(Broken())
        journal.follow(witness)
        event = await journal.append(TASK, state())
        assert witness.heard == [event]
    assert "unhandled exception in journal follower" in caplog.text


async def test_a_cancelled_append_happened_and_is_told(path: Path) -> None:
    disk, witness = Disk(), Witness()
    async with opened(path, connect=disk.connect) as journal:
        journal.follow(witness)
        disk.turning.clear()
        appending = asyncio.ensure_future(journal.append(TASK, state()))
        await asyncio.sleep(0)
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
        disk.turning.set()
        second = await journal.append(OTHER, state())
        assert witness.offsets == [1, 2]
        assert [one.cursor.offset for one in await recorded_after(journal, TASK, 0)] == [1]
        assert second.cursor.offset == 2


async def test_what_was_read_never_hides_what_was_appended_meanwhile(path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(TASK, state("completed"))
    async with opened(path) as journal:
        reading = asyncio.ensure_future(journal.latest([TASK]))
        await asyncio.sleep(0)
        newer = await journal.append(TASK, state(progress=5))
        await reading
        assert await journal.latest([TASK]) == [newer]


async def test_closing_flushes_and_leaves_one_file_and_no_thread(path: Path) -> None:
    before = set(threading.enumerate())
    journal = await SqliteJournal.open(path, FakeClock(), retention_seconds=86_400)
    witness = Witness()
    journal.follow(witness)
    appends = [asyncio.ensure_future(journal.append(TASK, state(progress=n))) for n in range(600)]
    await asyncio.sleep(0)
    await asyncio.gather(journal.close(), journal.close())
    await journal.close()
    assert [one.result().cursor.offset for one in appends] == witness.offsets == list(range(1, 601))
    assert set(threading.enumerate()) <= before
    assert sorted(one.name for one in path.parent.iterdir()) == ["bridge.db", "bridge.db-lock"]
    assert not journal.usable
    for refused in (journal.append(TASK, state()), journal.latest([OTHER]), journal.unfinished()):
        with pytest.raises(JournalError, match="is closed"):
            await refused
    await journal.tidy()


def test_it_can_be_closed_after_its_loop_is_gone(path: Path) -> None:
    async def begin() -> SqliteJournal:
        journal = await SqliteJournal.open(path, FakeClock(), retention_seconds=86_400)
        await journal.append(TASK, state(progress=1))
        left = asyncio.ensure_future(journal.append(TASK, state(progress=2)))
        await asyncio.sleep(0)
        left.cancel()
        return journal

    async def read() -> list[float | None]:
        async with opened(path) as journal:
            return [one.state.progress for one in await recorded_after(journal, TASK, 0)]

    asyncio.run(asyncio.wait_for(_close(asyncio.run(begin())), 10))
    assert asyncio.run(read()) == [1, 2]


async def _close(journal: SqliteJournal) -> None:
    await journal.close()


async def test_an_opening_that_was_cancelled_lets_go_of_the_file(path: Path) -> None:
    threads = set(threading.enumerate())
    opening = asyncio.ensure_future(SqliteJournal.open(path, FakeClock(), retention_seconds=86_400))
    await asyncio.sleep(0)
    [writer] = set(threading.enumerate()) - threads
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    writer.join()
    async with opened(path) as journal:
        assert journal.usable


async def test_finished_tasks_are_at_hand_while_open_ones_leave_room(path: Path) -> None:
    """Whatever is let go of is read again, and is the same."""
    keys = [TaskKey("qingbo", f"task-{number}") for number in range(40)]
    async with opened(path, newest_bytes=20_000) as journal:
        events = [
            await journal.append(key, state("completed" if number % 3 else "queued"))
            for number, key in enumerate(keys)
        ]
        assert await journal.latest(keys) == events
        assert await journal.latest(keys[::-1]) == events[::-1]
        open_tasks = [one for one in events if one.state.status is Status.QUEUED]
        assert await journal.unfinished() == open_tasks


async def test_lost_tasks_of_an_older_file_are_found_without_reading_the_others(path: Path) -> None:
    """The index is created when a file of an earlier version is opened."""
    async with opened(path) as journal:
        lost = [await journal.append(TaskKey("qingbo", f"lost-{n}"), state("lost")) for n in range(3)]
        await journal.append(TASK, state("completed"))
        await journal.append(lost[1].key, state("completed"))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX events_lost")
    connection.close()
    async with opened(path) as journal:
        assert [one.key for one in await journal.lost(10)] == [lost[2].key, lost[0].key]
        assert [one.key for one in await journal.lost(1)] == [lost[2].key]
        await journal.append(lost[0].key, state("completed"))
        assert [one.key for one in await journal.lost(10)] == [lost[2].key]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT sql FROM sqlite_master WHERE name = 'events_lost'").fetchone()
    connection.close()


async def test_when_tasks_were_first_seen_outlives_restarts_and_older_files(path: Path) -> None:
    """The column is added when a file of an earlier version is opened; the oldest state stands in for it."""
    async with opened(path) as journal:
        await journal.append(TASK, state(progress=1, changed_at=1000.5))
        await journal.append(TASK, state(progress=2, changed_at=1010.0))
    async with opened(path) as journal:
        await journal.append(TASK, state("completed", changed_at=1020.0))
        assert await journal.first_seen([TASK]) == [1000.5]
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX tasks_by_account")
        connection.execute("ALTER TABLE tasks DROP COLUMN first_seen")
    connection.close()
    async with opened(path) as journal:
        await journal.append(OTHER, state(changed_at=2000.0))
        assert await journal.first_seen([TASK, OTHER]) == [1000.5, 2000.0]
        assert list(await journal.newest("qingbo", "-", final=True, limit=5)) == [TASK]
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE tasks SET first_seen = 'rubbish'")
    connection.close()
    async with opened(path) as journal:
        assert await journal.first_seen([TASK, OTHER]) == [1000.5, 2000.0]
