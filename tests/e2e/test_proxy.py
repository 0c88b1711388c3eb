"""The provider's own calls under its own paths: who polls today changes a base URL, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar
from urllib.parse import unquote

import openai
import orjson
import pytest

from tests.e2e.scene import Scene, stage
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

CLIENTS = 100
SUBMITTED = 'bridge_upstream_requests_total{call="submit",outcome="ok",upstream="qingbo"}'
Result = TypeVar("Result")


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    calm = {"preset": "qingbo", "poll_min_seconds": 2, "poll_max_seconds": 2}
    async with stage(also={"calm": calm}, sync_wait_seconds=1.5, keepalive_seconds=0.2) as made:
        yield made
        assert "Traceback" not in "".join(made.bridge.log)


def openai_at(scene: Scene, upstream: str = "qingbo", **more: Any) -> openai.OpenAI:
    """The client of the seeds; only the base URL is another."""
    direct = openai.DefaultHttpxClient(trust_env=False)
    url = f"{scene.bridge.url}/proxy/{upstream}/v1"
    return openai.OpenAI(base_url=url, api_key="your-api-key", http_client=direct, **more)


async def alone(work: Callable[..., Result], *args: Any) -> Result:
    """Run what blocks, as the seeds' code does, beside the simulator."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.to_thread(work, *args)


# Seed code (qingbo, task system page). Added: `cast_to=dict[str, object]`, without which an openai client of
# today takes no call; and `time.sleep(2)` became a parameter, for the sake of the test.


def submit_a_task(client: openai.OpenAI) -> str:
    response = client.post(
        "/tasks",
        body={
            "model": "veo3",
            "action": "generate",
            "prompt": "A cat walking on the beach",
            "duration": 5,
        },
        cast_to=dict[str, object],
    )
    return response["task_id"]


def wait_for_task(client, task_id, timeout=300, between=2.0):
    start = time.time()  # noqa: TID251 - as the seed has it
    while time.time() - start < timeout:  # noqa: TID251 - as the seed has it
        result = client.get(f"/tasks/{task_id}", cast_to=dict[str, object])
        status = result["status"]

        if status == "completed":
            return result["result"]
        elif status == "failed":  # noqa: RET505 - as the seed has it
            raise Exception(f"Task failed: {result['error']['message']}")  # noqa: TRY002

        time.sleep(between)
    raise TimeoutError("Task timed out")


async def test_the_code_of_the_seed_submits_and_waits_for_the_result(scene: Scene) -> None:
    with openai_at(scene) as client:
        task = await alone(submit_a_task, client)
        waiting = asyncio.create_task(alone(wait_for_task, client, task, 20, 0.05))
        await scene.ledger.reach("qingbo", task, 1)
        scene.advance(600)
        result = await waiting
    assert set(result) <= {"videos", "images", "audios"}
    assert result["videos"][0]["url"]
    assert scene.ledger.of("qingbo", task, "submit") == 1


async def test_the_code_of_the_seed_raises_the_failure_it_is_told(scene: Scene) -> None:
    task = scene.id()
    error = {"message": "no cats today", "code": "task_failed"}
    await scene.script("qingbo", task, qingbo(task, "processing", 5), qingbo(task, "failed", 0, error=error))
    with (
        openai_at(scene) as client,
        pytest.raises(Exception, match=r"^Task failed: no cats today$"),
    ):
        await alone(wait_for_task, client, task, 20, 0.05)


async def test_a_hundred_clients_that_poll_cost_one_call_an_interval(scene: Scene) -> None:
    task = scene.id()
    await scene.script("qingbo", task, qingbo(task, "processing", 10))
    path, seconds, between = f"/proxy/calm/v1/tasks/{task}", 3.0, 0.25
    began = asyncio.get_running_loop().time()

    async def poll() -> int:
        asked = 0
        while asyncio.get_running_loop().time() - began < seconds:
            reply = await scene.get(path)
            assert (reply.status, reply.json["progress"]) == (200, 10)
            asked += 1
            await asyncio.sleep(between)
        return asked

    asked = sum(await asyncio.gather(*(poll() for _ in range(CLIENTS))))
    took = asyncio.get_running_loop().time() - began
    assert asked > CLIENTS * 3
    assert 2 <= scene.ledger.of("qingbo", task) <= 1 + took / 1.5  # every 2 s, jittered by a quarter
    assert min(scene.ledger.gaps("qingbo", task)) > 1.4


