"""When the bridge looks: at once, then never faster than allowed, and as the provider asks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.e2e.scene import Scene, stage, until
from tests.harness import PATIENCE, answer, qingbo

pytestmark = pytest.mark.anyio

SLOW = {"poll_min_seconds": 30, "poll_max_seconds": 60}
ALSO: Mapping[str, Mapping[str, Any]] = {
    "patient": {"preset": "qingbo"} | SLOW,
    "bounded": {"preset": "qingbo", "poll_min_seconds": 0.2, "poll_max_seconds": 0.2},
    "estimating": {"preset": "bytespike", "poll_min_seconds": 0.05, "poll_max_seconds": 3.5},
    "told": {"preset": "qingbo"},
    "untold": {"preset": "qingbo"},
}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(also=ALSO, first_state_timeout_seconds=0.2) as made:
        yield made


async def test_the_first_look_is_made_at_once_however_slow_the_pace(scene: Scene) -> None:
    task = scene.id()
    await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(f"patient/{task}") as stream:
        assert (await stream.state())["progress"] == 10
    assert scene.ledger.of("qingbo", task) == 1


async def test_the_bridge_never_looks_faster_than_poll_min(scene: Scene) -> None:
    task = scene.id()
    await scene.script("qingbo", task, *(qingbo(task, "processing", step) for step in range(1, 9)))
    async with scene.events(f"bounded/{task}") as stream:
        await stream.state_with(progress=8)
    assert min(scene.ledger.gaps("qingbo", task)) >= 0.2


async def test_errors_do_not_make_it_faster(scene: Scene) -> None:
    task = scene.id()
    await scene.script(
        "qingbo",
        task,
        qingbo(task, "processing", 1),
        *([answer({}, status=500)] * 2),
        qingbo(task, "processing", 2),
    )
    async with scene.events(f"bounded/{task}") as stream:
        await stream.state_with(progress=2)
    assert min(scene.ledger.gaps("qingbo", task)) >= 0.2


async def test_a_short_estimate_makes_it_look_sooner_and_a_long_one_later(scene: Scene) -> None:
    """Without an estimate both would be polled again after 2 s (ByteSpike), spread by a twentieth."""
    soon, late = scene.id("soon"), scene.id("late")
    document = {"status": "running", "estimated_credits": 1}
    await scene.script("bytespike", soon, answer(document | {"task_id": soon, "estimated_seconds": 0.6}))
    await scene.script("bytespike", late, answer(document | {"task_id": late, "estimated_seconds": 1000}))
    async with scene.events(f"estimating/{soon}") as one, scene.events(f"estimating/{late}") as two:
        assert (await one.state())["eta_seconds"] <= 0.6
        assert 990 <= (await two.state())["eta_seconds"] <= 1000
        # Its stream is refused (404), and then a look follows the first one; the pace is seen after that.
        await scene.ledger.reach("bytespike", soon, 2)
        await scene.ledger.reach("bytespike", late, 2)
    # An estimate of 0.6 s has passed by then: the next poll waits for what such estimates usually come to.
    assert scene.ledger.gaps("bytespike", soon)[0] < 2.8
    assert scene.ledger.gaps("bytespike", late)[0] >= 3.4


async def test_retry_after_on_one_task_slows_every_task_of_that_upstream_and_no_other(scene: Scene) -> None:
    first, second, other = scene.id(), scene.id(), scene.id()
    await scene.script(
        "qingbo",
        first,
        qingbo(first, "queued"),  # shown before: a 429 for an id never shown may be about that id alone
        answer({"error": {"code": "rate_limited"}}, status=429, **{"Retry-After": "2"}),
        qingbo(first, "processing", 9),
    )
    await scene.script("qingbo", second, qingbo(second, "processing", 2))
    await scene.script("qingbo", other, qingbo(other, "processing", 3))
    async with scene.events(f"told/{first}") as stream:
        await until(lambda: _is_paused(scene, "told"), True)
        async with scene.events(f"told/{second}") as held, scene.events(f"untold/{other}") as free:
            assert (await held.state())["status"] == "unknown"
            assert (await free.state())["progress"] == 3
            await scene.ledger.reach("qingbo", other, 3)
            assert (await held.state())["progress"] == 2
            assert (await stream.state_with(progress=9))["task_id"] == first
    limited = scene.ledger.times["qingbo", "status", first][1:]
    assert limited[1] - limited[0] >= 2.0
    assert scene.ledger.times["qingbo", "status", second][0] - limited[0] >= 2.0
    assert scene.ledger.times["qingbo", "status", other][2] - limited[0] < 2.0


async def test_a_429_that_names_no_wait_slows_the_upstream_too() -> None:
    async with stage(first_state_timeout_seconds=0.1) as scene:
        first, second = scene.id(), scene.id()
        await scene.script(
            "qingbo", first, qingbo(first, "queued"), answer({}, status=429), qingbo(first, "queued")
        )
        await scene.script("qingbo", second, qingbo(second, "processing", 2))
        async with scene.events(f"qingbo/{first}"):
            await until(lambda: _is_paused(scene, "qingbo"), True)
            async with scene.events(f"qingbo/{second}") as held:
                await held.state_with(progress=2)
        began = scene.ledger.times["qingbo", "status", first][1]
        assert scene.ledger.times["qingbo", "status", second][0] - began >= 0.7


async def test_no_more_requests_are_in_flight_than_allowed() -> None:
    # No task is due again: on a slow machine a second poll could take the place of another task's first.
    each = {"max_in_flight": 3, "timeout_seconds": 60, "poll_min_seconds": 60, "poll_max_seconds": 120}
    async with stage(each=each, first_state_timeout_seconds=30) as scene:
        tasks = [scene.id() for _ in range(8)]
        for task in tasks:
            await scene.script("qingbo", task, qingbo(task, "processing", 1) | {"delay": 1})
        opening = []
        async with asyncio.timeout(PATIENCE):
            for number, task in enumerate(tasks, 1):  # each by a connection of its own: one alone gets half
                opening.append(asyncio.ensure_future(_first_of(scene, f"/v1/events?task=qingbo/{task}")))
                await scene.reaches('bridge_interests{upstream="qingbo"}', number)
            await asyncio.gather(*(scene.ledger.reach("qingbo", task, 1) for task in tasks[:3]))
        assert [scene.ledger.of("qingbo", task) for task in tasks] == [1] * 3 + [0] * 5
        scene.advance(1)
        await asyncio.gather(*(scene.ledger.reach("qingbo", task, 1) for task in tasks[3:6]))
        scene.advance(1)
        await asyncio.gather(*(scene.ledger.reach("qingbo", task, 1) for task in tasks[6:]))
        scene.advance(1)
        await asyncio.gather(*opening)


async def _is_paused(scene: Scene, upstream: str) -> bool:
    return await scene.metric(f'bridge_budget_paused_seconds{{upstream="{upstream}"}}') > 0


async def _first_of(scene: Scene, path: str) -> None:
    async with scene.stream(path) as stream:
        await stream.state()
