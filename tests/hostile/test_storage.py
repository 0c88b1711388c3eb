"""What wears a journal down: damaged rows, a write-ahead log with holes, clocks that are wrong."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.core.event import Event
from bridge.core.task import Status, TaskKey
from bridge.errors import JournalError
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.journal.sqlite.wal import UNREADABLE, committed_frames
from tests.fakes.clock import FakeClock
from tests.fakes.disk import opened
from tests.fakes.journal import recorded_after
from tests.fakes.tasks import OTHER, TASK, WALL, state

pytestmark = pytest.mark.anyio

WEEK = 7 * 86_400.0
YEAR = 365 * 86_400.0
RETENTION = 86_400.0
FRAME_HEAD, LOG_HEAD, PAGE = 24, 32, 4096

RUBBISH: list[Any] = [
    b"\x00\xff\x80rubbish",
    b"",
    b"{",
    b"[]",
    b"null",
    b"[" * 100_000,
    "text with \ud7ff",
    7,
    1.5,
    b'{"status":"nonsense","source":"poll","changed_at":1.0,"observed_at":1.0}',
    b'{"status":"queued","source":"poll","changed_at":"yesterday","observed_at":1.0}',
    b'{"status":"queued","source":"poll","changed_at":1.0,"observed_at":1.0,"progress":"half"}',
    b'{"status":"queued","source":"poll","changed_at":1.0,"observed_at":1.0,"outputs":[7]}',
    b'{"status":"queued","source":"poll","changed_at":1.0,"observed_at":1.0,"outputs":[{"type":7}]}',
    b'{"status":["queued"],"source":"poll"}',
    b'{"status":"queued","source":"poll","changed_at":1.0,"observed_at":1.0,"error":"E1"}',
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


def key(number: int) -> TaskKey:
    return TaskKey("qingbo", f"task-{number}")


@contextlib.contextmanager
def vandal(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection to the file."""
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


async def fill(path: Path, **options: Any) -> tuple[str, list[Event]]:
    """Three open tasks and a finished one, each with two states."""
    async with opened(path, **options) as journal:
        events = [await journal.append(key(number), state(progress=1)) for number in range(4)]
        events += [await journal.append(key(number), state(progress=2)) for number in range(3)]
        events.append(await journal.append(key(3), state("completed", progress=100)))
        return journal.epoch, events


@pytest.mark.parametrize("rubbish", RUBBISH, ids=range(len(RUBBISH)))
async def test_a_state_that_is_rubbish_costs_only_itself(
    path: Path, rubbish: Any, caplog: pytest.LogCaptureFixture
) -> None:
    epoch, events = await fill(path)
    damaged = events[5]  # the newest of task 1
    with vandal(path) as connection:
        connection.execute("UPDATE events SET state = ? WHERE offset = ?", (rubbish, damaged.cursor.offset))
    async with opened(path, newest_bytes=1) as journal:
        assert journal.epoch == epoch
        others = [events[4], events[6], events[7]]
        assert await journal.latest([key(0), key(2), key(3)]) == others
        assert await journal.latest([key(1)]) == [events[1]], "the state before it counts"
        assert await recorded_after(journal, key(1), 0) == [events[1]]
        assert {one.key for one in await journal.unfinished()} == {key(0), key(1), key(2)}
        assert (await journal.append(key(1), state("completed"))).cursor.offset == 9
    [report] = [one for one in caplog.records if one.msg == "journal row damaged"]
    told: Any = report
    assert (told.file, told.table, told.row) == (str(path), "events", damaged.cursor.offset)
    assert told.cure
    assert "rubbish" not in str(told.error)


