"""Against seeds 000 and 001 and the pages of docs.qingbo.dev."""

import asyncio

import pytest

pytestmark = pytest.mark.anyio


async def test_submit_answers_as_documented(sim):
    submitted = await sim.post("/qingbo/v1/tasks", {"model": "veo3", "prompt": "A cat"})
    assert submitted.pop("task_id").startswith("task")
    assert submitted == {
        "model": "veo3",
        "action": "generate",
        "status": "queued",
        "created_at": 1720000000,
        "progress": 0,
    }


async def test_a_task_lives_through_every_stage(sim):
    task_id = await sim.qingbo(shape={"url": "array"})
    queued = await sim.get(f"/qingbo/v1/tasks/{task_id}")
    assert (queued["status"], queued["progress"]) == ("queued", 0)
    link = f"{sim.url}/qingbo/v1/tasks/{task_id}"
    assert queued["urls"] == {"get": link, "cancel": f"{link}/cancel"}
    assert not {"completed_at", "error", "result"} & set(queued)
    await sim.advance(7)
    running = await sim.get(f"/qingbo/v1/tasks/{task_id}")
    assert (running["status"], running["progress"]) == ("processing", 50)
    await sim.advance(5)
    done = await sim.get(f"/qingbo/v1/tasks/{task_id}")
    assert (done["status"], done["progress"], done["completed_at"]) == ("completed", 100, 1720000012)
    assert done["result"] == {
        "videos": [{"url": [f"{sim.url}/files/{task_id}.webm"], "expires_at": 1720000012 + 3 * 86400}]
    }


async def test_failure_sets_progress_back_and_names_the_error(sim):
    task_id = await sim.qingbo(outcome="failed")
    await sim.advance(20)
    failed = await sim.get(f"/qingbo/v1/tasks/{task_id}")
    assert (failed["status"], failed["progress"]) == ("failed", 0)
    assert failed["error"]["code"] == "task_failed"
    assert "result" not in failed


async def test_shapes_older_pages_and_milliseconds(sim):
    shape = {"url": "string", "timestamps": "milliseconds", "urls": False, "media": "image"}
    task_id = await sim.qingbo(shape=shape)
    await sim.advance(20)
    done = await sim.get(f"/qingbo/v1/tasks/{task_id}")
    assert done["created_at"] == 1720000000000
    assert "urls" not in done
    assert done["result"]["images"][0]["url"] == f"{sim.url}/files/{task_id}.png"
    assert done["result"]["videos"] == done["result"]["audios"] == []


async def test_both_kinds_of_url_and_of_id_occur_by_themselves(sim):
    ids = [await sim.qingbo() for _ in range(12)]
    await sim.advance(20)
    results = [(await sim.get(f"/qingbo/v1/tasks/{each}"))["result"] for each in ids]
    assert {type(result["videos"][0]["url"]) for result in results} == {str, list}
    assert any(each.startswith("task_01") and len(each) == 31 for each in ids)
    assert any(each.startswith("task-wave") for each in ids)


async def test_sim_may_stand_in_extra(sim):
    body = {"model": "veo3", "extra": {"sim": {"queue_seconds": 0, "run_seconds": 0, "outcome": "failed"}}}
    task_id = (await sim.post("/qingbo/v1/tasks", body))["task_id"]
    assert (await sim.get(f"/qingbo/v1/tasks/{task_id}"))["status"] == "failed"


async def test_only_queued_tasks_can_be_cancelled(sim):
    queued, running = await sim.qingbo(queue_seconds=50), await sim.qingbo(queue_seconds=0)
    cancelled = await sim.post(f"/qingbo/v1/tasks/{queued}/cancel", {})
    assert cancelled == {
        "task_id": queued,
        "status": "cancelled",
        "refunded": True,
        "refunded_quota": 50000,
    }
    status, body = await sim.call("POST", f"/qingbo/v1/tasks/{running}/cancel")
    assert (status, body["error"]["code"]) == (400, "task_not_cancellable")
    await sim.advance(100)
    shown = await sim.get(f"/qingbo/v1/tasks/{queued}")
    assert (shown["status"], shown["progress"], shown["completed_at"]) == ("cancelled", 0, 1720000000)


async def test_sync_gives_the_result_when_the_task_ends_in_time(sim):
    body = {"model": "veo3", "sim": {"queue_seconds": 1, "run_seconds": 5, "outcome": "completed"}}
    waiting = asyncio.ensure_future(sim.post("/qingbo/v1/tasks/sync", body))
    await sim.get("/_sim/clock?waiting=1")
    await sim.advance(6)
    assert (await waiting)["status"] == "completed"


async def test_sync_gives_a_relative_poll_url_after_its_timeout(sim):
    body = {"model": "veo3", "sim": {"queue_seconds": 0, "run_seconds": 60}}
    waiting = asyncio.ensure_future(sim.post("/qingbo/v1/tasks/sync", body))
    await sim.get("/_sim/clock?waiting=1")
    await sim.advance(30)
    answer = await waiting
    assert answer["poll_url"] == f"/v1/tasks/{answer['task_id']}"
    assert (answer["status"], answer["progress"]) == ("processing", 50)


async def test_refusals_have_the_envelope_of_task_routes(sim):
    status, body = await sim.call("GET", "/qingbo/v1/tasks/task_x")
    assert (status, body["error"]["code"]) == (404, "task_not_found")
    assert set(body["error"]) == {"message", "code"}
    status, body = await sim.call("GET", "/qingbo/v1/tasks/task_x", key=None)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    status, _ = await sim.call("POST", "/qingbo/v1/tasks", json={"prompt": "no model"})
    assert status == 400


@pytest.mark.parametrize(
    "error",
    [
        {"sim": 3},
        {"sim": {"que": 1}},
        {"sim": {"outcome": "perhaps"}},
        {"sim": {"run_seconds": -1}},
        {"sim": {"run_seconds": "2"}},
        {"sim": {"faults": ["nonsense"]}},
        {"sim": {"faults": "html"}},
        {"sim": {"shape": []}},
        {"sim": {"shape": {"media": "smell"}}},
    ],
)
async def test_a_misspelt_wish_is_refused(sim, error):
    status, body = await sim.call("POST", "/qingbo/v1/tasks", json={"model": "veo3"} | error)
    assert status == 400
    assert body["error"]["message"]


async def test_a_task_belongs_to_the_key_that_made_it(sim):
    task_id = await sim.qingbo()
    for method, path in [("GET", ""), ("POST", "/cancel")]:
        status, body = await sim.call(method, f"/qingbo/v1/tasks/{task_id}{path}", key="k2")
        assert (status, body["error"]["code"]) == (404, "task_not_found")
    status, _ = await sim.call("GET", f"/qingbo/v1/tasks/{task_id}", key="bad-key")
    assert status == 401
