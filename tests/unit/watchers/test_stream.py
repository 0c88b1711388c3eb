"""A provider's stream beside the poll: the quicker one tells, and neither tells twice."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from bridge.core.task import TaskKey
from bridge.errors import UpstreamUnavailable
from tests.fakes.clock import settle
from tests.fakes.provider import Script, frame
from tests.fakes.tasks import TASK

pytestmark = pytest.mark.anyio

ID = TASK.task_id


@pytest.fixture
def script(house: Any) -> Script:
    script = Script()
    house.provider.streams[ID] = script.play
    house.provider.shows(ID, "processing", 10)
    return script


async def test_what_the_stream_shows_is_recorded_once_and_the_poll_slows_down(
    open_house: Any, script: Script
) -> None:
    house = open_house
    house.pool.want(TASK)
    await settle()
    for second in range(120):
        script.say(frame("processing", 10 + second // 2), b": beat\n")
        await house.clock.advance(1)
    progress = [number for _, number in house.told(TASK)]
    assert progress == sorted(set(progress))
    assert progress[-1] == 69
    assert len(house.provider.asked) <= 3
    assert house.count("bridge_watches", source="stream") == 1
    assert house.count("bridge_watches", source="poll") == 0
    assert house.notices == []


async def test_a_stream_that_only_beats_is_neither_stale_nor_in_the_way(
    open_house: Any, script: Script
) -> None:
    house = open_house
    house.pool.want(TASK)
    for _ in range(50):
        script.say(b": beat\n")
        await house.clock.advance(1)
    assert house.told(TASK) == [("processing", 10)]
    assert house.notices == []


async def test_a_stream_that_breaks_is_followed_by_a_look_and_opened_again(
    open_house: Any, script: Script
) -> None:
    house = open_house
    house.pool.want(TASK)
    await settle()
    script.say(frame("processing", 20))
    await house.clock.advance(5)
    looks = len(house.provider.asked)
    house.provider.shows(ID, "processing", 30)
    script.say(UpstreamUnavailable("reset"))
    await house.clock.advance(2)
    assert len(house.provider.asked) > looks
    assert house.told(TASK)[-1] == ("processing", 30)
    script.say(frame("processing", 40))
    await house.clock.advance(2)
    assert len(house.provider.opened) == 2
    assert house.told(TASK)[-1] == ("processing", 40)


async def test_a_stream_that_breaks_again_and_again_is_tried_less_and_less(
    open_house: Any, script: Script
) -> None:
    house = open_house
    house.pool.want(TASK)
    script.say(*[UpstreamUnavailable("reset")] * 50)
    await house.clock.advance(300)
    assert 8 <= len(house.provider.opened) <= 20
    assert house.upstream.limiter.in_flight == 0


async def test_a_stream_that_says_a_word_and_ends_does_not_hurry_the_poll(
    open_house: Any, script: Script
) -> None:
    house = open_house
    house.pool.want(TASK)
    for number in range(40):
        script.say(frame("processing", 10 + number % 3), None)
    await house.clock.advance(40)
    times = house.provider.polls(ID)
    shortest = house.upstream.pace.min_seconds - 1e-6
    assert all(later - earlier >= shortest for earlier, later in pairwise(times))


async def test_the_end_on_the_stream_ends_stream_and_poll(open_house: Any, script: Script) -> None:
    house = open_house
    house.pool.want(TASK)
    await settle()
    script.say(frame("failed", 55, id=ID))
    await house.clock.advance(100)
    assert house.told(TASK)[-1] == ("failed", 10)  # progress stays where it was
    assert len(house.provider.opened) == 1
    assert len(house.provider.asked) == 1


async def test_an_end_without_its_result_is_left_to_a_look(open_house: Any, script: Script) -> None:
    house = open_house
    house.pool.want(TASK)
    await settle()
    house.provider.shows(ID, "completed", 100)
    script.say(frame("completed", 100))
    await house.clock.advance(5)
    assert house.told(TASK)[-1] == ("completed", 100)
    assert len(house.provider.asked) == 2


async def test_heartbeats_and_frames_nobody_can_read_are_passed_over(open_house: Any, script: Script) -> None:
    house = open_house
    house.pool.want(TASK)
    await settle()
    script.say(b"event: ping\ndata: {}\n\n", frame("processing", 20))
    await house.clock.advance(1)
    assert house.told(TASK)[-1] == ("processing", 20)


async def test_the_stream_ends_with_the_watch(open_house: Any, script: Script) -> None:
    house = open_house
    house.pool.want(TASK)
    await settle()
    house.pool.unwant(TASK)
    await house.clock.advance(100)
    assert house.pool.watcher(TASK) is None
    assert not house.pool._streams


async def test_no_more_streams_are_held_than_the_upstream_allows(house: Any, script: Script) -> None:
    house.upstream.max_streams = 0
    async with house.running():
        house.pool.want(TASK)
        await house.clock.advance(30)
        assert house.provider.opened == []
        assert len(house.provider.asked) > 3


async def test_a_task_beyond_the_limit_gets_the_place_of_a_stream_that_ended(
    house: Any, script: Script
) -> None:
    house.upstream.max_streams = 1
    other = TaskKey("qingbo", "other")
    house.provider.streams["other"] = Script().play
    house.provider.shows("other", "processing", 5)
    async with house.running():
        house.pool.want(TASK)
        house.pool.want(other)
        await settle()
        assert [task for task, _ in house.provider.opened] == [ID]
        house.pool.unwant(TASK)
        await house.clock.advance(100)
        assert [task for task, _ in house.provider.opened][:1] == [ID]
        assert "other" in [task for task, _ in house.provider.opened]


async def test_an_end_in_a_frame_without_an_id_ends_nothing_and_asks_for_a_poll(
    open_house: Any, script: Script
) -> None:
    house = open_house
    house.pool.want(TASK)
    await settle()
    polls = len(house.provider.polls(ID))
    script.say(frame("failed", 55), None)
    await house.clock.advance(3)
    assert house.told(TASK)[-1] == ("processing", 10)
    assert len(house.provider.polls(ID)) > polls
