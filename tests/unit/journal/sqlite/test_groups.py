"""Appends that are written together: each has a verdict of its own."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.errors import JournalError
from bridge.journal.sqlite.storage import COPIED_BYTES, make_entry, write
from tests.fakes.disk import Disk, Witness, opened
from tests.fakes.journal import recorded_after
from tests.fakes.tasks import OTHER, TASK, state

KEYS = [TaskKey("qingbo", name) for name in ("1", "2/ü", "3\udc80")]
STATES: dict[str, dict[str, Any]] = {"recorded": {}, "cancelled": {}, "unwritable": {"model": object()}}

members = st.lists(st.tuples(st.sampled_from(KEYS), st.sampled_from(list(STATES))), min_size=1, max_size=12)


class Bug(Disk):
    """A disk under which the writer itself raises."""

    def meet(self, statement: str) -> None:
        if statement.startswith("INSERT INTO events"):
            raise RuntimeError("a bug")


@given(members=members, trouble=st.sampled_from([None, "BEGIN", "INSERT INTO events", "COMMIT", "bug"]))
@example(members=[(KEYS[0], "cancelled"), (KEYS[0], "unwritable"), (KEYS[1], "recorded")], trouble=None)
@settings(max_examples=25, deadline=None)
def test_each_append_of_a_group_has_a_verdict_of_its_own(
    members: list[tuple[TaskKey, str]], trouble: str | None
) -> None:
    """What cannot be written fails alone, who leaves takes nobody along, a failed commit fails all."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_write_group(Path(folder, "bridge.db"), members, trouble))


async def _write_group(path: Path, members: list[tuple[TaskKey, str]], trouble: str | None) -> None:
    disk, witness = Bug() if trouble == "bug" else Disk(), Witness()
    async with opened(path, connect=disk.connect) as journal:
        journal.follow(witness)
        disk.turning.clear()
        disk.met.clear()
        first = asyncio.ensure_future(journal.append(OTHER, state()))
        await asyncio.sleep(0)
        await asyncio.to_thread(disk.met.wait)  # all others are one group, behind it
        states = [state(progress=number, **STATES[fate]) for number, (_, fate) in enumerate(members)]
        appends = [
            asyncio.ensure_future(journal.append(key, known))
            for (key, _), known in zip(members, states, strict=True)
        ]
        await asyncio.sleep(0)
        for append, (_, fate) in zip(appends, members, strict=True):
            if fate == "cancelled":
                append.cancel()
        if trouble not in (None, "bug"):
            disk.fail(str(trouble))
        disk.turning.set()
        async with asyncio.timeout(10):  # without a verdict an append waits for ever
            verdicts = await asyncio.gather(first, *appends, return_exceptions=True)

        for (key, fate), known, verdict in zip(members, states, verdicts[1:], strict=True):
            if fate == "cancelled":
                assert isinstance(verdict, asyncio.CancelledError)
            elif fate == "unwritable" or trouble is not None:
                assert isinstance(verdict, JournalError)
            else:
                assert isinstance(verdict, Event)
                assert (verdict.key, verdict.state) == (key, known)
        if trouble is not None:
            assert isinstance(verdicts[0], JournalError)
            assert witness.heard == []
            return
        verdicts.append(await journal.append(OTHER, state()))  # behind those that were cancelled
        written = [OTHER, *(key for key, fate in members if fate != "unwritable"), OTHER]
        events = [one for one in witness.heard if isinstance(one, Event)]
        assert [one.key for one in events] == written
        assert witness.offsets == list(range(1, len(written) + 1))
        assert [one for one in verdicts if isinstance(one, Event)] == [
            one for one in events if any(one is verdict for verdict in verdicts)
        ]
        for key in KEYS:
            assert await recorded_after(journal, key, 0) == [one for one in events if one.key == key]


class Bound(sqlite3.Connection):
    """Keeps what its statements were given."""

    values: list[Any]

    def execute(self, statement: str, values: Any = (), /) -> sqlite3.Cursor:
        """As ever."""
        self.values = [*getattr(self, "values", []), *values]
        return super().execute(statement, values)


@pytest.mark.parametrize("raw", [b"{}", b"x" * COPIED_BYTES], ids=["small", "large"])
def test_what_is_bound_needs_no_adapter_and_is_stored_as_bytes(raw: bytes) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None, factory=Bound)
    connection.execute(
        """CREATE TABLE tasks (id INTEGER PRIMARY KEY, upstream, account, task_id, newest, kept, open,
        changed_at, first_seen, UNIQUE (upstream, account, task_id))"""
    )
    connection.execute("CREATE TABLE events (offset INTEGER PRIMARY KEY, task, seen, state, raw)")
    entry = make_entry(TASK, state(raw=raw), 1.0)
    write(connection, [entry], 0, 2.0)
    kinds = {type(value) for value in connection.values}
    assert kinds - {int, float, bytearray} == (set() if len(raw) < COPIED_BYTES else {bytes})
    assert connection.execute("SELECT upstream, account, task_id, open FROM tasks").fetchone() == (
        *entry.names,
        1,
    )
    assert connection.execute("SELECT state, raw FROM events").fetchone() == (entry.document, raw)
