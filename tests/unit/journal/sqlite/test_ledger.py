"""What the ledger of a process that is alone survives: restarts, disks that fail, workers taking turns."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.task import TaskKey
from bridge.engine.base import JOB_SECONDS, Job, JobLimits, Mode, OperationState
from bridge.engine.store import Store
from bridge.errors import JournalError
from bridge.journal.sqlite.codec import encode
from bridge.journal.sqlite.journal import SqliteJournal
from bridge.journal.sqlite.store_recorder import StoreRecorder
from tests.fakes.clock import FakeClock
from tests.fakes.disk import Disk, opened
from tests.fakes.engines import VirtualTime, state_of
from tests.fakes.ledgers import QUEUE, JobPlans, job_id, job_of
from tests.fakes.tasks import OTHER, TASK, WALL, state

pytestmark = pytest.mark.anyio

DAY = 86_400.0
SECOND = 1_000_000
DETAILS = TaskDetails("https://app.test/hook", ("a",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bridge.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(unix_time=WALL)


async def claimed(journal: SqliteJournal, limit: int = 100) -> list[Job]:
    return await journal.ledger.claim_jobs(QUEUE, limit=limit, lease=60)


def rows(path: Path, kind: str) -> list[bytes]:
    with sqlite3.connect(path) as peek:
        found = [name for (name,) in peek.execute("SELECT name FROM engine WHERE kind = ?", (kind,))]
    peek.close()
    return found


# Restarts


async def test_everything_is_there_after_a_restart(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock) as journal:
        ledger = journal.ledger
        for name in ("done", "open", "freed"):
            await ledger.begin(name, b"d", seconds=DAY)
        await ledger.finish("done", b"answer")
        await ledger.finish("freed", None)
        first = await ledger.put("webhooks", b"one", expect=None, seconds=DAY)
        await ledger.put("gone", b"one", expect=None, seconds=DAY)
        await ledger.put("gone", None, expect=None, seconds=DAY)
        await ledger.learn("deliveries:a", [b"1", b"2"], keep=100)
        await ledger.hold("spend", "one", 6.0, limit=10.0, window=1e6)
    async with opened(path, clock) as journal:
        ledger = journal.ledger
        assert await ledger.begin("done", b"d", seconds=DAY) == (OperationState.DONE, b"answer")
        assert (await ledger.begin("open", b"d", seconds=DAY)).state is OperationState.DEAD
        assert not await ledger.finish("open", b"late")
        assert (await ledger.begin("freed", b"d", seconds=DAY)).state is OperationState.NEW
        assert await ledger.get(["webhooks", "gone"]) == [(first.version, b"one"), (0, None)]
        second = await ledger.put("webhooks", b"two", expect=first.version, seconds=DAY)
        assert second.version > first.version
        assert await ledger.learned(["deliveries:a"]) == [[b"1", b"2"]]
        assert not (await ledger.hold("spend", "two", 6.0, limit=10.0, window=1e6)).ok


async def test_jobs_are_due_at_once_after_a_restart_and_in_their_order(path: Path, clock: FakeClock) -> None:
    states = [state("processing", float(number)) for number in range(5)]
    async with opened(path, clock) as journal:
        journal.planner = JobPlans()
        offsets = [(await journal.append(TASK, one)).cursor.offset for one in states]
        (job,) = await claimed(journal)
        assert await journal.ledger.finish_job(QUEUE, job.id)
        (job,) = await claimed(journal)
        far = journal.ledger.now() + 3600 * SECOND
        assert await journal.ledger.finish_job(QUEUE, job.id, retry_at=far)
        assert await claimed(journal) == []
        clock.skip(10)
    for restart in range(2):
        async with opened(path, clock) as journal:
            journal.planner = JobPlans()
            waiting = (await journal.ledger.waiting([QUEUE]))[0]
            assert waiting.jobs == 4 + restart
            assert (journal.ledger.now() - waiting.oldest) / SECOND >= 10
            await journal.append(TASK, state("processing", 50.0 + restart))
    async with opened(path, clock) as journal:
        found = []
        while jobs := await claimed(journal):
            found += jobs
            assert await journal.ledger.finish_job(QUEUE, jobs[0].id)
    expected = [job_id(TASK, one) for one in [*states[1:], *(state("processing", 50.0 + n) for n in (0, 1))]]
    assert [job.id for job in found] == expected
    assert [job.offset for job in found][:4] == offsets[1:]
    assert [job.attempts for job in found] == [2, 1, 1, 1, 1, 1]
    async with opened(path, clock) as journal:
        assert await journal.ledger.waiting([QUEUE]) == [(0, 0)]


async def test_what_is_replaced_is_gone_from_the_file_too(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock) as journal:
        journal.planner = JobPlans(lambda key, known: [job_of(key, known)._replace(replaceable=True)])
        for number in range(5):
            await journal.append(TASK, state("processing", float(number)))
    assert rows(path, "job") == [b"hook\0task-1-processing-4.0"]
    async with opened(path, clock) as journal:
        journal.planner = JobPlans(lambda key, known: [job_of(key, known)])
        await journal.append(TASK, state("completed"))
        (job,) = await claimed(journal)
    assert job.id == job_id(TASK, state("completed"))


async def test_what_has_expired_is_deleted(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock) as journal:
        journal.planner = JobPlans()
        await journal.append(TASK, state("completed"))
        for number in range(300):
            await journal.ledger.learn(f"list-{number}", [b"1"], keep=1)
        await journal.ledger.begin("operation", b"d", seconds=DAY)
        await journal.ledger.put("document", b"1", expect=None, seconds=DAY)
        clock.skip(DAY + 1)
        await journal.tidy()
        assert [rows(path, kind) for kind in ("operation", "document")] == [[], []]
        assert (await journal.ledger.begin("operation", b"other", seconds=DAY)).state is OperationState.NEW
        assert await journal.ledger.get(["document"]) == [(0, None)]
        clock.skip(JOB_SECONDS)
        assert await claimed(journal) == []
        clock.skip(7 * DAY)
        await journal.tidy()
        assert [rows(path, kind) for kind in ("job", "samples", "operation")] == [[], [], []]


async def test_a_queue_that_is_dropped_stays_dropped(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock) as journal:
        journal.planner = JobPlans(lambda key, known: [Job(QUEUE, f"job-{n}", b"x") for n in range(600)])
        await journal.append(TASK, state("completed"))
        await claimed(journal, 10)
        assert await journal.ledger.drop_queue(QUEUE) == 600
        assert rows(path, "job") == []
        assert await journal.ledger.drop_queue(QUEUE) == 0


# Disks that fail


async def test_nothing_half_is_left_of_what_could_not_be_written(path: Path, clock: FakeClock) -> None:
    disk = Disk()
    async with opened(path, clock, connect=disk.connect) as journal:
        ledger = journal.ledger
        heard: list[bytes | None] = []
        ledger.hear(lambda name, value: heard.append(value))
        before = await ledger.put("webhooks", b"one", expect=None, seconds=DAY)
        await ledger.begin("open", b"d", seconds=DAY)
        disk.fail("INSERT", code=sqlite3.SQLITE_FULL)
        with pytest.raises(JournalError, match="no space left"):
            await ledger.put("webhooks", b"two", expect=None, seconds=DAY, announced=True)
        for _ in range(2):
            with pytest.raises(JournalError, match="no space left"):
                await ledger.begin("new", b"d", seconds=DAY)
        with pytest.raises(JournalError, match="no space left"):
            await ledger.finish("open", b"answer")
        assert await ledger.get(["webhooks"]) == [(before.version, b"one")]
        disk.mend()
        await journal.tidy()
        assert journal.usable
        assert await ledger.get(["webhooks"]) == [(before.version, b"one")]
        assert await ledger.begin("open", b"d", seconds=DAY) == (OperationState.DONE, b"answer")
        assert (await ledger.begin("new", b"d", seconds=DAY)).state is OperationState.NEW
        assert heard == []
    async with opened(path, clock) as journal:
        assert await journal.ledger.get(["webhooks"]) == [(before.version, b"one")]
        assert await journal.ledger.begin("open", b"d", seconds=DAY) == (OperationState.DONE, b"answer")
        assert (await journal.ledger.begin("new", b"d", seconds=DAY)).state is OperationState.DEAD


async def test_a_state_that_is_not_recorded_has_no_jobs(path: Path, clock: FakeClock) -> None:
    disk = Disk()
    async with opened(path, clock, connect=disk.connect) as journal:
        journal.planner = planner = JobPlans()
        journal.describe(TASK, DETAILS)
        disk.fail("INSERT OR REPLACE INTO engine")
        with pytest.raises(JournalError):
            await journal.append(TASK, state("completed"))
        assert (await journal.latest([TASK]), planner.wrote) == ([None], [])
        assert await claimed(journal) == []
        disk.mend()
        await journal.tidy()
        assert rows(path, "job") == rows(path, "task") == []
        await journal.append(TASK, state("completed"))
        assert len(planner.wrote) == 1
        assert [job.id for job in await claimed(journal)] == [job_id(TASK, state("completed"))]
        assert planner.planned[1][1] is None  # what was refused is not before it
    assert rows(path, "task") == [b"qingbo\0-\0task-1"]


async def test_a_job_is_not_claimed_before_its_state_is_on_the_disk(path: Path, clock: FakeClock) -> None:
    disk = Disk()
    async with opened(path, clock, connect=disk.connect) as journal:
        journal.planner = planner = JobPlans()
        disk.turning.clear()
        appending = asyncio.create_task(journal.append(TASK, state("completed")))
        beginning = asyncio.create_task(journal.ledger.begin("operation", b"d", seconds=DAY))
        second = asyncio.create_task(journal.ledger.begin("operation", b"d", seconds=DAY))
        await asyncio.sleep(0.02)
        assert planner.planned != []
        assert await claimed(journal) == []
        assert not any(one.done() for one in (appending, beginning, second))
        disk.turning.set()
        await appending
        assert [(await one).state for one in (beginning, second)] == [
            OperationState.NEW,
            OperationState.PENDING,
        ]
        assert len(await claimed(journal)) == 1


async def test_what_a_caller_left_is_written_all_the_same(path: Path, clock: FakeClock) -> None:
    disk = Disk()
    async with opened(path, clock, connect=disk.connect) as journal:
        heard = asyncio.Event()
        journal.ledger.hear(lambda name, value: heard.set())
        disk.turning.clear()
        leaving = [
            asyncio.create_task(journal.ledger.begin("operation", b"d", seconds=DAY)),
            asyncio.create_task(journal.ledger.put("document", b"1", expect=0, seconds=DAY, announced=True)),
        ]
        await asyncio.sleep(0.02)
        for one in leaving:
            one.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        disk.turning.set()
        await asyncio.wait_for(heard.wait(), 5)
        assert (await journal.ledger.begin("operation", b"d", seconds=DAY)).state is OperationState.PENDING
    assert rows(path, "operation") == [b"operation"]
    assert rows(path, "document") == [b"document"]


async def test_a_closed_journal_says_so(path: Path, clock: FakeClock) -> None:
    async with opened(path, clock) as journal:
        await journal.ledger.begin("open", b"d", seconds=DAY)
    for call in (
        journal.ledger.begin("operation", b"d", seconds=DAY),
        journal.ledger.finish("open", b"answer"),
        journal.ledger.put("document", b"1", expect=None, seconds=DAY),
        journal.ledger.add_jobs([job_of(TASK, state("completed"))]),
        journal.ledger.drop_queue(QUEUE),
    ):
        with pytest.raises(JournalError, match="is closed"):
            await call


# Details


async def test_details_of_open_and_lost_tasks_survive_and_go_with_the_task(
    path: Path, clock: FakeClock
) -> None:
    statuses = {"open": "processing", "lost": "lost", "over": "completed"}
    keys = {name: TaskKey("qingbo", name) for name in statuses}
    async with opened(path, clock, retention_seconds=60) as journal:
        for name, status in statuses.items():
            journal.describe(keys[name], DETAILS)
            await journal.append(keys[name], state("queued"))
            await journal.append(keys[name], state(status))
    async with opened(path, clock, retention_seconds=60) as journal:
        assert [journal.details(keys[name]) for name in statuses] == [DETAILS, DETAILS, NO_DETAILS]
        journal.planner = planner = JobPlans()
        await journal.append(keys["lost"], state("completed"))
        assert planner.planned[0][3] == DETAILS
        assert journal.details(keys["lost"]) == NO_DETAILS
        clock.skip(61)
        await journal.tidy()
        assert rows(path, "task") == [b"qingbo\0-\0open"]
        clock.skip(8 * DAY)
        await journal.tidy()
        assert rows(path, "task") == []
        assert journal.details(keys["open"]) == NO_DETAILS


# Several workers on the same file


@asynccontextmanager
async def keeper(path: Path, time: VirtualTime, clock: FakeClock) -> AsyncIterator[Store]:
    store = Store()
    recorder = await StoreRecorder.open(path, store, clock, now=time, retention_seconds=DAY)
    lease = {"ttl": 600.0, "known_head": 0, "new_epoch": "e1", "about": b"", "opens": True}
    try:
        store.session("worker", **lease, now=time())  # type: ignore[arg-type]
        yield store
        recorder.changed()
    finally:
        await recorder.close()


async def test_one_process_and_several_workers_take_turns(path: Path, clock: FakeClock) -> None:
    time = VirtualTime(round(WALL * 1e6))
    async with opened(path, clock) as journal:
        journal.planner = JobPlans()
        journal.describe(TASK, DETAILS)
        await journal.append(TASK, state("processing"))
        ledger = journal.ledger
        document = await ledger.put("webhooks", b"one", expect=None, seconds=DAY)
        await ledger.begin("done", b"d", seconds=DAY)
        await ledger.finish("done", b"answer")
        await ledger.begin("open", b"d", seconds=DAY)
        await ledger.learn("deliveries:a", [b"1"], keep=100)
        await claimed(journal)
    async with keeper(path, time, clock) as store:
        (record,) = store.records([TASK], now=time())
        assert record.details == DETAILS.encode()
        assert (record.version, record.document) == (1, encode(state("processing")))
        listed = store.listing("qingbo", "-", tag="a", limit=10, now=time())
        assert listed == [(record.first_seen, TASK, DETAILS.encode())]
        assert store.get(["webhooks"], now=time()) == [(document.version, b"one")]
        assert store.begin("worker", "done", b"d", seconds=DAY, now=time()) == (
            OperationState.DONE,
            b"answer",
        )
        assert store.begin("worker", "open", b"d", seconds=DAY, now=time()).state is OperationState.DEAD
        assert store.learned(["deliveries:a"], now=time()) == [[b"1"]]
        (job,) = store.claim_jobs("worker", QUEUE, limit=9, lease=60, now=time())
        assert (job.id, job.attempts, job.offset) == (job_id(TASK, state("processing")), 2, 1)
        store.finish_job("worker", QUEUE, job.id, now=time())
        done = state("completed")
        (applied,) = store.apply(
            "worker",
            [
                state_of(TASK, 2, mode=Mode.FREE, document=encode(done), jobs=[job_of(TASK, done)]),
                state_of(OTHER, 1, mode=Mode.FREE, document=encode(state()), details=DETAILS.encode()),
            ],
            limits=JobLimits(),
            now=time(),
        )[:1]
        store.put("webhooks", b"two", expect=document.version, seconds=DAY, now=time())
        store.begin("worker", "theirs", b"d", seconds=DAY, now=time())
    async with opened(path, clock) as journal:
        ledger = journal.ledger
        (job,) = await claimed(journal)
        assert (job.id, job.offset, job.attempts) == (job_id(TASK, done), applied.offset, 1)
        ((_, value),) = await ledger.get(["webhooks"])
        assert value == b"two"
        assert (await ledger.begin("theirs", b"d", seconds=DAY)).state is OperationState.DEAD
        assert journal.details(OTHER) == DETAILS
        journal.describe(OTHER, TaskDetails(tags=("b",)))
        await journal.append(OTHER, state("processing", 50.0))
    async with keeper(path, time, clock) as store:
        (record,) = store.records([OTHER], now=time())
        assert (record.version, record.details) == (2, b'{"tags":["b"]}')
