"""Whatever a provider does, its viewers keep their stream, are told, and keep the last good state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from bridge.simulator.server import SimulatorOptions, start
from tests.e2e.scene import Scene, path_of, stage
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

FAULTS: Mapping[str, Any] = {
    "500": "500",
    "503": "503",
    "429": "429",
    "429-retry-after": "429-retry-after:1",
    "timeout": "timeout",
    "html": "html",
    "truncated": "truncated",
    "huge": "huge",
    "redirect": "redirect",
    "envelope-error": "envelope-error",
    "reset": "reset",
    "slow-body": {"name": "slow-body", "seconds": 1},
}
SLOW_FAULTS = {"429", "slow-body"}  # seconds, for what the others show too
# Each has an upstream of its own, so that what one does to its budget does not slow the next.
ALSO: Mapping[str, Mapping[str, Any]] = {
    **{f"on-{name}": {"preset": "qingbo", "timeout_seconds": 0.4} for name in FAULTS},
    "credential": {"preset": "qingbo"},
    "refusing": {"preset": "qingbo"},
    "relay": {"preset": "vapi"},
    "words": {"preset": "qingbo"},
}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(also=ALSO, first_state_timeout_seconds=0.3, linger_seconds=0) as made:
        yield made


@pytest.mark.parametrize(
    "fault",
    [pytest.param(one, marks=pytest.mark.extended) if one in SLOW_FAULTS else one for one in FAULTS],
)
async def test_viewers_keep_stream_and_state_and_are_told_until_the_provider_is_well(
    scene: Scene, fault: str
) -> None:
    task = scene.id()
    await scene.script("qingbo", task, qingbo(task, "processing", 40))
    ref = f"on-{fault}/{task}"
    async with scene.events(ref) as stream:
        before = await stream.state()
        await scene.faults(qingbo=[FAULTS[fault]])
        try:
            notice = await stream.notice("upstream_unavailable")
            assert (notice["task"], notice["retriable"]) == (ref, True)
            kept = await scene.get(path_of(ref))
            assert (kept.status, kept.json["progress"], kept.json["cursor"]) == (200, 40, before["cursor"])
            async with scene.events(ref) as late:  # a newcomer gets the last good state and is told as well
                assert (await late.state())["cursor"] == before["cursor"]
                assert (await late.notice("upstream_unavailable"))["task"] == ref
        finally:
            await scene.faults(qingbo=[])
        assert (await stream.notice("fresh"))["task"] == ref
        await scene.then("qingbo", task, qingbo_done(task))
        blocks = await stream.rest()
    assert [block.event for block in blocks] == [None, "done", "end"]
    assert blocks[0].data["status"] == "completed"
    assert [block.data["progress"] for block in stream.blocks if block.event is None] == [40, 100]
    assert "elsewhere" not in scene.simulator.world.calls.report()


async def test_a_long_silence_of_the_provider_makes_a_task_stale_and_the_next_look_fresh(
    scene: Scene,
) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 40))
    async with scene.events(ref) as stream:
        await stream.state()
        await scene.then("qingbo", task, qingbo(task, "processing", 41) | {"delay": 1})
        assert (await stream.notice("stale"))["task"] == ref
        scene.advance(1)
        blocks = [await stream.block(), await stream.block()]
        events = {block.event: block.data for block in blocks if block is not None}
        assert events["notice"]["code"] == "fresh"
        assert events[None]["progress"] == 41


async def test_a_cold_task_of_a_broken_provider_is_unknown_with_a_notice_and_comes_to_life(
    scene: Scene,
) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, answer("<html>", status=502), qingbo(task, "processing", 3))
    async with scene.events(ref) as stream:
        assert stream.status == 200
        seen = [await stream.block() for _ in range(3)]
        assert {block.data.get("code") or block.data["status"] for block in seen if block is not None} >= {
            "upstream_unavailable"
        }
        assert (await scene.get(path_of(ref))).json["progress"] == 3


async def test_a_provider_that_refuses_connections_and_comes_back(scene: Scene) -> None:
    async with start(SimulatorOptions(manual_clock=True)) as running:
        port = running.port
    refused = {"preset": "qingbo", "base_url": f"http://127.0.0.1:{port}/qingbo"}
    async with (
        stage(also={"closed": refused}, first_state_timeout_seconds=0.2) as own,
        own.events("closed/t1") as stream,
    ):
        blocks = [await stream.block(), await stream.block()]
        told = {block.event: block.data for block in blocks if block is not None}
        assert told[None]["status"] == "unknown"
        assert told["notice"]["code"] == "upstream_unavailable"
        async with start(SimulatorOptions(manual_clock=True), port=port) as running:
            url = f"{running.url}/_sim/qingbo/tasks/t1"
            async with own.http.put(url, json={"answers": [qingbo("t1", "processing", 9)]}) as put:
                assert put.status == 204
            assert (await stream.state_with(status="processing"))["progress"] == 9


async def test_a_wrong_content_type_is_read_all_the_same(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 40))
    await scene.faults(qingbo=["wrong-type"])
    try:
        async with scene.events(ref) as stream:
            assert (await stream.state())["progress"] == 40
            await scene.then("qingbo", task, qingbo_done(task))
            assert [block.event for block in await stream.rest()] == [None, "done", "end"]
    finally:
        await scene.faults(qingbo=[])


async def test_an_error_envelope_with_200_is_no_state(scene: Scene) -> None:
    """V-API says its errors with HTTP 200; none of them may be taken for the task's own failure."""
    task = scene.id()
    good = answer({"status": "Processing", "task_id": task})
    broken = answer({"base_resp": {"status_code": 1000, "status_msg": "unknown error"}})
    await scene.script("vapi", task, good, broken)
    async with scene.events(f"relay/{task}") as stream:
        assert (await stream.state())["status"] == "processing"
        assert (await stream.notice("upstream_unavailable"))["retriable"] is True
        await scene.then(
            "vapi", task, answer({"status": "Success", "task_id": task, "video_url": "https://x/y"})
        )
        assert (await stream.state())["status"] == "completed"
    assert "failed" not in [block.data.get("status") for block in stream.blocks]


