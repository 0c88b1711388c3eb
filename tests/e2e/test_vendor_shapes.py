"""Each vendor's shape behind V-API, and qingbo's several ways, through to the outputs a client reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.scene import Scene, path_of, stage
from tests.harness import answer, qingbo

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(linger_seconds=0) as made:
        yield made


VENDORS: list[tuple[str, dict[str, Any]]] = [
    ("/task/minimax/v1/video_generation", {}),
    ("/task/minimax/v1/video_generation", {"shape": {"words": "native"}}),
    ("/task/keling/generate", {}),
    ("/task/keling/generate", {"shape": {"media": "image"}}),
    ("/task/jimeng/generate", {}),
    ("/task/jimeng/generate", {"shape": {"media": "image"}}),
    ("/kling/v1/videos/text2video", {}),
    ("/kling/v1/images/generations", {"shape": {"media": "image"}}),
]


@pytest.mark.parametrize(("path", "sim"), VENDORS, ids=[f"{path}-{len(sim)}" for path, sim in VENDORS])
async def test_a_vapi_task_of_each_vendor_completes_with_a_link_that_works(
    scene: Scene, path: str, sim: dict[str, Any]
) -> None:
    task = await scene.submit(
        "vapi", path, {"model": "m"}, queue_seconds=2, run_seconds=8, outcome="completed", **sim
    )
    async with scene.events(f"vapi/{task}") as stream:
        assert (await stream.state())["status"] in {"queued", "processing"}
        scene.advance(11)
        final = await stream.state_with(status="completed")
        assert (await stream.rest())[-1].event == "end"
    (output,) = final["outputs"]
    if "jimeng" not in path:  # its links say no type but their own ending, and the simulator's videos are SVG
        assert output["type"] == sim.get("shape", {}).get("media", "video")
    async with scene.http.get(output["url"]) as file:
        assert file.status == 200
    assert final["progress"] == 100
    assert final["error"] is None


@pytest.mark.parametrize("path", sorted({path for path, _ in VENDORS}))
async def test_a_vapi_task_of_each_vendor_fails_with_a_reason(scene: Scene, path: str) -> None:
    task = await scene.submit("vapi", path, {"model": "m"}, queue_seconds=0, run_seconds=1, outcome="failed")
    scene.advance(2)
    async with scene.events(f"vapi/{task}") as stream:
        final = await stream.state()
    assert (final["status"], final["outputs"]) == ("failed", [])
    assert final["error"]["code"] or final["error"]["message"]


async def test_a_file_id_is_followed_to_its_link_and_a_download_that_fails_is_tried_again(
    scene: Scene,
) -> None:
    task = await scene.submit(
        "vapi",
        "/task/minimax/v1/video_generation",
        {"model": "hailuo"},
        queue_seconds=0,
        run_seconds=1,
        outcome="completed",
        faults=[{"name": "500", "times": 2, "calls": ["file"]}],
    )
    scene.advance(2)
    async with scene.events(f"vapi/{task}") as stream:
        final = await stream.state_with(status="completed")
    (output,) = final["outputs"]
    assert output["url"].startswith(scene.simulator.url)
    assert isinstance(output["file_id"], str)
    assert (output["width"], output["height"]) == (768, 1152)


QINGBO = [
    {"url": "string", "timestamps": "seconds"},
    {"url": "array", "timestamps": "milliseconds"},
    {"url": "array", "timestamps": "seconds", "urls": False},
    {"url": "string", "timestamps": "milliseconds", "media": "image"},
    {"url": "array", "timestamps": "seconds", "media": "audio"},
]


@pytest.mark.parametrize("shape", QINGBO, ids=lambda shape: "-".join(str(part) for part in shape.values()))
async def test_a_qingbo_task_reads_the_same_however_it_is_written(
    scene: Scene, shape: dict[str, Any]
) -> None:
    task = await scene.submit(
        "qingbo",
        "/v1/tasks",
        {"model": "veo3"},
        queue_seconds=2,
        run_seconds=8,
        outcome="completed",
        shape=shape,
    )
    created = scene.simulator.world.clock.now()
    async with scene.events(f"qingbo/{task}") as stream:
        await stream.state()
        scene.advance(11)
        final = await stream.state_with(status="completed")
    (output,) = final["outputs"]
    assert output["type"] == shape.get("media", "video")
    assert output["url"].startswith(scene.simulator.url)
    assert output["expires_at"].startswith("2024-07-")
    from datetime import datetime

    assert abs(datetime.fromisoformat(final["created_at"]).timestamp() - created) < 1
    assert abs(datetime.fromisoformat(final["completed_at"]).timestamp() - created - 10) <= 1.5


async def test_progress_stays_where_it_was_when_qingbo_drops_it_to_0_on_failure(scene: Scene) -> None:
    task = scene.id()
    failed = qingbo(task, "failed", 0, error={"message": "no luck", "code": "task_failed"})
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 64), failed)
    async with scene.events(ref) as stream:
        await stream.rest()
    final = [block.data for block in stream.blocks if block.event is None][-1]
    assert (final["status"], final["progress"]) == ("failed", 64)
    assert final["error"] == {"code": "task_failed", "message": "no luck"}


async def test_several_links_are_several_outputs(scene: Scene) -> None:
    task = scene.id()
    result = {
        "images": [{"url": ["https://c/a.png", "https://c/b.png"], "expires_at": 1720086400}],
        "videos": [],
    }
    ref = await scene.script("qingbo", task, qingbo(task, "completed", 100, result=result))
    outputs = (await scene.get(path_of(ref))).json["outputs"]
    assert [(one["type"], one["url"]) for one in outputs] == [
        ("image", "https://c/a.png"),
        ("image", "https://c/b.png"),
    ]
    assert {one["expires_at"] for one in outputs} == {"2024-07-04T09:46:40.000Z"}


async def test_links_that_differ_only_in_their_signature_are_no_news(scene: Scene) -> None:
    task = scene.id()

    def signed(signature: str) -> dict[str, Any]:
        body = {
            "task_id": task,
            "status": "running",
            "output": [{"type": "image", "url": f"https://c/a?sig={signature}"}],
        }
        return answer(body)

    ref = await scene.script(
        "bytespike",
        task,
        *(signed(str(number)) for number in range(5)),
        answer({"task_id": task, "status": "cancelled"}),
    )
    async with scene.events(ref) as stream:
        await stream.rest()
    assert [block.data["status"] for block in stream.blocks if block.event is None] == [
        "processing",
        "cancelled",
    ]


async def test_links_about_to_expire_are_a_notice_to_whoever_comes(scene: Scene) -> None:
    task = scene.id()
    result = {"videos": [{"url": "https://c/a.mp4", "expires_at": 1720086400}]}
    ref = await scene.script("qingbo", task, qingbo(task, "completed", 100, result=result))
    async with scene.events(ref) as stream:
        assert (await stream.notice("links_expiring"))["task"] == ref
        assert [block.event for block in await stream.rest()] == ["end"]


async def test_dollars_in_rate_limit_headers_are_not_taken_for_requests(scene: Scene) -> None:
    task = scene.id()
    headers = {
        "X-RateLimit-Limit": "10.00",
        "X-RateLimit-Remaining": "0.00",
        "X-RateLimit-Reset": "4102444800",
    }
    body = {"task_id": task, "status": "running", "estimated_credits": 2.5}
    ref = await scene.script("bytespike", task, answer(body, **headers))
    async with scene.events(ref) as stream:
        state = await stream.state()
        await scene.ledger.reach("bytespike", task, 6)
    assert state["cost"] == {"credits_used": None, "credits_estimated": 2.5}
