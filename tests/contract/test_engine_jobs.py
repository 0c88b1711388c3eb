"""What every engine promises of jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bridge.core.task import TaskKey
from bridge.engine.base import CLAIM_BYTES, JOB_SECONDS, ApplyOutcome, End, Job, JobLimits, Mode, Waiting
from tests.fakes.engines import ENGINES, EngineUse, VirtualTime, require, state_of

pytestmark = pytest.mark.anyio

TASK = TaskKey("video", "one")
SECOND = 1_000_000


@pytest.fixture(params=ENGINES, ids=lambda maker: maker.name)
async def use(request: pytest.FixtureRequest) -> AsyncIterator[EngineUse]:
    """An engine with the sessions `a` and `b`."""
    require(request.param)
    time = VirtualTime()
    async with request.param.open(time) as engine:
        use = EngineUse(engine, time)
        await use.session("a", ttl=1e6)
        await use.session("b", ttl=1e6)
        yield use


def job(number: int, *, queue: str = "hook", ordering: str = "", due: int = 0, body: bytes = b"x") -> Job:
    return Job(queue, f"job-{number}", body, ordering, due)


def status(number: int, *, ordering: str = "x", due: int = 0, body: bytes = b"x") -> Job:
    """A job that the next one of its ordering may replace."""
    return Job("hook", f"job-{number}", body, ordering, due, replaceable=True)


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
    offset = await use.head()
    assert await use.engine.claim_jobs("a", "hook", limit=1, lease=1) == [
        Job("hook", "job-1", body, "task", use.time.now, 1, offset=offset)
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


async def test_of_large_jobs_few_are_claimed_at_once(use: EngineUse) -> None:
    body = b"x" * (CLAIM_BYTES // 2)
    await add(use, *(job(number, due=number, body=body) for number in range(1, 4)))
    await add(use, job(4, due=4, body=3 * body), job(5, due=5))
    claims = [await claimed(use, "a") for _ in range(4)]
    assert claims == [["job-1", "job-2"], ["job-3", "job-4"], ["job-5"], []]


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


# Replaced


async def waiting(use: EngineUse) -> Waiting:
    (found,) = await use.engine.waiting(["hook"])
    return found


async def test_a_waiting_job_that_is_replaceable_gives_its_place_to_the_next(use: EngineUse) -> None:
    began = use.time.now
    await add(use, status(1, due=began + 5 * SECOND))
    use.time.advance(1)
    await add(use, status(2, due=began), status(3, ordering="y"), job(4))
    use.time.advance(1)
    await add(use, status(5, due=began, body=b"newest"))
    offset = await use.head()
    assert await waiting(use) == Waiting(3, began)
    assert set(await claimed(use, "a")) == {"job-3", "job-4"}  # its due is that of the first
    use.time.advance(3)
    assert await use.engine.claim_jobs("a", "hook", limit=9, lease=30) == [
        Job("hook", "job-5", b"newest", "x", began + 5 * SECOND, 1, replaceable=True, offset=offset)
    ]


async def test_a_job_that_is_not_replaceable_replaces_and_stays(use: EngineUse) -> None:
    await add(use, status(1), job(2, ordering="x"), status(3), status(4), job(5, ordering="x"))
    found = []
    while claims := await claimed(use, "a"):
        found += claims
        for one in claims:
            assert await use.engine.finish_job("a", "hook", one) is True
    assert found == ["job-2", "job-5"]


async def test_attempts_and_due_of_a_job_that_failed_go_to_the_next(use: EngineUse) -> None:
    began = use.time.now
    await add(use, status(1))
    for _ in range(3):
        assert await claimed(use, "a") == ["job-1"]
        assert await use.engine.finish_job("a", "hook", "job-1", retry_at=use.time.now) is True
    await claimed(use, "a")
    await use.engine.finish_job("a", "hook", "job-1", retry_at=began + 60 * SECOND)
    await add(use, job(2, ordering="x"))
    assert await claimed(use, "a") == []
    assert await waiting(use) == Waiting(1, began)
    use.time.advance(60)
    (again,) = await use.engine.claim_jobs("b", "hook", limit=9, lease=30)
    assert (again.id, again.attempts, again.due, again.replaceable) == (
        "job-2",
        5,
        began + 60 * SECOND,
        False,
    )


async def test_a_claim_in_which_nothing_was_attempted_does_not_count(use: EngineUse) -> None:
    finish = use.engine.finish_job
    await add(use, status(1))
    for _ in range(3):
        assert await claimed(use, "a") == ["job-1"]
        assert await finish("a", "hook", "job-1", retry_at=use.time.now, attempted=False) is True
    (again,) = await use.engine.claim_jobs("b", "hook", limit=9, lease=30)
    assert again.attempts == 1
    await add(use, status(2))
    assert await finish("b", "hook", "job-1", retry_at=use.time.now) is True
    (second,) = await use.engine.claim_jobs("b", "hook", limit=9, lease=30)
    assert (second.id, second.attempts) == ("job-2", 2)
    await add(use, status(3))
    assert await finish("b", "hook", "job-2", retry_at=use.time.now, attempted=False) is True
    (third,) = await use.engine.claim_jobs("b", "hook", limit=9, lease=30)
    assert (third.id, third.attempts) == ("job-3", 2)


async def test_a_job_in_flight_is_replaced_only_when_it_is_put_back(use: EngineUse) -> None:
    began = use.time.now
    await add(use, status(1))
    assert await claimed(use, "a") == ["job-1"]
    use.time.advance(1)
    await add(use, status(2))
    use.time.advance(1)
    await add(use, job(3, ordering="x"))
    await add(use, status(4))
    assert await waiting(use) == Waiting(3, began)
    assert await claimed(use, "b") == []
    retry_at = use.time.now + 30 * SECOND
    assert await use.engine.finish_job("a", "hook", "job-1", retry_at=retry_at) is True
    assert await use.engine.finish_job("a", "hook", "job-1") is False
    assert await waiting(use) == Waiting(2, began)
    assert await claimed(use, "b") == []
    use.time.advance(30)
    (third,) = await use.engine.claim_jobs("b", "hook", limit=9, lease=30)
    assert (third.id, third.attempts, third.due) == ("job-3", 2, retry_at)
    assert await use.engine.finish_job("b", "hook", "job-3") is True
    assert await claimed(use, "b") == ["job-4"]


async def test_a_job_in_flight_that_succeeds_hands_nothing_on(use: EngineUse) -> None:
    await add(use, status(1))
    await claimed(use, "a")
    use.time.advance(1)
    written = use.time.now
    await add(use, status(2))
    assert await use.engine.finish_job("a", "hook", "job-1") is True
    assert await waiting(use) == Waiting(1, written)
    (second,) = await use.engine.claim_jobs("b", "hook", limit=9, lease=30)
    assert (second.id, second.attempts) == ("job-2", 1)


async def test_a_job_of_an_ended_lease_or_a_dead_session_is_replaced_too(use: EngineUse) -> None:
    await use.session("c", ttl=5)
    await add(use, status(1), status(2, ordering="y"))
    assert await claimed(use, "c", limit=1, lease=2) == ["job-1"]
    assert await claimed(use, "c", limit=1, lease=600) == ["job-2"]
    await add(use, status(3), job(4, ordering="y"))
    use.time.advance(2)
    (third,) = await use.engine.claim_jobs("a", "hook", limit=9, lease=30)
    assert (third.id, third.attempts) == ("job-3", 2)
    assert await use.engine.finish_job("c", "hook", "job-1") is False
    use.time.advance(3)
    (fourth,) = await use.engine.claim_jobs("a", "hook", limit=9, lease=30)
    assert (fourth.id, fourth.attempts) == ("job-4", 2)


async def test_a_full_queue_never_blocks_a_replacement(use: EngineUse) -> None:
    limits = JobLimits(jobs=2, size=1000)
    assert await add(use, status(1), job(2), job(3), status(3, ordering="y"), limits=limits) == 2
    assert await add(use, status(4, body=b"x" * 5000), limits=limits) == 0
    assert await add(use, job(5, ordering="x"), limits=limits) == 0
    assert await add(use, job(6, ordering="x"), limits=limits) == 1
    assert set(await claimed(use, "a")) == {"job-5", "job-2"}
    for one in ("job-5", "job-2"):
        await use.engine.finish_job("a", "hook", one)
    # The bytes of what was replaced are free again.
    assert await add(use, job(7, body=b"x" * 500), limits=limits) == 0


async def test_a_replacement_that_is_there_already_changes_nothing(use: EngineUse) -> None:
    await add(use, job(1, ordering="x"), status(2))
    await add(use, job(1, ordering="x"))
    assert await claimed(use, "a") == ["job-1"]
    await use.engine.finish_job("a", "hook", "job-1")
    assert await claimed(use, "a") == ["job-2"]


async def test_jobs_without_an_ordering_are_never_replaced(use: EngineUse) -> None:
    await add(use, status(1, ordering=""), status(2, ordering=""), status(3, ordering="\0"))
    await add(use, status(4, ordering="\1"), status(5, ordering="\0\1"))
    assert len(await claimed(use, "a")) == 5


# Without a state


async def test_jobs_are_added_by_themselves(use: EngineUse) -> None:
    other = job(7, queue="quéue \0", ordering="\0\1")._replace(attempts=3, offset=2**52)
    assert await use.engine.add_jobs([]) == 0
    assert await use.engine.add_jobs([job(1, body=b"\0\xff"), job(2)._replace(offset=9), other]) == 0
    assert await add(use, job(1), job(2)) == 0
    assert await use.engine.add_jobs([job(1)]) == 0  # it is there already
    found = await use.engine.claim_jobs("a", "hook", limit=10, lease=30)
    assert [(one.id, one.body, one.offset, one.attempts) for one in found] == [
        ("job-1", b"\0\xff", 0, 1),
        ("job-2", b"x", 9, 1),
    ]
    (again,) = await use.engine.claim_jobs("b", other.queue, limit=10, lease=30)
    assert again == other._replace(attempts=4)
    assert await use.engine.finish_job("a", "hook", "job-1")
    assert await use.engine.add_jobs([job(1)]) == 0  # it was done: the receiver gets it again
    assert await claimed(use, "b") == ["job-1"]


async def test_jobs_added_by_themselves_keep_to_limits_and_order(use: EngineUse) -> None:
    two = JobLimits(jobs=2)
    added = [status(1), status(2), job(3, ordering="x"), status(4), job(5)]
    assert await use.engine.add_jobs(added, limits=two) == 1
    assert await use.engine.add_jobs([job(6, queue="other")], limits=two) == 0
    assert await claimed(use, "a") == ["job-3"]  # in the place of the first two
    assert await use.engine.finish_job("a", "hook", "job-3")
    assert await claimed(use, "a") == ["job-4"]
    assert await use.engine.finish_job("a", "hook", "job-4")
    many = [job(number) for number in range(10, 260)]
    assert await use.engine.add_jobs(many, limits=JobLimits(jobs=200)) == 50
    assert (await waiting(use)).jobs == 200


# Whole queues


async def test_the_jobs_of_a_queue_are_counted_with_their_age(use: EngineUse) -> None:
    began = use.time.now
    await add(use, job(1), job(1, queue="quéue \0"))
    use.time.advance(10)
    await add(use, job(2), job(3))
    ask = use.engine.waiting
    found = await ask(["hook", "none", "quéue \0", "hook"])
    assert found == [Waiting(3, began), Waiting(0, 0), Waiting(1, began), Waiting(3, began)]
    assert await claimed(use, "a", limit=1) == ["job-1"]
    assert await waiting(use) == Waiting(3, began)  # in flight they count too
    await use.engine.finish_job("a", "hook", "job-1")
    assert await waiting(use) == Waiting(2, began + 10 * SECOND)
    assert await ask([]) == []
    assert len(await ask([f"q{number}" for number in range(350)])) == 350
    assert (await use.engine.census()).jobs == 3


async def test_a_queue_is_dropped_with_what_is_in_flight(use: EngineUse) -> None:
    await add(use, job(1), status(2), job(3, ordering="x"), job(4, queue="other"))
    await claimed(use, "a", limit=1)
    assert await use.engine.drop_queue("hook") == 2
    assert await use.engine.drop_queue("hook") == 0
    assert await use.engine.finish_job("a", "hook", "job-1") is False
    assert await use.engine.waiting(["hook", "other"]) == [Waiting(), Waiting(1, use.time.now)]
    assert (await use.engine.census()).jobs == 1
    await add(use, job(1), job(3, ordering="x"))
    assert await claimed(use, "b") == ["job-1", "job-3"]


async def test_a_job_that_is_too_old_is_deleted(use: EngineUse) -> None:
    await add(use, job(1), job(2, ordering="x"))
    assert await claimed(use, "a", lease=1e6) == ["job-1", "job-2"]
    use.time.advance(10)
    await add(use, job(3, ordering="x"), job(4))
    use.time.advance(JOB_SECONDS - 10)
    assert await waiting(use) == Waiting(2, use.time.now - round((JOB_SECONDS - 10) * SECOND))
    assert await use.engine.finish_job("a", "hook", "job-1") is False
    assert set(await claimed(use, "b")) == {"job-3", "job-4"}
    use.time.advance(10)
    assert await claimed(use, "b") == []
    assert (await use.engine.census()).jobs == 0
    assert await add(use, job(5), limits=JobLimits(jobs=1)) == 0


async def test_an_offset_is_that_of_the_state(use: EngineUse) -> None:
    await add(use, job(1)._replace(offset=7))
    first = await use.head()
    await add(use, job(2))
    (one, two) = await use.engine.claim_jobs("a", "hook", limit=9, lease=30)
    assert (one.offset, two.offset) == (first, await use.head())


@pytest.mark.extended
async def test_thousands_of_jobs_of_one_queue(use: EngineUse) -> None:
    for start in range(0, 3000, 100):
        await add(use, *(job(number, ordering=str(number % 700)) for number in range(start, start + 100)))
    assert (await waiting(use)).jobs == 3000
    found: dict[int, list[int]] = {}
    while jobs := await use.engine.claim_jobs("a", "hook", limit=500, lease=30):
        for one in jobs:
            number = int(one.id[4:])
            found.setdefault(number % 700, []).append(number)
        for one in jobs:
            assert await use.engine.finish_job("a", "hook", one.id)
    assert sorted(number for numbers in found.values() for number in numbers) == list(range(3000))
    assert all(numbers == sorted(numbers) for numbers in found.values())


async def test_jobs_that_are_due_soon_are_claimed_ahead_of_their_time(use: EngineUse) -> None:
    now = use.time.now
    await add(use, job(1, due=now + 9 * SECOND), job(2, due=now + 5 * SECOND), job(3, due=now))
    assert [one.id for one in await use.engine.claim_jobs("a", "hook", limit=9, lease=30, ahead=4)] == [
        "job-3"
    ]
    early = await use.engine.claim_jobs("a", "hook", limit=9, lease=30, ahead=3600)
    assert [one.id for one in early] == ["job-2", "job-1"]
    assert await use.engine.finish_job("a", "hook", "job-2")
