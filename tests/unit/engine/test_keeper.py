"""The keeper's wire and its rules: what contract tests cannot see from one engine's side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.task import TaskKey
from bridge.engine.base import (
    Apply,
    End,
    Engine,
    Entry,
    Job,
    JobLimits,
    Mode,
    NoticeEntry,
    OperationState,
    Owner,
    SessionState,
    Stamp,
    StateEntry,
    Want,
    Welcome,
)
from bridge.engine.keeper import wire
from bridge.engine.keeper.client import KeeperEngine
from bridge.engine.keeper.server import MAX_UNSENT, Keeper
from bridge.engine.keeper.wire import (
    NUMBERS,
    OPERATIONS,
    FrameSplitter,
    MalformedFrame,
    decode_entries,
    encode_entries,
    frame,
)
from bridge.engine.store import Store, StoreLimits
from bridge.errors import EngineUnavailable
from tests.fakes.engines import START, VirtualTime

pytestmark = pytest.mark.anyio

KEY = TaskKey("qingbo", "task-1")


class SlowDisk:
    """A recorder whose disk the test drives."""

    def __init__(self, store: Store) -> None:
        self.position = self.durable = 0
        self.head = store.log.head
        self.error = ""
        self._store = store

    def changed(self, operation: str, arguments: tuple[Any, ...]) -> None:
        if operation in ("apply", "put", "keep"):
            self.position += 1
        elif self.durable == self.position:
            self.head = self._store.log.head

    def written(self) -> None:
        self.durable, self.head = self.position, self._store.log.head


class Scene:
    def __init__(self, *, slow_disk: bool = False) -> None:
        self.time = VirtualTime()
        self.store = Store(StoreLimits())
        self.disk = SlowDisk(self.store) if slow_disk else None
        self.keeper = Keeper(self.store, self.time, recorder=self.disk)
        self.engines: list[KeeperEngine] = []

    async def worker(self, name: str, *, seconds: float = 5.0) -> KeeperEngine:
        engine = await KeeperEngine.open(self.keeper.connect(), answer_seconds=seconds)
        self.engines.append(engine)
        assert (await welcome(engine, name)).state is SessionState.OPENED
        return engine


@asynccontextmanager
async def scene(*, slow_disk: bool = False) -> AsyncIterator[Scene]:
    made = Scene(slow_disk=slow_disk)
    yield made
    for engine in made.engines:
        await engine.close()
    made.keeper.close()
    await asyncio.sleep(0)


async def welcome(engine: Engine, name: str) -> Welcome:
    return await engine.session(name, ttl=60, known_head=0, new_epoch="e1", about=b"", opens=True)


def state(version: int, session: str = "a", document: bytes = b"{}") -> Apply:
    digest = b"%016d" % version
    return Apply(KEY, Mode.FREE, version - 1, Stamp(version, session), End.OPEN, digest, document)


# The wire


def test_every_operation_of_the_protocol_is_on_the_wire() -> None:
    names = {name for name in vars(Engine) if not name.startswith("_")} - {"close", "read"}
    assert {operation.name for operation in OPERATIONS} == names == set(NUMBERS)


@given(st.binary(max_size=200), st.integers(0, 255))
def test_bytes_that_are_no_arguments_are_an_error_and_nothing_else(body: bytes, number: int) -> None:
    operation = OPERATIONS[number % len(OPERATIONS)]
    try:
        arguments = wire.decode_arguments(operation, memoryview(body))
    except MalformedFrame:
        return
    assert len(arguments) == len(operation.names)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_entries_are_an_error(body: bytes) -> None:
    with contextlib.suppress(MalformedFrame):
        assert isinstance(decode_entries(body), list)


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 255), st.binary(max_size=50))), st.data())
def test_frames_survive_any_division_into_reads(frames: list[tuple[int, int, bytes]], data: Any) -> None:
    stream = b"".join(frame(*one) for one in frames)
    splitter, found = FrameSplitter(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += [(number, what, bytes(body)) for number, what, body in splitter.split(stream[:size])]
        stream = stream[size:]
    assert found == frames


def test_a_frame_that_would_fill_the_memory_is_refused() -> None:
    with pytest.raises(MalformedFrame):
        list(FrameSplitter().split(wire.HEAD.pack(wire.MAX_FRAME + 1, 1, 1)))


def test_entries_of_all_kinds_arrive_as_they_were() -> None:
    entries: list[Entry] = [
        StateEntry(2, 1, KEY, Stamp(1, "a"), End.LOST, b"d", b"{}", None),
        NoticeEntry(3, 2, KEY, "stale", None),
    ]
    assert decode_entries(encode_entries(entries)) == entries


# Sessions and connections


async def test_a_closed_connection_ends_its_sessions_at_once_and_others_take_over() -> None:
    async with scene() as it:
        first, second = await it.worker("a"), await it.worker("b")
        (owned,) = await first.want("a", [Want(KEY)], linger=30)
        (other,) = await second.want("b", [Want(KEY)], linger=30)
        assert (owned.owner, other.owner) == (Owner.ME, Owner.OTHER)
        await first.close()
        await asyncio.sleep(0.05)
        (other,) = await second.want("b", [Want(KEY)], linger=30)
        assert other.owner is Owner.ME
        assert (await welcome(second, "b")).sessions.keys() == {"b"}


async def test_when_the_worker_crashed_nobody_knows_when_it_polled_last() -> None:
    async with scene() as it:
        first, second = await it.worker("a"), await it.worker("b")
        await first.want("a", [Want(KEY)], linger=30)
        await first.apply("a", [state(1)])
        await first.close()
        await asyncio.sleep(0.01)
        (wanted,) = await second.want("b", [Want(KEY)], linger=30)
        assert (wanted.owner, wanted.record.due) == (Owner.ME, 0)


async def test_what_is_no_call_ends_that_connection_and_no_other() -> None:
    async with scene() as it:
        worker = await it.worker("a")
        end = it.keeper.connect()
        end.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=end)
        writer.write(frame(1, 250, b"\xc1"))
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        assert (await welcome(worker, "a")).state is SessionState.OPENED


async def test_without_a_keeper_every_call_fails_now_and_later() -> None:
    async with scene() as it:
        worker = await it.worker("a")
        reading = asyncio.ensure_future(worker.read(0, block=60))
        await asyncio.sleep(0)
        it.keeper.close()
        with pytest.raises(EngineUnavailable):
            await reading
        with pytest.raises(EngineUnavailable):
            await worker.census()


async def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    ours, its = socket.socketpair()
    with ours:
        worker = await KeeperEngine.open(its, answer_seconds=0.05)
        with pytest.raises(EngineUnavailable, match=r"within 0\.05 seconds"):
            await worker.census()
        await worker.close()


async def test_an_answer_of_another_shape_ends_the_connection() -> None:
    ours, its = socket.socketpair()
    worker = await KeeperEngine.open(its)
    ours.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    asking = asyncio.ensure_future(worker.bury(limit=1, spacing=0))
    await reader.readexactly(wire.HEAD.size)
    writer.write(frame(1, wire.DONE, wire.encode("many")))
    with pytest.raises(EngineUnavailable, match="malformed answer"):
        await asking
    writer.close()


async def test_a_defect_of_the_engine_is_told_and_the_connection_stays(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scene() as it:
        worker = await it.worker("a")
        it.keeper._calls[NUMBERS["bury"]] = None
        with pytest.raises(EngineUnavailable, match="TypeError"):
            await worker.bury(limit=1, spacing=0)
        assert (await welcome(worker, "a")).state is SessionState.OPENED
    assert "unhandled exception in engine" in caplog.text


async def test_a_name_that_cannot_be_encoded_fails_that_call_alone() -> None:
    async with scene() as it:
        worker = await it.worker("a")
        with pytest.raises(EngineUnavailable):
            await worker.get(["alias\ud800"])
        assert await worker.get(["alias"]) == [(0, None)]


# The log


async def test_what_follows_a_read_is_pushed_to_all_in_order() -> None:
    async with scene() as it:
        writer, reader = await it.worker("a"), await it.worker("b")
        after, seen = (await welcome(reader, "b")).head, list[int]()
        for version in range(1, 101):
            await writer.apply("a", [state(version)])
        while len(seen) < 100:
            entries = await reader.read(after, block=5)
            assert entries, "none is lost"
            after = entries[-1].offset
            seen += [entry.stamp.version for entry in entries if isinstance(entry, StateEntry)]
        assert seen == list(range(1, 101))


async def test_a_worker_that_does_not_read_costs_no_memory_and_misses_nothing() -> None:
    async with scene() as it:
        writer = await it.worker("a")
        end = it.keeper.connect()  # of a worker that is stopped
        start = it.store.log.head
        end.setblocking(False)
        end.send(frame(7, wire.READ, wire.encode((start, 1000))))
        await asyncio.sleep(0.01)
        document = b"{" + b"x" * 15_000 + b"}"
        for version in range(1, 401):
            await writer.apply("a", [state(version, document=document)])
            it.time.advance(0.001)
        await asyncio.sleep(0.01)
        (stopped,) = [one for one in it.keeper._connections if one.reading == 7]
        assert stopped.transport.get_write_buffer_size() < 3 * MAX_UNSENT
        reader, stream = await asyncio.open_connection(sock=end)
        splitter, seen = FrameSplitter(), list[int]()
        async with asyncio.timeout(10):
            while len(seen) < 400:
                for _number, _what, body in splitter.split(await reader.read(1 << 20)):
                    seen += [
                        entry.stamp.version for entry in decode_entries(body) if isinstance(entry, StateEntry)
                    ]
        assert seen == list(range(1, 401))
        stream.close()


async def test_a_read_from_elsewhere_begins_there_again() -> None:
    async with scene() as it:
        worker = await it.worker("a")
        start = it.store.log.head
        for version in (1, 2, 3):
            await worker.apply("a", [state(version)])
        first = await worker.read(start, block=1, limit=1)
        rest = await worker.read(first[-1].offset, block=1)
        again = await worker.read(start, block=1)
        assert [entry.offset for entry in again] == [entry.offset for entry in (*first, *rest)]
        assert await worker.read(again[-1].offset, block=0) == []


async def test_a_read_that_was_cancelled_loses_nothing() -> None:
    async with scene() as it:
        worker = await it.worker("a")
        start = it.store.log.head
        await worker.apply("a", [state(1)])
        reading = asyncio.ensure_future(worker.read(start, block=1))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        (entry,) = await worker.read(start, block=1)
        assert isinstance(entry, StateEntry)


# With a disk


async def test_nobody_hears_of_a_state_before_it_is_on_disk() -> None:
    async with scene(slow_disk=True) as it:
        assert it.disk is not None
        writer, reader = await it.worker("a"), await it.worker("b")
        start = it.store.log.head
        applying = asyncio.ensure_future(writer.apply("a", [state(1)]))
        await asyncio.sleep(0.01)
        asking = asyncio.ensure_future(reader.records([KEY]))
        assert await reader.read(start, block=0.05) == []
        assert not applying.done()
        assert not asking.done(), "its answer would show the state"
        it.disk.written()
        it.keeper.recorded()
        (applied,) = await applying
        (record,) = await asking
        (entry,) = await reader.read(start, block=1)
        assert applied.offset == record.offset == entry.offset


async def test_what_has_no_log_entry_is_on_disk_too_before_it_is_answered() -> None:
    async with scene(slow_disk=True) as it:
        assert it.disk is not None
        worker = await it.worker("a")
        putting = asyncio.ensure_future(worker.put("alias", b"x", expect=None, seconds=60))
        await asyncio.sleep(0.01)
        assert not putting.done()
        it.disk.written()
        it.keeper.recorded()
        assert (await putting).written


async def test_while_the_disk_fails_the_engine_is_away_and_then_back() -> None:
    async with scene(slow_disk=True) as it:
        assert it.disk is not None
        worker = await it.worker("a")
        it.disk.error = "the disk is full"
        with pytest.raises(EngineUnavailable, match="the disk is full"):
            await worker.apply("a", [state(1)])
        it.disk.error = ""
        assert (await welcome(worker, "a")).state is SessionState.OPENED


def test_it_works_on_the_event_loop_of_production() -> None:
    async def run() -> None:
        async with scene() as it:
            worker = await it.worker("a")
            await worker.apply("a", [state(1)])
            assert len(await worker.read(START, block=1)) == 1

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# What a worker leaves that is killed

WORKER = """
import asyncio, socket, sys
from bridge.engine.keeper.client import KeeperEngine

