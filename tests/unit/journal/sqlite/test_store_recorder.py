"""What several workers share outlives them: a store on the file of a journal."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from bridge.core.event import Confirmation
from bridge.core.task import State, Status, TaskKey
from bridge.engine.base import ApplyOutcome, End, Job, JobLimits, Mode, OperationState, Want
from bridge.engine.store import Store, StoreLimits
from bridge.errors import JournalError
from bridge.journal.sqlite.backup import back_up
from bridge.journal.sqlite.codec import encode
from bridge.journal.sqlite.database import Connect, connect
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.journal.sqlite.store_recorder import StoreRecorder
from tests.fakes.clock import FakeClock
from tests.fakes.disk import Disk
from tests.fakes.engines import START, VirtualTime, state_of
from tests.fakes.tasks import state

pytestmark = pytest.mark.anyio

TASK = TaskKey("qingbo", "a/b \ud800{x}")
OTHER = TaskKey("qingbo", "two")
THEIRS = TaskKey("qingbo", "three", "an-account")
DAY = 86_400.0


class Durable:
    """A store on a file, with what tests do with it."""

    def __init__(self, store: Store, recorder: StoreRecorder, time: VirtualTime) -> None:
        self.store = store
        self.recorder = recorder
        self.time = time

    def session(self, name: str = "a", epoch: str = "e1") -> str:
        """The epoch after a session was opened."""
        return self.store.session(
            name, ttl=60, known_head=0, new_epoch=epoch, about=b"", opens=True, now=self.time.now
        ).epoch

    async def record(self, key: TaskKey, version: int, known: State, **options: object) -> int:
        """Record a state; returns its offset once it is durable."""
        end = End.OPEN if not known.status.final else End.LOST if known.status is Status.LOST else End.ENDED
        apply = state_of(
            key, version, mode=Mode.FREE, end=end, document=encode(known), raw=known.raw, **options
        )  # type: ignore[arg-type]
        (applied,) = self.store.apply("a", [apply], limits=JobLimits(), now=self.time.now)
        assert applied.outcome is ApplyOutcome.RECORDED
        await self.flush()
        return applied.offset

    async def flush(self) -> None:
        """Wait until everything is durable."""
        self.recorder.changed()
        position = self.recorder.position
        while self.recorder.durable < position:  # noqa: ASYNC110 - written in a thread
            await asyncio.sleep(0.001)


@asynccontextmanager
async def durable(
    path: Path,
    *,
    time: VirtualTime | None = None,
    retention: float = DAY,
    connect: Connect = connect,
    history: int = 32,
) -> AsyncIterator[Durable]:
    time = time or VirtualTime()
    store = Store(StoreLimits(history=history))
    recorder = await StoreRecorder.open(
        path / "journal.db", store, FakeClock(), now=time, retention_seconds=retention, connect=connect
    )
    try:
        yield Durable(store, recorder, time)
    finally:
        await recorder.close()


@asynccontextmanager
async def journal(path: Path) -> AsyncIterator[SqliteJournal]:
    journal = await SqliteJournal.open(path / "journal.db", FakeClock(), retention_seconds=DAY)
    try:
        yield journal
    finally:
        await journal.close()


# Everything comes back


async def test_records_and_history_come_back_and_the_epoch_stays(tmp_path: Path) -> None:
    async with durable(tmp_path) as first:
        epoch = first.session()
        first.store.want("a", [Want(TASK)], linger=30, now=first.time.now)
        first.store.keep("a", TASK, called_back=True, now=first.time.now)
        await first.record(TASK, 1, state(raw=b"theirs"), details=orjson.dumps({"tags": ["x"], "group": "g"}))
        await first.record(OTHER, 1, state("completed"))
        await first.record(TASK, 2, state("processing", 50.0))
        await first.record(THEIRS, 1, state())
        first.store.announce("a", TASK, "stalled", b"body \xff", now=first.time.now)
        first.store.register("a", TaskKey("qingbo", "never-seen"), b"{}", now=first.time.now)
        keys = [TASK, OTHER, THEIRS, TaskKey("qingbo", "never-seen")]
        records = first.store.records(keys, now=first.time.now)
        history = first.store.history(TASK, 0, now=first.time.now)
        head = first.store.log.head
        await first.flush()
    async with durable(tmp_path) as second:
        assert second.session(epoch="e2") == epoch
        assert second.store.log.head >= head
        again = second.store.records(keys, now=second.time.now)
        # Until the process before ended, it may have polled each task that was open.
        assert [record.polled_at for record in again] == [second.time.now, 0, second.time.now, 0]
        ended = {"owner": "", "persistent": False, "due": 0, "polled_at": 0, "session": "", "digest": b""}
        assert [record._replace(**ended) for record in again] == [
            record._replace(**ended) for record in records
        ]
        assert second.store.history(TASK, 0, now=second.time.now) == history
        listed = second.store.listing("qingbo", "-", tag="x", limit=9, now=second.time.now)
        assert listed == [(records[0].first_seen, TASK, records[0].details)]
        listed = second.store.listing("qingbo", "-", limit=9, now=0)
        assert [one.key for one in listed] == [OTHER, TASK]
        assert second.store.newest("qingbo", "-", final=False, limit=9, now=0) == [TASK]
        assert second.store.newest("qingbo", "-", final=True, limit=9, now=0) == [OTHER]
        offset = await second.record(TASK, 3, state("processing", 60.0))
        assert offset > head


async def test_open_tasks_are_orphans_after_a_start_and_their_polls_are_spread(tmp_path: Path) -> None:
    keys = [TaskKey("qingbo", str(number)) for number in range(5)]
    async with durable(tmp_path) as first:
        first.session()
        for key in keys:
            await first.record(key, 1, state())
        await first.record(OTHER, 1, state("completed"))
        await first.record(THEIRS, 1, state())
    async with durable(tmp_path) as second:
        second.session("b")
        assert second.store.census(now=second.time.now).orphans == 6
        second.time.advance(1)
        claimed = second.store.claim("b", account="-", limit=10, now=second.time.now)
        assert {record.key for record in claimed} == set(keys)
        assert len({record.due for record in claimed}) == 5
        # What was polled with a caller's key goes on if the caller kept it, or wants it now.
        assert second.store.claim("b", account="an-account", limit=10, now=second.time.now) == []


async def test_what_only_an_engine_knows_comes_back(tmp_path: Path) -> None:
    async with durable(tmp_path) as first:
        now = first.time.now
        first.session()
        store = first.store
        put = store.put("alias:\ud800", b"\xff\0", expect=None, seconds=60, now=now)
        store.put("short", b"x", expect=None, seconds=1, now=now)
        store.put("gone", b"x", expect=None, seconds=60, now=now)
        await first.flush()
        store.put("gone", None, expect=None, seconds=60, now=now)
        for sample in (b"1", b"2", b"3"):
            store.learn("times", [sample], keep=2, now=now)
        store.begin("a", "done", b"d", seconds=60, now=now)
        store.finish("a", "done", b"answer", now=now)
        store.begin("a", "pending", b"d", seconds=60, now=now)
        store.hold("spend", "1", 6.0, limit=10, window=1e9, now=now)
        jobs = [Job("hook", str(number), b"\xff", "x", now) for number in range(3)]
        await first.record(TASK, 1, state(), jobs=jobs)
        (job,) = store.claim_jobs("a", "hook", limit=1, lease=30, now=now)
        store.finish_job("a", "hook", job.id, now=now)
        store.claim_jobs("a", "hook", limit=1, lease=30, now=now)
        await first.flush()
    time = VirtualTime(START + 2_000_000)
    async with durable(tmp_path, time=time) as second:
        now, store = time.now, second.store
        second.session("b")
        assert store.get(["alias:\ud800", "short", "gone"], now=now) == [
            (put.version, b"\xff\0"),
            (0, None),
            (0, None),
        ]
        assert store.put("short", b"y", expect=0, seconds=1, now=now).version > put.version
        assert store.learned(["times"], now=now) == [[b"2", b"3"]]
        assert store.begin("b", "done", b"d", seconds=60, now=now).answer == b"answer"
        assert store.begin("b", "pending", b"d", seconds=60, now=now).state is OperationState.DEAD
        assert store.hold("spend", "2", 5.0, limit=10, window=1e9, now=now) == (False, 6.0)
        assert store.hold("spend", "1", 6.0, limit=10, window=1e9, now=now) == (True, 6.0)
        # In flight when everything ended: due again, in its order.
        (job,) = store.claim_jobs("b", "hook", limit=9, lease=30, now=now)
        assert (job.id, job.body, job.attempts) == ("1", b"\xff", 2)
        assert store.census(now=now).jobs == 2


# One process and several workers take turns on a file


async def test_a_process_alone_reads_what_workers_recorded(tmp_path: Path) -> None:
    async with durable(tmp_path) as first:
        epoch = first.session(epoch="mabc123xyz")
        offsets = [await first.record(TASK, 1, state(raw=b"theirs"))]
        offsets.append(await first.record(TASK, 2, state("completed", 100.0)))
        open_at = await first.record(OTHER, 1, state("queued"))
        lost_at = await first.record(THEIRS, 1, state("lost"))
    async with journal(tmp_path) as alone:
        assert alone.epoch == epoch
        events = await alone.latest([TASK, OTHER, THEIRS])
        assert [event.cursor.offset for event in events if event] == [offsets[1], open_at, lost_at]
        history = await alone.read(await alone.history([TASK], 0))
        assert [(event.cursor.offset, event.state.raw) for event in history] == [
            (offsets[0], b"theirs"),
            (offsets[1], None),
        ]
        assert [event.key for event in await alone.unfinished()] == [OTHER]
        assert [event.key for event in await alone.lost(5)] == [THEIRS]
        assert await alone.first_seen([TASK]) == [pytest.approx(offsets[0] / 1e6)]
        event = await alone.append(OTHER, state("completed"))
        assert event.cursor.offset == lost_at + 1
        assert event.cursor.epoch == epoch


async def test_workers_read_what_a_process_alone_recorded_and_back(tmp_path: Path) -> None:
    async with journal(tmp_path) as alone:
        epoch = alone.epoch
        await alone.append(TASK, state("queued"))
        await alone.append(TASK, state("processing", 50.0, raw=b"theirs"))
        await alone.append(OTHER, state("completed"))
    async with durable(tmp_path) as first:
        assert first.session(epoch="other") == epoch
        record, other = first.store.records([TASK, OTHER], now=0)
        assert (record.version, record.offset, record.end, record.raw) == (2, 2, End.OPEN, b"theirs")
        assert record.document == encode(state("processing", 50.0))
        assert (other.version, other.end) == (1, End.ENDED)
        assert [past.offset for past in first.store.history(TASK, 0, now=0)] == [1, 2]
        await first.record(TASK, 3, state("processing", 60.0))
    async with journal(tmp_path) as alone:
        await alone.append(TASK, state("processing", 70.0))
        await alone.append(TASK, state("completed", 100.0))
    async with durable(tmp_path) as second:
        assert second.session() == epoch
        (record,) = second.store.records([TASK], now=0)
        assert (record.version, record.end) == (5, End.ENDED)
        assert record.document == encode(state("completed", 100.0))
        assert len(second.store.history(TASK, 0, now=0)) == 5
        assert second.store.newest("qingbo", "-", final=True, limit=9, now=0) == [TASK, OTHER]


async def test_a_new_epoch_of_the_store_is_that_of_the_file(tmp_path: Path) -> None:
    async with durable(tmp_path) as first:
        first.session()
        await first.record(TASK, 1, state())
        known = first.store.log.head + 5_000_000
        first.store.session(
            "b", ttl=60, known_head=known, new_epoch="e2", about=b"", opens=True, now=first.time.now
        )
        await first.flush()
    async with journal(tmp_path) as alone:
        assert (alone.epoch, alone.head) == ("e2", known + 1)


async def test_a_copy_of_the_file_begins_an_epoch_of_its_own(tmp_path: Path) -> None:
    async with durable(tmp_path) as first:
        epoch = first.session()
        await first.record(TASK, 1, state())
        (tmp_path / "copy").mkdir()
        assert back_up(tmp_path / "journal.db", tmp_path / "copy" / "journal.db") == 1
    async with durable(tmp_path / "copy") as copy:
        assert copy.session() != epoch
        assert copy.store.records([TASK], now=0)[0].version == 1


# Durable before it is answered or shown


async def test_nothing_is_durable_or_shown_before_it_is_on_disk(tmp_path: Path) -> None:
    disk = Disk()
    async with durable(tmp_path, connect=disk.connect) as use:
        use.session()
        await use.flush()
        shown = use.recorder.head
        disk.turning.clear()
        before = use.recorder.durable
        recording = asyncio.create_task(use.record(TASK, 1, state()))
        await asyncio.sleep(0.02)
        assert (use.recorder.durable, use.recorder.head) == (before, shown)
        assert not recording.done()
        disk.turning.set()
        offset = await recording
        assert disk.synced == 2
        assert use.recorder.head >= offset


async def test_entries_that_need_no_disk_are_shown_at_once(tmp_path: Path) -> None:
    async with durable(tmp_path) as use:
        use.session()
        await use.record(TASK, 1, state())
        use.store.confirm("a", [(TASK, Confirmation(50.0))], now=use.time.now)
        use.recorder.changed()
        assert use.recorder.head == use.store.log.head
        assert use.recorder.durable == use.recorder.position


async def test_a_failing_disk_loses_nothing_and_takes_nothing_back(tmp_path: Path) -> None:
    disk = Disk()
    clock = FakeClock()
    store, time = Store(), VirtualTime()
    path = tmp_path / "journal.db"
    recorder = await StoreRecorder.open(
        path, store, clock, now=time, retention_seconds=DAY, connect=disk.connect
    )
    use = Durable(store, recorder, time)
    told: list[str] = []
    recorder.recorded = lambda: told.append(recorder.error)
    use.session()
    await use.record(TASK, 1, state())
    disk.fail("INSERT INTO")
    recording = [asyncio.create_task(use.record(key, 1, state())) for key in (OTHER, THEIRS)]
    while not recorder.error:  # noqa: ASYNC110 - written in a thread
        await asyncio.sleep(0.001)
    assert "cannot be read or written" in recorder.error
    disk.mend()
    await clock.advance(1.5)
    while recorder.durable < recorder.position:
        await clock.advance(1.0)
        await asyncio.sleep(0.001)
    await asyncio.gather(*recording)
    assert recorder.error == ""
    assert told[-1] == ""
    await recorder.close()
    async with durable(tmp_path) as again:
        assert [record.version for record in again.store.records([TASK, OTHER, THEIRS], now=0)] == [1, 1, 1]


async def test_a_file_in_use_is_told(tmp_path: Path) -> None:
    async with durable(tmp_path):
        with pytest.raises(JournalError, match="in use by another bridge"):
            await StoreRecorder.open(
                tmp_path / "journal.db", Store(), FakeClock(), now=VirtualTime(), retention_seconds=DAY
            )


async def test_close_writes_what_is_left(tmp_path: Path) -> None:
    async with durable(tmp_path) as first:
        first.session()
        apply = state_of(TASK, 1, mode=Mode.FREE, document=encode(state()))
        first.store.apply("a", [apply], limits=JobLimits(), now=first.time.now)
        first.recorder.changed()
    async with durable(tmp_path) as second:
        assert second.store.records([TASK], now=0)[0].version == 1


# Damage, and what is too much


async def test_rows_that_cannot_be_read_cost_themselves(tmp_path: Path) -> None:
    async with durable(tmp_path) as first:
        first.session()
        await first.record(TASK, 1, state())
        await first.record(OTHER, 1, state())
        first.store.put("x", b"1", expect=None, seconds=60, now=first.time.now)
        await first.flush()
    connection = sqlite3.connect(tmp_path / "journal.db")
    connection.execute("UPDATE engine SET value = x'ff' WHERE kind = 'task'")
    rows = [
        ("task", b"a", 0, b"[]"),
        ("odd", b"b", 0, b"[]"),
        ("hold", b"c", 0, b"[1]"),
        ("job", b"d", 0, b"{}"),
    ]
    connection.executemany("INSERT INTO engine VALUES (?, ?, ?, ?)", rows)
    connection.execute("INSERT INTO engine VALUES ('document', 'text', 'x', 'y')")
    connection.commit()
    connection.close()
    async with durable(tmp_path) as second:
        second.session()
        assert [record.version for record in second.store.records([TASK, OTHER], now=0)] == [1, 1]
        assert second.store.get(["x"], now=second.time.now)[0][1] == b"1"
        await second.record(TASK, 2, state("completed"))


async def test_what_storage_forgets_the_store_forgets(tmp_path: Path) -> None:
    clock, time = FakeClock(), VirtualTime()
    store = Store()
    recorder = await StoreRecorder.open(
        tmp_path / "journal.db", store, clock, now=time, retention_seconds=100
    )
    use = Durable(store, recorder, time)
    use.session()
    await use.record(TASK, 1, state("completed"))
    await use.record(OTHER, 1, state())
    store.put("x", b"1", expect=None, seconds=1, now=time.now)
    await use.flush()
    clock.skip(200)
    time.advance(2)
    while len(store.tasks) > 1:
        await clock.advance(1.1)
        await asyncio.sleep(0.002)
    assert [record.version for record in store.records([TASK, OTHER], now=0)] == [0, 1]
    await recorder.close()
    connection = sqlite3.connect(tmp_path / "journal.db")
    assert connection.execute("SELECT kind, count(*) FROM engine GROUP BY kind").fetchall() == []
    connection.close()


async def test_history_beyond_the_limit_stays_on_disk_only(tmp_path: Path) -> None:
    async with durable(tmp_path) as first:
        first.session()
        for version in range(1, 9):
            await first.record(TASK, version, state("processing", float(version)))
    async with durable(tmp_path, history=3) as second:
        assert [past.document for past in second.store.history(TASK, 0, now=0)] == [
            encode(state("processing", float(progress))) for progress in (6, 7, 8)
        ]
        assert second.store.records([TASK], now=0)[0].version == 8
    async with journal(tmp_path) as alone:
        assert len(await alone.history([TASK], 0)) == 8
