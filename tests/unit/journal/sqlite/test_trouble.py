"""Files that cannot be a journal, and disks that stop working under one."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge.core.task import TaskKey
from bridge.errors import JournalError
from bridge.journal.sqlite import database
from bridge.journal.sqlite.journal import STUCK_SECONDS, SqliteJournal
from tests.fakes.clock import FakeClock
from tests.fakes.disk import Disk, Witness, opened, without_privileges
from tests.fakes.journal import recorded_after
from tests.fakes.tasks import OTHER, TASK, state

pytestmark = pytest.mark.anyio

FULL = 2
LARGE = bytes(300_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


async def refusal(path: Path) -> str:
    """The sentence with which a path is refused."""
    with pytest.raises(JournalError) as refused:
        await SqliteJournal.open(path, FakeClock(), retention_seconds=86_400)
    sentence = str(refused.value)
    assert sentence.startswith("the journal ")
    assert "\n" not in sentence
    return sentence


def other_program(path: Path) -> None:
    _execute(path, "CREATE TABLE songs (title)", "INSERT INTO songs VALUES ('x')")


def other_application(path: Path) -> None:
    _execute(path, "PRAGMA application_id = 252006674", "PRAGMA user_version = 1")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def text(path: Path, words: str = "[bridge]\n" * 1000) -> None:
    path.write_text(words)


def content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (other_program, "belongs to another program"),
        (other_application, "belongs to another program"),
        (text, "is not a SQLite database"),
        (Path.mkdir, "is a directory; name a file in it"),
        (fifo, "is not a regular file"),
    ],
)
async def test_what_is_no_journal_is_refused_and_left_alone(
    path: Path, make: Callable[[Path], None], says: str
) -> None:
    make(path)
    before = content(path)
    sentence = await refusal(path)
    assert str(path) in sentence
    assert says in sentence
    assert content(path) == before


async def test_a_path_without_a_directory_is_refused(path: Path) -> None:
    text(path)
    assert "needs the directory" in await refusal(path.parent / "missing" / "bridge.db")
    assert "needs the directory" in await refusal(path / "bridge.db")
    assert "null character" in await refusal(path.parent / "a\0b")


async def test_an_empty_file_is_a_new_journal(path: Path) -> None:
    text(path, "")
    async with opened(path) as journal:
        assert journal.head == 0


async def test_a_journal_of_a_newer_bridge_is_refused(path: Path) -> None:
    async with opened(path):
        pass
    _execute(path, "PRAGMA user_version = 2")
    assert "written by a newer bridge (schema 2" in await refusal(path)


async def test_a_journal_without_its_tables_is_refused(path: Path) -> None:
    async with opened(path):
        pass
    _execute(path, "DROP TABLE meta")
    assert "no such table" in await refusal(path)
    assert "no such table" in await refusal(path), "the lock was let go of"


def allow(path: Path, mode: int) -> None:
    path.chmod(mode)


def move(path: Path, to: Path) -> None:
    path.rename(to)


def overwritten(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 8192))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [overwritten, cut])
@pytest.mark.parametrize("whole", [True, False])
async def test_a_damaged_journal_is_refused(
    path: Path, damage: Callable[[Path], None], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(path) as journal:
        keys = [TaskKey("qingbo", f"task-{number}") for number in range(300)]
        await asyncio.gather(*(journal.append(key, state(raw=bytes(500))) for key in keys))
    damage(path)
    if not whole:
        monkeypatch.setattr(database, "CHECKED_WHOLE_BYTES", 0)
    assert re.search(
        r"is damaged; restore a copy, or move it and its -wal and -shm files away", await refusal(path)
    )


async def test_a_second_bridge_is_refused_and_the_first_goes_on(path: Path) -> None:
    async with opened(path) as journal:
        assert "is in use by another bridge" in await refusal(path)
        assert (await journal.append(TASK, state())).cursor.offset == 1


async def test_a_database_another_program_locks_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.0)
    async with opened(path):
        pass
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "is locked by another program" in await refusal(path)
    other.close()


async def test_a_directory_or_file_that_cannot_be_written_is_refused(path: Path) -> None:
    async with opened(path):
        pass
    path.with_name("bridge.db-lock").unlink()
    allow(path.parent, 0o500)
    with without_privileges():
        assert "give the user the bridge runs as write access" in await refusal(path)
    allow(path.parent, 0o700)
    allow(path, 0o400)
    with without_privileges():
        assert "give the user the bridge runs as write access" in await refusal(path)


async def test_a_full_disk_is_told_at_start(path: Path) -> None:
    disk = Disk()
    disk.fill()
    with pytest.raises(JournalError, match="has no space left on its disk; free some"):
        await SqliteJournal.open(path, FakeClock(), retention_seconds=86_400, connect=disk.connect)


async def test_a_full_disk_refuses_appends_until_it_has_room(path: Path) -> None:
    disk, witness = Disk(), Witness()
    async with opened(path, connect=disk.connect) as journal:
        journal.follow(witness)
        first = await journal.append(TASK, state(progress=1))
        disk.fill()
        with pytest.raises(JournalError, match="no space left on its disk"):
            await journal.append(TASK, state(progress=2, raw=LARGE))
        assert not journal.usable
        await journal.tidy()
        assert not journal.usable, "the probe needs room as well"
        with pytest.raises(JournalError, match="no space left on its disk"):
            await journal.append(TASK, state(progress=3))
        assert await recorded_after(journal, TASK, 0) == witness.heard == [first]
        disk.mend()
        await journal.tidy()
        assert journal.usable
        second = await journal.append(TASK, state(progress=2, raw=LARGE))
        assert second.cursor.offset == 2
        assert await recorded_after(journal, TASK, 0) == witness.heard == [first, second]


@pytest.mark.parametrize(
    "statements",
    [["BEGIN"], ["INSERT INTO tasks"], ["INSERT INTO events"], ["COMMIT"], ["COMMIT", "ROLLBACK"], [""]],
    ids=" and ".join,
)
async def test_whatever_fails_everybody_who_waits_is_told_and_nothing_is_half_done(
    path: Path, statements: list[str]
) -> None:
    disk, witness = Disk(), Witness()
    async with opened(path, connect=disk.connect) as journal:
        journal.follow(witness)
        first = await journal.append(TASK, state())
        disk.turning.clear()
        appends = [asyncio.ensure_future(journal.append(OTHER, state(progress=n))) for n in range(600)]
        await asyncio.sleep(0)
        disk.fail(*statements)
        disk.turning.set()
        told = await asyncio.gather(*appends, return_exceptions=True)
        assert {type(one) for one in told} == {JournalError}
        assert "its disk fails" in str(told[0])
        assert not journal.usable
        disk.mend()
        await journal.tidy()
        assert journal.usable
        assert await journal.latest([OTHER]) == [None]
        last = await journal.append(OTHER, state())
        assert witness.heard == [first, last]
        assert disk.synced == FULL, "as durable as before"
    async with opened(path) as journal:
        assert journal.head == last.cursor.offset == 2


async def test_it_tries_again_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.journal.sqlite.writer.MAINTENANCE_SECONDS", 0.001)
    disk = Disk()
    async with opened(path, connect=disk.connect) as journal:
        disk.fail("INSERT INTO events")
        with pytest.raises(JournalError):
            await journal.append(TASK, state())
        recovered = asyncio.Event()
        monkeypatch.setattr(journal, "recovered", lambda: (SqliteJournal.recovered(journal), recovered.set()))
        disk.mend()
        if not journal.usable:
            await recovered.wait()
        await journal.append(TASK, state())


async def test_a_file_taken_away_makes_it_unusable_until_it_is_back(path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(TASK, state())
        move(path, path.with_name("elsewhere.db"))
        await journal.tidy()
        assert not journal.usable
        with pytest.raises(JournalError, match="moved or deleted while in use; put it back"):
            await journal.append(TASK, state())
        move(path.with_name("elsewhere.db"), path)
        await journal.tidy()
        assert (await journal.append(TASK, state())).cursor.offset == 2


async def test_a_disk_that_never_answers_is_not_usable(path: Path) -> None:
    disk, clock = Disk(), FakeClock()
    async with opened(path, clock, connect=disk.connect) as journal:
        clock.skip(STUCK_SECONDS * 2)
        assert journal.usable, "nobody waits"
        disk.turning.clear()
        appending = asyncio.ensure_future(journal.append(TASK, state()))
        await asyncio.sleep(0)
        assert journal.usable
        clock.skip(STUCK_SECONDS + 1)
        assert not journal.usable
        disk.turning.set()
        await appending
        assert journal.usable


async def test_no_more_wait_than_there_is_room_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.journal.sqlite.journal.MAX_WAITING", 10)
    disk = Disk()
    async with opened(path, connect=disk.connect) as journal:
        disk.turning.clear()
        appends = [asyncio.ensure_future(journal.append(TASK, state(progress=n))) for n in range(11)]
        await asyncio.wait(appends, return_when=asyncio.FIRST_COMPLETED)
        with pytest.raises(JournalError, match="too slow"):
            appends[10].result()
        disk.turning.set()
        assert [(await one).cursor.offset for one in appends[:10]] == list(range(1, 11))


async def test_trouble_while_closing_keeps_what_was_recorded(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    journal = await SqliteJournal.open(path, FakeClock(), retention_seconds=86_400, connect=disk.connect)
    event = await journal.append(TASK, state())
    disk.fail("PRAGMA wal_checkpoint")
    await journal.close()
    assert "journal not shut down cleanly" in caplog.text
    async with opened(path) as journal:
        assert await journal.latest([TASK]) == [event]


async def test_a_bug_answers_whoever_waits(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()
    async with opened(path, connect=disk.connect) as journal:
        disk.meet = lambda statement: statement.startswith("INSERT INTO events") and 1 / 0  # type: ignore[method-assign]
        with pytest.raises(JournalError, match="failed unexpectedly: ZeroDivisionError"):
            await journal.append(TASK, state())
        del disk.meet
        await journal.tidy()
        await journal.append(TASK, state())
    assert "unhandled exception in journal writer" in caplog.text


def _execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()
