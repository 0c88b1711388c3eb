"""Submits at the end of the process: seen through, refused before anything is sent, or cut off."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bridge.core.details import NO_DETAILS
from bridge.core.task import Status
from bridge.dialects.base import Submission
from bridge.errors import Overloaded, UpstreamUnreachable
from bridge.telemetry.request_context import bind
from tests.unit.watchers.test_submitter import PLAIN, TASK, Place

pytestmark = pytest.mark.anyio
SOON = 0.05


@pytest.fixture
def place() -> Place:
    return Place()


def start(place: Place, submission: Submission = PLAIN) -> asyncio.Task[Any]:
    return asyncio.ensure_future(place.submitter.submit(place.house.pool.upstream("qingbo"), submission))


async def calls(place: Place, number: int) -> None:
    while place.shop.calls["create"] < number:  # noqa: ASYNC110 - the fake provider tells nobody
        await asyncio.sleep(0)


async def test_a_drain_waits_for_the_submits_under_way_and_refuses_new_ones(place: Place) -> None:
    place.shop.gate = asyncio.Event()
    async with place.house.running():
        under_way = start(place)
        await calls(place, 1)
        draining = asyncio.ensure_future(place.submitter.drain(60))
        await asyncio.sleep(0)
        for submit in (place.submitter.submit, place.submitter.forward_submit):
            with pytest.raises(Overloaded) as refused:
                await submit(place.house.pool.upstream("qingbo"), PLAIN)
            assert refused.value.retryable
            assert refused.value.retry_after is not None
        assert not draining.done()
        place.shop.gate.set()
        await draining
        key, event = await under_way
        assert (key, event.state.status) == (TASK, Status.QUEUED)
        assert place.shop.calls["create"] == 1


async def test_a_drain_ends_with_its_time_and_the_submit_goes_on(place: Place) -> None:
    place.shop.gate = asyncio.Event()
    async with place.house.running():
        under_way = start(place)
        await calls(place, 1)
        await place.submitter.drain(SOON)
        assert not under_way.done()
        place.shop.gate.set()
        assert (await under_way)[0] == TASK


async def test_a_drain_without_submits_ends_at_once(place: Place) -> None:
    async with place.house.running(), asyncio.timeout(1):
        await place.submitter.drain(3600)


async def test_what_was_not_sent_is_not_sent_after_a_stop(place: Place) -> None:
    upstream = place.house.pool.upstream("qingbo")
    async with place.house.running():
        prepared = place.submitter._prepare(upstream, PLAIN, NO_DETAILS, None, None)
        place.submitter.stop(0)
        with pytest.raises(UpstreamUnreachable, match="nothing was submitted"):
            await place.submitter._submit(prepared)
        assert place.shop.calls["create"] == 0


async def test_a_request_knows_from_when_on_a_repeat_could_create_a_second_task(place: Place) -> None:
    place.shop.gate = asyncio.Event()
    async with place.house.running():
        request = bind([])
        under_way = start(place)
        assert not request.create_sent
        await calls(place, 1)
        assert request.create_sent
        place.shop.gate.set()
        await under_way


async def test_the_end_waits_for_submits_without_a_stop_and_not_after_one(place: Place) -> None:
    place.shop.gate = asyncio.Event()
    async with place.house.running():
        under_way = start(place)
        await calls(place, 1)
        closing = asyncio.ensure_future(place.submitter.close())
        await asyncio.sleep(SOON)
        assert not closing.done()
        place.submitter.stop(SOON)
        await closing
        with pytest.raises(asyncio.CancelledError):
            await under_way
