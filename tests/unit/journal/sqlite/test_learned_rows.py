"""What ended tasks taught outlives the process in a journal's file, for one process and for workers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.core.learned import MAX_KINDS, MAX_RUNS, Measurement, Run, TaskKind
from bridge.engine.base import LEARNED_SECONDS
from bridge.engine.store import Store
from bridge.journal.learned import Choice, encode_run, index_name, kind_digest, list_name
from bridge.journal.sqlite.backup import back_up
from bridge.journal.sqlite.learned_rows import WRITTEN_KINDS, WRITTEN_SECONDS, forget_runs, read_runs
from bridge.journal.sqlite.storage import Transaction
from bridge.journal.sqlite.store_recorder import StoreRecorder
from tests.fakes.clock import FakeClock
from tests.fakes.disk import opened
from tests.fakes.engines import VirtualTime
from tests.fakes.tasks import TASK, WALL, state

pytestmark = pytest.mark.anyio

KIND = TaskKind("wan2.7", "generate")
OTHER = TaskKind("flux \u4efb\u52a1", None)


def run(seconds: float = 90.0, *, kind: TaskKind = KIND, ended_at: float = WALL) -> Run:
    return Run(kind, ended_at, {"run": Measurement(seconds), "slope:3": Measurement(1.25, 40.0)})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def in_file(path: Path, now: float = WALL) -> dict[str, list[Run]]:
    """As another process reads them, while a bridge has the file open or not."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return {name: runs for name, runs in read_runs(connection, now).items() if runs}
    finally:
        connection.close()


