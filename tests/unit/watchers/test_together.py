"""Polls of many tasks with one call: who goes along, and what becomes of each."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from itertools import pairwise
from typing import Any

import orjson
import pytest

from bridge.core.many import REST_SECONDS
from bridge.core.rate_limit import CredentialLimiter
from bridge.core.schedule import CallbackSupport
from bridge.core.task import Source, TaskKey
from bridge.dialects.base import HttpResponse
from bridge.errors import UpstreamTimeout, UpstreamUnavailable
from tests.fakes.clock import FakeClock, settle
from tests.fakes.many import ManyProvider
from tests.fakes.tasks import seen, state

pytestmark = pytest.mark.anyio

SHORTEST = 2.0
FIRST = 2.2  # until restored tasks are polled


def key(number: int) -> TaskKey:
    return TaskKey("qingbo", f"task-{number}")


@pytest.fixture
def many(build: Any) -> Any:
    """A house whose provider shows many tasks at once, with so many open tasks."""

    async def make(tasks: int, *, budget: CredentialLimiter | None = None, **call: Any) -> Any:
        house = build(provider=ManyProvider(FakeClock(), **call), budget=budget)
        for number in range(tasks):
            await house.journal.append(key(number), state("processing", 10, upstream_status="processing"))
            house.provider.shows(key(number).task_id, "processing", 10)
        house.events.clear()
        await house.pool.restore()
        return house

    return make


def asked(house: Any) -> Counter[str]:
    """How often each task was asked for, alone or with others."""
    polls = Counter(task_id for task_id, _ in house.provider.asked)
    return polls + Counter(one for ids, _ in house.provider.batches for one in ids)


def times(house: Any, task_id: str) -> list[float]:
    together = [at for ids, at in house.provider.batches if task_id in ids]
    return sorted(house.provider.polls(task_id) + together)


async def test_one_request_serves_the_due_tasks_and_counts_as_one(many: Any) -> None:
    house = await many(30)
    async with house.running():
        await house.clock.advance(FIRST)
        assert [len(ids) for ids, _ in house.provider.batches] == [30]
        assert house.provider.asked == []
        assert house.count("bridge_polls_total", result="unchanged") == 30
        requests = {"call": "status_many", "outcome": "ok"}
        assert house.count("bridge_upstream_requests_total", **requests) == 1
        assert house.count("bridge_upstream_request_seconds_count", call="status_many") == 1
        assert house.upstream.limiter.in_flight == 0


async def test_a_batch_has_at_most_the_documented_number_of_ids(many: Any) -> None:
    house = await many(250)
    async with house.running():
        await house.clock.advance(FIRST)
        assert [len(ids) for ids, _ in house.provider.batches] == [100, 100, 50]
        assert set(asked(house).values()) == {1}


async def test_tasks_go_along_early_but_never_below_the_shortest_interval(many: Any) -> None:
    house = await many(60)
    async with house.running():
        for number in range(60):
            house.pool.want(key(number))
        await house.clock.advance(120)
    for number in range(60):
        waits = [after - before for before, after in pairwise(times(house, key(number).task_id))]
        assert min(waits) >= SHORTEST
        assert max(waits) <= 11.0
    requests = len(house.provider.batches) + len(house.provider.asked)
    assert requests * 10 < asked(house).total()


async def test_each_task_gets_its_own_result(many: Any) -> None:
    house = await many(5)
    async with house.running():
        await house.clock.advance(FIRST)
        house.provider.shows("task-1", "processing", 60)
        house.provider.shows("task-2", "completed", 100)
        house.provider.shows("task-3", "failed", 10)
        await house.clock.advance(15)
    assert house.told(key(0)) == []
    assert house.told(key(1)) == [("processing", 60)]
    assert house.told(key(2)) == [("completed", 100)]
    assert house.told(key(3)) == [("failed", 10)]
    assert house.provider.asked == []
    assert house.count("bridge_polls_total", result="changed") == 3


async def test_a_task_left_out_is_asked_for_alone_and_its_404_counts_only_there(many: Any) -> None:
    house = await many(4)
    house.provider.answer = lambda ids: house.provider.listed([one for one in ids if one != "task-2"])
    async with house.running():
        await house.clock.advance(60)
        assert house.told(key(2)) == []
        alone = Counter(task_id for task_id, _ in house.provider.asked)
        assert set(alone) == {"task-2"}
        # Asked for with the others less and less often.
        with_others = sum("task-2" in ids for ids, _ in house.provider.batches)
        assert 1 <= with_others <= 4 < alone["task-2"]
        assert house.notices == []


async def test_one_that_is_gone_ends_as_lost_by_its_own_404s(many: Any) -> None:
    house = await many(4)
    del house.provider.tasks["task-2"]
    async with house.running():
        await house.clock.advance(200)
    assert house.told(key(2)) == [("lost", 10)]
    assert all(house.told(key(number)) == [] for number in (0, 1, 3))
    assert len(house.provider.polls("task-2")) >= 3


@pytest.mark.parametrize("more", [{}, {"code": "E9"}, {"status": []}], ids=str)
async def test_one_sick_document_fails_alone(more: dict[str, Any], many: Any) -> None:
    house = await many(4)
    house.provider.shows("task-2", "processing", http=500)

    def answer(ids: list[str]) -> HttpResponse:
        shown = orjson.loads(house.provider.listed(ids).body)
        return HttpResponse(200, {}, orjson.dumps({"items": [{"id": "task-2"} | more, *shown["items"]]}))

    house.provider.answer = answer
    async with house.running():
        await house.clock.advance(20)
    assert set(Counter(task_id for task_id, _ in house.provider.asked)) == {"task-2"}
    assert {task_id for task_id, _ in house.notices} == {"task-2"}
    assert house.upstream.many.failures == 0


async def test_what_is_unchanged_is_not_read(many: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    house = await many(20)
    read = Counter[str]()
    read_status = house.provider.read_status

    def counted(answer: HttpResponse, task_id: str) -> Any:
        read[task_id] += 1
        return read_status(answer, task_id)

    monkeypatch.setattr(house.provider, "read_status", counted)
    async with house.running():
        await house.clock.advance(60)
    assert asked(house).total() > 100
    assert set(read.values()) == {1}


async def test_tasks_that_are_always_left_out_do_not_end_calls_about_many(many: Any) -> None:
    house = await many(6)
    never = {"task-0", "task-1"}

    def answered(ids: list[str]) -> Any:
        return house.provider.listed([one for one in ids if one not in never])

    house.provider.answer = answered
    async with house.running():
        await house.clock.advance(FIRST)
        for number in range(2, 6):
            house.provider.shows(f"task-{number}", "completed", 100)
        await house.clock.advance(600)
        # Only those that are left out go on.
        assert [ids for ids, _ in house.provider.batches if set(ids) <= never]
        assert house.upstream.many.failures == 0


@pytest.mark.parametrize(
    "answer",
    [
        HttpResponse(404, {}, b"{}"),
        HttpResponse(400, {}, b"{}"),
        HttpResponse(403, {}, b"{}"),
        HttpResponse(500, {}, b"{}"),
        HttpResponse(200, {}, b"<html>"),
        HttpResponse(200, {}, b'{"items": {}}'),
        HttpResponse(200, {}, b'{"items": null}'),
        HttpResponse(200, {}, b'{"items": [{"id": "foreign", "status": "processing"}]}'),
        UpstreamTimeout(),
        UpstreamUnavailable("lost"),
    ],
    ids=str,
)
async def test_a_call_that_does_not_work_is_given_up_for_a_while(
    answer: Any, many: Any, caplog: pytest.LogCaptureFixture
) -> None:
    house = await many(20)

    def answered(ids: list[str]) -> HttpResponse:
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    house.provider.answer = answered
    caplog.set_level(logging.INFO)
    async with house.running():
        await house.clock.advance(FIRST)
        # All are polled alone at once, and no failure is any task's.
        assert len(house.provider.batches) == 1
        assert set(Counter(task_id for task_id, _ in house.provider.asked).values()) == {1}
        assert house.notices == []
        await house.clock.advance(REST_SECONDS * 0.7)
        assert len(house.provider.batches) == 1
        await house.clock.advance(REST_SECONDS * 0.8)
        assert len(house.provider.batches) == 2
        assert len(house.provider.batches[1][0]) <= 50
        await house.clock.advance(REST_SECONDS)
        assert len(house.provider.batches) == 2
        logged = [one.getMessage() for one in caplog.records if "many tasks" in one.getMessage()]
        assert logged == ["status calls about many tasks fail: each task is polled alone"]
        assert house.upstream.many.statistics(house.clock.monotonic())["failures"] == 2
        house.provider.answer = house.provider.listed
        await house.clock.advance(4 * REST_SECONDS)
        assert len(house.provider.batches) > 4
        assert caplog.records[-1].getMessage() == "status calls about many tasks work again"
        assert house.upstream.many.failures == 0
    assert house.in_flight_afterwards == 0


async def test_a_429_pauses_the_credential_once_and_the_calls_go_on(many: Any) -> None:
    house = await many(20)
    limited = HttpResponse(429, {"retry-after": "7"}, b"{}")
    house.provider.answer = lambda ids: limited
    async with house.running():
        await house.clock.advance(6.9)
        assert len(house.provider.batches) == 1
        assert house.provider.asked == []
        assert house.count("bridge_polls_total", result="failed") == 1
        house.provider.answer = house.provider.listed
        await house.clock.advance(10)
        assert house.provider.asked == []
        assert set(asked(house)) == {key(number).task_id for number in range(20)}
    assert {len(house.told(key(number))) for number in range(20)} == {0}


async def test_calls_that_are_limited_again_and_again_while_single_ones_are_not_rest(many: Any) -> None:
    house = await many(20)
    house.provider.answer = lambda ids: HttpResponse(429, {"retry-after": "3"}, b"{}")
    async with house.running():
        await house.clock.advance(30)
        assert len(house.provider.batches) == 2
        assert len(house.provider.asked) >= 20


async def test_a_rejected_key_rests_and_is_tried_with_one_task(many: Any) -> None:
    house = await many(20)
    house.provider.answer = lambda ids: HttpResponse(401, {}, b"{}")
    for number in range(20):
        house.provider.shows(key(number).task_id, "processing", http=401)
    async with house.running():
        await house.clock.advance(25)
        assert house.upstream.limiter.rejected is not None
        assert len(house.provider.batches) == 1
        assert house.provider.asked == []
        for number in range(20):
            house.provider.shows(key(number).task_id, "processing", 10)
        house.provider.answer = house.provider.listed
        await house.clock.advance(20)
        assert len(house.provider.asked) == 1
        assert house.upstream.limiter.rejected is None
        assert len(house.provider.batches) > 1


async def test_a_batch_takes_one_slot_of_the_rate_and_the_price_counts_it_as_one(many: Any) -> None:
    limiter = CredentialLimiter(max_in_flight=32, random=lambda: 0.5, requests_per_second=1.0)
    house = await many(200, budget=limiter)
    async with house.running():
        for number in range(200):
            house.pool.want(key(number))
        await house.clock.advance(120)
        assert house.upstream.price.factor < 1.5
    starts = sorted([at for _, at in house.provider.batches] + [at for _, at in house.provider.asked])
    assert all(after - before >= 0.999 for before, after in pairwise(starts))
    waits = [
        after - before
        for number in range(200)
        for before, after in pairwise(times(house, key(number).task_id))
    ]
    assert max(waits) < 20  # alone, 200 tasks at one poll a second are polled each 200 seconds


async def test_first_polls_and_tasks_without_a_state_go_alone(many: Any) -> None:
    house = await many(3)
    house.provider.shows("new", "processing", 1)
    async with house.running():
        await house.clock.advance(1)
        house.pool.want(TaskKey("qingbo", "new"))
        house.pool.want(TaskKey("qingbo", "never"))
        await house.clock.advance(3)
        assert house.provider.polls("new")
        assert all("never" not in ids for ids, _ in house.provider.batches)
        await house.clock.advance(10)
        assert any("new" in ids for ids, _ in house.provider.batches)


async def test_tasks_that_only_wait_for_a_callback_stay_out(many: Any) -> None:
    house = await many(6)
    async with house.running():
        for number in range(6):
            house.pool.want(key(number))
        await house.clock.advance(FIRST)
        quiet = house.pool.watcher(key(5))
        quiet.watch.callbacks = CallbackSupport(come=True)
        await house.clock.advance(8)
        before = len(times(house, "task-5"))
        others = len(times(house, "task-0"))
        await house.clock.advance(20)
        assert len(times(house, "task-5")) - before <= 3 < len(times(house, "task-0")) - others


async def test_an_id_with_the_separator_goes_alone(many: Any) -> None:
    house = await many(3)
    odd = TaskKey("qingbo", "a,b")
    await house.journal.append(odd, state("processing", 10, upstream_status="processing"))
    house.provider.shows("a,b", "processing", 10)
    await house.pool.restore()
    async with house.running():
        await house.clock.advance(20)
    assert len(house.provider.polls("a,b")) > 2
    assert all("a,b" not in ids and "a" not in ids for ids, _ in house.provider.batches)


async def test_long_ids_make_shorter_calls(many: Any) -> None:
    house = await many(0)
    for number in range(40):
        long = TaskKey("qingbo", f"{number:03d}" + "x" * 500)
        await house.journal.append(long, state("processing", 10, upstream_status="processing"))
        house.provider.shows(long.task_id, "processing", 10)
    await house.pool.restore()
    async with house.running():
        await house.clock.advance(FIRST)
    assert max(len(ids) for ids, _ in house.provider.batches) == 11


async def test_a_poll_that_is_cancelled_gives_back_what_it_holds(many: Any) -> None:
    house = await many(20)
    before = asyncio.all_tasks()
    house.provider.takes = 5.0
    async with house.running():
        await house.clock.advance(FIRST)
        assert house.upstream.limiter.in_flight == 1
    assert house.in_flight_afterwards == 0
    await settle()
    assert asyncio.all_tasks() == before


async def test_a_watch_that_ends_during_the_call_takes_nothing_from_it(many: Any) -> None:
    house = await many(3)
    house.provider.takes = 1.0
    async with house.running():
        await house.clock.advance(FIRST)
        house.provider.shows("task-1", "completed", 100)
        await house.pool.watcher(key(1)).take(seen("failed", 20), Source.STREAM)
        await house.clock.advance(30)
    assert [status for status, _ in house.told(key(1))] == ["failed"]


async def test_an_exception_in_reading_one_document_leaves_the_others_alone(
    many: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await many(5)
    read_status = house.provider.read_status

    def broken(answer: HttpResponse, task_id: str) -> Any:
        if task_id == "task-2":
            raise KeyError(task_id)
        return read_status(answer, task_id)

    monkeypatch.setattr(house.provider, "read_status", broken)
    async with house.running():
        await house.clock.advance(FIRST)
        for number in range(5):
            house.provider.shows(f"task-{number}", "processing", 50)
        await house.clock.advance(20)
        assert [len(house.told(key(number))) for number in range(5)] == [1, 1, 0, 1, 1]
        assert len(house.provider.asked) < 10