async def work():
    engine = await KeeperEngine.open(socket.socket(fileno=int(sys.argv[1])))
    await engine.session("w", ttl=3600, known_head=0, new_epoch="e1", about=b"", opens=True)
    await engine.begin("w", "done", b"d", seconds=600)
    await engine.finish("w", "done", b"answer")
    await engine.begin("w", "begun", b"d", seconds=600)
    jobs = await engine.claim_jobs("w", "hook", limit=9, lease=600)
    print(len(jobs), flush=True)
    await asyncio.sleep(60)

asyncio.run(work())
"""


async def test_what_a_killed_worker_had_begun_is_dead_at_once_and_its_jobs_are_due() -> None:
    store, time = Store(), VirtualTime()
    keeper = Keeper(store, time)
    engine = await KeeperEngine.open(keeper.connect())
    await engine.session("a", ttl=3600, known_head=0, new_epoch="e1", about=b"", opens=True)
    jobs = [Job("hook", "1", b"", "x", replaceable=True), Job("hook", "2", b"")]
    store.add_state_jobs(jobs, 1, JobLimits(), now=time.now)
    with keeper.connect() as its:
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, str(its.fileno())),
            pass_fds=[its.fileno()],
            stdout=asyncio.subprocess.PIPE,
        )
    assert worker.stdout is not None
    assert await worker.stdout.readline() == b"2\n"
    pending = await engine.begin("a", "begun", b"d", seconds=600)
    assert pending.state is OperationState.PENDING
    store.add_state_jobs([Job("hook", "3", b"", "x")], 2, JobLimits(), now=time.now)
    assert await engine.claim_jobs("a", "hook", limit=9, lease=600) == []

    worker.kill()
    await worker.wait()

    while (begun := await engine.begin("a", "begun", b"d", seconds=600)) == pending:
        pass
    assert begun.state is OperationState.DEAD
    assert await engine.begin("a", "begun", b"other", seconds=600) == (OperationState.MISMATCH, None)
    assert await engine.begin("a", "done", b"d", seconds=600) == (OperationState.DONE, b"answer")
    due = await engine.claim_jobs("a", "hook", limit=9, lease=600)
    assert [(job.id, job.attempts) for job in due] == [("3", 2), ("2", 2)]
    await engine.close()
    keeper.close()
