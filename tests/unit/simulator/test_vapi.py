"""Against seed 002 and the vendors' query pages."""

import orjson
import pytest

pytestmark = pytest.mark.anyio


async def stages(sim, task_id, path="/vapi/task/"):
    """The payload while queued, while running, and at the end."""
    queued = await sim.get(f"{path}{task_id}")
    await sim.advance(5)
    running = await sim.get(f"{path}{task_id}")
    await sim.advance(50)
    return queued, running, await sim.get(f"{path}{task_id}")


async def test_minimax_is_flat_and_ends_in_a_file_id(sim):
    submitted = await sim.post("/vapi/task/minimax/v1/video_generation", {"sim": {"outcome": "completed"}})
    task_id = submitted["task_id"]
    assert submitted["base_resp"] == {"status_code": 0, "status_msg": "success"}
    assert task_id.isdecimal()
    assert len(task_id) == 15
    await sim.advance(200)
    done = await sim.get(f"/vapi/task/{task_id}")
    file_id = done.pop("file_id")
    assert done == {
        "status": "Success",
        "task_id": task_id,
        "base_resp": {"status_msg": "success", "status_code": 0},
        "video_width": 768,
        "video_height": 1152,
    }
    for path in ("/vapi/minimax/v1/files/retrieve", "/vapi/files/retrieve", "/vapi/v1/files/retrieve"):
        file = await sim.get(f"{path}?file_id={file_id}")
        assert file["file"]["file_id"] == file_id
        assert file["base_resp"]["status_code"] == 0
        async with sim.session.get(file["file"]["download_url"]) as response:
            assert response.status == 200


async def test_a_file_is_there_only_after_the_end_and_only_for_its_owner(sim):
    task_id = await sim.vapi()
    state = sim.running.state
    file_id = next(alias for kind, _, alias in state.store._aliases if kind == "file_id")
    path = f"/vapi/files/retrieve?file_id={file_id}"
    assert (await sim.get(path))["base_resp"]["status_code"] == 2013
    await sim.advance(50)
    assert (await sim.get(path, key="k2"))["base_resp"]["status_code"] == 2013
    assert (await sim.get(path))["file"]["download_url"] == f"{sim.url}/files/{task_id}.webm"


async def test_minimax_words(sim):
    assert [each["status"] for each in await stages(sim, await sim.vapi())] == [
        "Processing",
        "Processing",
        "Success",
    ]
    failed = await stages(sim, await sim.vapi(outcome="failed"))
    assert failed[-1]["status"] == "Failed"
    native = await stages(sim, await sim.vapi(outcome="failed", shape={"words": "native"}))
    assert [each["status"] for each in native] == ["Queueing", "Processing", "Fail"]


async def test_keling_has_everything_in_data_beside_an_integer_status(sim):
    task_id = await sim.vapi("keling/v1/videos")
    _, running, done = await stages(sim, task_id)
    assert running["data"]["status"] == "Processing"
    assert (done["code"], done["status"], done["data"]["status"]) == (0, 200, "Success")
    assert done["data"]["video_url"] == f"{sim.url}/files/{task_id}.webm"
    assert done["data"]["image_urls"] is None
    image = await sim.vapi("keling/v1/images", shape={"media": "image"})
    _, _, done = await stages(sim, image)
    assert done["data"]["image_urls"] == [f"{sim.url}/files/{image}.png"]


async def test_jimeng_has_another_code_of_success_and_json_in_a_string(sim):
    task_id = await sim.vapi("jimeng/submit")
    queued, running, done = await stages(sim, task_id)
    assert [each["data"]["status"] for each in (queued, running, done)] == ["in_queue", "generating", "done"]
    assert done["code"] == 10000
    assert orjson.loads(done["data"]["resp_data"]) == {"video_url": f"{sim.url}/files/{task_id}.webm"}


async def test_kling_has_its_own_words_and_milliseconds(sim):
    sim_field = {"queue_seconds": 2, "run_seconds": 10, "outcome": "completed"}
    submitted = await sim.post(
        "/vapi/kling/v1/videos/text2video", {"model_name": "kling-v1", "sim": sim_field}
    )
    task_id = submitted["data"]["task_id"]
    assert (submitted["message"], submitted["data"]["task_status"]) == ("SUCCEED", "submitted")
    status, _ = await sim.call("GET", f"/vapi/kling/v1/videos/effects/{task_id}")
    assert status == 404, "Kling needs the action that made the task"
    shown = await stages(sim, task_id, "/vapi/kling/v1/videos/text2video/")
    assert [each["data"]["task_status"] for each in shown] == ["submitted", "processing", "succeed"]
    assert (await sim.get(f"/vapi/task/{task_id}")) == shown[-1]
    data = shown[-1]["data"]
    assert (data["created_at"], data["updated_at"]) == (1720000000000, 1720000012000)
    assert data["task_result"]["videos"][0]["url"] == f"{sim.url}/files/{task_id}.webm"


async def test_kling_failure_says_why(sim):
    _, _, failed = await stages(sim, await sim.vapi("kling/v1/videos/text2video", outcome="failed"))
    assert failed["code"] == 0
    assert failed["data"]["task_status"] == "failed"
    assert failed["data"]["task_status_msg"]


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("other/submit", {"model": "jimeng_t2v"}, 10000),
        ("other/submit", {"vendor": "keling"}, 0),
        ("minimax/submit", {"vendor": "jimeng"}, 10000),
        ("other/submit", {"model": "kling-v2"}, 0),
    ],
)
async def test_the_vendor_comes_from_the_body_the_path_or_the_model(sim, path, body, code):
    assert (await sim.post(f"/vapi/task/{path}", body))["code"] == code


async def test_refusals(sim):
    assert "base_resp" in await sim.post("/vapi/task/hailuo/x", {})
    status, body = await sim.call("POST", "/vapi/task/x/y", json={"vendor": "nobody"})
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    status, body = await sim.call("GET", "/vapi/task/1")
    assert (status, body["error"]["code"]) == (404, "task_not_found")
    status, body = await sim.call("GET", "/vapi/task/1", key=None)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    status, _ = await sim.call("GET", f"/vapi/task/{await sim.vapi()}", key="k2")
    assert status == 404