async def test_an_open_task_of_which_nothing_can_be_read_is_still_open(path: Path) -> None:
    await fill(path)
    with vandal(path) as connection:
        connection.execute("UPDATE events SET state = x'00', raw = 'x', seen = 'never'")
    async with opened(path) as journal:
        known = await journal.unfinished()
        assert [(one.key, one.state.status) for one in known] == [
            (key(number), Status.UNKNOWN) for number in range(3)
        ]
        assert await journal.latest([key(3)]) == [None], "asked for again"
        assert await journal.lost(10) == []
    with vandal(path) as connection:
        connection.execute("DELETE FROM events")
    async with opened(path) as journal:
        assert {one.key for one in await journal.unfinished()} == {key(number) for number in range(3)}
        assert (await journal.append(TASK, state())).cursor.offset == 9


TASK_COLUMNS = ["upstream", "account", "task_id", "newest", "kept", "open", "changed_at"]
EVENT_COLUMNS = ["task", "seen", "state", "raw"]
VALUES = st.sampled_from(
    [None, "text", "\x00", b"\xff\xfe", b"", 0, -1, 2, 10**6, 2**62, 2**63 - 1, -(2**63), 1e300, -1e300, 0.5]
)
DAMAGE = st.tuples(st.sampled_from(TASK_COLUMNS), st.just("tasks"), VALUES) | st.tuples(
    st.sampled_from(EVENT_COLUMNS), st.just("events"), VALUES
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filled journal whose columns take anything, as a damaged page would."""
    path = tmp_path_factory.mktemp("template") / "bridge.db"
    asyncio.run(fill(path, clock=FakeClock(unix_time=WALL)))
    with vandal(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')")
    with vandal(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(DAMAGE, min_size=1, max_size=3))
def test_whatever_one_row_holds_the_others_live(
    template: Path, tmp_path: Path, damage: list[tuple[str, str, Any]]
) -> None:
    """Row 2 of each table is task 1; all that is asked of the others is as before, after retention too."""
    path = tmp_path / "bridge.db"
    for suffix in ("-wal", "-shm", "-lock"):
        path.with_name(f"bridge.db{suffix}").unlink(missing_ok=True)
    shutil.copy(template, path)
    with vandal(path) as connection:
        for column, table, value in damage:
            row = {"tasks": "id = 2", "events": "offset IN (2, 6)"}[table]
            with contextlib.suppress(sqlite3.IntegrityError):
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE {row}", (value,))
    with vandal(path) as connection:  # the columns as they were, so that SQLite's own check sees it too
        connection.execute("PRAGMA writable_schema = ON")
        sql = "UPDATE sqlite_master SET sql = replace(replace(sql, ' BLOB,', ' BLOB NOT NULL,'), ' REAL,', "
        connection.execute(sql + "' REAL NOT NULL,') WHERE name = 'tasks'")
    asyncio.run(_others_live(path))


@pytest.mark.parametrize("time", ["1e300", "9e18", "'late'", "x'00'"])
async def test_a_finished_task_with_an_impossible_time_is_forgotten_like_others(
    path: Path, time: str
) -> None:
    clock = FakeClock(unix_time=WALL)
    await fill(path, clock=clock)
    with vandal(path) as connection:
        connection.execute(f"UPDATE tasks SET changed_at = {time} WHERE open = 0")
    async with opened(path, clock, newest_bytes=1, retention_seconds=RETENTION) as journal:
        clock.skip(RETENTION + 1)
        await journal.tidy()
        assert await journal.latest([key(3)]) == [None]
        assert {one.key for one in await journal.unfinished()} == {key(0), key(1), key(2)}


async def _others_live(path: Path) -> None:
    clock = FakeClock(unix_time=WALL)
    async with opened(path, clock, newest_bytes=1, max_events=7, retention_seconds=RETENTION) as journal:
        others = [key(0), key(2)]
        latest = await journal.latest([*others, key(1)])
        assert [one.state.progress for one in latest[:2] if one] == [2, 2]
        assert {key(0), key(2)} <= {one.key for one in await journal.unfinished()}
        assert len(await recorded_after(journal, key(0), 0)) == 2
        await journal.lost(10)
        await journal.tidy()  # deletes something, as there are eight events
        assert journal.usable
        assert [one is not None for one in await journal.latest(others)] == [True, True]
        event = await journal.append(OTHER, state())
        assert 8 < event.cursor.offset < 10**17
        await journal.append(key(1), state("completed"))
        clock.skip(RETENTION + 1)
        await journal.tidy()
        assert journal.usable
        assert [one is not None for one in await journal.latest([*others, key(3)])] == [True, True, False]


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        ("UPDATE meta SET value = NULL WHERE name = 'epoch'", False),
        ("UPDATE meta SET value = x'ff00' WHERE name = 'epoch'", False),
        ("UPDATE meta SET value = 'a b' WHERE name = 'epoch'", False),
        ("DELETE FROM meta WHERE name = 'epoch'", False),
        ("UPDATE meta SET value = NULL WHERE name = 'head'", False),
        ("UPDATE meta SET value = 'many' WHERE name = 'head'", False),
        ("UPDATE meta SET value = 9223372036854775807 WHERE name = 'head'", False),
        ("DELETE FROM meta WHERE name = 'head'", False),
        ("UPDATE meta SET value = 1e300 WHERE name = 'time'", True),
        ("UPDATE meta SET value = 'noon' WHERE name = 'time'", True),
        ("DELETE FROM meta WHERE name = 'time'", True),
        ("INSERT INTO events VALUES (9223372036854775807, 1, 0.0, x'00', NULL)", True),
        ("INSERT INTO events VALUES (-5, 1, 0.0, x'00', NULL)", True),
    ],
)
async def test_a_damaged_position_is_a_new_epoch_and_no_more(path: Path, statement: str, kept: bool) -> None:
    epoch, events = await fill(path)
    with vandal(path) as connection:
        connection.execute(statement)
    async with opened(path) as journal:
        await journal.tidy()
        assert (journal.epoch == epoch) is kept
        assert journal.epoch.isalnum()
        found = await journal.latest([key(number) for number in range(4)])
        open_tasks = [one.state for one in found[:3] if one]
        assert open_tasks == [one.state for one in events[4:7]]
        assert found[3] is not None or "1e300" in statement, "beyond that a task is over for days"
        assert (await journal.append(TASK, state())).cursor.offset == 9


# The clock


class Wall(FakeClock):
    """A clock whose wall time can be set."""

    def set(self, seconds: float) -> None:
        self._time += seconds


JUMPS = [WEEK + 1, YEAR, -WEEK, -YEAR, 50 * YEAR]


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_clock_that_is_set_while_the_bridge_runs_forgets_nothing(path: Path, jump: float) -> None:
    clock = Wall(unix_time=WALL)
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        events = [await journal.append(TASK, state()), await journal.append(OTHER, state("completed"))]
        clock.set(jump)
        await journal.tidy()
        late = await journal.append(key(9), state("completed", changed_at=clock.time()))
        clock.set(-jump)
        await journal.tidy()
        assert await journal.latest([TASK, OTHER, key(9)]) == [*events, late]
        clock.skip(RETENTION + 1)
        await journal.tidy()
        assert await journal.latest([TASK, OTHER, key(9)]) == [events[0], None, None]


@pytest.mark.parametrize("jump", JUMPS)
async def test_a_clock_that_is_wrong_at_the_start_forgets_nothing(path: Path, jump: float) -> None:
    async with opened(path, Wall(unix_time=WALL), retention_seconds=RETENTION) as journal:
        events = [await journal.append(TASK, state()), await journal.append(OTHER, state("completed"))]
    for unix_time in (WALL + jump, WALL):
        clock = Wall(unix_time=unix_time)
        async with opened(path, clock, retention_seconds=RETENTION) as journal:
            await journal.tidy()
            found = await journal.latest([TASK, OTHER])
            assert [one.state for one in found if one] == [one.state for one in events]
            await journal.append(key(9), state("completed", changed_at=clock.time()))
    clock.skip(0)
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        clock.skip(RETENTION + 1)
        await journal.tidy()
        known = [one is not None for one in await journal.latest([TASK, OTHER, key(9)])]
        assert known == [True, False, False], "and what is over is forgotten, whatever the wall said"


async def test_time_with_the_file_open_counts_over_restarts(path: Path) -> None:
    for _ in range(2):
        clock = Wall(unix_time=WALL)
        async with opened(path, clock, retention_seconds=RETENTION) as journal:
            (known,) = await journal.latest([TASK])
            if known is None:
                await journal.append(TASK, state("completed"))
            clock.skip(RETENTION * 0.6)
            await journal.tidy()
    async with opened(path, clock) as journal:
        assert await journal.latest([TASK]) == [None]


@pytest.mark.parametrize("ahead", [0.0, WEEK, YEAR])
async def test_a_file_without_a_time_of_its_own_begins_where_it_was_written(path: Path, ahead: float) -> None:
    """Files of earlier versions: their times are those of the wall."""
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        await journal.append(TASK, state())
        await journal.append(OTHER, state("completed"))
    with vandal(path) as connection:
        connection.execute("DELETE FROM meta WHERE name = 'time'")
        connection.execute("UPDATE tasks SET changed_at = ? WHERE open = 0", (WALL + YEAR,))
    clock = FakeClock(unix_time=WALL + ahead)
    async with opened(path, clock, retention_seconds=RETENTION) as journal:
        await journal.tidy()
        assert None not in await journal.latest([TASK, OTHER])


# The write-ahead log


async def crashed(path: Path, copy: Path, states: int = 12) -> tuple[str, SqliteJournal]:
    """The files of a journal as a kill would leave them, with every later commit in the log."""
    async with opened(path) as journal:
        await journal.append(TASK, state())
    async with opened(path) as journal:
        for number in range(states):
            await journal.append(key(number % 4), state(progress=number, raw=bytes(3000)))
        for suffix in ("", "-wal", "-lock"):
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
        return journal.epoch, journal


def recovered(log: Path) -> int:
    """How many frames SQLite itself reads from a log."""
    scratch = log.with_name("scratch.db")
    for suffix in ("", "-wal"):
        shutil.copy(f"{str(log).removesuffix('-wal')}{suffix}", f"{scratch}{suffix}")
    scratch.with_name("scratch.db-shm").unlink(missing_ok=True)
    connection = sqlite3.connect(scratch)
    (_, frames, _) = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    connection.close()
    return int(frames)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("killed")
    epoch, _ = asyncio.run(crashed(folder / "live.db", folder / "killed.db"))
    return epoch, folder / "killed.db"


def again(killed: Path, path: Path, *suffixes: str) -> Path:
    for suffix in ("", "-wal", "-shm", "-lock"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    for suffix in suffixes:
        shutil.copy(f"{killed}{suffix}", f"{path}{suffix}")
    return path.with_name(f"{path.name}-wal")


async def epoch_of(path: Path) -> str:
    async with opened(path) as journal:
        assert journal.usable
        return journal.epoch


async def test_a_plain_kill_keeps_the_epoch(killed: tuple[str, Path], path: Path) -> None:
    epoch, files = killed
    log = again(files, path, "", "-wal", "-lock")
    assert committed_frames(log) == recovered(log) > 20
    assert await epoch_of(path) == epoch
    assert await epoch_of(path) == epoch


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_a_kill_while_it_writes_keeps_the_epoch(
    killed: tuple[str, Path], tmp_path: Path, random: Random
) -> None:
    """A transaction that was never acknowledged, torn anywhere, over what an earlier use of the log left."""
    epoch, files = killed
    path = tmp_path / "bridge.db"
    log = again(files, path, "", "-wal")
    size = log.stat().st_size
    with vandal(path) as connection:
        connection.execute("PRAGMA cache_size = 5")
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE filler (x)")
        connection.executemany("INSERT INTO filler VALUES (?)", [(bytes(5000),)] * random.randint(1, 6))
        connection.execute("COMMIT")
        whole = log.read_bytes()
    frames = (len(whole) - size) // (FRAME_HEAD + PAGE)
    cut = size + random.randrange((frames - 1) * (FRAME_HEAD + PAGE))  # before its commit
    rest = bytes(random.choice([0, len(whole) - cut]))  # the file ends, or zeros or old frames follow
    again(files, path, "")
    log.write_bytes(whole[:cut] + (rest and random.choice([rest, whole[LOG_HEAD : LOG_HEAD + 8] * 500])))
    assert asyncio.run(epoch_of(path)) == epoch


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.randoms(use_true_random=False))
def test_a_log_damaged_before_its_last_commit_begins_a_new_epoch(
    killed: tuple[str, Path], tmp_path: Path, random: Random
) -> None:
    epoch, files = killed
    path = tmp_path / "bridge.db"
    log = again(files, path, "", "-wal")  # without the -lock file, which would show it as well
    content = bytearray(log.read_bytes())
    last = len(content) - (FRAME_HEAD + PAGE)
    for _ in range(random.randint(1, 3)):
        start = random.randrange(len(content) - PAGE)
        if start > last and start < last + 16:  # a page number, a commit mark and salts that are others
            continue
        content[start] ^= 1 << random.randrange(8)
    log.write_bytes(content)
    fewer = recovered(log) < recovered(files.with_name("killed.db-wal"))
    assert (asyncio.run(epoch_of(path)) != epoch) is fewer


@pytest.mark.parametrize("left", [0, 31, 4000, 20_000, -1, -5000])
async def test_a_log_cut_short_or_taken_away_begins_a_new_epoch(
    killed: tuple[str, Path], path: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    epoch, files = killed
    log = again(files, path, "", "-wal", "-lock")
    content = log.read_bytes()
    log.write_bytes(content[:left])
    assert await epoch_of(path) != epoch
    assert [one.msg for one in caplog.records if one.levelno >= logging.WARNING] == [
        "journal began a new epoch"
    ]


async def test_an_older_copy_put_in_its_place_begins_a_new_epoch(path: Path, tmp_path: Path) -> None:
    epoch, _ = await fill(path)
    shutil.copy(path, tmp_path / "older.db")
    async with opened(path) as journal:
        assert journal.epoch == epoch
        await journal.append(TASK, state())
    shutil.copy(tmp_path / "older.db", path)
    assert await epoch_of(path) != epoch


async def test_a_new_epoch_never_has_the_name_of_the_one_before(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter([7, 7, 7, 8])  # in the same millisecond
    monkeypatch.setattr("bridge.journal.sqlite.repair.secrets.randbits", lambda _: next(drawn))
    epoch, _ = await fill(path)
    shutil.copy(path, tmp_path / "older.db")
    async with opened(path) as journal:
        await journal.append(TASK, state())
    shutil.copy(tmp_path / "older.db", path)
    assert await epoch_of(path) != epoch
    assert next(drawn, None) is None


@pytest.mark.parametrize(
    ("content", "frames"),
    [(b"", 0), (bytes(10), 0), (bytes(100_000), 0), (b"7" * 20, 0), (b"7" * 20_000, UNREADABLE)],
)
def test_what_is_no_log(tmp_path: Path, content: bytes, frames: int) -> None:
    log = tmp_path / "x-wal"
    assert committed_frames(log) == 0
    log.write_bytes(content)
    assert committed_frames(log) == frames


@pytest.mark.parametrize("content", [b"", b"x" * 5000, b"\xff" * 52, b"k3f9 -00000000000000005\n"])
async def test_a_damaged_lock_file_says_nothing(path: Path, content: bytes) -> None:
    epoch, _ = await fill(path)
    path.with_name("bridge.db-lock").write_bytes(content)
    assert await epoch_of(path) == epoch


# Pages

PAGES = st.lists(st.integers(1, 140), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[TaskKey, Any]]:
    """A journal of 300 tasks over some 150 pages, and their states."""
    path = tmp_path_factory.mktemp("large") / "bridge.db"

    async def record() -> dict[TaskKey, Any]:
        async with opened(path) as journal:
            states = {key(number): state(progress=number % 100, raw=bytes(1200)) for number in range(300)}
            await asyncio.gather(*(journal.append(*one) for one in states.items()))
            return states

    return path, asyncio.run(record())


async def survivors(path: Path, states: dict[TaskKey, Any]) -> int:
    """How many tasks are known, each as it was recorded; everything works."""
    async with opened(path, newest_bytes=1) as journal:
        found = await journal.latest(list(states))
        for event, recorded in zip(found, states.values(), strict=True):
            assert event is None or event.state == recorded or event.state.status is Status.UNKNOWN
        await journal.unfinished()
        await journal.lost(10)
        await journal.append(OTHER, state())
        await journal.tidy()
        assert journal.usable
        return sum(event is not None for event in found)


def damaged_pages(path: Path, copy: Path, pages: list[int], rubbish: bytes) -> Path:
    for one in copy.parent.glob(f"{copy.name}*"):
        one.unlink()
    shutil.copy(path, copy)
    with copy.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(rubbish[:PAGE].ljust(PAGE, rubbish[:1] or b"\0"))
    return copy


async def test_a_damaged_page_costs_its_rows_and_is_reported_with_the_cure(
    large: tuple[Path, dict[TaskKey, Any]], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, states = large
    with vandal(source) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'events_by_task'"
        ).fetchone()
    middle = source.stat().st_size // PAGE // 2
    damaged_pages(source, path, [page - 1, middle], b"\xa5")
    known = await survivors(path, states)
    assert 200 < known <= 300
    [report] = [one for one in caplog.records if one.msg == "journal damaged"]
    told: Any = report
    kept = path.with_name("bridge.db.damaged-1")
    assert (told.file, told.damaged_file) == (str(path), str(kept))
    assert told.cure
    assert kept.stat().st_size == source.stat().st_size
    caplog.clear()
    assert await survivors(path, states) == known
    assert "journal damaged" not in caplog.text


async def test_a_disk_that_damages_every_file_is_not_filled_with_copies(
    large: tuple[Path, dict[TaskKey, Any]], path: Path
) -> None:
    source, states = large
    for number in range(4):
        folder = path.with_name(f"again-{number}.db")
        damaged_pages(source, folder, [source.stat().st_size // PAGE // 2], b"\xa5")
        folder.replace(path)
        if number < 3:
            await survivors(path, states)
        else:
            with pytest.raises(JournalError, match=r"is damaged; .*3 damaged files are kept"):
                await survivors(path, states)
    assert len(list(path.parent.glob("bridge.db.damaged-*"))) == 3


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 140), min_size=1, max_size=3), st.sampled_from([b"\0", b"\xa5", b"\r\0\0\0\1"])
)
def test_whichever_pages_are_damaged_nothing_false_is_read(
    large: tuple[Path, dict[TaskKey, Any]], tmp_path: Path, pages: list[int], rubbish: bytes
) -> None:
    source, states = large
    path = damaged_pages(source, tmp_path / "bridge.db", pages, rubbish)
    with contextlib.suppress(JournalError):  # nothing can be read: a page of the schema, or all of a table
        asyncio.run(survivors(path, states))


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PAGES)
def test_damage_that_shows_only_while_it_runs_costs_its_rows(
    large: tuple[Path, dict[TaskKey, Any]], tmp_path: Path, pages: list[int]
) -> None:
    """As in a file too large to be checked whole at the start."""
    source, states = large
    path = damaged_pages(source, tmp_path / "bridge.db", pages, b"\xa5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge.journal.sqlite.database.CHECKED_WHOLE_BYTES", 0)
        with contextlib.suppress(JournalError):
            asyncio.run(read_all(path, states))


async def read_all(path: Path, states: dict[TaskKey, Any]) -> None:
    async with opened(path, newest_bytes=1) as journal:
        found = await journal.latest(list(states))
        await journal.unfinished()
        for event, recorded in zip(found, states.values(), strict=True):
            assert event is None or event.state == recorded
        for one in states:
            await recorded_after(journal, one, 0)
