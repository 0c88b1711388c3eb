"""`format=openai`: the real library reads our streams, failures included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from tests.e2e.scene import Scene, path_of, stage
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

QUERY = "?format=openai"
ENDINGS = {
    "completed": qingbo_done,
    "failed": lambda task: qingbo(task, "failed", 0, error={"message": "no", "code": "task_failed"}),
    "cancelled": lambda task: qingbo(task, "cancelled", 0),
}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(keepalive_seconds=0.2) as made:
        yield made


async def read(scene: Scene, path: str) -> list[dict[str, Any]]:
    """Everything the library hands over, until it ends by itself."""

    def work() -> list[dict[str, Any]]:
        direct = openai.DefaultHttpxClient(trust_env=False)
        with openai.OpenAI(base_url=scene.bridge.url, api_key="any", http_client=direct) as client:
            return list(
                client.get(
                    path, cast_to=dict[str, object], stream=True, stream_cls=openai.Stream[dict[str, object]]
                )
            )

    async with asyncio.timeout(PATIENCE):
        return await asyncio.to_thread(work)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_the_library_sees_every_state_of_a_task_to_its_end(scene: Scene, ending: str) -> None:
    task = scene.id(ending)
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    reading = asyncio.create_task(read(scene, path_of(ref) + "/events" + QUERY))
    await scene.reaches('bridge_interests{upstream="qingbo"}', 1)
    await asyncio.sleep(0.5)  # keepalives go by
    await scene.then("qingbo", task, ENDINGS[ending](task))
    told = await reading
    assert {one["type"] for one in told} <= {"state", "notice"}
    states = [one for one in told if one["type"] == "state"]
    assert [one["task"]["status"] for one in states] == ["processing", ending]
    assert all(one["cursor"] == one["task"]["cursor"] for one in states)
    assert (states[-1]["task"]["error"] is not None) == (ending == "failed")


async def test_the_library_sees_many_tasks_one_of_them_missing(scene: Scene) -> None:
    tasks = {scene.id(ending): ending for ending in ENDINGS}
    refs = [await scene.script("qingbo", task, ENDINGS[ending](task)) for task, ending in tasks.items()]
    query = "&".join(f"task={ref}" for ref in [*refs, "qingbo/nowhere"])
    told = await read(scene, f"/v1/events{QUERY}&{query}")
    ends = {one["task"]["task_id"]: one["task"]["status"] for one in told if one["type"] == "state"}
    assert {task: ends[task] for task in tasks} == tasks
    (notice,) = [one for one in told if one["type"] == "notice"]
    assert (notice["code"], notice["task"]) == ("task_not_found", "qingbo/nowhere")


async def test_on_the_wire_nothing_is_named_and_done_is_the_last_word(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    async with scene.events(ref, QUERY, headers={"Accept": "application/x-ndjson"}) as stream:
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        blocks = [block.fields for block in await stream.rest()]
    assert [set(fields) for fields in blocks] == [{"id", "retry", "data"}, {"retry", "data"}]
    assert blocks[-1]["data"] == "[DONE]"


@pytest.mark.parametrize("path", ["/v1/events?task=qingbo/x&", "/v1/tasks/qingbo/x/events?"])
@pytest.mark.parametrize("wished", ["bridge", "provider", "OpenAI", ""])
async def test_a_format_nobody_has_is_the_callers_mistake(scene: Scene, path: str, wished: str) -> None:
    reply = await scene.get(f"{path}format={wished}")
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")
