"""Whatever was asked of a store: what comes back from its file is what was in it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.task import OWN_ACCOUNT
from bridge.engine.base import End, OperationState, Record
from bridge.engine.store import Store
from bridge.engine.store.changes import Changes
from bridge.engine.store.rows import dump
from bridge.journal.sqlite.retention import Retention
from bridge.journal.sqlite.store_file import Batch, StoreFile
from tests.contract.test_engine_same import KEYS, operations
from tests.fakes.clock import FakeClock
from tests.fakes.engines import VirtualTime

NAMES = ["x", "y"]
FOREVER = 1e9


def written(store: Store, file: StoreFile) -> None:
    """Write what has changed."""
    assert store.changes is not None
    states, touched = store.changes.take()
    forgotten = store.changes.take_forgotten()
    rows = [dump(store, kind, name) for kind, name in touched]
    file.write(Batch(store.changes.count, store.log.epoch, store.log.head, states, rows, forgotten))


def after_load(record: Record, now: int) -> Record:
    """A record as it is read back: without what ends with the sessions.

    The process before may have polled an open task, or a lost one, until it ended.
    """
    polled = record.end is End.LOST or (record.end is End.OPEN and (record.version > 0 or record.persistent))
    kept = record.persistent or (
        record.version > 0 and record.end is not End.ENDED and record.key.account == OWN_ACCOUNT
    )
    return record._replace(
        owner="",
        due=0,
        polled_at=now if polled else 0,
        confirmation=None,
        persistent=kept,
        session="",
        digest=b"",
        forgotten=0,
    )


def compare(before: Store, after: Store, now: int) -> None:
    known = [after_load(record, now) for record in before.records(KEYS, now=now)]
    again = [record._replace(due=0, session="", digest=b"") for record in after.records(KEYS, now=now)]
    assert again == known
    assert after.log.epoch == before.log.epoch
    for key in KEYS:
        assert after.history(key, 0, now=now) == before.history(key, 0, now=now)
    for which in ({}, {"tag": "red"}, {"group": "g"}):
        listed = before.listing("video", "-", limit=99, now=now, **which)
        assert after.listing("video", "-", limit=99, now=now, **which) == listed
    for final in (False, True):
        newest = before.newest("video", "-", final=final, limit=9, now=now)
        if set(newest) != {key for key in newest if before.history(key, 0, now=now)}:
            continue
        assert set(after.newest("video", "-", final=final, limit=9, now=now)) == set(newest)
    assert after.get(NAMES, now=now) == before.get(NAMES, now=now)
    assert after.learned(NAMES, now=now) == before.learned(NAMES, now=now)
    assert len(after.jobs) == len(before.jobs)
    for name in NAMES:
        # Whoever had begun an operation is dead now.
        known_operation = before.begin("nobody", name, b"d", seconds=1, now=now)
        begun_again = after.begin("nobody", name, b"d", seconds=1, now=now)
        if known_operation.state is not OperationState.PENDING:
            assert begun_again == known_operation
    for job in range(1, 8):
        one, other = before.jobs.get("hook", str(job)), after.jobs.get("hook", str(job))
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            at_once = one.job._replace(due=min(one.job.due, now))  # after a start nothing waits
            assert (at_once, one.order, one.written) == (other.job, other.order, other.written)


@settings(max_examples=60)
@given(asked=st.lists(operations, min_size=5, max_size=40), every=st.integers(1, 10))
def test_a_store_comes_back_from_its_file(asked: list[Any], every: int) -> None:
    with TemporaryDirectory() as folder:
        path, retention = Path(folder) / "journal.db", Retention(seconds=FOREVER, max_events=1_000_000)
        file = StoreFile.open(path, FakeClock(), retention)
        store, time = Store(), VirtualTime()
        file.load(store, 32, 2**30, time.now)
        store.changes = Changes()
        store.session("a", ttl=20, known_head=0, new_epoch="e0", about=b"", opens=True, now=time.now)
        for number, (name, args, options) in enumerate(asked):
            if name == "advance":
                time.advance(*args)
                continue
            getattr(store, name)(*args, **options, now=time.now)
            if number % every == 0:
                written(store, file)
        written(store, file)
        file.close()
        file = StoreFile.open(path, FakeClock(), retention)
        again = Store()
        file.load(again, 32, 2**30, time.now)
        compare(store, again, time.now)
        open_tasks = [
            task for task in again.tasks.all() if task.end is End.OPEN and (task.version or task.persistent)
        ]
        assert all(again.assignments._is_orphan(task.key) for task in open_tasks)
        file.close()
