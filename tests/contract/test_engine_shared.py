"""What every engine promises of samples, documents, operations, jobs and holds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bridge.core.task import TaskKey
from bridge.engine.base import (
    ApplyOutcome,
    DocumentEntry,
    End,
    Job,
    JobLimits,
    Mode,
    OperationState,
    Put,
)
from tests.fakes.engines import ENGINES, EngineUse, VirtualTime, require, state_of

pytestmark = pytest.mark.anyio

TASK = TaskKey("video", "one")
KEY = "video/-"
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


# Jobs


def job(number: int, *, queue: str = "hook", ordering: str = "", due: int = 0, body: bytes = b"x") -> Job:
    return Job(queue, f"job-{number}", body, ordering, due)


async def add(use: EngineUse, *jobs: Job, limits: JobLimits | None = None) -> int:
    """Write jobs with a state of a task of their own; how many were dropped."""
    use.added = getattr(use, "added", 0) + 1  # type: ignore[attr-defined]
    key = TaskKey("video", f"with-jobs-{use.added}")  # type: ignore[attr-defined]
    (applied,) = await use.apply(
        "a", state_of(key, 1, mode=Mode.FREE, jobs=jobs), limits=limits or JobLimits()
    )
    assert applied.outcome is ApplyOutcome.RECORDED
    return applied.dropped


async def claimed(use: EngineUse, session: str, *, limit: int = 10, lease: float = 30) -> list[str]:
    jobs = await use.engine.claim_jobs(session, "hook", limit=limit, lease=lease)
    return [one.id for one in jobs]


async def test_jobs_are_written_only_with_a_recorded_state(use: EngineUse) -> None:
    await use.want("a", TASK)
    (ok,) = await use.apply("a", state_of(TASK, 1, jobs=[job(1)]))
    assert ok.outcome is ApplyOutcome.RECORDED
    others = [
        ("a", state_of(TASK, 1, jobs=[job(2)])),  # a duplicate
        ("b", state_of(TASK, 2, "b", jobs=[job(3)])),  # fenced
        ("a", state_of(TASK, 5, jobs=[job(4)])),  # stale
    ]
    for session, state in others:
        (applied,) = await use.apply(session, state)
        assert applied.outcome is not ApplyOutcome.RECORDED
    await use.apply("a", state_of(TASK, 2, end=End.ENDED))
    (final,) = await use.apply("a", state_of(TASK, 3, mode=Mode.FREE, jobs=[job(5)]))
    assert final.outcome is ApplyOutcome.FINAL
    assert (await use.engine.census()).jobs == 1
    assert await claimed(use, "b") == ["job-1"]


async def test_a_claimed_job_is_as_it_was_written_and_counts_its_claims(use: EngineUse) -> None:
    body = bytes(range(256))
    await add(use, job(1, ordering="task", due=use.time.now, body=body))
    assert await use.engine.claim_jobs("a", "hook", limit=1, lease=1) == [
        Job("hook", "job-1", body, "task", use.time.now, 1)
    ]
    use.time.advance(1)
    (again,) = await use.engine.claim_jobs("b", "hook", limit=1, lease=1)
    assert again.attempts == 2


async def test_jobs_are_claimed_when_due_the_earliest_first(use: EngineUse) -> None:
    now = use.time.now
    await add(use, job(1, due=now + 5 * SECOND), job(2, due=now + SECOND), job(3, due=now))
    assert await claimed(use, "a") == ["job-3"]
    use.time.advance(5)
    assert await claimed(use, "b", limit=1) == ["job-2"]
    assert await claimed(use, "b", limit=1) == ["job-1"]
    assert await claimed(use, "b") == []


async def test_one_job_of_an_ordering_is_in_flight_in_their_order(use: EngineUse) -> None:
    await add(use, job(1, ordering="x"), job(2, ordering="y"), job(3, ordering="x"))
    await add(use, job(4, ordering="x"), job(5))
    assert set(await claimed(use, "a")) == {"job-1", "job-2", "job-5"}
    assert await claimed(use, "b") == []
    assert await use.engine.finish_job("a", "hook", "job-1") is True
    assert await claimed(use, "b") == ["job-3"]
    # One that is tried again later stays before the others.
    assert await use.engine.finish_job("b", "hook", "job-3", retry_at=use.time.now + 5 * SECOND) is True
    assert await claimed(use, "b") == []
    use.time.advance(5)
    assert await claimed(use, "a") == ["job-3"]
    assert await use.engine.finish_job("a", "hook", "job-3") is True
    assert await claimed(use, "a") == ["job-4"]


async def test_jobs_of_ended_leases_and_dead_sessions_are_due_again(use: EngineUse) -> None:
    await use.session("c", ttl=5)
    await add(use, job(1), job(2, ordering="x"), job(3, ordering="x"))
    assert await claimed(use, "c", limit=1, lease=2) == ["job-1"]
    assert await claimed(use, "c", limit=1, lease=600) == ["job-2"]
    assert await claimed(use, "a") == []
    use.time.advance(2)
    assert await claimed(use, "a") == ["job-1"]
    assert await use.engine.finish_job("c", "hook", "job-1") is False
    use.time.advance(3)
    assert await claimed(use, "a") == ["job-2"]
    assert await use.engine.finish_job("c", "hook", "job-2") is False
    assert await use.engine.finish_job("a", "hook", "job-2") is True


async def test_a_job_is_finished_once_and_by_its_session(use: EngineUse) -> None:
    await add(use, job(1))
    assert await use.engine.finish_job("a", "hook", "job-1") is False
    await claimed(use, "a")
    assert await use.engine.finish_job("b", "hook", "job-1") is False
    assert await use.engine.finish_job("a", "hook", "job-1") is True
    assert await use.engine.finish_job("a", "hook", "job-1") is False
    assert (await use.engine.census()).jobs == 0
    assert await claimed(use, "a") == []


async def test_a_queue_is_bounded_in_number_and_the_state_is_recorded(use: EngineUse) -> None:
    limits = JobLimits(jobs=3)
    assert await add(use, job(1), job(2), limits=limits) == 0
    assert await add(use, job(3), job(4), job(5), limits=limits) == 2
    assert await add(use, job(6, queue="other"), limits=limits) == 0
    assert await claimed(use, "a") == ["job-1", "job-2", "job-3"]
    assert await add(use, job(7), limits=limits) == 1  # in flight they count too
    await use.engine.finish_job("a", "hook", "job-1")
    assert await add(use, job(8), limits=limits) == 0


async def test_a_queue_is_bounded_in_bytes(use: EngineUse) -> None:
    limits = JobLimits(size=10_000)
    assert await add(use, *[job(number, body=b"x" * 3000) for number in range(5)], limits=limits) == 2
    assert await claimed(use, "a") == ["job-0", "job-1", "job-2"]
    assert await add(use, job(7, body=b"x" * 3000), limits=limits) == 1
    for number in range(3):
        await use.engine.finish_job("a", "hook", f"job-{number}")
    assert await add(use, job(8, body=b"x" * 20_000), limits=limits) == 1
    assert await add(use, job(9, body=b"x" * 3000), limits=limits) == 0


async def test_the_same_job_is_written_once(use: EngineUse) -> None:
    assert await add(use, job(1), job(1)) == 0
    assert await add(use, job(1)) == 0
    assert await claimed(use, "a") == ["job-1"]
    assert (await use.engine.census()).jobs == 1


async def test_a_dead_session_claims_and_finishes_no_job(use: EngineUse) -> None:
    await use.session("c", ttl=2)
    await add(use, job(1), job(2))
    assert await claimed(use, "c", limit=1) == ["job-1"]
    use.time.advance(2)
    assert await claimed(use, "c") == []
    assert await use.engine.finish_job("c", "hook", "job-1") is False


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
