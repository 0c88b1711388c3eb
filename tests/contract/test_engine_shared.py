"""What every engine promises of samples, documents, operations and holds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bridge.engine.base import (
    DocumentEntry,
    OperationState,
    Put,
)
from tests.fakes.engines import ENGINES, EngineMaker, EngineUse, VirtualTime, require

pytestmark = pytest.mark.anyio

SECOND = 1_000_000


@pytest.fixture(params=ENGINES, ids=lambda maker: maker.name)
async def use(request: pytest.FixtureRequest) -> AsyncIterator[EngineUse]:
    """An engine with the sessions `a` and `b`."""
    require(request.param)
    time = VirtualTime()
    async with request.param.open(time) as engine:
        use = EngineUse(engine, time)
        await use.session("a", ttl=3600)
        await use.session("b", ttl=3600)
        yield use


# Samples


async def test_a_list_keeps_its_newest_samples(use: EngineUse) -> None:
    head = await use.head()
    for number in range(5):
        await use.engine.learn("times:video", [b"%d" % number], keep=3)
    await use.engine.learn("times:image", [bytes(range(256))], keep=3)
    assert await use.engine.learned(["times:video", "unknown", "times:image"]) == [
        [b"2", b"3", b"4"],
        [],
        [bytes(range(256))],
    ]
    assert await use.log(head) == []


async def test_several_samples_at_once_and_a_list_that_is_deleted(use: EngineUse) -> None:
    learn = use.engine.learn
    await learn("x", [b"%d" % number for number in range(100)], keep=64)
    assert await use.engine.learned(["x"]) == [[b"%d" % number for number in range(36, 100)]]
    await learn("x", [b"a", b"b"], keep=3)
    await learn("x", [], keep=3)
    assert await use.engine.learned(["x"]) == [[b"99", b"a", b"b"]]
    await learn("x", [b"c"], keep=0)
    await learn("unknown", [], keep=0)
    assert await use.engine.learned(["x", "unknown"]) == [[], []]


# Small documents


async def test_a_document_is_written_read_and_deleted(use: EngineUse) -> None:
    put = await use.engine.put("alias:x", b"task", expect=None, seconds=60)
    assert put == Put(written=True, version=put.version, value=b"task")
    assert put.version > 0
    assert await use.engine.get(["alias:x", "other"]) == [(put.version, b"task"), (0, None)]
    gone = await use.engine.put("alias:x", None, expect=None, seconds=60)
    assert gone == Put(written=True, version=0, value=None)
    assert await use.engine.get(["alias:x"]) == [(0, None)]


async def test_a_document_is_compared_before_it_is_written(use: EngineUse) -> None:
    put = use.engine.put
    first = await put("x", b"1", expect=0, seconds=60)
    assert first.written
    assert await put("x", b"2", expect=0, seconds=60) == Put(False, first.version, b"1")
    assert await put("x", b"2", expect=first.version + 1, seconds=60) == Put(False, first.version, b"1")
    second = await put("x", b"2", expect=first.version, seconds=60)
    assert second.written
    assert second.version > first.version
    assert await put("x", None, expect=first.version, seconds=60) == Put(False, second.version, b"2")
    assert (await put("x", None, expect=second.version, seconds=60)).written
    third = await put("x", b"3", expect=0, seconds=60)
    assert third.version > second.version  # who compares with the first one is not right by accident
    assert await put("other", b"1", expect=7, seconds=60) == Put(False, 0, None)


async def test_a_document_expires_by_its_last_write(use: EngineUse) -> None:
    await use.engine.put("x", b"1", expect=None, seconds=10)
    use.time.advance(9)
    assert (await use.engine.get(["x"]))[0][1] == b"1"
    await use.engine.put("x", b"2", expect=None, seconds=10)
    use.time.advance(9)
    assert (await use.engine.get(["x"]))[0][1] == b"2"
    use.time.advance(1)
    assert await use.engine.get(["x"]) == [(0, None)]
    assert (await use.engine.put("x", b"3", expect=0, seconds=10)).written


async def test_a_document_is_told_through_the_log_if_asked_and_written(use: EngineUse) -> None:
    head = await use.head()
    await use.engine.put("refused:k", b"1", expect=None, seconds=60, announced=True)
    await use.engine.put("refused:k", b"2", expect=0, seconds=60, announced=True)
    await use.engine.put("quiet", b"2", expect=None, seconds=60)
    await use.engine.put("refused:k", None, expect=None, seconds=60, announced=True)
    entries = await use.log(head)
    assert [entry[2:] for entry in entries] == [("refused:k", b"1"), ("refused:k", None)]
    assert all(isinstance(entry, DocumentEntry) for entry in entries)


# Operations


async def test_an_operation_is_begun_once(use: EngineUse) -> None:
    begin = use.engine.begin
    assert await begin("a", "op", b"d", seconds=60) == (OperationState.NEW, None)
    assert await begin("b", "op", b"d", seconds=60) == (OperationState.PENDING, None)
    assert await begin("a", "op", b"d", seconds=60) == (OperationState.PENDING, None)
    assert await begin("b", "op", b"other", seconds=60) == (OperationState.MISMATCH, None)
    assert await use.engine.finish("b", "op", b"not mine") is False
    assert await use.engine.finish("a", "op", b"answer") is True
    assert await use.engine.finish("a", "op", b"answer") is True  # its answer may have been lost
    assert await use.engine.finish("a", "op", b"another") is False
    assert await begin("b", "op", b"d", seconds=60) == (OperationState.DONE, b"answer")
    assert await begin("b", "op", b"other", seconds=60) == (OperationState.MISMATCH, None)


async def test_an_operation_whose_session_died_is_never_carried_out_again(use: EngineUse) -> None:
    await use.session("c", ttl=2)
    assert (await use.engine.begin("c", "op", b"d", seconds=600)).state is OperationState.NEW
    use.time.advance(2)
    assert (await use.engine.begin("a", "op", b"d", seconds=600)).state is OperationState.DEAD
    assert await use.engine.finish("c", "op", b"late") is False
    assert (await use.engine.begin("a", "op", b"d", seconds=600)).state is OperationState.DEAD


async def test_an_answer_outlives_the_session_that_gave_it(use: EngineUse) -> None:
    await use.session("c", ttl=2)
    await use.engine.begin("c", "op", b"d", seconds=600)
    await use.engine.finish("c", "op", b"answer")
    use.time.advance(2)
    assert await use.engine.begin("a", "op", b"d", seconds=600) == (OperationState.DONE, b"answer")


async def test_an_operation_that_did_not_happen_can_be_begun_again(use: EngineUse) -> None:
    await use.engine.begin("a", "op", b"d", seconds=60)
    assert await use.engine.finish("a", "op", None) is True
    assert (await use.engine.begin("b", "op", b"other", seconds=60)).state is OperationState.NEW


async def test_an_operation_is_forgotten_after_its_time(use: EngineUse) -> None:
    await use.session("long", ttl=600)
    await use.engine.begin("long", "op", b"d", seconds=10)
    use.time.advance(10)
    assert await use.engine.finish("long", "op", b"late") is False
    assert (await use.engine.begin("long", "op", b"d", seconds=10)).state is OperationState.NEW


async def test_a_dead_session_begins_nothing(use: EngineUse) -> None:
    await use.session("c", ttl=2)
    use.time.advance(2)
    assert (await use.engine.begin("c", "op", b"d", seconds=60)).state is OperationState.PENDING
    assert (await use.engine.begin("a", "op", b"d", seconds=60)).state is OperationState.NEW


async def test_an_answer_is_kept_as_it_was_given(use: EngineUse) -> None:
    answer = bytes(range(256)) * 400  # 100 KB
    await use.engine.begin("a", "op \0 é /", b"\0\1", seconds=86_400)
    assert await use.engine.finish("a", "op \0 é /", answer) is True
    use.time.advance(86_399)
    assert await use.engine.begin("b", "op \0 é /", b"\0\1", seconds=60) == (OperationState.DONE, answer)


@pytest.mark.parametrize("maker", ENGINES, ids=lambda maker: maker.name)
@pytest.mark.parametrize("limits", [{"max_answers": 3}, {"answer_bytes": 3 * 1700}], ids=["number", "bytes"])
async def test_of_too_many_answers_those_that_end_first_are_forgotten(
    maker: EngineMaker, limits: dict[str, int]
) -> None:
    require(maker)
    time = VirtualTime()
    async with maker.open(time, **limits) as engine:
        use = EngineUse(engine, time)
        await use.session("a", ttl=3600)
        await engine.begin("a", "pending", b"d", seconds=5)
        for number in range(10):
            await engine.begin("a", f"op-{number}", b"d", seconds=60 + number)
            await engine.finish("a", f"op-{number}", b"x" * 1000)
        found = {
            name: (await engine.begin("a", name, b"d", seconds=60)).state
            for name in ("op-0", "op-6", "op-7", "op-9", "pending")
        }
        assert found == {
            "op-0": OperationState.NEW,
            "op-6": OperationState.NEW,
            "op-7": OperationState.DONE,
            "op-9": OperationState.DONE,
            "pending": OperationState.PENDING,
        }
        # What has ended does not count.
        time.advance(100)
        for number in range(3):
            await engine.begin("a", f"new-{number}", b"d", seconds=60)
            await engine.finish("a", f"new-{number}", b"x" * 1000)
        for number in range(3):
            done = await engine.begin("a", f"new-{number}", b"d", seconds=60)
            assert done.state is OperationState.DONE


# Holds


async def test_holds_are_within_their_limit(use: EngineUse) -> None:
    hold = use.engine.hold
    assert await hold("spend", "1", 6.0, limit=10, window=3600) == (True, 6.0)
    assert await hold("spend", "2", 5.0, limit=10, window=3600) == (False, 6.0)
    assert await hold("spend", "1", 6.0, limit=10, window=3600) == (True, 6.0)  # the same again
    assert await hold("spend", "3", 4.0, limit=10, window=3600) == (True, 10.0)
    assert await hold("other", "1", 10.0, limit=10, window=3600) == (True, 10.0)


async def test_a_hold_is_settled_by_what_it_really_was(use: EngineUse) -> None:
    hold, settle = use.engine.hold, use.engine.settle
    await hold("spend", "1", 6.0, limit=10, window=3600)
    await settle("spend", "1", 2.5)
    assert await hold("spend", "2", 7.5, limit=10, window=3600) == (True, 10.0)
    await settle("spend", "2", 0.0)
    await settle("spend", "unknown", 5.0)
    await settle("nothing", "1", 5.0)
    assert await hold("spend", "3", 8.0, limit=10, window=3600) == (False, 2.5)
    assert await hold("spend", "3", 7.0, limit=10, window=3600) == (True, 9.5)


async def test_a_new_window_begins_with_nothing_held(use: EngineUse) -> None:
    hold = use.engine.hold
    await hold("spend", "1", 10.0, limit=10, window=60)
    assert (await hold("spend", "2", 1.0, limit=10, window=60)).ok is False
    use.time.now += 60 * SECOND - use.time.now % (60 * SECOND)
    assert await hold("spend", "2", 1.0, limit=10, window=60) == (True, 1.0)
