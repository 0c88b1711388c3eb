"""The provider's own answers, shown to many from one look."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import orjson
import pytest

from bridge.core.task import Observation, Source, Status
from bridge.errors import BridgeError, TaskNotFound, UpstreamBusy
from bridge.sources.poll import CachedResponse
from bridge.watchers.pool import ASKING_SECONDS
from tests.fakes.clock import settle
from tests.fakes.tasks import TASK

pytestmark = pytest.mark.anyio

ID = TASK.task_id
PATIENCE = 2.0


async def ask(house: Any, clients: int = 1) -> list[CachedResponse | BridgeError | None]:
    """What so many clients are shown who ask at the same moment."""
    asking = asyncio.gather(*(house.pool.shown(TASK, seconds=PATIENCE) for _ in range(clients)))
    await settle()
    if not asking.done():
        await house.clock.advance(PATIENCE)
    return await asking


def progress(shown: Any) -> Any:
    assert isinstance(shown, CachedResponse), shown
    return orjson.loads(shown.body or b"")["progress"]


async def test_a_hundred_clients_that_ask_every_second_cost_one_look_an_interval(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    for _ in range(60):
        assert {progress(shown) for shown in await ask(house, 100)} == {10}
        await house.clock.advance(1)
    looks = house.provider.polls(ID)
    waits = [after - before for before, after in pairwise(looks)]
    assert min(waits) >= house.upstream.pace.min_seconds * 0.75
    assert 60 / 12 <= len(looks) <= 60 / 2 + 1
    assert house.provider.most_of_one == 1
    assert house.count("bridge_polls_saved_total") > 100 * 60 - 40


async def test_what_is_shown_is_never_older_than_the_interval(open_house: Any) -> None:
    house = open_house
    for number in range(40):
        house.provider.shows(ID, "processing", number)
        (shown,) = await ask(house)
        assert isinstance(shown, CachedResponse)
        assert house.clock.monotonic() - shown.at < house.upstream.pace.max_seconds + 1
        await house.clock.advance(1.3)


async def test_the_watch_outlives_the_question_by_its_linger(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    await ask(house)
    assert house.pool.statistics("qingbo") == {"watches": 1, "viewers": 0}
    await house.clock.advance(20)
    assert len(house.provider.polls(ID)) > 2
    await house.clock.advance(20)
    assert house.pool.statistics("qingbo")["watches"] == 0


async def test_an_unchanged_answer_is_confirmed_by_the_next_look(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10, etag='"1"')
    (first,) = await ask(house)
    await house.clock.advance(9)
    (second,) = await ask(house)
    assert isinstance(first, CachedResponse)
    assert isinstance(second, CachedResponse)
    assert (second.body, second.status) == (first.body, 200)
    assert second.at > first.at


async def test_who_asks_during_a_look_waits_for_it_and_makes_no_other(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    house.provider.takes = 1.0
    asking = asyncio.gather(*(house.pool.shown(TASK, seconds=PATIENCE) for _ in range(10)))
    await house.clock.advance(0.5)
    more = asyncio.gather(*(house.pool.shown(TASK, seconds=PATIENCE) for _ in range(10)))
    await house.clock.advance(0.5)
    assert {progress(shown) for shown in [*await asking, *await more]} == {10}
    await house.clock.advance(0.5)
    assert len(house.provider.polls(ID)) == 1


async def test_a_look_that_takes_too_long_is_not_waited_for(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    house.provider.takes = 60.0
    began = house.clock.monotonic()
    assert await ask(house, 3) == [None] * 3
    assert house.clock.monotonic() - began == PATIENCE
    assert house.pool.statistics("qingbo")["viewers"] == 0


async def test_an_error_counts_until_the_next_look_is_due(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10, http=429, retry_after=30)
    answers = [one for _ in range(20) for one in await ask(house, 5)]
    assert {type(one) for one in answers} == {UpstreamBusy}
    assert len(house.provider.polls(ID)) == 1
    house.provider.shows(ID, "processing", 20)
    await house.clock.advance(45)
    (shown,) = await ask(house)
    assert progress(shown) == 20


async def test_a_task_that_is_not_there_is_asked_for_once_by_everybody(open_house: Any) -> None:
    house = open_house
    answers = await ask(house, 50)
    assert {type(one) for one in answers} == {TaskNotFound}
    assert len(house.provider.polls(ID)) == 2  # the second one confirms it
    assert {type(one) for one in await ask(house, 50)} == {TaskNotFound}
    assert len(house.provider.polls(ID)) == 2


async def test_an_end_that_came_another_way_is_left_to_the_journal(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    await ask(house)
    await house.pool.show(TASK, Observation(status=Status.CANCELLED), Source.POLL)
    assert await ask(house) == [None]
    assert len(house.provider.polls(ID)) == 1


async def test_who_waits_is_told_at_once_that_the_task_ended_another_way(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    house.provider.takes = 60.0
    asking = asyncio.ensure_future(house.pool.shown(TASK, seconds=PATIENCE))
    await settle()
    await house.pool.show(TASK, Observation(status=Status.COMPLETED), Source.STREAM)
    await settle()
    assert asking.done()
    assert asking.result() is None


async def test_what_another_source_showed_makes_the_last_answer_old(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    await ask(house)
    house.provider.shows(ID, "processing", 50)
    await house.clock.advance(0.5)
    await house.pool.show(TASK, Observation(status=Status.PROCESSING, progress=40), Source.POLL)
    (shown,) = await ask(house)
    assert house.provider.polls(ID) == [house.clock.monotonic() - 2.5, house.clock.monotonic() - 0.5]
    assert progress(shown) == 50


async def test_a_watch_that_follows_a_stream_is_looked_at_for_those_who_poll(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    await ask(house)
    house.pool.watcher(TASK).streaming()  # the next look is far away
    await house.clock.advance(5)
    assert len(house.provider.polls(ID)) == 1
    house.provider.shows(ID, "processing", 20)
    assert {progress(shown) for shown in await ask(house, 20)} == {20}
    assert len(house.provider.polls(ID)) == 2


async def test_news_that_come_faster_than_looks_make_no_more_of_them(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 0)
    await ask(house)
    for number in range(1, 40):
        asking = asyncio.ensure_future(house.pool.shown(TASK, seconds=PATIENCE))
        await settle()
        await house.pool.show(TASK, Observation(status=Status.PROCESSING, progress=number), Source.STREAM)
        await house.clock.advance(0.25)
        asking.cancel()
        await settle()
    assert len(house.provider.polls(ID)) <= 1 + 39 * 0.25 / house.upstream.pace.min_seconds + 1


async def test_an_answer_too_large_to_keep_is_told_without_its_body(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10, much="x" * 300_000)
    (shown,) = await ask(house)
    assert isinstance(shown, CachedResponse)
    assert shown.body is None
    assert shown.at == house.clock.monotonic()


async def test_whoever_gives_up_asking_leaves_no_viewer_behind(open_house: Any) -> None:
    house = open_house
    house.provider.takes = 60.0
    asking = asyncio.ensure_future(house.pool.shown(TASK, seconds=PATIENCE))
    await settle()
    assert house.pool.statistics("qingbo")["viewers"] == 1
    asking.cancel()
    await settle()
    assert house.pool.statistics("qingbo")["viewers"] == 0


async def test_no_client_is_shown_a_poll_older_than_the_longest_interval(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    await ask(house)
    watcher = house.pool.watcher(TASK)
    # A short rate limit: the next poll is planned in minutes, and is due even later.
    watcher.watch.interval = 300.0
    await house.clock.advance(house.upstream.pace.max_seconds - 1)
    asked = len(house.provider.asked)
    for _ in range(5):
        (shown,) = await ask(house)
        assert isinstance(shown, CachedResponse)
        assert house.clock.monotonic() - shown.at < house.upstream.pace.max_seconds
        watcher.watch.interval = 300.0
        await house.clock.advance(1)
    assert len(house.provider.asked) > asked


async def test_a_client_that_polls_counts_as_a_viewer_until_it_stays_away(open_house: Any) -> None:
    house = open_house
    house.provider.shows(ID, "processing", 10)
    await ask(house)
    watcher = house.pool.watcher(TASK)
    assert (watcher.viewers, watcher.watch.viewed) == (0, True)
    async with house.running():
        await house.clock.advance(max(house.upstream.pace.max_seconds, ASKING_SECONDS) - 2)
        assert watcher.watch.viewed
        await house.clock.advance(4)
        assert not watcher.watch.viewed
