"""One look on everybody's behalf: which watches run, when they look, and when they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from bridge.core.rate_limit import CredentialLimiter
from bridge.core.task import Observation, Source, Status, TaskKey
from bridge.errors import (
    CredentialRefused,
    JournalError,
    TaskNotFound,
    UnknownUpstream,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.sources.upstream import UpstreamState
from bridge.telemetry.metrics import UPSTREAM_STATES
from bridge.watchers.scheduler import FIRST_PER_TURN
from tests.fakes.clock import settle
from tests.fakes.tasks import TASK, state

pytestmark = pytest.mark.anyio

LINGER = 30.0
ID = TASK.task_id


def key(number: int) -> TaskKey:
    return TaskKey("qingbo", f"task-{number}")


async def test_many_viewers_cost_one_look_in_flight(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    house.provider.takes = 1.0
    for _ in range(50):
        house.pool.want(TASK)
    await house.clock.advance(20)
    assert house.provider.most_of_one == 1
    assert house.pool.statistics("qingbo") == {"watches": 1, "viewers": 50}
    assert house.count("bridge_interests") == 50
    assert house.count("bridge_watches", source="poll") == 1
    waits = [later - earlier for earlier, later in pairwise(house.provider.polls(ID))]
    assert waits
    assert all(house.upstream.pace.min_seconds <= wait <= 11.0 for wait in waits)
    assert house.told(TASK) == [("processing", 10)]


async def test_a_task_nobody_watched_yet_is_looked_at_at_once(open_house: Any) -> None:
    open_house.provider.shows(ID, "processing", 10)
    started = open_house.clock.monotonic()
    open_house.pool.want(TASK)
    assert await open_house.pool.wait_polled(TASK) is None
    assert open_house.provider.polls(ID) == [started]


async def test_an_error_reaches_those_waiting_although_all_polls_are_held_up_since(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "", http=401)
    house.pool.want(TASK)
    waiting = asyncio.create_task(house.pool.wait_polled(TASK))
    await settle()
    await house.pool.tick()  # before the task above had its turn, on a busy machine
    assert isinstance(house.pool.watcher(TASK).error, CredentialRefused)
    await waiting
    await house.clock.advance(2)
    assert isinstance(house.pool.watcher(TASK).error, UpstreamUnreachable)  # and nothing was sent for it


async def test_after_its_end_a_task_is_looked_at_no_more(open_house: Any) -> None:
    open_house.provider.shows(ID, "completed", 100)
    open_house.pool.want(TASK)
    await open_house.clock.advance(100)
    assert len(open_house.provider.polls(ID)) == 1
    assert open_house.told(TASK) == [("completed", 100)]


async def test_a_watch_outlives_its_last_viewer_by_the_linger_and_then_ends(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    house.pool.want(TASK)
    house.pool.want(TASK)
    await house.clock.advance(5)
    house.pool.unwant(TASK)
    await house.clock.advance(2 * LINGER)
    assert house.pool.watcher(TASK) is not None
    house.pool.unwant(TASK)
    looks = len(house.provider.asked)
    await house.clock.advance(LINGER - 1)
    assert len(house.provider.asked) > looks
    assert house.pool.watcher(TASK) is not None
    await house.clock.advance(3)
    assert house.pool.watcher(TASK) is None
    looks = len(house.provider.asked)
    await house.clock.advance(100)
    assert len(house.provider.asked) == looks
    assert house.count("bridge_watches", source="poll") == house.count("bridge_interests") == 0


async def test_who_comes_back_within_the_linger_finds_the_watch_warm(open_house: Any) -> None:
    open_house.provider.shows(ID, "processing", 10)
    open_house.pool.want(TASK)
    await open_house.clock.advance(5)
    before = open_house.pool.watcher(TASK)
    open_house.pool.unwant(TASK)
    await open_house.clock.advance(LINGER - 2)
    open_house.pool.want(TASK)
    await open_house.clock.advance(2 * LINGER)
    assert open_house.pool.watcher(TASK) is before


async def test_a_watch_that_ended_begins_again_from_the_journal(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 40)
    house.pool.want(TASK)
    house.pool.unwant(TASK)
    await house.clock.advance(LINGER + 5)
    house.provider.shows(ID, "processing", 20)
    house.pool.want(TASK)
    await house.clock.advance(5)
    assert house.told(TASK) == [("processing", 40)]  # nothing again, and nothing back
    ended = key(9)
    await house.journal.append(ended, state("completed"))
    house.pool.want(ended)
    assert await house.pool.wait_polled(ended) is None
    assert house.provider.polls(ended.task_id) == []


async def test_what_was_open_is_watched_again_after_a_restart_without_viewers(house: Any) -> None:
    for number in range(20):
        await house.journal.append(key(number), state("processing", 10))
        house.provider.shows(key(number).task_id, "processing", 10)
    await house.journal.append(key(99), state("completed"))
    await house.journal.append(TaskKey("elsewhere", "1"), state("processing"))
    assert await house.pool.restore() == 20
    assert await house.pool.restore() == 0
    async with house.running():
        await house.clock.advance(2 * LINGER)
        assert {task for task, _ in house.provider.asked} == {key(number).task_id for number in range(20)}
        house.provider.shows(key(3).task_id, "completed", 100)
        await house.clock.advance(60)
        assert house.told(key(3))[-1] == ("completed", 100)
        assert house.pool.watcher(key(3)) is None
        assert house.pool.watcher(key(4)) is not None


async def test_an_unknown_upstream_is_refused_and_counted_nowhere(open_house: Any) -> None:
    with pytest.raises(UnknownUpstream):
        open_house.pool.want(TaskKey("nobody", "1"))
    open_house.pool.unwant(TaskKey("nobody", "1"))
    assert open_house.pool.statistics("qingbo") == {"watches": 0, "viewers": 0}


# 404


async def test_a_task_that_is_not_there_is_told_and_not_asked_for_again_at_once(open_house: Any) -> None:
    house = open_house
    house.provider.takes = 5.0  # longer than the shortest pace
    house.pool.want(TASK)
    await house.clock.advance(5.5)
    watcher = house.pool.watcher(TASK)
    assert (watcher.polled_once.is_set(), watcher.error) == (False, None)  # one 404 decides nothing
    await house.clock.advance(6)
    assert isinstance(await house.pool.wait_polled(TASK), TaskNotFound)
    assert house.notices == [(ID, "task_not_found")]
    for _ in range(20):
        house.pool.want(TASK)
        await settle()
    assert house.provider.polls(ID) == [house.clock.monotonic() - 11.5, house.clock.monotonic() - 5.5]


async def test_a_task_that_was_not_there_is_asked_for_again_later(open_house: Any) -> None:
    house = open_house
    house.pool.want(TASK)
    await house.clock.advance(2)
    house.provider.shows(ID, "queued")
    await house.clock.advance(61)
    house.pool.want(TASK)
    assert await house.pool.wait_polled(TASK) is None
    assert house.told(TASK) == [("queued", None)]
    assert house.pool.statistics("qingbo") == {"watches": 1, "viewers": 2}
    house.pool.unwant(TASK)
    house.pool.unwant(TASK)
    assert house.count("bridge_interests") == 0


async def test_a_task_another_call_shows_is_there_after_all(open_house: Any) -> None:
    house = open_house
    house.pool.want(TASK)
    await settle()
    event = await house.pool.show(TASK, Observation(status=Status.QUEUED), Source.SUBMIT)
    assert event is not None
    assert event.state.source is Source.SUBMIT
    house.provider.shows(ID, "processing", 10)
    assert house.pool.poll_now(TASK)
    await house.clock.advance(1)
    assert house.told(TASK) == [("queued", None), ("processing", 10)]


# Look now


async def test_look_now_looks_at_once_and_at_most_once_a_second(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10, poll_after=200)
    house.pool.want(TASK)
    await house.clock.advance(10)
    looks = len(house.provider.asked)
    for _ in range(30):  # three seconds of a provider that calls back like mad
        assert house.pool.poll_now(TASK)
        await house.clock.advance(0.1)
    await house.clock.advance(5)
    times = house.provider.polls(ID)[looks:]
    assert len(times) == 4
    assert all(later - earlier >= 1.0 - 1e-6 for earlier, later in pairwise(times))


async def test_what_a_second_callback_says_is_not_lost(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10, poll_after=200)
    house.pool.want(TASK)
    await house.clock.advance(10)
    house.pool.poll_now(TASK)
    await house.clock.advance(0.2)
    house.provider.shows(ID, "completed", 100)
    house.pool.poll_now(TASK)
    await house.clock.advance(1)
    assert house.told(TASK)[-1] == ("completed", 100)


async def test_a_callback_during_a_look_brings_another(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10, poll_after=200)
    house.provider.takes = 3.0
    house.pool.want(TASK)
    await house.clock.advance(1)
    house.pool.poll_now(TASK)
    await house.clock.advance(10)
    started = house.provider.polls(ID)
    assert [at - started[0] for at in started] == [0.0, 3.0]


async def test_nobody_looks_at_a_task_nobody_watches(open_house: Any) -> None:
    assert not open_house.pool.poll_now(TASK)
    open_house.pool.want(TASK)
    await open_house.clock.advance(1)
    assert not open_house.pool.poll_now(TASK)  # it is not there


# What is seen


async def test_the_same_bytes_are_not_news_and_confirm(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    house.pool.want(TASK)
    await house.clock.advance(60)
    assert house.told(TASK) == [("processing", 10)]
    assert house.notices == []
    assert house.count("bridge_polls_total", result="changed") == 1
    assert house.count("bridge_polls_total", result="unchanged") == len(house.provider.asked) - 1
    assert house.count("bridge_upstream_requests_total", call="status", outcome="ok") == len(
        house.provider.asked
    )


async def test_a_provider_that_knows_etags_is_asked_with_them(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10, etag='"1"')
    house.pool.want(TASK)
    await house.clock.advance(30)
    assert "If-None-Match" not in house.provider.headers[0]
    assert {one["If-None-Match"] for one in house.provider.headers[1:]} == {'"1"'}
    outcomes = house.count("bridge_upstream_requests_total", call="status", outcome="not_modified")
    assert outcomes == len(house.provider.asked) - 1


async def test_a_look_that_says_what_it_said_before_a_push_is_news_again(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "queued", 0)
    house.pool.want(TASK)
    await house.clock.advance(1)
    await house.pool.watcher(TASK).take(Observation(status=Status.PROCESSING), Source.STREAM)
    await house.clock.advance(30)
    assert [status for status, _ in house.told(TASK)] == ["queued", "processing", "queued"]


async def test_a_failing_provider_is_told_of_and_asked_less_and_less(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    house.pool.want(TASK)
    await house.clock.advance(3)
    looks = len(house.provider.asked)
    house.provider.shows(ID, "processing", 10, http=500)
    await house.clock.advance(120)
    waits = [later - earlier for earlier, later in pairwise(house.provider.polls(ID)[looks:])]
    assert waits == sorted(waits)
    assert (ID, "upstream_unavailable") in house.notices
    assert isinstance(house.pool.watcher(TASK).error, UpstreamUnavailable)
    assert house.count("bridge_polls_total", result="failed") >= 3
    house.provider.shows(ID, "processing", 11)
    await house.clock.advance(90)
    assert house.notices[-1] == (ID, "fresh")
    assert house.pool.watcher(TASK).error is None


async def test_who_comes_while_a_notice_stands_is_told(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    house.pool.want(TASK)
    await house.clock.advance(3)
    house.pool.unwant(TASK)
    house.provider.shows(ID, "processing", 10, http=500)
    await house.clock.advance(20)
    before = [code for _, code in house.notices]
    assert "upstream_unavailable" in before
    house.pool.want(TASK)
    assert sorted(code for _, code in house.notices[len(before) :]) == sorted(before)


async def test_time_in_a_status_is_counted_from_where_it_began(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    house.pool.want(TASK)
    for progress in (20, 30, 40):
        await house.clock.advance(20)
        house.provider.shows(ID, "processing", progress)
    house.provider.shows(ID, "completed", 100)
    await house.clock.advance(20)
    assert house.count("bridge_task_seconds_count", status="processing") == 1
    assert house.count("bridge_task_seconds_sum", status="processing") > 55
    assert house.count("bridge_task_transitions_total", status="completed") == 1


async def test_run_times_and_detection_are_learned_from_the_providers_own_times(open_house: Any) -> None:
    house = open_house
    wall = house.clock.time()
    for number in range(3):
        house.provider.shows(key(number).task_id, "processing", 10, created_at=wall - 100)
        house.pool.want(key(number))
    await house.clock.advance(5)
    for number in range(3):
        done = house.clock.time()
        house.provider.shows(key(number).task_id, "completed", 100, created_at=wall - 100, completed_at=done)
    await house.clock.advance(20)
    [learned] = house.upstream.learned.statistics()
    assert learned["samples"] == 3
    assert learned["p50_seconds"] == pytest.approx(105, abs=3)
    assert house.count("bridge_detection_seconds_count", source="poll") == 3


async def test_polls_of_a_task_and_the_error_of_its_estimate_are_counted_at_its_end(open_house: Any) -> None:
    house = open_house
    for number in range(4):
        created_at = house.clock.time()
        house.provider.shows(key(number).task_id, "processing", 10, created_at=created_at)
        house.pool.want(key(number))
        await house.clock.advance(60)
        house.provider.shows(
            key(number).task_id, "completed", 100, created_at=created_at, completed_at=house.clock.time()
        )
        await house.clock.advance(20)
    assert house.count("bridge_polls_per_task_count") == 4
    polls = sum(house.count("bridge_polls_total", result=result) for result in ("changed", "unchanged"))
    assert house.count("bridge_polls_per_task_sum") == polls
    # The first three had no estimate; the fourth took as long as they did.
    assert house.count("bridge_eta_error_ratio_count") == 1
    assert house.count("bridge_eta_error_ratio_sum") < 0.3
    # One that had ended before anybody asked, and one that is lost, say nothing of either.
    house.pool.want(key(0))
    house.provider.shows(key(9).task_id, "completed", 100)
    house.pool.want(key(9))
    await house.clock.advance(5)
    assert house.count("bridge_polls_per_task_count") == 4


async def test_the_price_and_the_plans_of_an_upstream_are_shown(open_house: Any) -> None:
    house = open_house
    house.upstream.price.rate = 0.5
    name = house.upstream.name
    assert house.pool.pacing(name) == {
        "poll_price_seconds": pytest.approx(house.upstream.pace.price(house.upstream.pace.max_seconds)),
        "poll_price_factor": 1.0,
        "planned_polls_per_second": 0.0,
    }
    for number in range(20):
        house.provider.shows(key(number).task_id, "processing", 10)
        house.pool.want(key(number))
    await house.clock.advance(30)
    shown = house.pool.pacing(name)
    assert shown["poll_price_factor"] > 1
    assert shown["poll_price_factor"] == pytest.approx(house.count("bridge_poll_price_factor"), abs=0.001)
    assert shown["planned_polls_per_second"] == pytest.approx(house.upstream.price.planned, abs=0.001)


# The sums


async def test_saved_polls_are_what_the_viewers_would_have_polled_less_what_was(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    for _ in range(10):
        house.pool.want(TASK)
    await house.clock.advance(60)
    saved = house.count("bridge_polls_saved_total")
    wished = 10 * 60 / house.upstream.pace.recommended_seconds
    assert saved == pytest.approx(wished - len(house.provider.asked), abs=10)
    for _ in range(10):
        house.pool.unwant(TASK)
    await house.clock.advance(20)
    assert house.count("bridge_polls_saved_total") == pytest.approx(saved, abs=10)


# What goes wrong inside


async def test_a_bug_in_one_look_ends_neither_the_pool_nor_the_watch(
    open_house: Any, caplog: pytest.LogCaptureFixture
) -> None:
    house = open_house

    def bug(task_id: str) -> None:
        if task_id == ID:
            raise KeyError("a bug in a dialect")

    house.provider.fault = bug
    for number in (1, 2):
        house.provider.shows(key(number).task_id, "processing", 10)
        house.pool.want(key(number))
    await house.clock.advance(30)
    assert house.told(key(1)) == []
    assert house.told(key(2)) == [("processing", 10)]
    assert 4 <= len(house.provider.polls(ID)) <= 8  # again and again, but in no tight circle
    house.provider.fault = lambda _task_id: None
    await house.clock.advance(6)
    assert house.told(key(1)) == [("processing", 10)]
    assert house.upstream.limiter.in_flight == 0
    assert "unhandled exception in poll" in caplog.text


@pytest.mark.parametrize("make", [JournalError, TypeError])
async def test_what_was_seen_but_not_recorded_is_seen_again(
    open_house: Any, monkeypatch: pytest.MonkeyPatch, make: type[Exception]
) -> None:
    house = open_house

    async def refuse(*_: object, **__: object) -> None:
        raise make("not recorded")

    house.provider.shows(ID, "completed", 100)
    with monkeypatch.context() as broken:
        broken.setattr(house.journal, "append", refuse)
        house.pool.want(TASK)
        await house.clock.advance(20)
        assert house.told(TASK) == []
        assert 3 <= len(house.provider.asked) <= 6
        refused = len(house.provider.asked) if make is JournalError else 0  # a bug is counted nowhere
        assert house.metrics.journal_failures.value == refused
    await house.clock.advance(6)
    assert house.told(TASK) == [("completed", 100)]
    assert house.upstream.limiter.in_flight == 0
    looks = len(house.provider.asked)
    await house.clock.advance(60)
    assert len(house.provider.asked) == looks


async def test_a_journal_that_cannot_be_read_is_asked_again(
    open_house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = open_house

    async def refuse(*_: object) -> None:
        raise JournalError("no journal")

    house.provider.shows(ID, "processing", 10)
    with monkeypatch.context() as broken:
        broken.setattr(house.journal, "latest", refuse)
        house.pool.want(TASK)
        await house.clock.advance(20)
        assert house.provider.asked == []
        assert house.upstream.limiter.in_flight == 0
    await house.clock.advance(6)
    assert house.told(TASK) == [("processing", 10)]


async def test_ending_in_the_middle_of_a_look_gives_its_place_back(house: Any) -> None:
    house.provider.shows(ID, "processing", 10)
    house.provider.takes = 60.0
    async with house.running():
        house.pool.want(TASK)
        await settle()
        assert house.upstream.limiter.in_flight == 1
    assert house.in_flight_afterwards == 0


# Who looks first


async def test_under_a_short_rate_limit_viewers_and_ends_that_are_near_have_most_polls_and_nobody_starves(
    build: Callable[..., Any],
) -> None:
    house = build(budget=CredentialLimiter(max_in_flight=1, random=lambda: 0.5, requests_per_second=1.0))
    unwatched, watched, ending = range(10), range(10, 14), range(14, 16)
    for number in (*unwatched, *watched, *ending):
        eta = 60.0 if number in ending else 900.0
        house.provider.shows(key(number).task_id, "processing", 10, eta_seconds=eta)
        house.pool.keep(key(number))
        if number not in unwatched:
            house.pool.want(key(number))
    async with house.running():
        await house.clock.advance(600)
    polls = Counter(int(task.rpartition("-")[2]) for task, _ in house.provider.asked)
    assert min(polls[one] for one in ending) > max(polls[one] for one in watched)
    assert min(polls[one] for one in watched) > max(polls[one] for one in unwatched)
    assert min(polls[one] for one in unwatched) >= 2, "somebody starved"
    assert len(house.provider.asked) <= 601
    assert house.provider.most_at_once == 1


async def test_never_more_requests_at_once_than_the_budget_allows(build: Callable[..., Any]) -> None:
    house = build(budget=CredentialLimiter(max_in_flight=4, random=lambda: 0.5))
    house.provider.takes = 0.5
    async with house.running():
        for number in range(40):
            house.provider.shows(key(number).task_id, "processing", 10)
            house.pool.want(key(number), by=number)
        await house.clock.advance(20)  # first polls have a quarter while repeats wait
        assert house.provider.most_at_once == 4
        assert len({task for task, _ in house.provider.asked}) == 40
    assert house.count("bridge_budget_wait_seconds_count") == len(house.provider.asked)


async def test_the_metric_of_an_upstreams_state_is_1_for_the_state_of_status(open_house: Any) -> None:
    house = open_house

    def states() -> dict[str, float]:
        return {one.value: house.count("bridge_upstream_state", state=one.value) for one in UpstreamState}

    assert set(UPSTREAM_STATES) == {state.value for state in UpstreamState}
    assert states() == {"INITIALIZING": 1, "VALID": 0, "INTERRUPTED": 0, "OFF": 0}
    house.provider.shows(key(0).task_id, "processing", 10)
    house.pool.want(key(0))
    await house.clock.advance(1)
    assert states() == {"INITIALIZING": 0, "VALID": 1, "INTERRUPTED": 0, "OFF": 0}


async def test_one_429_pauses_every_task_of_the_credential(open_house: Any) -> None:
    house = open_house
    for number in range(5):
        house.provider.shows(key(number).task_id, "processing", 10)
        house.pool.want(key(number))
    await house.clock.advance(1)
    house.provider.shows(key(0).task_id, "queued", http=429, retry_after=50)
    house.pool.poll_now(key(0))
    await house.clock.advance(1)
    looks = len(house.provider.asked)
    assert house.count("bridge_budget_paused_seconds") == pytest.approx(49, abs=1)
    await house.clock.advance(45)
    assert house.count("bridge_budget_paused_seconds") == pytest.approx(4, abs=1)
    assert len(house.provider.asked) == looks
    await house.clock.advance(10)
    assert len(house.provider.asked) > looks + 4


async def test_waiting_for_a_look_of_what_nobody_watches_is_over_at_once(open_house: Any) -> None:
    assert await open_house.pool.wait_polled(TASK) is None
    open_house.pool.want(TASK)
    waiting = asyncio.ensure_future(open_house.pool.wait_polled(TASK))
    await open_house.clock.advance(1)  # the second poll says so, too
    assert isinstance(await waiting, TaskNotFound)


@pytest.mark.parametrize("http", [403, 500])
async def test_after_a_restart_sick_tasks_hold_up_no_healthy_one(house: Any, http: int) -> None:
    """Nobody watches; 20 of 25 tasks fail, and they are polled first."""
    for number in range(25):
        sick = number < 20
        house.provider.shows(key(number).task_id, "processing", 10, **({"http": http} if sick else {}))
        changed_at = 1_800_000_000.0 + (0 if sick else number)
        await house.journal.append(key(number), state("processing", 10, changed_at=changed_at))
    await house.pool.restore()
    async with house.running():
        await house.clock.advance(30)
    for number in range(20, 25):
        polls = [house.clock.monotonic() - 30, *house.provider.polls(key(number).task_id)]
        assert max(later - earlier for earlier, later in pairwise(polls)) < 15, number
        assert len(polls) > 3


async def test_first_looks_begin_over_several_turns(open_house: Any) -> None:
    house = open_house
    house.provider.takes = 1.0
    for number in range(20):
        house.provider.shows(f"task-{number}", "processing", 10)
        house.pool.want(key(number))
    begun = [0]
    for _ in range(60):
        await asyncio.sleep(0)
        begun.append(sum(len(house.provider.polls(f"task-{number}")) for number in range(20)))
    assert begun[-1] > 2 * FIRST_PER_TURN
    assert max(later - earlier for earlier, later in pairwise(begun)) <= FIRST_PER_TURN
