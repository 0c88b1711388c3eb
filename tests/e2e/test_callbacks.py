"""Providers' callbacks: never believed, at most a reason to look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest

from tests.e2e.scene import Scene, path_of, stage
from tests.harness import answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t/with slash"
PATH = "s3cr3t%2Fwith%20slash"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    slow = {"poll_min_seconds": 60, "poll_max_seconds": 120, "callback_secret": SECRET}
    also = {"open": {"preset": "qingbo", "callback_secret": None}}
    async with stage(each=slow, also=also) as made:
        yield made


async def test_the_right_secret_makes_exactly_one_look_at_once(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref) as stream:
        await stream.state()
        await scene.then("qingbo", task, qingbo(task, "processing", 11))
        reply = await scene.call("POST", f"/v1/callbacks/qingbo/{PATH}", json={"task_id": task})
        assert reply.status == 200
        state = await stream.state()
        assert (state["progress"], state["source"]) == (11, "callback")
        assert scene.ledger.of("qingbo", task) == 2


async def test_the_source_is_the_callback_on_every_delivery_and_when_its_first_poll_fails(
    scene: Scene,
) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref, "?include=raw") as stream:
        assert (await stream.state())["source"] == "poll"
        await scene.then("qingbo", task, answer({"error": "broken"}, status=500), qingbo_done(task))
        await scene.call("POST", f"/v1/callbacks/qingbo/{PATH}", json={"task_id": task})
        await scene.ledger.reach("qingbo", task, 2)
        await scene.call("POST", f"/v1/callbacks/qingbo/{PATH}", json={"task_id": task})
        last = await stream.state_with(status="completed")
        assert last["source"] == "callback"
    assert (await scene.get(path_of(ref))).json["source"] == "callback"
    kept = await scene.call("GET", f"/v1/events?task={ref}", headers={"Accept": "application/x-ndjson"})
    assert orjson.loads(kept.body.splitlines()[0])["source"] == "callback"


async def test_what_a_callback_claims_is_not_believed(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref) as stream:
        await stream.state()
        await scene.call("POST", f"/v1/callbacks/qingbo/{PATH}", json=qingbo_done(task)["body"])
        await scene.ledger.reach("qingbo", task, 2)
        await scene.then("qingbo", task, qingbo(task, "processing", 50))
        assert [block.data["status"] for block in stream.blocks] == ["processing"]


async def test_callbacks_make_at_most_one_look_a_second_for_each_task(scene: Scene) -> None:
    task, other = scene.id(), scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    second = await scene.script("qingbo", other, qingbo(other, "processing", 10))
    async with scene.events(ref) as stream, scene.events(second) as another:
        await stream.state()
        await another.state()
        for _ in range(30):
            reply = await scene.call("POST", f"/v1/callbacks/qingbo/{PATH}", json={"task_id": task})
            assert reply.status == 200
        await scene.ledger.reach("qingbo", task, 2)
        await scene.call("POST", f"/v1/callbacks/qingbo/{PATH}", json={"task_id": other})
        await scene.ledger.reach("qingbo", other, 2)
    gaps = scene.ledger.gaps("qingbo", task)[1:]
    assert all(gap >= 0.95 for gap in gaps), gaps


@pytest.mark.parametrize("secret", ["wrong", "s3cr3t", "%00", "x" * 5000, "%F0%9F"])
async def test_a_wrong_secret_is_403_and_makes_no_look(scene: Scene, secret: str) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scene.events(ref) as stream:
        await stream.state()
        reply = await scene.call("POST", f"/v1/callbacks/qingbo/{secret}", json={"task_id": task})
        assert (reply.status, reply.json["code"]) == (403, "forbidden")
        assert scene.ledger.of("qingbo", task) == 1


async def test_an_upstream_without_a_secret_takes_no_callbacks(scene: Scene) -> None:
    for secret in ("None", "null", "x"):
        assert (await scene.call("POST", f"/v1/callbacks/open/{secret}", json={})).status == 403


async def test_a_callback_about_a_task_nobody_watches_starts_a_watch(scene: Scene) -> None:
    task = scene.id()
    await scene.script("qingbo", task, qingbo(task, "processing", 10))
    reply = await scene.call("POST", f"/v1/callbacks/qingbo/{PATH}", json={"task_id": task})
    assert (reply.status, reply.body) == (200, b"{}")
    await scene.ledger.reach("qingbo", task, 1)
    state = await scene.get(f"/v1/tasks/qingbo/{task}")
    assert (state.json["progress"], state.json["source"]) == (10, "callback")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"task_id": null}',
        b'{"task_id": {"a": 1}}',
        b'{"task_id": "a\\u0000"}',
        b"[" * 5000,
    ],
)
async def test_a_body_that_means_nothing_is_accepted_silently(scene: Scene, body: bytes) -> None:
    assert (await scene.call("POST", f"/v1/callbacks/qingbo/{PATH}", data=body)).status == 200


async def test_a_challenge_is_echoed_as_it_came(scene: Scene) -> None:
    reply = await scene.call("POST", f"/v1/callbacks/vapi/{PATH}", json={"challenge": "1a2b"})
    assert (reply.status, reply.json) == (200, {"challenge": "1a2b"})
    reply = await scene.call("POST", f"/v1/callbacks/vapi/{PATH}", json={"challenge": 123456789012345678})
    assert reply.json == {"challenge": 123456789012345678}
    reply = await scene.call("POST", "/v1/callbacks/vapi/wrong", json={"challenge": "1a2b"})
    assert reply.status == 403
    assert b"1a2b" not in reply.body


async def test_a_provider_that_calls_back_ends_a_slowly_watched_task(scene: Scene) -> None:
    """The simulated V-API asks its challenge, then posts at each change; the poll would take minutes."""
    body = {
        "model": "hailuo-02",
        "prompt": "x",
        "callback_url": f"{scene.bridge.url}/v1/callbacks/vapi/{PATH}",
    }
    task = await scene.submit(
        "vapi", "/task/minimax/v1/video_generation", body, queue_seconds=5, run_seconds=5, outcome="completed"
    )
    callbacks = scene.simulator.world.callbacks
    async with scene.events(f"vapi/{task}") as stream:
        await stream.state()
        await callbacks.wait_posted(2, task)
        assert [one["kind"] for one in callbacks.report(task)] == ["challenge", "change"]
        await _look_allowed()
        scene.advance(11)
        assert (await stream.state_with(status="completed"))["outputs"][0]["url"]
        assert (await stream.rest())[-1].event == "end"
    assert {one["status"] for one in callbacks.report(task)} == {200}


async def _look_allowed() -> None:
    """The first `change` has just made a look; the next is allowed a second later, by the real clock."""
    loop = asyncio.get_running_loop()
    later = loop.create_future()
    loop.call_later(1.1, later.set_result, None)
    await later
