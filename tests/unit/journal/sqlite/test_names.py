"""Tags and groups in a journal's file: older versions, workers, damage, and disks that fail."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.task import TaskKey
from bridge.engine.base import ApplyOutcome, Job, Mode
from bridge.engine.store import Store
from bridge.engine.store.changes import Changes
from bridge.engine.store.rows import dump
from bridge.errors import JournalError
from bridge.journal.base import Listed
from bridge.journal.sqlite import database
from bridge.journal.sqlite.backup import back_up
from bridge.journal.sqlite.codec import encode
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.store_file import Batch, StoreFile
from tests.fakes.clock import FakeClock
from tests.fakes.disk import Disk, opened
from tests.fakes.engines import VirtualTime, state_of
from tests.fakes.journal import recorded_after
from tests.fakes.tasks import OTHER, TASK, state

pytestmark = pytest.mark.anyio

DETAILS = TaskDetails(webhook="https://a/hook", tags=("user-1", "video"), group="batch")
PUT_ROW = "INSERT OR REPLACE INTO engine"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


def key(number: int, account: str = "-") -> TaskKey:
    return TaskKey("qingbo", f"task-{number}", account)


@contextmanager
def vandal(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of another program."""
    connection = sqlite3.connect(path)
    with connection:
        yield connection
    connection.close()


