"""Against seeds 003 and 004 and the pages of docs.bytespike.ai."""

import re
from io import BytesIO

import pytest

pytestmark = pytest.mark.anyio

QUERY = "/bytespike/v1/tasks/query"
SUBMIT = "/bytespike/v1/tasks/submit"


async def test_a_task_lives_through_every_stage(sim):
    task_id = await sim.bytespike()
    assert re.fullmatch(r"task_[0-9A-HJKMNP-TV-Z]{26}", task_id)
    pending = await sim.post(QUERY, {"task_id": task_id})
    assert pending["status"] == "pending"
    assert set(pending) == {"task_id", "status", "estimated_credits", "estimated_seconds"}
    assert 9 <= pending["estimated_seconds"] <= 15
    await sim.advance(5)
    assert (await sim.post(QUERY, {"task_id": task_id}))["status"] == "running"
    await sim.advance(10)
    done = await sim.post(QUERY, {"task_id": task_id})
    assert set(done) == {"task_id", "status", "credits_used", "output"}
    assert done["output"] == [
        {"type": "video", "url": f"{sim.url}/files/{task_id}.webm", "duration_seconds": 8}
    ]
    assert await sim.get(f"{QUERY}?task_id={task_id}") == done
    assert await sim.get(f"/bytespike/v1/videos/tasks/{task_id}") == done


async def test_failure_is_at_the_top_and_free(sim):
    task_id = await sim.bytespike(outcome="failed")
    await sim.advance(50)
    failed = await sim.post(QUERY, {"task_id": task_id})
    assert set(failed) == {"task_id", "status", "error_code", "error_message"}


async def test_the_shape_of_the_model_pages(sim):
    task_id = await sim.bytespike(shape={"page": "model"})
    assert (await sim.post(QUERY, {"task_id": task_id}))["status"] == "queued"
    await sim.advance(50)
    done = await sim.post(QUERY, {"task_id": task_id})
    assert done["result"]["video_url"]
    assert "output" not in done


@pytest.mark.parametrize("named", [{}, {"task_id": "a", "out_task_id": "b"}, {"task_id": ""}])
async def test_exactly_one_name_is_required(sim, named):
    status, body = await sim.call("POST", QUERY, json=named)
    assert (status, body["error"]["code"]) == (400, "invalid_param")


async def test_the_callers_own_id_finds_the_task_and_makes_submit_idempotent(sim):
    submit = {"model": "sora-2", "params": {"prompt": "x"}, "out_task_id": "mine-1"}
    first = await sim.post(SUBMIT, submit)
    assert first["out_task_id"] == "mine-1"
    assert (await sim.post(SUBMIT, submit))["task_id"] == first["task_id"]
    assert (await sim.post(QUERY, {"out_task_id": "mine-1"}))["task_id"] == first["task_id"]
    status, body = await sim.call("POST", SUBMIT, json=submit | {"params": {"prompt": "y"}})
    assert (status, body["error"]["code"]) == (409, "duplicate_out_task_id")
    status, _ = await sim.call("POST", QUERY, json={"out_task_id": "mine-1"}, key="k2")
    assert status == 404
    other = await sim.post(SUBMIT, submit, key="k2")
    assert other["task_id"] != first["task_id"]


async def test_cancel_is_idempotent_and_answers_with_the_current_state(sim):
    pending, done = await sim.bytespike(queue_seconds=50), await sim.bytespike(run_seconds=1)
    await sim.advance(5)
    path = "/bytespike/v1/tasks/cancel"
    for _ in range(2):
        assert (await sim.post(f"{path}/{pending}", {}))["status"] == "cancelled"
    assert (await sim.post(path, {"task_id": done}))["status"] == "completed"
    running = await sim.bytespike(queue_seconds=0)
    assert (await sim.post(path, {"task_id": running}))["status"] == "cancelled"
    status, _ = await sim.call("POST", f"{path}/{running}", key="k2")
    assert status == 404


async def test_limits_are_in_dollars_and_on_every_answer(sim):
    task_id = await sim.bytespike()
    async with sim.open("POST", QUERY, json={"task_id": task_id}) as response:
        assert response.headers["X-RateLimit-Limit"] == "10.00"
        assert response.headers["X-RateLimit-Remaining"] == "9.95"
        assert response.headers["X-RateLimit-Reset"].isdecimal()
    async with sim.open("POST", QUERY, json={"task_id": "none"}) as response:
        assert response.status == 404
        assert "X-RateLimit-Remaining" in response.headers


async def test_keys_come_in_either_header(sim):
    status, body = await sim.call("POST", SUBMIT, json={"model": "m"}, key=None, headers={"x-api-key": "k9"})
    assert status == 200
    named = {"task_id": body["task_id"]}
    assert (await sim.call("POST", QUERY, json=named, key="k9"))[0] == 200
    for headers in ({}, {"x-api-key": "bad"}, {"x-api-key": " "}):
        status, body = await sim.call("POST", QUERY, json=named, key=None, headers=headers)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")


async def test_refusals(sim):
    status, body = await sim.call("POST", SUBMIT, json={"model": "m", "params": []})
    assert (status, body["error"]["code"]) == (400, "invalid_param")
    status, body = await sim.call("POST", SUBMIT, json={"params": {}})
    assert (status, body["error"]["code"]) == (400, "invalid_param")
    async with sim.open("POST", SUBMIT, data=BytesIO(b" " * 1_100_000)) as response:
        assert response.status == 413
    status, body = await sim.call("GET", "/bytespike/v1/nothing")
    assert (status, body["error"]["code"]) == (404, "not_found")
    async with sim.open("POST", SUBMIT, data=b"{") as response:
        assert response.status == 400
    async with sim.open("POST", SUBMIT, data=b"[]") as response:
        assert response.status == 400
