"""Deliveries: when each is attempted, in which order, and what becomes of endpoints that fail."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from typing import Any

import pytest

from bridge.core.details import TaskDetails
from bridge.core.task import Status, TaskKey
from bridge.engine.base import Job
from bridge.errors import EngineUnavailable
from bridge.webhooks.attempts import AttemptResult
from bridge.webhooks.endpoint import Disabled, EventType
from bridge.webhooks.hosts import MAX_IN_FLIGHT, MAX_OF_FAILING, MAX_OF_SUBMITS, MAX_PER_HOST
from tests.fakes.clock import settle
from tests.fakes.webhooks import HANGS, TASK, Delivering, endpoint, state

pytestmark = pytest.mark.anyio

HOUR = 3600.0


async def test_a_state_is_delivered_at_once_and_once() -> None:
    use = Delivering(endpoint())
    async with use.running():
        await use.record(state(Status.PROCESSING))
        await use.record(state())
        (sent,) = use.sender.sent
        assert sent.data["type"] == "task.final"
        assert sent.data["data"]["status"] == "completed"
        assert sent.data["data"]["cursor"] == f"{use.journal.epoch}-2"
        await use.clock.advance(HOUR)
    assert len(use.sender.sent) == 1
    assert use.waiting == 0
    assert use.counts.results == [AttemptResult.DELIVERED]


async def test_attempts_follow_the_schedule_to_the_end_of_the_day() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda _: 503
    async with use.running():
        await use.record(state())
        await use.clock.advance(2 * 86_400)
        first = use.times[:7]
        assert first == pytest.approx([0, 5, 30, 120, 600, 1800, 3600], rel=0.02, abs=0.2)
        assert all(later - before <= HOUR + 15 for before, later in pairwise(use.times[6:]))
        assert use.times[-1] == pytest.approx(86_400, abs=20)
        assert len({(one.id, one.body) for one in use.sender.sent}) == 1
        assert use.webhooks.get("mine").disabled is Disabled.FAILING
    assert use.waiting == 0
    assert use.counts.results[-1] is AttemptResult.EXPIRED


async def test_the_next_delivery_of_a_task_waits_and_the_newest_open_state_replaces_those_before() -> None:
    use = Delivering(endpoint("mine", EventType.STATE, EventType.FINAL))
    use.sender.answer = lambda _: 500
    async with use.running():
        for progress in (10, 20, 30):
            await use.record(state(Status.PROCESSING, progress=progress))
        assert [one.data["data"]["progress"] for one in use.sender.sent] == [10]
        use.sender.answer = lambda _: 200
        await use.clock.advance(60)
        assert [one.data["data"]["progress"] for one in use.sender.sent] == [10, 30]
        await use.record(state(progress=100))
    assert [one.data["type"] for one in use.sender.sent][-1] == "task.final"


async def test_an_end_is_never_replaced_and_a_real_end_after_lost_is_delivered_again() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda one: 500 if one.at < 1 else 200
    async with use.running():
        await use.record(state(Status.LOST))
        await use.record(state(Status.COMPLETED))
        await use.clock.advance(30)
    told = [(one.data["data"]["status"], one.id) for one in use.sender.sent]
    assert [status for status, _ in told] == ["lost", "lost", "completed"]
    assert told[0] == told[1] != told[2]


async def test_410_disables_at_once_and_what_waits_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    use = Delivering(endpoint(url="https://receiver.example/hook?token=hidden"))
    use.sender.seconds = 1.0
    use.sender.answer = lambda _: 410
    async with use.running():
        for number in range(40):
            await use.record(state(), TaskKey("video", str(number)))
        await use.clock.advance(2)
        assert use.webhooks.get("mine").disabled is Disabled.GONE
        assert use.waiting == 40
        sent = len(use.sender.sent)
        assert sent <= MAX_PER_HOST
        await use.record(state(), TaskKey("video", "later"))
        await use.clock.advance(HOUR)
        assert len(use.sender.sent) == sent
        assert use.waiting == 40
        assert {(one.state, one.next_attempt_at) for one in await use.webhooks.deliveries("mine")} == {
            ("waiting", None)
        }
        assert use.webhooks.figures == (40, 0.0)
        use.sender.answer = lambda _: 204
        await use.webhooks.set_enabled("mine", enabled=True)
        await use.clock.advance(5)
        assert use.waiting == 0
        assert len({one.id for one in use.sender.sent[sent:]}) == len(use.sender.sent) - sent == 40
        assert {one.state for one in await use.webhooks.deliveries("mine")} == {"delivered"}
    warnings = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage() for one in warnings] == ["webhook disabled"]
    assert "hidden" not in str(vars(warnings[0]))


async def test_a_disabled_endpoint_keeps_what_waits_and_nothing_is_sent_or_written() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda _: 503
    async with use.running():
        await use.record(state())
        await use.clock.advance(3 * HOUR)
        await use.webhooks.set_enabled("mine", enabled=False)
        sent = len(use.sender.sent)
        await use.record(state(), TaskKey("video", "two"))
        await use.clock.advance(HOUR / 10)
        assert len(use.sender.sent) == sent
        use.sender.answer = lambda _: 204
        assert (await use.webhooks.set_enabled("mine", enabled=True)).disabled is None
        await use.record(state(), TaskKey("video", "three"))
        await use.clock.advance(5)  # not only when the next attempt was due
    assert [one.data["data"]["task_id"] for one in use.sender.sent[sent:]] == ["one", "three"]
    assert use.waiting == 0


async def test_enabling_an_endpoint_that_is_enabled_sends_what_waits_without_losing_a_state() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda _: 503
    async with use.running():
        await use.record(state())
        await use.clock.advance(2.5 * HOUR)
        sent = len(use.sender.sent)
        use.sender.answer = lambda _: 204
        await use.webhooks.set_enabled("mine", enabled=True)
        await use.clock.advance(5)  # the next attempt would be due in up to an hour
        assert len(use.sender.sent) == sent + 1
    assert use.waiting == 0


async def test_what_is_older_than_a_day_when_its_endpoint_is_enabled_is_given_up() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda _: 503
    async with use.running():
        await use.record(state())
        await use.clock.advance(10 * HOUR)
        await use.record(state(), TaskKey("video", "two"))
        await use.webhooks.set_enabled("mine", enabled=False)
        await use.clock.advance(15 * HOUR)
        states = {one.task: one.state for one in await use.webhooks.deliveries("mine")}
        assert states == {"video/one": "failed", "video/two": "waiting"}
        sent = len(use.sender.sent)
        use.sender.answer = lambda _: 204
        await use.webhooks.set_enabled("mine", enabled=True)
        await use.clock.advance(5)
        assert [one.data["data"]["task_id"] for one in use.sender.sent[sent:]] == ["two"]
        states = {one.task: one.state for one in await use.webhooks.deliveries("mine")}
        assert states == {"video/one": "failed", "video/two": "delivered"}
    assert use.waiting == 0
    assert use.counts.drops == 1


async def test_an_endpoint_that_was_full_empties_its_queue_when_it_is_enabled() -> None:
    use = Delivering(endpoint())
    use.ledger.job_limits = use.ledger.job_limits._replace(jobs=20)
    use.sender.answer = lambda _: HANGS
    async with use.running():
        for number in range(25):
            await use.record(state(), TaskKey("video", str(number)))
        await use.clock.advance(20)
        assert use.webhooks.get("mine").disabled is Disabled.FULL
        assert use.waiting == 20
        await use.webhooks.set_enabled("mine", enabled=True)
        await use.record(state(), TaskKey("video", "no room yet"))
        await use.clock.advance(60)
        assert use.webhooks.get("mine").disabled is None
        use.sender.answer = lambda _: 204
        await use.clock.advance(HOUR)
        assert use.waiting == 0
        use.sender.answer = lambda _: HANGS
        for number in range(25):
            await use.record(state(), TaskKey("video", f"later-{number}"))
        await use.clock.advance(20)
        assert use.webhooks.get("mine").disabled is Disabled.FULL


async def test_a_host_has_one_name_however_it_is_written() -> None:
    urls = ["https://A.example/1", "https://a.example/2", "https://a.example:443/3"]
    use = Delivering(endpoint(url="https://a.example./4"), hosts=("a.example",))
    use.sender.answer = lambda _: HANGS
    async with use.running():
        for number in range(80):
            await use.record(state(), TaskKey("video", str(number)), TaskDetails(webhook=urls[number % 3]))
        assert len({one.url for one in use.sender.sent}) == 4
        assert len(use.sender.sent) == MAX_PER_HOST


async def test_a_full_queue_disables_its_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Delivering(endpoint(), endpoint("other", url="https://other.example/"))
    use.ledger.job_limits = use.ledger.job_limits._replace(jobs=20)
    use.sender.answer = lambda one: HANGS if "receiver" in one.url else 204
    async with use.running():
        for number in range(25):
            await use.record(state(), TaskKey("video", str(number)))
        await use.clock.advance(2)
        assert use.webhooks.get("mine").disabled is Disabled.FULL
        assert use.webhooks.get("other").disabled is None
    assert use.waiting == 20
    assert use.counts.drops >= 1


async def test_a_success_ends_the_time_without_one_and_the_time_is_shared() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda _: 500
    async with use.running():
        await use.record(state())
        await use.clock.advance(20 * HOUR)
    # Another process, which has the same ledger.
    other = Delivering(endpoint(), clock=use.clock, journal=use.journal, sender=use.sender)
    await other.webhooks.refresh()
    async with other.running():
        await use.clock.advance(3 * HOUR)
        assert other.webhooks.get("mine").disabled is None
        await use.clock.advance(2 * HOUR)
        assert other.webhooks.get("mine").disabled is Disabled.FAILING
    assert use.webhooks.get("mine").disabled is None
    await use.webhooks.refresh()
    assert use.webhooks.get("mine").disabled is Disabled.FAILING


async def test_one_success_in_24_hours_keeps_an_endpoint() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda one: 200 if "good" in one.data["data"]["task_id"] else 500
    async with use.running():
        await use.record(state(), TaskKey("video", "bad"))
        await use.clock.advance(20 * HOUR)
        await use.record(state(), TaskKey("video", "good"))
        await use.clock.advance(20 * HOUR)
        assert use.webhooks.get("mine").disabled is None


async def test_a_dead_receiver_costs_no_other_one() -> None:
    use = Delivering(endpoint("dead", url="https://dead.example/"), endpoint())
    use.sender.answer = lambda one: HANGS if "dead" in one.url else 204
    async with use.running():
        for number in range(200):
            await use.record(state(), TaskKey("video", str(number)))
        living = [one for one in use.sender.sent if "receiver" in one.url]
        assert len(living) == 200
        assert len(use.sender.sent) - len(living) == MAX_PER_HOST
        await use.clock.advance(15)
        use.sender.most_in_flight = 0
        await use.clock.advance(60)
        assert use.sender.most_in_flight <= MAX_OF_FAILING


async def test_a_dead_host_of_submits_costs_no_other_host() -> None:
    use = Delivering(hosts=("*.example",))
    use.sender.answer = lambda one: HANGS if "dead" in one.url else 204
    dead = TaskDetails(webhook="https://dead.example/")
    async with use.running():
        for number in range(200):
            await use.record(state(), TaskKey("video", f"dead-{number}"), dead)
        await use.clock.advance(30)
        alive = TaskDetails(webhook="https://alive.example/")
        for number in range(50):
            await use.record(state(), TaskKey("video", f"alive-{number}"), alive)
        await use.clock.advance(30)
        assert sum("alive" in one.url for one in use.sender.sent) == 50


async def test_one_host_spelled_in_many_ways_is_one_host() -> None:
    use = Delivering(hosts=("dead.example",))
    use.sender.answer = lambda _: HANGS
    spellings = ("dead.example", "DEAD.example", "dead.EXAMPLE.", "dead.example:443", "Dead.example:0443")
    async with use.running():
        for number in range(20 * len(spellings)):
            url = f"https://{spellings[number % len(spellings)]}/{number}"
            await use.record(state(), TaskKey("video", str(number)), TaskDetails(webhook=url))
        assert use.sender.most_in_flight == MAX_PER_HOST


@pytest.mark.parametrize("url", ["https://dead.example:%d/", "https://a%d.wild.example/"])
async def test_hosts_that_callers_make_up_leave_room_for_others(url: str) -> None:
    use = Delivering(endpoint(), hosts=("dead.example", "*.wild.example"))
    use.sender.answer = lambda one: HANGS if "receiver" not in one.url else 204
    async with use.running():
        for number in range(1, MAX_IN_FLIGHT + 100):
            details = TaskDetails(webhook=url % number)
            await use.record(state(), TaskKey("video", str(number)), details)
        assert use.sender.most_in_flight <= MAX_OF_SUBMITS + 1
        told = sum("receiver" in one.url for one in use.sender.sent)
        assert told == MAX_IN_FLIGHT + 99
        await use.clock.advance(15)
        assert len(use.sender.sent) - told > MAX_OF_SUBMITS


async def test_a_submit_names_where_its_end_is_delivered(caplog: pytest.LogCaptureFixture) -> None:
    use = Delivering(hosts=("receiver.example",))
    use.sender.answer = lambda _: 410
    async with use.running():
        details = TaskDetails(webhook="https://receiver.example/one?token=hidden")
        await use.record(state(Status.PROCESSING), details=details)
        await use.record(state())
        (sent,) = use.sender.sent
        assert sent.url == details.webhook
        assert sent.secrets == (use.submit_secret,)
        await use.record(state(), TaskKey("video", "two"), TaskDetails(webhook="https://other.example/"))
        await use.clock.advance(HOUR)
    assert len(use.sender.sent) == 1
    messages = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert messages == ["webhook of a submit given up", "webhook of a submit no longer allowed"]
    assert "hidden" not in caplog.text


async def test_what_a_dead_process_had_claimed_is_delivered_by_another() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda _: HANGS
    async with use.running():
        await use.record(state())
        assert len(use.sender.sent) == 1
    use.ledger.store.leave(use.ledger.session, now=use.ledger.now())
    use.ledger.session = "another"
    use.ledger.store.session(
        "another", ttl=1e9, known_head=0, new_epoch="x", about=b"", opens=True, now=use.ledger.now()
    )
    other = Delivering(endpoint(), clock=use.clock, journal=use.journal, sender=use.sender)
    use.sender.answer = lambda _: 204
    async with other.running():
        await use.clock.advance(3)
    assert len(use.sender.sent) == 2
    assert use.sender.sent[0].id == use.sender.sent[1].id
    assert use.sender.sent[0].body == use.sender.sent[1].body


async def test_after_a_start_nothing_waits_for_its_next_attempt() -> None:
    use = Delivering(endpoint())
    use.sender.answer = lambda _: 500
    async with use.running():
        for number in range(100):
            await use.record(state(), TaskKey("video", str(number)))
        await use.clock.advance(1000)
    use.sender.answer = lambda _: 204
    sent = len(use.sender.sent)
    other = Delivering(endpoint(), clock=use.clock, journal=use.journal, sender=use.sender)
    async with other.running():
        await use.clock.advance(0.5)
        assert len(use.sender.sent) == sent + 100
    assert use.waiting == 0


async def test_a_delivery_whose_end_cannot_be_noted_is_noted_later(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Delivering(endpoint())
    finish, failures = use.ledger.finish_job, 3

    async def broken(queue: str, job: str, *, retry_at: int = 0) -> bool:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise EngineUnavailable
        return await finish(queue, job, retry_at=retry_at)

    monkeypatch.setattr(use.ledger, "finish_job", broken)
    async with use.running():
        await use.record(state())
        await use.clock.advance(5)
    assert len(use.sender.sent) == 1
    assert use.waiting == 0


async def test_while_the_ledger_is_away_deliveries_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    use = Delivering(endpoint())
    claim, away = use.ledger.claim_jobs, True

    async def broken(queue: str, **more: Any) -> list[Job]:
        if away:
            raise EngineUnavailable
        return await claim(queue, **more)

    monkeypatch.setattr(use.ledger, "claim_jobs", broken)
    async with use.running():
        await use.record(state())
        await use.clock.advance(60)
        assert not use.sender.sent
        away = False
        await use.clock.advance(3)
        assert len(use.sender.sent) == 1


async def test_a_drain_sees_attempts_through_and_begins_no_other() -> None:
    use = Delivering(endpoint())
    use.sender.seconds = 2.0
    async with use.running():
        for number in range(60):
            await use.record(state(), TaskKey("video", str(number)))
        draining = asyncio.ensure_future(use.deliverer.drain(10))
        await use.clock.advance(5)
        await draining
        assert len(use.sender.sent) == MAX_PER_HOST
        assert use.waiting == 60 - MAX_PER_HOST
        await use.clock.advance(60)
        assert len(use.sender.sent) == MAX_PER_HOST
    jobs = await use.ledger.claim_jobs("webhook:mine", limit=100, lease=1)
    assert len(jobs) == 60 - MAX_PER_HOST


async def test_without_endpoints_nothing_runs() -> None:
    use = Delivering()
    async with use.running():
        await use.clock.advance(HOUR)
        assert not use.clock._alarms
        added = await use.webhooks.create("https://receiver.example/new", [EventType.FINAL])
        await use.record(state())
        await settle()
        assert [one.url for one in use.sender.sent] == [added.url]


async def test_nothing_spins_while_thousands_of_deliveries_wait() -> None:
    use = Delivering(*(endpoint(f"e{number}", url=f"https://h{number}.example/") for number in range(300)))
    use.sender.answer = lambda _: 500
    async with use.running():
        await use.record(state())
        await use.clock.advance(700)
        calls = 0
        claim = use.ledger.claim_jobs

        async def counted(queue: str, **more: Any) -> list[Job]:
            nonlocal calls
            calls += 1
            return await claim(queue, **more)

        use.ledger.claim_jobs = counted  # type: ignore[method-assign]
        await use.clock.advance(100)
    assert calls <= 51 * 100


async def test_tags_and_account_of_a_task() -> None:
    use = Delivering(endpoint(tags=("nightly",)))
    async with use.running():
        await use.record(state(), TaskKey("video", "a", "account-7"), TaskDetails(tags=("nightly", "x")))
        await use.record(state(), TaskKey("video", "b", "account-7"), TaskDetails(tags=("x",)))
    (sent,) = use.sender.sent
    assert sent.data["data"]["task_id"] == "a"
    assert b"account-7" not in sent.body
    assert TASK.account != "account-7"