async def fill(path: Path, count: int = 6) -> None:
    """Tasks of one tag and two groups, the first half ended."""
    async with opened(path) as journal:
        for number in range(count):
            journal.describe(key(number), TaskDetails(tags=("all",), group=f"g{number % 2}"))
            await journal.append(key(number), state())
        for number in range(count // 2):
            await journal.append(key(number), state("completed"))


async def found(journal: SqliteJournal, **which: Any) -> list[TaskKey]:
    return [one.key for one in await journal.listing("qingbo", "-", **which)]


def rows_of_names(path: Path) -> int:
    with vandal(path) as connection:
        (count,) = connection.execute("SELECT count(*) FROM task_names").fetchone()
    return int(count)


# What is to be written with the next state


async def test_what_a_task_was_submitted_with_outlives_a_registration_that_finds_no_state(path: Path) -> None:
    async with opened(path) as journal:
        journal.describe(TASK, DETAILS)
        await journal.register(TASK, TaskDetails(tags=("late",)))
        await journal.append(TASK, state())
        assert await journal.details_of([TASK]) == [DETAILS]


@pytest.mark.parametrize("forgets", [True, False])
async def test_what_a_task_was_submitted_with_outlives_a_change_that_fails(
    path: Path, *, forgets: bool
) -> None:
    disk = Disk()
    async with opened(path, connect=disk.connect) as journal:
        await journal.append(TASK, state())
        journal.describe(TASK, DETAILS)
        disk.fail("BEGIN")
        with pytest.raises(JournalError):
            await (journal.forget(TASK) if forgets else journal.register(TASK, NO_DETAILS))
        disk.mend()
        await journal.tidy()
        await journal.append(TASK, state("completed"))
        assert await journal.details_of([TASK]) == [DETAILS]


# Listings of whole accounts


def has_place_index(path: Path) -> bool:
    with vandal(path) as connection:
        return database.has_place_index(connection)


async def test_a_file_has_no_index_for_listings_until_somebody_lists(path: Path) -> None:
    await fill(path)
    async with opened(path) as journal:
        assert await found(journal, tag="all", limit=1) == [key(5)]
        assert not has_place_index(path)
        assert await found(journal, limit=2) == [key(5), key(4)]
        assert has_place_index(path)
        await journal.append(key(9), state())
        assert await found(journal, limit=2) == [key(9), key(5)]
    async with opened(path) as journal:
        assert await found(journal, limit=2) == [key(9), key(5)]


async def test_listings_are_right_while_their_index_cannot_be_created(path: Path) -> None:
    await fill(path)
    disk = Disk()
    async with opened(path, connect=disk.connect) as journal:
        await journal.append(TaskKey("vapi", "1"), state())
        disk.fail("CREATE INDEX")
        assert await found(journal, limit=2) == [key(5), key(4)]
        assert journal.usable
        await journal.append(key(9), state())  # is not refused for it
        assert await found(journal, limit=2) == [key(9), key(5)]
        assert not has_place_index(path)
        disk.mend()
        assert await found(journal, limit=2) == [key(9), key(5)]
        assert has_place_index(path)


async def test_no_statement_has_numbered_parameters(path: Path) -> None:
    """Some versions of Python warn of each, at each append."""

    class Watched(sqlite3.Connection):
        def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
            statements.append(statement)
            return super().execute(statement, values)

    statements: list[str] = []
    async with opened(
        path, connect=lambda path: sqlite3.connect(path, isolation_level=None, factory=Watched)
    ) as journal:
        journal.describe(TASK, DETAILS)
        await journal.append(TASK, state())
        await journal.register(TASK, TaskDetails(tags=("late",)))
        await journal.append(TASK, state("completed"))
        assert await journal.forget(TASK)
        await journal.tidy()
    assert len(statements) > 20
    assert not [one for one in statements if re.search(r"[?:@$]\d", one)]


# Starts


async def test_names_and_details_outlive_restarts(path: Path) -> None:
    await fill(path)
    async with opened(path) as journal:
        assert await found(journal, tag="all") == [key(number) for number in (5, 4, 3, 2, 1, 0)]
        assert await found(journal, group="g1", tag="all", limit=2) == [key(5), key(3)]
        assert journal.details(key(5)).group == "g1"
        assert journal.details(key(0)) == NO_DETAILS
        assert (await journal.details_of([key(0)]))[0].group == "g0"
        await journal.register(key(0), TaskDetails(tags=("all", "late")))
    async with opened(path) as journal:
        assert await journal.listing("qingbo", "-", tag="late") == [
            Listed(1, key(0), TaskDetails(tags=("all", "late"), since=9))
        ]
        assert key(0) not in await found(journal, group="g0")


async def test_an_offset_is_never_assigned_again_after_the_newest_task_is_forgotten(path: Path) -> None:
    await fill(path)
    async with opened(path) as journal:
        event = await journal.append(OTHER, state("completed"))
        assert await journal.forget(OTHER)
    async with opened(path) as journal:
        assert journal.head == event.cursor.offset
        assert await journal.latest([OTHER]) == [None]
        assert (await journal.append(OTHER, state())).cursor.offset == event.cursor.offset + 1


def make_old(path: Path) -> None:
    """A file as the version before wrote it: tasks are numbered, and there is no index by names."""
    with vandal(path) as connection:
        connection.execute("DROP TABLE task_names")
        connection.execute("DROP TRIGGER task_names_of_deleted")
        connection.execute("DROP INDEX IF EXISTS tasks_by_place")
        ids = [id_ for (id_,) in connection.execute("SELECT id FROM tasks ORDER BY id")]
        for number, id_ in enumerate(ids, start=1):
            connection.execute("UPDATE tasks SET id = ? WHERE id = ?", (number, id_))
            connection.execute("UPDATE events SET task = ? WHERE task = ?", (number, id_))


async def test_a_file_of_an_older_version_is_listed_by_first_state(path: Path) -> None:
    async with opened(path) as journal:
        for number in range(4):
            for progress in range(3):
                await journal.append(key(number), state(progress=progress))
    make_old(path)
    async with opened(path) as journal:
        assert await found(journal) == [key(3), key(2), key(1), key(0)]
        event = await journal.append(key(9), state())
        await journal.append(key(1), state("completed"))
        assert await found(journal) == [key(9), key(3), key(2), key(1), key(0)]
        ((place, _, _),) = await journal.listing("qingbo", "-", limit=1)
        assert place == event.cursor.offset == 13


async def test_tags_that_are_in_the_rows_of_tasks_are_indexed_when_the_index_is_created(path: Path) -> None:
    await fill(path, 300)
    make_old(path)
    async with opened(path) as journal:
        assert await found(journal, group="g1", limit=3) == [key(299), key(297), key(295)]
        assert len(await found(journal, tag="all", limit=1000)) == 300


async def test_what_an_older_version_adds_and_deletes_is_known(path: Path) -> None:
    await fill(path)
    with vandal(path) as connection:
        insert = "INSERT INTO tasks (upstream, account, task_id, newest, kept, open, changed_at, first_seen)"
        names = (b"qingbo", b"-", b"theirs")
        connection.execute(f"{insert} VALUES (?, ?, ?, 10, 1, 1, {FakeClock().time()}, 1.0)", names)
        row = "(10, (SELECT id FROM tasks WHERE task_id = x'746865697273'), 0.0, ?, NULL)"
        connection.execute(f"INSERT INTO events VALUES {row}", (encode(state()),))
        connection.execute("DELETE FROM tasks WHERE task_id = CAST('task-5' AS BLOB)")
        connection.execute("DELETE FROM events WHERE task NOT IN (SELECT id FROM tasks)")
    assert rows_of_names(path) == 10
    async with opened(path) as journal:
        assert await found(journal, limit=2) == [TaskKey("qingbo", "theirs"), key(4)]
        assert await found(journal, tag="all", limit=2) == [key(4), key(3)]
        (newest, *_) = await journal.listing("qingbo", "-")
        event = await journal.append(key(5), state())
        assert event.cursor.offset > newest.first_offset


async def test_a_copy_has_the_names_too(path: Path, tmp_path: Path) -> None:
    await fill(path)
    copy = tmp_path / "copy.db"
    async with opened(path) as journal:
        back_up(path, copy)
        listed = await journal.listing("qingbo", "-", tag="all")
    async with opened(copy) as journal:
        assert await journal.listing("qingbo", "-", tag="all") == listed
        await journal.forget(key(0))
    assert rows_of_names(copy) == 10


# What is deleted, and what it costs


async def test_nothing_is_left_of_deleted_tasks(path: Path) -> None:
    clock = FakeClock()
    async with opened(path, clock, retention_seconds=60.0) as journal:
        for number in range(4):
            journal.describe(key(number), DETAILS)
            await journal.append(key(number), state("completed"))
        await journal.forget(key(0))
        await journal.register(key(1), NO_DETAILS)
        clock.skip(61)
        await journal.tidy()
    with vandal(path) as connection:
        for table in ("tasks", "events", "task_names"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
        assert connection.execute("SELECT count(*) FROM engine WHERE kind = 'task'").fetchone() == (0,)


async def test_a_task_that_retention_deletes_is_said_to_be_forgotten(path: Path) -> None:
    heard: list[TaskKey] = []

    class Index:
        def described(self, key: TaskKey, details: TaskDetails) -> None:
            pass

        def forgotten(self, key: TaskKey) -> None:
            heard.append(key)

    clock = FakeClock()
    async with opened(path, clock, retention_seconds=60.0) as journal:
        journal.follow_index(Index())
        await journal.append(TASK, state("completed"))
        clock.skip(61)
        await journal.tidy()
        assert heard == [TASK]


class Counting(Disk):
    """A disk that counts statements."""

    def __init__(self) -> None:
        super().__init__()
        self.statements: Counter[str] = Counter()

    def meet(self, statement: str) -> None:
        """Count, then fail if it is time to."""
        self.statements[" ".join(statement.split()[:3])] += 1
        super().meet(statement)


@pytest.mark.parametrize(("described", "statements"), [(False, 14), (True, 30)])
async def test_a_group_of_states_takes_few_statements(path: Path, described: bool, statements: int) -> None:
    """Few for 256 states, in the two to four groups that the thread makes of them."""
    disk = Counting()
    async with opened(path, connect=disk.connect) as journal:
        journal.describe(TASK, DETAILS)
        await journal.append(TASK, state())
        await journal.tidy()
        disk.statements.clear()
        for number in range(256):
            if described:
                journal.describe(key(number), DETAILS)
        await asyncio.gather(*(journal.append(key(number), state()) for number in range(256)))
        assert disk.statements.total() <= statements, disk.statements


@pytest.mark.parametrize(
    "statement", ["INSERT INTO tasks", "INSERT OR REPLACE INTO engine", "INSERT OR IGNORE"]
)
async def test_a_state_whose_names_cannot_be_written_is_not_recorded(path: Path, statement: str) -> None:
    disk = Disk()
    async with opened(path, connect=disk.connect) as journal:
        journal.describe(TASK, DETAILS)
        disk.fail(statement)
        with pytest.raises(JournalError, match="its disk fails"):
            await journal.append(TASK, state())
        disk.mend()
        await journal.tidy()
        assert await found(journal, tag="video") == []
        await journal.append(TASK, state())
        assert await found(journal, tag="video") == [TASK]


@pytest.mark.parametrize(
    "statement", ["BEGIN", "INSERT OR REPLACE INTO engine", "DELETE FROM task_names", "COMMIT"]
)
async def test_a_registration_that_fails_changes_nothing(path: Path, statement: str) -> None:
    disk = Disk()
    async with opened(path, connect=disk.connect) as journal:
        journal.describe(TASK, DETAILS)
        await journal.append(TASK, state())
        disk.fail(statement)
        with pytest.raises(JournalError, match="its disk fails"):
            await journal.register(TASK, TaskDetails(tags=("other",)))
        assert not journal.usable
        with pytest.raises(JournalError):
            await journal.register(TASK, TaskDetails(tags=("other",)))
        disk.mend()
        await journal.tidy()
        assert await journal.details_of([TASK]) == [DETAILS]
        assert journal.details(TASK) == DETAILS
        assert await found(journal, tag="other") == []
        await journal.register(TASK, TaskDetails(tags=("other",)))
        assert await found(journal, tag="other") == [TASK]
        assert await found(journal, tag="video") == []


@pytest.mark.parametrize(
    "statement", ["BEGIN", "DELETE FROM events", "DELETE FROM tasks", "UPDATE meta", "COMMIT"]
)
async def test_a_deletion_that_fails_deletes_nothing(path: Path, statement: str) -> None:
    disk = Disk()
    async with opened(path, connect=disk.connect) as journal:
        journal.describe(TASK, DETAILS)
        await journal.append(TASK, state())
        await journal.append(TASK, state("processing"))
        disk.fail(statement)
        with pytest.raises(JournalError, match="its disk fails"):
            await journal.forget(TASK)
        disk.mend()
        await journal.tidy()
        assert len(await recorded_after(journal, TASK, 0)) == 2
        assert journal.details(TASK) == DETAILS
        assert await found(journal, tag="video") == [TASK]
        assert await journal.forget(TASK)
        assert await found(journal) == []


async def test_a_caller_that_is_cancelled_does_not_stop_what_it_began(path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(TASK, state("completed"))
        await journal.append(OTHER, state("completed"))
        steps = [
            asyncio.ensure_future(journal.register(TASK, DETAILS)),
            asyncio.ensure_future(journal.forget(OTHER)),
        ]
        await asyncio.sleep(0)
        for step in steps:
            step.cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        await journal.append(key(1), state())
        assert await found(journal, tag="video") == [TASK]
        assert await journal.latest([OTHER]) == [None]


async def test_a_closed_journal_takes_no_names(path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(TASK, state())
    for step in (journal.register(TASK, DETAILS), journal.forget(TASK)):
        with pytest.raises(JournalError, match="is closed"):
            await step


async def test_jobs_and_details_of_a_state_are_written_together(path: Path) -> None:
    class Planner:
        def plan(self, key: TaskKey, previous: Any, known: Any, details: TaskDetails) -> list[Job]:
            return [Job("hook", key.task_id, b"body")] if known.status.final else []

        def written(self, key: TaskKey, jobs: Any, dropped: int) -> None:
            pass

    async with opened(path) as journal:
        journal.planner = Planner()
        journal.describe(TASK, DETAILS)
        await journal.append(TASK, state("completed"))
    async with opened(path) as journal:
        assert await found(journal, group="batch") == [TASK]
        assert [job.id for job in await journal.ledger.claim_jobs("hook", limit=9, lease=1)] == [TASK.task_id]


# Damage


async def test_hostile_rows_of_the_index_find_nothing_of_others(path: Path) -> None:
    await fill(path)
    async with opened(path) as journal:
        await journal.append(key(1, "theirs"), state())
    with vandal(path) as connection:
        (theirs,) = connection.execute(
            "SELECT id FROM tasks WHERE account = CAST('theirs' AS BLOB)"
        ).fetchone()
        insert = "INSERT INTO task_names VALUES (?, ?, ?, ?, ?)"
        for task in (theirs, 2**63 - 1, -(2**63), 0, "text", b"\xff", 1.5, 10**6):
            connection.execute(insert, (b"qingbo", b"-", "tag", b"all", task))
        connection.execute(insert, ("qingbo", "-", "group", "g0", 2))
        connection.execute(insert, (b"qingbo", b"-", "group", b"g0", 2))  # it is in g1
        connection.execute(insert, (b"\xff", b"\xff", b"\xff", b"\xff\x00", 1))
    async with opened(path) as journal:
        everything = [key(number) for number in (5, 4, 3, 2, 1, 0)]
        assert await found(journal, tag="all") == everything
        assert await found(journal, tag="all", limit=3) == everything[:3]
        assert await found(journal, group="g0") == everything[1::2]
        assert await found(journal, group="g0", tag="all") == everything[1::2]
        for number in range(6):
            await journal.forget(key(number))
        assert await found(journal, tag="all") == []


async def test_the_damaged_row_of_a_task_costs_its_names_alone(path: Path) -> None:
    await fill(path)
    with vandal(path) as connection:
        connection.execute(
            "UPDATE engine SET value = x'ff00' WHERE substr(name, -6) = CAST('task-1' AS BLOB)"
        )
        connection.execute("UPDATE engine SET value = 'text' WHERE substr(name, -6) = CAST('task-3' AS BLOB)")
        connection.execute(
            "UPDATE engine SET value = ? WHERE substr(name, -6) = CAST('task-4' AS BLOB)", (b"[" * 100_000,)
        )
    async with opened(path) as journal:
        assert await found(journal, tag="all") == [key(5), key(2), key(0)]
        assert await found(journal) == [key(number) for number in (5, 4, 3, 2, 1, 0)]
        assert await journal.details_of([key(1), key(3), key(4)]) == [NO_DETAILS] * 3
        await journal.register(key(1), DETAILS)
        await journal.append(key(4), state("completed"))
        assert await found(journal, tag="video") == [key(1)]


@pytest.mark.parametrize("id_", [0, -5, 2**62, 2**63 - 1, 40])
async def test_a_task_with_an_impossible_place_stops_no_other(path: Path, id_: int) -> None:
    await fill(path)
    with vandal(path) as connection:
        connection.execute("UPDATE tasks SET id = ? WHERE id = 3", (id_,))
        connection.execute("UPDATE events SET task = ? WHERE task = 3", (id_,))
    async with opened(path) as journal:
        for number in range(10, 60):
            await journal.append(key(number), state())
        listed = await found(journal, limit=1000)
        assert len(listed) == len(set(listed)) >= 55
        assert key(2) in listed or id_ != 40
        assert await journal.latest([key(2)]) != [None]


async def test_damaged_pages_of_the_index_cost_no_task(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large file is not checked as a whole, but each deletion needs the index."""
    monkeypatch.setattr(database, "CHECKED_WHOLE_BYTES", 0)
    await fill(path, 100)
    with vandal(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        roots = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE tbl_name = 'task_names' AND rootpage"
        )
        pages = [page for (page,) in roots]
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * 4096 + 8)
            file.write(b"\xff" * 600)
    async with opened(path) as journal:
        assert len(await found(journal, limit=1000)) == 100
        assert await found(journal, tag="all", limit=2) == [key(99), key(98)]
        assert await journal.forget(key(99))


# Workers


def keeper(path: Path) -> tuple[Store, StoreFile, VirtualTime]:
    file = StoreFile.open(path, FakeClock(), Retention(seconds=1e9, max_events=10**6))
    store, time = Store(), VirtualTime()
    file.load(store, 32, 2**30, time.now)
    store.changes = Changes()
    store.session("a", ttl=20, known_head=0, new_epoch="e0", about=b"", opens=True, now=time.now)
    return store, file, time


def write(store: Store, file: StoreFile) -> None:
    changes = store.changes
    assert changes is not None
    forgotten = changes.take_forgotten()
    states, touched = changes.take()
    rows = [dump(store, kind, name) for kind, name in touched]
    file.write(Batch(changes.count, store.log.epoch, store.log.head, states, rows, forgotten))


def record(store: Store, time: VirtualTime, key: TaskKey, version: int, **options: Any) -> None:
    time.advance(1)
    one = state_of(key, version, mode=Mode.FREE, document=encode(state()), **options)
    (applied,) = store.apply("a", [one], now=time.now)
    assert applied.outcome is ApplyOutcome.RECORDED


async def test_a_process_alone_finds_what_workers_tagged(path: Path) -> None:
    store, file, time = keeper(path)
    record(store, time, key(1), 1, details=DETAILS.encode())
    record(store, time, key(2), 1, details=TaskDetails(tags=("video",)).encode())
    record(store, time, key(3), 1)
    write(store, file)
    store.register("a", key(4), DETAILS.encode(), now=time.now)  # not seen yet
    store.register("a", key(2), TaskDetails(tags=("other",)).encode(), now=time.now)
    write(store, file)
    record(store, time, key(1), 2)
    record(store, time, key(4), 1)
    write(store, file)
    file.close()
    async with opened(path) as journal:
        assert await found(journal) == [key(4), key(3), key(2), key(1)]
        assert await found(journal, tag="video") == [key(4), key(1)]
        assert await found(journal, tag="other") == [key(2)]
        assert await found(journal, tag="user-1", group="batch") == [key(4), key(1)]
        await journal.register(key(3), DETAILS)
        await journal.append(key(4), state("completed"))
    store, file, time = keeper(path)
    store.register("a", key(3), NO_DETAILS.encode(), now=time.now)
    write(store, file)
    file.close()
    async with opened(path) as journal:
        assert await found(journal, tag="video") == [key(4), key(1)]
    assert rows_of_names(path) == 7


async def test_what_workers_forget_is_gone_from_the_file(path: Path) -> None:
    store, file, time = keeper(path)
    for number in range(3):
        record(store, time, key(number), 1, details=DETAILS.encode())
    write(store, file)
    changes = store.changes
    assert changes is not None
    record(store, time, key(0), 2)  # in the same group as the deletion
    changes.forgot(key(0), store.log.head)
    changes.forgot(key(1), store.log.head)
    write(store, file)
    file.close()
    with vandal(path) as connection:
        assert connection.execute("SELECT count(*) FROM tasks").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (1,)
    assert rows_of_names(path) == 3
