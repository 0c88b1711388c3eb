"""A task the provider does not show: before it was ever seen, and after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.e2e.scene import Scene, path_of, stage
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

NOT_FOUND = answer({"error": {"code": "task_not_found", "message": "no such task"}}, status=404)


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(
        first_state_timeout_seconds=2.5
    ) as made:  # the second poll comes a second after the first
        yield made


async def test_a_task_never_seen_is_404_on_its_stream_and_on_its_state(scene: Scene) -> None:
    ref = await scene.script("qingbo", scene.id(), NOT_FOUND)
    async with scene.events(ref) as stream:
        assert (stream.status, stream.headers["content-type"]) == (404, "application/problem+json")
        problem = orjson.loads(await stream.body())
    assert (problem["code"], problem["retriable"]) == ("task_not_found", False)
    reply = await scene.get(path_of(ref))
    assert (reply.status, reply.json["code"], reply.headers["x-should-retry"]) == (
        404,
        "task_not_found",
        "false",
    )


async def test_one_404_that_passes_is_no_answer(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, NOT_FOUND, qingbo(task, "queued"))
    reply = await scene.get(path_of(ref))
    assert (reply.status, reply.json["status"]) == (200, "queued")


async def test_many_who_ask_for_a_missing_task_cause_few_calls() -> None:
    async with stage(
        first_state_timeout_seconds=PATIENCE
    ) as scene:  # whoever waited longer would get `unknown`
        task = scene.id()
        ref = await scene.script("qingbo", task, NOT_FOUND | {"delay": 1}, NOT_FOUND)
        asking = [asyncio.ensure_future(scene.get(path_of(ref))) for _ in range(20)]
        await scene.reaches('bridge_interests{upstream="qingbo"}', 20)
        await scene.ledger.reach("qingbo", task, 1)
        scene.advance(1)
        assert {reply.status for reply in await asyncio.gather(*asking)} == {404}
        assert scene.ledger.of("qingbo", task) == 2


async def test_a_cold_stream_whose_404_comes_after_the_wait_gets_the_notice_and_ends(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, NOT_FOUND | {"delay": 1}, NOT_FOUND)
    async with scene.events(ref) as stream:
        assert stream.status == 200
        assert (await stream.state())["status"] == "unknown"
        scene.advance(1)
        notice = await stream.notice("task_not_found")
        assert (notice["task"], notice["retriable"]) == (ref, False)
        assert [block.event for block in await stream.rest()] == ["end"]


@pytest.mark.extended  # looks after a loss are five seconds apart
async def test_a_short_disappearance_is_no_loss(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script(
        "qingbo", task, qingbo(task, "processing", 5), NOT_FOUND, qingbo(task, "processing", 6)
    )
    async with scene.events(ref) as stream:
        await stream.state()
        assert (await stream.state())["progress"] == 6


@pytest.mark.extended  # the rule itself: tests/unit/core/test_watch.py, without waiting
async def test_a_task_seen_before_is_lost_after_three_looks_over_ten_seconds(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5), NOT_FOUND)
    async with scene.events(ref) as stream:
        await stream.state()
        blocks = await stream.rest()
    states = [block.data for block in blocks if block.event is None]
    assert [(state["status"], state["progress"]) for state in states] == [("lost", 5)]
    assert [block.event for block in blocks][-2:] == ["done", "end"]
    times = scene.ledger.times["qingbo", "status", task]
    assert len(times) >= 4
    assert times[-1] - times[1] >= 10.0
    # a real ending may replace `lost`: who comes later makes the bridge look once more
    await scene.then("qingbo", task, qingbo_done(task))
    async with scene.events(ref) as stream:
        await stream.rest()
    reply = await scene.get(path_of(ref))
    assert reply.json["status"] in {"lost", "completed"}
