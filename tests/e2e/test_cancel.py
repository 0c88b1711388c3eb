"""Cancelling through the bridge: what the provider allows, told as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.scene import Scene, path_of, stage
from tests.harness import qingbo_done

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


async def qingbo_task(scene: Scene, **sim: Any) -> str:
    body = {"model": "wan2.7", "prompt": "x"}
    times = {"queue_seconds": 1000, "run_seconds": 1000} | sim
    return "qingbo/" + await scene.submit("qingbo", "/v1/tasks", body, **times)


async def bytespike_task(scene: Scene, **sim: Any) -> str:
    body = {"model": "sora-2", "params": {"prompt": "x"}}
    times = {"queue_seconds": 0, "run_seconds": 1000} | sim
    return "bytespike/" + await scene.submit("bytespike", "/v1/tasks/submit", body, **times)


def cancel_path(ref: str) -> str:
    return f"{path_of(ref)}/cancel"


def calls(scene: Scene, ref: str) -> int:
    upstream, _, task = ref.partition("/")
    return scene.ledger.of(upstream, task, "cancel")


async def test_a_queued_task_is_cancelled_and_its_viewers_see_it(scene: Scene) -> None:
    ref = await qingbo_task(scene)
    async with scene.events(ref) as stream:
        assert (await stream.state())["status"] == "queued"
        reply = await scene.call("POST", cancel_path(ref))
        assert (reply.status, reply.json["status"], reply.json["task"]) == (200, "cancelled", ref)
        assert reply.headers["etag"] == f'"{reply.json["cursor"]}"'
        assert (
            reply.json["model"] == "wan2.7"
        )  # the answer to a cancel says less than a look, and takes nothing
        assert (await stream.state())["status"] == "cancelled"
        assert [block.event for block in await stream.rest()][-1] == "end"
    assert (await scene.get(path_of(ref))).json["status"] == "cancelled"
    series = 'bridge_upstream_requests_total{call="cancel",outcome="ok",upstream="qingbo"}'
    assert await scene.metric(series) >= 1


@pytest.mark.parametrize("watched", [True, False])
async def test_a_task_past_being_cancelled_is_a_conflict_in_the_providers_words(
    scene: Scene, *, watched: bool
) -> None:
    ref = await qingbo_task(scene, queue_seconds=0)
    if watched:
        await scene.get(path_of(ref))
    reply = await scene.call("POST", cancel_path(ref))
    assert (reply.status, reply.json["code"]) == (409, "conflict")
    assert reply.json["detail"] == "Only queued tasks can be cancelled"
    assert reply.json["provider"] == {"status": 400, "code": "task_not_cancellable"}
    assert reply.headers["x-should-retry"] == "false"
    assert (await scene.get(path_of(ref))).json["status"] == "processing"


async def test_a_running_bytespike_task_is_cancelled_and_again_without_asking(scene: Scene) -> None:
    ref = await bytespike_task(scene)
    async with scene.events(ref) as stream:
        assert (await stream.state())["status"] == "processing"
        for _ in range(3):
            reply = await scene.call("POST", cancel_path(ref), data=b"{}")
            assert (reply.status, reply.json["status"]) == (200, "cancelled")
        assert (await stream.state())["status"] == "cancelled"
    assert calls(scene, ref) == 1


async def test_a_task_that_ended_meanwhile_is_answered_as_it_is(scene: Scene) -> None:
    ref = await bytespike_task(scene, run_seconds=1, outcome="completed")
    scene.advance(5)
    reply = await scene.call("POST", cancel_path(ref))
    assert (reply.status, reply.json["status"]) == (200, "completed")
    assert reply.json["outputs"][0]["url"]


async def test_a_task_we_know_to_be_over_is_not_asked_for(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    await scene.get(path_of(ref))
    reply = await scene.call("POST", cancel_path(ref) + "?include=raw")
    assert (reply.status, reply.json["status"]) == (200, "completed")
    assert reply.json["raw"]["task_id"] == task
    assert calls(scene, ref) == 0


async def test_a_provider_without_a_cancel_says_so(scene: Scene) -> None:
    reply = await scene.call("POST", cancel_path("vapi/314052875571396"))
    assert (reply.status, reply.json["code"]) == (409, "conflict")
    assert "cannot cancel" in reply.json["detail"]


async def test_what_is_not_there_is_not_found(scene: Scene) -> None:
    reply = await scene.call("POST", cancel_path("qingbo/nope"))
    assert (reply.status, reply.json["code"]) == (404, "task_not_found")
    assert (await scene.call("POST", cancel_path("nobody/x"))).status == 404
    assert (await scene.call("GET", cancel_path("qingbo/nope"))).status == 405


async def test_a_provider_in_trouble_is_told_as_trouble(scene: Scene) -> None:
    ref = await qingbo_task(scene)
    await scene.faults(qingbo=[{"name": "500", "calls": ["cancel"], "times": 1}])
    reply = await scene.call("POST", cancel_path(ref))
    await scene.faults(qingbo=[])
    assert (reply.status, reply.json["code"]) == (503, "upstream_unavailable")
    assert (await scene.call("POST", cancel_path(ref))).json["status"] == "cancelled"


async def test_a_strangers_page_cancels_nothing(scene: Scene) -> None:
    ref = await qingbo_task(scene)
    reply = await scene.call("POST", cancel_path(ref), headers={"origin": "https://evil.example"})
    assert (reply.status, reply.json["code"]) == (403, "forbidden")
    assert calls(scene, ref) == 0
