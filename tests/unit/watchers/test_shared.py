"""Replicas that share their tasks: who polls, who attends, and that both tell their viewers the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from bridge.core.event import Notice, NoticeCode
from bridge.core.task import Observation, Source, Status, TaskKey
from bridge.engine.ownership import KnownTask
from bridge.errors import (
    TIMEOUT_SENTENCE,
    CredentialRefused,
    TaskNotFound,
    Unauthenticated,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from bridge.sources.accounts import AccountRegistry
from bridge.watchers.role import Role
from tests.fakes.clock import settle
from tests.fakes.provider import PACE, Script, frame
from tests.fakes.tasks import TASK, state

pytestmark = pytest.mark.anyio

ID = TASK.task_id
LINGER = 30.0


def polls(house: Any) -> float:
    """How often a house polled."""
    return sum(
        house.count("bridge_polls_total", result=result) for result in ("changed", "unchanged", "failed")
    )


def role(house: Any, key: TaskKey = TASK) -> Role:
    return house.pool.watcher(key).role


async def test_one_of_three_polls_and_all_hear_it(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    for house in street.houses:
        house.pool.want(TASK)
    await street.clock.advance(5)
    street.provider.shows(ID, "completed", 100)
    await street.clock.advance(20)
    assert [polls(house) > 0 for house in street.houses] == [True, False, False]
    for house in street.houses:
        assert house.told(TASK) == [("processing", 10), ("completed", 100)]
        assert house.pool.watcher(TASK).ended
        assert await house.pool.wait_polled(TASK) is None
    assert [house.pool.statistics("qingbo")["watches"] for house in street.houses] == [1, 0, 0]


async def test_a_viewer_that_comes_later_elsewhere_is_told_without_a_poll(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await street.clock.advance(1)
    other.pool.want(TASK)
    await settle()
    assert await other.pool.wait_polled(TASK) is None
    assert other.pool.watcher(TASK).watch.known.progress == 10
    assert len(street.provider.asked) == 1


async def test_a_dead_owners_task_goes_on_elsewhere_when_it_was_due_and_is_told_once(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(5)
    due = street.engine.record(TASK).due
    owner.journal.lose_lease()
    street.engine.sweep()
    await settle()
    assert street.owner(TASK) is other
    before = len(street.provider.asked)
    await street.clock.advance(due - street.clock.monotonic() - 0.01)
    assert len(street.provider.asked) == before
    await street.clock.advance(0.02)
    assert street.provider.polls(ID)[-1] == pytest.approx(due)
    await street.clock.advance(20)
    waits = [later - earlier for earlier, later in pairwise(street.provider.polls(ID))]
    assert min(waits) >= PACE.min_seconds
    assert owner.told(TASK) == other.told(TASK) == [("processing", 10)]


async def test_an_owner_whose_lease_ran_out_sends_no_poll_until_it_has_one(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner = street.houses[0]
    owner.pool.want(TASK)
    await street.clock.advance(1)
    before = len(street.provider.asked)
    owner.journal.alive = False
    await street.clock.advance(30)
    assert len(street.provider.asked) == before
    assert owner.upstream.limiter.in_flight == 0
    owner.journal.alive = True
    await street.clock.advance(3)
    assert len(street.provider.asked) > before


async def test_what_a_fenced_owner_saw_is_not_recorded_nor_believed(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(1)
    # The old owner hears nothing of its loss, and its poll is on the way.
    street.provider.shows(ID, "completed", 100)
    street.provider.takes = 1.0
    owner.pool.watcher(TASK).poll_now()
    await settle()
    street.engine.record(TASK).owner = other.journal
    street.engine.record(TASK).due = street.clock.monotonic() + 60
    await street.clock.advance(2)
    assert len(street.provider.asked) == 2
    assert role(owner) is Role.ATTENDING
    assert owner.pool.watcher(TASK).watch.known.status is Status.PROCESSING
    assert owner.told(TASK) == [("processing", 10)]
    other.journal.tell_standing(TASK)
    street.engine.record(TASK).due = None
    await street.clock.advance(70)
    assert owner.told(TASK) == other.told(TASK) == [("processing", 10), ("completed", 100)]


async def test_what_a_call_elsewhere_showed_is_recorded_on_the_newest_state(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await street.clock.advance(1)
    event = await other.pool.show(TASK, Observation(status=Status.PROCESSING, progress=40.0), Source.POLL)
    assert event.state.progress == 40
    await settle()
    assert role(other) is Role.ATTENDING
    assert owner.pool.watcher(TASK).watch.known.progress == 40
    street.provider.shows(ID, "processing", 30)
    await street.clock.advance(10)
    assert owner.told(TASK) == [("processing", 10), ("processing", 40)]


async def test_a_state_recorded_meanwhile_is_taken_over_and_the_observation_merged_again(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await street.clock.advance(1)
    await other.pool.show(TASK, Observation(status=Status.PROCESSING, progress=20.0), Source.POLL)
    await settle()
    # The owner hears late of what the other one records.
    owner.journal.held = True
    await other.pool.show(TASK, Observation(status=Status.PROCESSING, progress=70.0), Source.POLL)
    street.provider.shows(ID, "processing", 60, model="wan")
    await street.clock.advance(10)
    owner.journal.held = False
    known = owner.pool.watcher(TASK).watch.known
    assert (known.progress, known.model) == (70, "wan")
    assert owner.told(TASK)[-1] == ("processing", 70)
    assert [event.cursor.offset for event in owner.events] == sorted({e.cursor.offset for e in owner.events})
    assert other.told(TASK) == owner.told(TASK)


async def test_a_submit_is_recorded_where_it_came_and_watched_without_viewers(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    house = street.houses[1]
    event = await house.pool.show(TASK, Observation(status=Status.QUEUED), Source.SUBMIT)
    house.pool.keep(TASK)
    assert event.state.source is Source.SUBMIT
    submitted = street.clock.monotonic()
    await street.clock.advance(2 * LINGER)
    assert street.owner(TASK) is house
    assert street.provider.polls(ID)[0] >= submitted + PACE.min_seconds
    house.journal.lose_lease()
    street.engine.sweep()
    await street.clock.advance(1)
    heir = street.owner(TASK)
    assert heir not in (None, house)
    street.provider.shows(ID, "completed", 100)
    await street.clock.advance(20)
    assert heir.told(TASK)[-1] == ("completed", 100)


async def test_a_task_the_owner_does_not_find_is_missing_everywhere_for_a_minute(street: Any) -> None:
    owner, other, third = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(1.5)
    for house in (owner, other):
        assert isinstance(await house.pool.wait_polled(TASK), TaskNotFound)
        assert isinstance(house.pool.known_missing(TASK), TaskNotFound)
        assert house.notices == [(ID, "task_not_found")]
    third.pool.want(TASK)
    await settle()
    assert isinstance(third.pool.known_missing(TASK), TaskNotFound)
    assert polls(other) == polls(third) == 0
    asked = len(street.provider.asked)
    await street.clock.advance(50)
    other.pool.want(TASK)
    await street.clock.advance(2)
    assert len(street.provider.asked) == asked
    # After a minute whoever comes, wherever, has it asked for again.
    street.provider.shows(ID, "processing", 10)
    await street.clock.advance(12)
    other.pool.want(TASK)
    await street.clock.advance(2)
    assert len(street.provider.asked) > asked
    assert polls(other) == 0
    assert await other.pool.wait_polled(TASK) is None
    assert other.told(TASK) == [("processing", 10)]


async def test_the_next_owner_believes_a_404_as_long_as_the_one_before_would_have(street: Any) -> None:
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await street.clock.advance(1.5)
    owner.journal.lose_lease()
    other.pool.want(TASK)
    await street.clock.advance(20)
    assert street.owner(TASK) is other
    assert isinstance(other.pool.known_missing(TASK), TaskNotFound)
    assert polls(other) == 0
    await street.clock.advance(45)
    other.pool.want(TASK)
    await street.clock.advance(2)
    assert polls(other) > 0


async def test_a_failing_provider_is_told_within_two_seconds_to_all_who_have_no_state(street: Any) -> None:
    street.provider.shows(ID, "processing", http=500)
    owner, other, third = street.houses
    owner.pool.want(TASK)
    other.pool.want(TASK)
    await street.clock.advance(2)
    for house in (owner, other):
        assert isinstance(await house.pool.wait_polled(TASK), UpstreamUnavailable)
        assert house.notices == [(ID, "upstream_unavailable")]
    third.pool.want(TASK)
    await settle()
    assert (ID, "upstream_unavailable") in third.notices
    assert isinstance(await third.pool.wait_polled(TASK), UpstreamUnavailable)
    street.provider.shows(ID, "processing", 10)
    await street.clock.advance(60)
    for house in street.houses:
        assert house.notices[-1] == (ID, "fresh")
        assert await house.pool.wait_polled(TASK) is None
        assert not house.pool.watcher(TASK).watch.active_notices


async def test_a_poll_that_timed_out_is_a_timeout_elsewhere(street: Any) -> None:
    def silent(_: str) -> None:
        raise UpstreamTimeout(TIMEOUT_SENTENCE)

    street.provider.fault = silent
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(2)
    for house in (owner, other):
        assert isinstance(await house.pool.wait_polled(TASK), UpstreamTimeout)


async def test_a_rejected_key_is_told_elsewhere(street: Any) -> None:
    street.provider.shows(ID, "processing", http=401)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await settle()
    assert isinstance(await other.pool.wait_polled(TASK), CredentialRefused)


async def test_who_cannot_hear_the_owner_says_stale_after_three_intervals(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(20)
    other.journal.cut_off()
    gap = other.pool.watcher(TASK).watch._heard_gap
    await street.clock.advance(2 * gap)
    assert other.notices == []
    await street.clock.advance(gap + 3)
    assert other.notices == [(ID, "stale")]
    assert owner.notices == []
    assert polls(other) == 0
    other.journal.come_back()
    await street.clock.advance(12)
    assert other.notices == [(ID, "stale"), (ID, "fresh")]
    assert owner.notices == []


async def test_a_quiet_owner_is_not_taken_for_a_lost_one(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(300)
    assert other.notices == owner.notices == []


async def test_without_the_engine_a_task_nobody_saw_is_polled_for_newcomers_only(street: Any) -> None:
    house = street.houses[0]
    house.journal.cut_off()
    street.provider.shows(ID, "processing", 10)
    resumed = TaskKey("qingbo", "resumed")
    street.provider.shows("resumed", "processing", 10)
    await street.clock.advance(1)
    house.pool.want(resumed, resumes=True)
    house.pool.want(TASK)
    await street.clock.advance(5)
    assert role(house) is Role.ALONE
    assert house.told(TASK) == [("processing", 10)]
    assert street.provider.polls("resumed") == []
    house.journal.come_back()
    await street.clock.advance(5)
    assert role(house) is Role.OWNING
    assert street.engine.record(TASK).events
    assert street.provider.polls("resumed")


async def test_a_moment_without_the_engine_makes_nobody_poll(street: Any) -> None:
    owner, other, _ = street.houses
    street.provider.takes = 0.3
    street.provider.shows(ID, "processing", 10)
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    other.journal.cut_off()
    await street.clock.advance(0.4)
    other.journal.come_back()
    await street.clock.advance(1)
    assert polls(other) == 0
    assert other.pool.watcher(TASK).watch.known.progress == 10


async def test_without_the_engine_owners_go_on_for_viewers_here_and_kept_tasks(street: Any) -> None:
    owner, other, _ = street.houses
    here, kept, elsewhere = (TaskKey("qingbo", name) for name in ("here", "kept", "elsewhere"))
    for key in (here, kept, elsewhere):
        street.provider.shows(key.task_id, "processing", 10)
        owner.pool.want(key)
    await settle()
    other.pool.want(elsewhere)
    owner.pool.keep(kept)
    await street.clock.advance(3)
    owner.pool.unwant(kept)
    owner.pool.unwant(elsewhere)
    owner.journal.cut_off()
    await street.clock.advance(1)
    before = {key: len(street.provider.polls(key.task_id)) for key in (here, kept, elsewhere)}
    await street.clock.advance(15)
    more = {key: len(street.provider.polls(key.task_id)) > before[key] for key in before}
    assert more == {here: True, kept: True, elsewhere: False}


async def test_an_owner_whose_viewers_left_goes_on_for_those_elsewhere(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(2)
    watcher = owner.pool.watcher(TASK)
    owner.pool.unwant(TASK)
    await street.clock.advance(3 * LINGER)
    assert owner.pool.watcher(TASK) is watcher
    before = len(street.provider.asked)
    await street.clock.advance(15)
    assert len(street.provider.asked) > before
    waits = [later - earlier for earlier, later in pairwise(street.provider.polls(ID))]
    assert PACE.min_seconds <= min(waits)
    assert max(waits) <= PACE.max_seconds * 1.1
    other.pool.unwant(TASK)
    await street.clock.advance(3 * LINGER)
    assert owner.pool.watcher(TASK) is None
    assert street.owner(TASK) is None


async def test_an_attending_watch_ends_with_the_linger_kept_or_not(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    other.pool.keep(TASK)
    await settle()
    other.pool.unwant(TASK)
    await street.clock.advance(LINGER + 3)
    assert other.pool.watcher(TASK) is None
    assert street.engine.record(TASK).persistent


async def test_a_status_call_elsewhere_is_answered_from_the_record_or_after_a_poll(street: Any) -> None:
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    other.pool.want(TASK)
    raw = b'{"status": "processing"}'
    await owner.journal.append(TASK, state("processing", 10, raw=raw), free=True)
    street.provider.shows(ID, "processing", 10)
    await street.clock.advance(60)  # polled every ten seconds by now
    asked = len(street.provider.asked)
    assert (await other.pool.shown(TASK, seconds=5.0)).body == raw
    assert len(street.provider.asked) == asked
    while street.clock.monotonic() - owner.pool.watcher(TASK).polled_at < PACE.min_seconds:
        await street.clock.advance(0.5)
    asked = len(street.provider.asked)
    other.pool.watcher(TASK)._heard_at -= 60
    call = asyncio.ensure_future(other.pool.shown(TASK, seconds=5.0))
    await settle()
    assert call.done()
    assert call.result().body == raw
    assert len(street.provider.asked) == asked + 1
    assert polls(other) == 0


async def test_a_poll_asked_for_elsewhere_keeps_the_shortest_interval(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, third = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(60)
    for _ in range(20):
        assert other.pool.poll_now(TASK)
        assert third.pool.poll_now(TASK)
        await street.clock.advance(0.2)
    waits = [later - earlier for earlier, later in pairwise(street.provider.polls(ID))]
    assert min(waits) >= PACE.min_seconds
    assert waits[-1] == pytest.approx(PACE.min_seconds, abs=0.2)


async def test_a_callback_reaches_the_owner_from_anywhere(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, third = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(30)
    street.provider.shows(ID, "completed", 100)
    at = street.clock.monotonic()
    assert third.pool.called_back(TASK)
    await street.clock.advance(0.1)
    assert street.provider.polls(ID)[-1] == at
    assert other.events[-1].state.source is Source.CALLBACK
    assert third.pool.watcher(TASK) is None


async def test_a_callback_about_a_task_nobody_knows_starts_its_watch_where_it_came(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    third = street.houses[2]
    assert third.pool.called_back(TASK)
    await street.clock.advance(2)
    assert street.owner(TASK) is third
    assert third.told(TASK) == [("processing", 10)]
    await street.clock.advance(3 * LINGER)
    assert third.pool.watcher(TASK) is not None


async def test_a_stream_of_the_provider_is_followed_by_the_owner_only(street: Any) -> None:
    script = Script()
    street.provider.streams[ID] = script.play
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    await street.clock.advance(1)
    assert len(street.provider.opened) == 1
    script.say(frame("processing", 50))
    await settle()
    assert other.told(TASK)[-1] == ("processing", 50)
    other_script = Script()
    street.provider.streams[ID] = other_script.play
    owner.journal.transfer()
    await settle()
    assert role(owner) is Role.ATTENDING
    script.say(frame("processing", 60))
    await street.clock.advance(0.5)
    assert other.told(TASK)[-1] == ("processing", 50)
    street.engine.sweep()
    await street.clock.advance(1)
    new = street.owner(TASK)
    assert len(street.provider.opened) == 2
    assert new is not None


async def test_a_drain_hands_over_without_a_burst_or_a_pause(build_street: Callable[..., Any]) -> None:
    street = build_street(2)
    owner, other = street.houses
    keys = [TaskKey("qingbo", f"task-{number}") for number in range(40)]
    async with street.running():
        for key in keys:
            street.provider.shows(key.task_id, "processing", 10)
            owner.pool.want(key)
        await settle()
        for key in keys:
            other.pool.want(key)
        await street.clock.advance(60)
        at = street.clock.monotonic()
        owner.journal.transfer()
        owner.journal.alive = False
        street.engine.sweep()
        await street.clock.advance(30)
    assert polls(other) > 0
    for key in keys:
        times = street.provider.polls(key.task_id)
        waits = [later - earlier for earlier, later in pairwise(times)]
        assert min(waits) >= PACE.min_seconds
        assert max(waits) <= PACE.max_seconds * 1.1
        assert any(time > at for time in times)


async def test_a_viewer_elsewhere_cuts_the_back_off_of_the_owner_short(street: Any) -> None:
    owner, other, _ = street.houses
    street.provider.shows(ID, "processing", 10)
    owner.pool.want(TASK)
    await street.clock.advance(3)
    street.provider.tasks[ID] = {"http": 409}
    street.provider.fault = _unreadable
    await street.clock.advance(200)
    street.provider.fault = lambda _: None
    street.provider.shows(ID, "processing", 20)
    wait = owner.pool.watcher(TASK).watch.due - street.clock.monotonic()
    assert wait > 5
    other.pool.want(TASK)
    await settle()
    other.pool.unwant(TASK)
    other.pool.want(TASK)
    await street.clock.advance(3)
    assert other.told(TASK)[-1] == ("processing", 20)


def _unreadable(_task: str) -> None:
    from bridge.errors import UnreadablePayload

    raise UnreadablePayload("what is that?")


async def test_known_tasks_without_a_due_are_spread(build_street: Callable[..., Any]) -> None:
    street = build_street(1)
    house = street.houses[0]
    keys = [TaskKey("qingbo", f"task-{number}") for number in range(50)]
    draws = iter(range(1000))
    house.pool._random = lambda: (next(draws) % 50) / 50
    async with street.running():
        for key in keys:
            street.provider.shows(key.task_id, "processing", 10)
            await house.journal.append(key, state("processing", 10), free=True)
            street.engine.record(key).owner = house.journal
            house.journal.tell_standing(key)
        at = street.clock.monotonic()
        await street.clock.advance(PACE.min_seconds + PACE.recommended_seconds)
    first = [street.provider.polls(key.task_id)[0] - at for key in keys]
    assert min(first) >= PACE.min_seconds
    starts = (PACE.min_seconds + more for more in (0.0, 0.6, 1.0, 1.6))
    assert max(sum(start <= one < start + 0.2 for one in first) for start in starts) <= 10


async def test_what_is_granted_and_not_configured_here_is_given_back(street: Any) -> None:
    house = street.houses[0]
    stranger = TaskKey("elsewhere", "1")
    house.pool._shared.granted(stranger, KnownTask(None, persistent=True))
    assert house.pool.watcher(stranger) is None
    assert house.journal.dropped == [stranger]


async def test_an_end_recorded_elsewhere_ends_the_watch_of_the_owner(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await street.clock.advance(1)
    await other.pool.show(TASK, Observation(status=Status.CANCELLED), Source.POLL)
    asked = len(street.provider.asked)
    await street.clock.advance(60)
    assert len(street.provider.asked) == asked
    assert owner.told(TASK)[-1] == ("cancelled", 10)
    assert owner.pool.watcher(TASK).ended


async def test_nobody_restores_what_is_shared(street: Any) -> None:
    house = street.houses[0]
    await house.journal.append(TASK, state("processing", 10), free=True)
    assert await house.pool.restore() == 0
    assert house.pool.watcher(TASK) is None


async def test_a_notice_of_a_dead_owner_stands_at_its_heir_until_it_polled(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, third = street.houses
    owner.pool.want(TASK)
    await street.clock.advance(3)
    street.provider.tasks[ID] = {"http": 500}
    await street.clock.advance(20)
    assert (ID, "upstream_unavailable") in owner.notices
    owner.journal.lose_lease()
    other.pool.want(TASK)
    third.pool.want(TASK)
    await settle()
    assert street.owner(TASK) is other
    assert NoticeCode.UPSTREAM_UNAVAILABLE in other.pool.watcher(TASK).watch.active_notices
    street.provider.shows(ID, "processing", 10)
    await street.clock.advance(60)
    assert third.notices[-1] == other.notices[-1] == (ID, "fresh")


async def test_a_standing_notice_is_said_again_here_alone_when_a_viewer_comes_back(street: Any) -> None:
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await settle()
    other.pool.want(TASK)
    other.pool._shared.noticed_elsewhere(TASK, Notice(NoticeCode.STALE, "why"))
    before = list(owner.notices)
    other.pool.unwant(TASK)
    other.pool.want(TASK)
    assert other.notices[-1] == (ID, "stale")
    assert owner.notices == before


async def test_who_reads_a_state_elsewhere_does_not_wait_for_a_poll(street: Any) -> None:
    street.provider.shows(ID, "processing", 10)
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    await street.clock.advance(1)
    other.pool.want(TASK)
    await other.pool.watcher(TASK).hydrate()  # as a status call does, before it is told who polls
    await settle()
    assert other.pool.watcher(TASK).polled_once.is_set()


async def test_a_state_nobody_polled_for_long_is_polled_before_it_is_read(street: Any) -> None:
    house = street.houses[0]
    await house.journal.append(TASK, state("processing", 10), free=True)
    street.engine.record(TASK).due = street.clock.monotonic() - 100
    street.provider.shows(ID, "processing", 80)
    house.pool.want(TASK)
    assert await house.pool.wait_polled(TASK) is None
    assert house.told(TASK)[-1] == ("processing", 80)


@pytest.fixture
def tenants(build_street: Callable[..., Any]) -> Any:
    accounts = partial(AccountRegistry, secret=b"secret", ownership_cache_seconds=60)
    return build_street(3, accounts=accounts)


async def test_a_task_of_an_account_is_polled_only_where_its_key_was_brought(tenants: Any) -> None:
    async with tenants.running():
        here, there, _ = tenants.houses
        account = here.accounts.register("key-1")
        key = TaskKey("qingbo", ID, account)
        tenants.provider.shown_to["key-1"] = {ID: {"status": "processing", "progress": 10}}
        here.pool.want(key)
        await tenants.clock.advance(3)
        assert here.told(key) == [("processing", 10)]
        # An orphan that is given to a replica without the key is given back at once, and never polled.
        here.journal.lose_lease()
        tenants.engine.record(key).owner = there.journal
        asked = len(tenants.provider.asked)
        there.journal.tell_standing(key)
        await tenants.clock.advance(30)
        assert there.pool.watcher(key) is None
        assert there.journal.dropped == [key]
        assert len(tenants.provider.asked) == asked
        with pytest.raises(Unauthenticated):
            there.pool.want(key)
        # Who brings the key there has it polled there.
        assert there.accounts.register("key-1") == account
        there.pool.want(key)
        await tenants.clock.advance(12)
        assert tenants.owner(key) is there
        assert set(tenants.provider.asked_with) == {"key-1"}


async def test_a_key_rejected_elsewhere_is_rejected_here_at_once(tenants: Any) -> None:
    async with tenants.running():
        here, there, _ = tenants.houses
        for house in (here, there):
            account = house.accounts.register("key-1")
        key = TaskKey("qingbo", ID, account)
        tenants.provider.shown_to["key-1"] = {ID: {"status": "processing", "progress": 10}}
        here.pool.want(key)
        await settle()
        there.pool.want(key)
        await settle()
        there.accounts.refused_elsewhere("qingbo", account)
        assert there.pool.watcher(key) is None
        assert there.notices[-1] == (ID, "credential_refused")
        assert here.notices == []
        with pytest.raises(Unauthenticated):
            there.pool.want(key)


async def test_a_404_that_is_old_is_not_believed_again_because_its_owner_still_says_so(street: Any) -> None:
    owner, other, _ = street.houses
    owner.pool.want(TASK)
    other.pool.want(TASK)
    await street.clock.advance(62)
    street.provider.shows(ID, "processing", 10)
    street.engine.record(TASK).due = None  # as an engine that was not told
    street.provider.takes = 0.5
    other.pool.want(TASK)
    await street.clock.advance(0.2)
    assert not other.pool.watcher(TASK).polled_once.is_set()
    await street.clock.advance(1)
    assert await other.pool.wait_polled(TASK) is None
    assert other.told(TASK) == [("processing", 10)]
    assert polls(other) == 0
