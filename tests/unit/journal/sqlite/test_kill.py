"""A process that is killed while it appends; what it was told to be recorded is."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from bridge.clock import SystemClock
from bridge.core.task import TaskKey
from bridge.engine.base import Job, OperationState
from bridge.engine.store import Store
from bridge.errors import JournalError
from bridge.journal.sqlite.store_recorder import StoreRecorder
from tests.fakes.clock import FakeClock
from tests.fakes.disk import opened
from tests.fakes.engines import VirtualTime
from tests.fakes.journal import recorded_after
from tests.fakes.ledgers import QUEUE, job_id

pytestmark = pytest.mark.anyio

ACKNOWLEDGED = 500
APPENDING = """
import asyncio, sys
from pathlib import Path
from bridge.clock import SystemClock
from bridge.core.task import TaskKey
from bridge.journal.sqlite.journal import SqliteJournal
from tests.fakes.tasks import state

async def keep_appending(journal, task):
    for progress in range(1_000_000):
        event = await journal.append(TaskKey("qingbo", f"task-{task}"), state(progress=progress))
        print(task, progress, event.cursor, flush=True)

async def main():
    journal = await SqliteJournal.open(Path(sys.argv[1]), SystemClock(), retention_seconds=86_400)
    await asyncio.gather(*(keep_appending(journal, task) for task in range(20)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", APPENDING, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    told = [await process.stdout.readline() for _ in range(ACKNOWLEDGED)]
    with pytest.raises(JournalError, match="in use by another bridge"):
        await opened(path).__aenter__()
    process.kill()
    told += [line for line in (await process.stdout.read()).splitlines(keepends=True) if line.endswith(b"\n")]
    assert await process.wait() == -signal.SIGKILL
    async with opened(path) as journal:
        kept = {
            (task, event.state.progress, str(event.cursor))
            for task in range(20)
            for event in await recorded_after(journal, TaskKey("qingbo", f"task-{task}"), 0)
        }
        newest = {event.key.task_id: event for event in await journal.unfinished()}
        head = journal.head
    for line in told:
        task, progress, cursor = line.decode().split()
        found = (int(task), float(progress), cursor) in kept
        assert found or newest[f"task-{task}"].state.progress >= float(progress) + 256, "beyond its history"
        assert int(cursor.partition("-")[2]) <= head
    assert len(told) >= ACKNOWLEDGED


REMEMBERING = """
import asyncio, sys
from pathlib import Path
from bridge.clock import SystemClock
from bridge.core.task import TaskKey
from bridge.journal.sqlite.journal import SqliteJournal
from tests.fakes.ledgers import QUEUE, JobPlans, job_id
from tests.fakes.tasks import state

async def keep_appending(journal, task):
    for progress in range(1_000_000):
        key, known = TaskKey("qingbo", f"task-{task}"), state(progress=float(progress))
        event = await journal.append(key, known)
        print("recorded", job_id(key, known), event.cursor.offset, flush=True)

async def keep_delivering(journal):
    while True:
        for job in await journal.ledger.claim_jobs(QUEUE, limit=10, lease=60):
            print("delivered", job.id, job.attempts, flush=True)
            await journal.ledger.finish_job(QUEUE, job.id)
        await asyncio.sleep(0.001)

async def keep_beginning(ledger):
    for number in range(1_000_000):
        assert (await ledger.begin(f"operation-{number}", b"d", seconds=9e9)).state == "new"
        print("begun", number, "", flush=True)
        assert await ledger.finish(f"operation-{number}", b"%d" % number)
        print("finished", number, "", flush=True)
        put = await ledger.put("document", b"%d" % number, expect=None, seconds=9e9)
        print("put", number, put.version, flush=True)

async def main():
    journal = await SqliteJournal.open(Path(sys.argv[1]), SystemClock(), retention_seconds=86_400)
    journal.planner = JobPlans()
    work = [keep_appending(journal, task) for task in range(5)]
    await asyncio.gather(*work, keep_delivering(journal), keep_beginning(journal.ledger))

asyncio.run(main())
"""


@pytest.mark.extended
async def test_what_a_ledger_answered_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REMEMBERING, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(ACKNOWLEDGED)]
    process.kill()
    lines += [
        line for line in (await process.stdout.read()).splitlines(keepends=True) if line.endswith(b"\n")
    ]
    assert await process.wait() == -signal.SIGKILL
    said: dict[str, dict[str, str]] = {}
    for line in lines:
        what, name, value = line.decode().rstrip("\n").split(" ")
        said.setdefault(what, {})[name] = value
    async with opened(path, SystemClock()) as journal:  # type: ignore[arg-type] # as the other process had
        waiting: dict[str, Job] = {}
        while jobs := await journal.ledger.claim_jobs(QUEUE, limit=100, lease=60):
            for job in jobs:
                waiting[job.id] = job
                await journal.ledger.finish_job(QUEUE, job.id)
        # Each recorded state has its job, unless it was delivered; and each job its state.
        assert said["recorded"].keys() <= waiting.keys() | said["delivered"].keys()
        for name, offset in said["recorded"].items():
            assert name not in waiting or waiting[name].offset == int(offset)
        events = {
            job_id(event.key, event.state)
            for task in range(5)
            for event in await recorded_after(journal, TaskKey("qingbo", f"task-{task}"), 0)
        }
        assert len(events) < 5 * 256, "beyond their history"
        assert waiting.keys() <= events
        for number in said["begun"]:
            operation = await journal.ledger.begin(f"operation-{number}", b"d", seconds=9e9)
            if number in said["finished"] or operation.answer is not None:
                assert operation == (OperationState.DONE, number.encode())
            else:
                assert operation.state is OperationState.DEAD
        ((version, document),) = await journal.ledger.get(["document"])
        newest = max(map(int, said["put"]))
        assert int(document or b"") in (newest, newest + 1)
        assert version >= int(said["put"][str(newest)])


SHARING = """
import asyncio, sys, time
from pathlib import Path
from bridge.clock import SystemClock
from bridge.core.task import TaskKey
from bridge.engine.base import JobLimits, Mode
from bridge.engine.store import Store
from bridge.journal.sqlite.codec import encode
from bridge.journal.sqlite.store_recorder import StoreRecorder
from tests.fakes.engines import state_of
from tests.fakes.tasks import state

def now():
    return time.time_ns() // 1000

async def main():
    store, durable = Store(), asyncio.Event()
    recorder = await StoreRecorder.open(
        Path(sys.argv[1]), store, SystemClock(), now=now, retention_seconds=86_400
    )
    recorder.recorded = durable.set
    options = {"known_head": 0, "new_epoch": "e1", "about": b"", "opens": True}
    store.session("a", ttl=600, **options, now=now())
    for version in range(1, 1_000_000):
        told = []
        for task in range(5):
            known = state(progress=version)
            change = state_of(
                TaskKey("qingbo", f"task-{task}"), version, mode=Mode.FREE, document=encode(known),
                content=f"{task}-{version}",
            )
            (applied,) = store.apply("a", [change], limits=JobLimits(), now=now())
            told.append((task, version, applied.offset))
        put = store.put("document", b"%d" % version, expect=None, seconds=1e9, now=now())
        recorder.changed()
        position = recorder.position
        while recorder.durable < position:
            durable.clear()
            await durable.wait()
        for task, version, offset in told:
            print(task, version, offset, store.log.epoch, flush=True)

asyncio.run(main())
"""


async def test_what_an_engine_acknowledged_survives_a_kill_in_the_same_epoch(tmp_path: Path) -> None:
    path = tmp_path / "bridge.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SHARING, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    lines = [await process.stdout.readline() for _ in range(ACKNOWLEDGED)]
    process.kill()
    lines += [
        line for line in (await process.stdout.read()).splitlines(keepends=True) if line.endswith(b"\n")
    ]
    assert await process.wait() == -signal.SIGKILL
    store = Store()
    recorder = await StoreRecorder.open(path, store, FakeClock(), now=VirtualTime(), retention_seconds=86_400)
    try:
        told = [line.split() for line in lines]
        assert {epoch.decode() for *_, epoch in told} == {store.log.epoch}
        newest: dict[int, tuple[int, int]] = {}
        for task, version, offset, _ in told:
            newest[int(task)] = (int(version), int(offset))
        for task, (version, offset) in newest.items():
            (record,) = store.records([TaskKey("qingbo", f"task-{task}")], now=0)
            assert record.version >= version
            assert record.offset >= offset
            assert (record.version == version) == (record.offset == offset)
        ((_, document),) = store.get(["document"], now=0)
        assert document is not None
        assert int(document) >= max(version for version, _ in newest.values())
        assert store.log.head >= max(offset for _, offset in newest.values())
    finally:
        await recorder.close()
    # And a process alone reads all of it.
    async with opened(path) as journal:
        assert journal.epoch == store.log.epoch
        for task in range(5):
            events = await recorded_after(journal, TaskKey("qingbo", f"task-{task}"), 0)
            progresses = [event.state.progress for event in events]
            assert progresses == [progresses[0] + number for number in range(len(events))]