def forget(path: Path, choice: Choice, now: float = WALL) -> list[TaskKind]:
    """As the command does."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        with Transaction(connection):
            return forget_runs(connection, choice, now)
    finally:
        connection.close()


async def test_runs_come_back_after_a_stop(path: Path) -> None:
    async with opened(path, FakeClock(unix_time=WALL)) as first:
        assert not first.learned("video")
        first.learn("video", run(1.0))
        first.learn("video", run(2.0, kind=OTHER, ended_at=WALL + 1))
        first.learn("image", run(3.0))
        first.learn("video", run(4.0, ended_at=WALL + 2))
    async with opened(path, FakeClock(unix_time=WALL)) as second:
        found = [run(1.0), run(2.0, kind=OTHER, ended_at=WALL + 1), run(4.0, ended_at=WALL + 2)]
        assert second.learned("video") == found
        assert second.learned("image") == [run(3.0)]
        assert not second.learned("unknown")
        second.learn("video", run(5.0, ended_at=WALL + 3))
    assert in_file(path)["video"] == [*found, run(5.0, ended_at=WALL + 3)]


async def test_they_are_written_every_few_seconds_and_in_one_write(path: Path) -> None:
    clock = FakeClock(unix_time=WALL)
    async with opened(path, clock) as journal:
        journal.learn("video", run(1.0))
        await journal.tidy()
        assert in_file(path) == {}
        clock.skip(WRITTEN_SECONDS)
        journal.learn("video", run(2.0))
        await journal.tidy()
        assert in_file(path) == {"video": [run(1.0), run(2.0)]}
        journal.learn("video", run(3.0))
        await journal.append(TASK, state())
        await journal.tidy()
        assert len(in_file(path)["video"]) == 2


async def test_only_so_much_is_kept(path: Path) -> None:
    kinds = [TaskKind(str(number), None) for number in range(MAX_KINDS + 9)]
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        for number in range(MAX_RUNS + 9):
            journal.learn("video", run(number, ended_at=WALL + number))
        for number, kind in enumerate(kinds):
            journal.learn("image", run(kind=kind, ended_at=WALL + number))
    found = in_file(path)
    assert [one.samples["run"].value for one in found["video"]] == list(range(9, MAX_RUNS + 9))
    assert [one.kind for one in found["image"]] == kinds[9:]
    with sqlite3.connect(path) as peek:
        (rows,) = peek.execute("SELECT count(*) FROM engine WHERE kind = 'samples'").fetchone()
    peek.close()
    assert rows == MAX_KINDS + 1


async def test_a_write_is_short_and_the_rest_follows(path: Path) -> None:
    clock = FakeClock(unix_time=WALL)
    kinds = [TaskKind(str(number), None) for number in range(WRITTEN_KINDS + 3)]
    async with opened(path, clock) as journal:
        for kind in (*kinds, kinds[0]):
            journal.learn("video", run(kind=kind))
        clock.skip(WRITTEN_SECONDS)
        await journal.tidy()
        assert len(in_file(path)["video"]) == WRITTEN_KINDS
        assert forget(path, Choice("video", kinds[-1].model)) == []
        await journal.tidy()
    assert len(in_file(path)["video"]) == WRITTEN_KINDS + 2


async def test_what_is_old_is_forgotten(path: Path) -> None:
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        journal.learn("video", run(1.0))
        journal.learn("video", run(2.0, kind=OTHER, ended_at=WALL + 3 * 86_400))
    later = WALL + LEARNED_SECONDS + 1
    async with opened(path, FakeClock(unix_time=later)) as journal:
        assert journal.learned("video") == []  # nothing was added for a week
        journal.learn("video", run(3.0, ended_at=later))
    assert in_file(path, later) == {"video": [run(3.0, ended_at=later)]}
    with sqlite3.connect(path) as peek:
        (rows,) = peek.execute("SELECT count(*) FROM engine WHERE kind = 'samples'").fetchone()
    peek.close()
    assert rows == 1


async def test_foreign_rows_cost_nothing_but_themselves(path: Path) -> None:
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        journal.learn("video", run(1.0))
        journal.learn("image", run(2.0))
    with sqlite3.connect(path) as peek:
        for kind, name, value in (
            ("samples", list_name("video", kind_digest(OTHER)).encode(), b'["[1,2]", 7]'),
            ("samples", b"runs:\xff", b"[]"),
            ("samples", list_name("image", kind_digest(KIND)).encode(), b'{"a": 1}'),
            ("document", b"runs:audio", b'[1, "{\\"version\\": 1, \\"kinds\\": 5}"]'),
            ("document", b"runs:\xff\x00", b"[]"),
            ("document", b"runs:other", b"\xff"),
            ("forget", b"\xff[", b"[]"),
            ("forget", b"[1, 2]", b"[]"),
            ("forget", b'["video", 5, {}]', b"[]"),
        ):
            peek.execute("INSERT OR REPLACE INTO engine VALUES (?, ?, 0, ?)", (kind, name, value))
        peek.execute("INSERT OR REPLACE INTO engine VALUES ('samples', 'runs:text', 0, 'text')")
    peek.close()
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        assert journal.learned("video") == [run(1.0)]
        assert not journal.learned("image")
        journal.learn("image", run(3.0))
        await journal.append(TASK, state())
    assert in_file(path) == {"video": [run(1.0)], "image": [run(3.0)]}


async def test_a_file_of_an_older_version_gets_the_table(path: Path) -> None:
    async with opened(path) as journal:
        await journal.append(TASK, state())
    with sqlite3.connect(path) as peek:
        peek.execute("DROP TABLE engine")
    peek.close()
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        assert not journal.learned("video")
        journal.learn("video", run())
    assert in_file(path) == {"video": [run()]}


async def test_a_backup_has_them(path: Path, tmp_path: Path) -> None:
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        journal.learn("video", run())
    back_up(path, tmp_path / "copy.db")
    assert in_file(tmp_path / "copy.db") == {"video": [run()]}


async def test_a_running_bridge_forgets_what_the_operator_had_forgotten(path: Path) -> None:
    clock = FakeClock(unix_time=WALL)
    left: list[tuple[str, Sequence[Run]]] = []
    async with opened(path, clock) as journal:
        journal.runs_forgotten = lambda upstream, runs: left.append((upstream, runs))
        for kind in (KIND, OTHER):
            journal.learn("video", run(1.0, kind=kind))
        clock.skip(WRITTEN_SECONDS)
        await journal.tidy()
        journal.learn("video", run(2.0))  # known when the operator asks, and not yet in the file
        assert forget(path, Choice("video", "wan2.7")) == [KIND]
        assert in_file(path) == {"video": [run(1.0, kind=OTHER)]}
        clock.skip(WRITTEN_SECONDS)
        await journal.tidy()
        assert left == [("video", [run(1.0, kind=OTHER)])]
        journal.learn("video", run(3.0))
        clock.skip(WRITTEN_SECONDS)
        await journal.tidy()
        assert len(left) == 1  # once
    assert in_file(path) == {"video": [run(1.0, kind=OTHER), run(3.0)]}


async def test_what_a_stopped_bridge_is_to_forget_is_forgotten_in_the_file(path: Path) -> None:
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        journal.learn("video", run())
        journal.learn("image", run())
    assert forget(path, Choice("video", None, "unknown")) == []
    assert forget(path, Choice("video")) == [KIND]
    left: list[str] = []
    clock = FakeClock(unix_time=WALL)
    async with opened(path, clock) as journal:
        journal.runs_forgotten = lambda upstream, _: left.append(upstream)
        assert not journal.learned("video")
        assert journal.learned("image") == [run()]
        clock.skip(WRITTEN_SECONDS)
        await journal.tidy()
    assert left == []  # the start has read what was left


async def test_a_table_that_cannot_be_used_stops_no_state(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock(unix_time=WALL)
    async with opened(path, clock) as journal:
        with sqlite3.connect(path) as peek:
            peek.execute("DROP TABLE engine")
        peek.close()
        journal.learn("video", run())
        for _ in range(3):
            clock.skip(WRITTEN_SECONDS)
            await journal.tidy()
            await journal.append(TASK, state())
        assert journal.usable
    assert [record.message for record in caplog.records] == [
        "learned run times not stored",
        "journal retention stopped",
    ]


# Several workers on the same file


@asynccontextmanager
async def keeper(path: Path, time: VirtualTime, clock: FakeClock) -> AsyncIterator[Store]:
    store = Store()
    recorder = await StoreRecorder.open(path, store, clock, now=time, retention_seconds=86_400)
    try:
        yield store
    finally:
        await recorder.close()


def in_store(store: Store, time: Callable[[], int], *kinds: TaskKind) -> list[list[bytes]]:
    names = [list_name("video", kind_digest(kind)) for kind in kinds]
    return store.learned(names, now=time())


async def test_one_process_and_several_workers_take_turns_on_a_file(path: Path) -> None:
    time = VirtualTime(round(WALL * 1e6))
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        journal.learn("video", run(1.0))
    async with keeper(path, time, FakeClock()) as store:
        assert in_store(store, time, KIND) == [[encode_run(run(1.0))]]
        ((_, index),) = store.get([index_name("video")], now=time())
        assert index is not None
        assert kind_digest(KIND).encode() in index
        store.learn(list_name("video", kind_digest(KIND)), [encode_run(run(2.0)) or b""], keep=64, now=time())
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        assert journal.learned("video") == [run(1.0), run(2.0)]


async def test_the_keeper_of_workers_forgets_too(path: Path) -> None:
    time, clock = VirtualTime(round(WALL * 1e6)), FakeClock()
    async with opened(path, FakeClock(unix_time=WALL)) as journal:
        for kind in (KIND, OTHER):
            journal.learn("video", run(kind=kind))
    async with keeper(path, time, clock) as store:
        assert forget(path, Choice("video", "wan2.7")) == [KIND]
        while in_store(store, time, KIND) != [[]]:
            await clock.advance(1.0)
            await asyncio.sleep(0.001)
        assert in_store(store, time, OTHER) == [[encode_run(run(kind=OTHER))]]
        ((_, index),) = store.get([index_name("video")], now=time())
        assert index is not None
        assert kind_digest(KIND).encode() not in index
    assert in_file(path) == {"video": [run(kind=OTHER)]}


async def test_a_file_that_cannot_be_written_keeps_runs_for_later(path: Path) -> None:
    clock = FakeClock(unix_time=WALL)

    def impatient(path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=0.01, isolation_level=None)

    async with opened(path, clock, connect=impatient) as journal:
        journal.learn("video", run(1.0))
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        clock.skip(WRITTEN_SECONDS)
        await journal.tidy()
        other.execute("COMMIT")
        other.close()
        await journal.tidy()
        assert journal.usable
    assert in_file(path) == {"video": [run(1.0)]}