async def test_an_unknown_word_is_told_verbatim_and_later_words_go_on(scene: Scene) -> None:
    task = scene.id()
    await scene.script("qingbo", task, qingbo(task, "transmogrifying", 5))
    async with scene.events(f"words/{task}") as stream:
        state = await stream.state()
        assert (state["status"], state["upstream_status"]) == ("unknown", "transmogrifying")
        await scene.then("qingbo", task, qingbo(task, "processing", 6))
        assert (await stream.state())["status"] == "processing"
        await scene.then("qingbo", task, qingbo(task, "discombobulated", 7))
        state = await stream.state()
        assert (state["status"], state["upstream_status"], state["progress"]) == (
            "unknown",
            "discombobulated",
            7,
        )
        await scene.then("qingbo", task, qingbo_done(task))
        assert (await stream.state())["status"] == "completed"


@pytest.mark.extended  # a refused key is tried again after 30 seconds
async def test_a_refused_credential_is_a_notice_and_the_stream_stays(scene: Scene) -> None:
    task = scene.id()
    unauthorized = answer({"error": {"code": "invalid_api_key", "message": "no"}}, status=401)
    await scene.script("qingbo", task, qingbo(task, "processing", 5), unauthorized)
    async with scene.events(f"credential/{task}") as stream:
        await stream.state()
        notice = await stream.notice("credential_refused")
        assert notice["task"] == f"credential/{task}"
        await scene.then("qingbo", task, qingbo(task, "processing", 6))
        await stream.notice("fresh")
        await scene.then("qingbo", task, qingbo_done(task))
        assert (await stream.rest())[-1].event == "end"


async def test_a_cold_task_with_a_refused_credential_has_a_stream_with_the_notice(scene: Scene) -> None:
    task = scene.id()
    unauthorized = answer({"error": {"code": "invalid_api_key", "message": "no"}}, status=401)
    await scene.script("qingbo", task, unauthorized)
    async with scene.events(f"refusing/{task}") as stream:
        assert stream.status == 200
        blocks = [await stream.block(), await stream.block()]
    told = {block.event: block.data for block in blocks if block is not None}
    assert told[None]["status"] == "unknown"
    assert told["notice"]["code"] == "credential_refused"


async def test_a_final_state_that_later_reads_processing_stays_final(scene: Scene) -> None:
    """A look by alias asks the provider anew even for a finished task."""
    task = scene.id()
    failed = answer({"task_id": task, "status": "failed", "error_code": "x", "error_message": "y"})
    ref = await scene.script("bytespike", task, failed)
    async with scene.events(ref) as stream:
        assert [block.event for block in await stream.rest()] == [None, "done", "end"]
        final = stream.blocks[0].data
    await scene.then("bytespike", task, answer({"task_id": task, "status": "running"}))
    again = await scene.get(f"/v1/aliases/bytespike/{task}")
    assert (again.status, again.json["status"], again.json["cursor"]) == (200, "failed", final["cursor"])
    assert scene.ledger.of("bytespike", task) >= 2
    async with scene.events(ref) as stream:
        assert (await stream.state())["cursor"] == final["cursor"]


async def test_progress_that_flaps_never_goes_down(scene: Scene) -> None:
    task = scene.id()
    steps = [10, 30, 20, 30, 50, 40, 60]
    ref = await scene.script(
        "qingbo", task, *(qingbo(task, "processing", step) for step in steps), qingbo_done(task)
    )
    async with scene.events(ref) as stream:
        await stream.rest()
    shown = [block.data["progress"] for block in stream.blocks if block.event is None]
    assert shown == [10, 30, 50, 60, 100]


async def test_one_broken_task_does_not_hurt_its_neighbours(scene: Scene) -> None:
    good, bad = scene.id(), scene.id()
    one = await scene.script("qingbo", good, qingbo(good, "processing", 1))
    two = await scene.script("qingbo", bad, qingbo(bad, "processing", 1), answer("<html>"))
    async with scene.events(one) as well, scene.events(two) as ill, asyncio.timeout(PATIENCE):
        await well.state()
        await ill.notice("upstream_unavailable")
        await scene.then("qingbo", good, qingbo_done(good))
        assert [block.event for block in await well.rest()] == [None, "done", "end"]