async def test_a_status_is_the_providers_own_document_to_the_byte(scene: Scene) -> None:
    task = scene.id()
    body = b'{ "task_id": "%b",\n  "status": "processing", "progress": 7, "own":  [1.50] }' % task.encode()
    await scene.script("qingbo", task, answer(body.decode()))
    reply = await scene.get(f"/proxy/qingbo/v1/tasks/{task}")
    assert (reply.status, reply.body) == (200, body)
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_finished_task_is_answered_without_asking_the_provider(scene: Scene) -> None:
    task = scene.id()
    await scene.script("qingbo", task, qingbo_done(task))
    first = await scene.get(f"/proxy/qingbo/v1/tasks/{task}")
    calls = scene.ledger.of("qingbo", task)
    again = [await scene.get(f"/proxy/qingbo/v1/tasks/{task}") for _ in range(5)]
    assert {reply.body for reply in again} == {first.body}
    assert first.json == qingbo_done(task)["body"]
    assert scene.ledger.of("qingbo", task) == calls == 1


async def test_a_task_that_is_not_there_is_404_in_the_providers_shape_and_not_asked_for_again(
    scene: Scene,
) -> None:
    reply = await scene.get("/proxy/calm/v1/tasks/nowhere")
    assert reply.status == 404
    assert reply.json["error"]["code"] == "task_not_found"
    assert reply.headers["x-should-retry"] == "false"
    with openai_at(scene, "calm") as client, pytest.raises(openai.NotFoundError) as refused:
        await alone(lambda: client.get("/tasks/nowhere", cast_to=dict[str, object]))
    assert refused.value.code == "task_not_found"
    assert scene.ledger.of("qingbo", "nowhere") == 2  # a single 404 is not believed


async def test_a_provider_in_trouble_is_told_with_its_status_and_asked_no_more_than_it_wants(
    scene: Scene,
) -> None:
    task = scene.id()
    busy = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    await scene.script("qingbo", task, answer(busy, status=429, **{"Retry-After": "20"}))
    replies = [await scene.get(f"/proxy/calm/v1/tasks/{task}") for _ in range(5)]
    assert {reply.status for reply in replies} == {429}
    assert replies[0].json["error"]["code"] == "rate_limit_exceeded"
    assert 15 <= int(replies[0].headers["Retry-After"]) <= 30
    assert "x-should-retry" not in replies[0].headers
    assert scene.ledger.of("qingbo", task) == 1


async def test_sync_answers_the_whole_task_when_it_ends_in_time(scene: Scene) -> None:
    before = await scene.metric(SUBMITTED)
    with openai_at(scene) as client:
        body = {"model": "veo3", "prompt": "x"}
        waiting = asyncio.create_task(
            alone(lambda: client.post("/tasks/sync", body=body, cast_to=dict[str, object]))
        )
        await scene.reaches(SUBMITTED, before + 1)
        scene.advance(600)
        done = await waiting
    assert done["status"] == "completed"
    assert done["result"]["videos"]


async def test_sync_that_takes_too_long_says_where_to_poll(scene: Scene) -> None:
    reply = await scene.call("POST", "/proxy/qingbo/v1/tasks/sync", json={"model": "veo3", "prompt": "x"})
    task = reply.json["task_id"]
    assert set(reply.json) == {"task_id", "status", "progress", "poll_url"}
    assert reply.json["poll_url"] == f"/proxy/qingbo/v1/tasks/{task}"
    assert reply.json["status"] in {"queued", "processing"}
    assert scene.ledger.of("qingbo", task, "sync") == 0
    polled = await scene.get(reply.json["poll_url"])
    assert (polled.status, polled.json["task_id"]) == (200, task)
    scene.advance(600)


async def test_a_submit_and_a_cancel_are_answered_in_the_providers_words(scene: Scene) -> None:
    created = await scene.call("POST", "/proxy/qingbo/v1/tasks", json={"model": "veo3", "prompt": "x"})
    task = created.json["task_id"]
    assert created.json["status"] == "queued"
    state = await scene.get(f"/v1/tasks/qingbo/{task}")
    assert state.json["status"] == "queued"
    cancelled = await scene.call("POST", f"/proxy/qingbo/v1/tasks/{task}/cancel")
    assert (cancelled.json["status"], cancelled.json["refunded"]) == ("cancelled", True)
    after = await scene.get(f"/proxy/qingbo/v1/tasks/{task}")
    assert after.json["status"] == "cancelled"


async def test_what_the_provider_refuses_comes_in_its_own_body(scene: Scene) -> None:
    refused = await scene.call("POST", "/proxy/qingbo/v1/tasks", json={"prompt": "no model"})
    assert refused.status == 400
    assert refused.json == {"error": {"message": "model is required", "code": "invalid_request"}}
    assert refused.headers["x-should-retry"] == "false"


async def test_a_page_of_a_stranger_may_not_spend_through_the_proxy(scene: Scene) -> None:
    before = await scene.metric(SUBMITTED)
    headers = {"Origin": "https://evil.example"}
    for path in ("/v1/tasks", "/v1/tasks/sync", "/v1/tasks/x/cancel"):
        reply = await scene.call("POST", f"/proxy/qingbo{path}", json={"model": "veo3"}, headers=headers)
        assert (reply.status, reply.json["error"]["code"]) == (403, "forbidden")
    after = await scene.metric(SUBMITTED)
    assert after == before


