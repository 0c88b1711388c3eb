"""A process that is killed while it appends; what it was told to be recorded is."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import pytest

from bridge.core.task import TaskKey
from bridge.errors import JournalError
from tests.fakes.disk import opened
from tests.fakes.journal import recorded_after

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