async def test_bytespike_is_asked_by_either_id_in_the_body(scene: Scene) -> None:
    body = {"model": "sora-2", "params": {}, "out_task_id": "mine-1"}
    created = await scene.call("POST", "/proxy/bytespike/v1/tasks/submit", json=body)
    task = created.json["task_id"]
    query = "/proxy/bytespike/v1/tasks/query"
    one = await scene.call("POST", query, json={"task_id": task})
    other = await scene.call("POST", query, json={"out_task_id": "mine-1"})
    assert one.json["task_id"] == other.json["task_id"] == task
    assert one.json["out_task_id"] == "mine-1"
    both = await scene.call("POST", query, json={"task_id": task, "out_task_id": "mine-1"})
    assert (both.status, both.json["error"]["code"]) == (400, "invalid_request")


async def test_an_alias_the_bridge_never_heard_of_is_looked_up_once_for_everybody(scene: Scene) -> None:
    body = {"model": "sora-2", "params": {}, "out_task_id": "mine-2"}
    task = await scene.submit("bytespike", "/v1/tasks/submit", body)
    query = {"json": {"out_task_id": "mine-2"}}
    replies = await asyncio.gather(
        *(scene.call("POST", "/proxy/bytespike/v1/tasks/query", **query) for _ in range(20))
    )
    assert {reply.json["task_id"] for reply in replies} == {task}
    series = 'bridge_upstream_requests_total{call="alias",outcome="ok",upstream="bytespike"}'
    assert await scene.metric(series) == 1


async def test_bytespikes_stream_shows_its_own_documents_until_the_end(scene: Scene) -> None:
    task = scene.id()
    shown = {"task_id": task, "status": "running", "estimated_seconds": 35}
    await scene.script("bytespike", task, answer(shown))
    async with scene.stream(f"/proxy/bytespike/v1/tasks/stream/{task}") as stream:
        first = await stream.block()
        assert first is not None
        assert first.data == shown
        assert set(first.fields) <= {"data", "retry"}
        done = {"task_id": task, "status": "completed", "credits_used": 1.5, "output": []}
        done["output"] = [{"type": "video", "url": "https://cdn.example/v.mp4"}]
        await scene.then("bytespike", task, answer(done))
        (last,) = await stream.rest()
    assert (stream.status, last.data, set(last.fields)) == (200, done, {"data"})
    assert stream.ended_cleanly


async def test_a_base_url_without_the_first_segment_is_told_the_right_one(scene: Scene) -> None:
    reply = await scene.get("/proxy/qingbo/tasks/nowhere")
    assert reply.status == 404
    assert reply.json["error"]["message"].endswith("; did you mean /proxy/qingbo/v1/tasks/nowhere?")


async def test_a_stream_of_nothing_is_refused_in_the_providers_shape(scene: Scene) -> None:
    async with scene.stream("/proxy/bytespike/v1/tasks/stream/nowhere") as stream:
        assert stream.status == 404
        assert orjson.loads(await stream.body())["error"]["code"] == "task_not_found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/tasks"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/tasks/x"),
        ("DELETE", "/v1/tasks/x"),
        ("PUT", "/v1/tasks"),
        ("GET", "/v1/tasks/x/cancel"),
        ("GET", "/v1/tasks/x/y"),
        ("GET", "/v1/tasks/.."),
        ("GET", "/v1/tasks/%2e%2e"),
        ("GET", "/v1/tasks/..%2F..%2Fadmin"),
        ("GET", "/v1%2Ftasks%2Fx"),
        ("GET", "/v1/../v1/tasks/x"),
        ("GET", "/v1/tasks/%FF"),
        ("GET", "//evil.example/v1/tasks/x"),
        ("GET", "/http://evil.example/v1/tasks/x"),
        ("GET", "/https:%2F%2Fevil.example/v1/tasks/x"),
        ("GET", "/v1/tasks/" + "x" * 3000),
    ],
)
async def test_this_is_no_open_proxy(scene: Scene, method: str, path: str) -> None:
    asked = set(scene.ledger.times)  # watches of other tests go on: only what is new was asked for here
    reply = await scene.call(method, f"/proxy/qingbo{path}", data=b"{}" if method != "GET" else None)
    mistake = (400, "invalid_request") if ".." in unquote(path).split("/") else (404, "route_not_found")
    assert (reply.status, reply.json["error"]["code"]) == mistake
    assert reply.headers["Content-Type"] == "application/json"
    assert set(scene.ledger.times) == asked


async def test_an_upstream_nobody_configured_is_not_there(scene: Scene) -> None:
    for name in ("openai", "evil.example", "qingbo%2F.."):
        reply = await scene.get(f"/proxy/{name}/v1/tasks/x")
        assert (reply.status, reply.json["error"]["code"]) == (404, "upstream_not_found")
