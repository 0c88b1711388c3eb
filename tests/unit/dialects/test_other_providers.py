"""Shapes of providers to come (providers.md, part B), to prove that the format says them without new code."""

import orjson
import pytest

from bridge.core.task import Failure, Output, Status
from bridge.dialects.base import HttpResponse
from bridge.dialects.registry import load_document
from bridge.errors import InvalidRequest, TaskNotFound, UpstreamUnavailable


def dialect(**document):
    calls = {"status": {"path": "/v1/{task_id}"}}
    return load_document({"base_url": "https://x.example", "calls": calls, **document}, "made-up")


def look(made, document, status=200, headers=None, task_id=None):
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return made.read_status(HttpResponse(status, headers or {}, body), task_id)


FAL = dialect(
    auth={"headers": {"Authorization": "Key {api_key}"}},
    task_id={"pattern": r"(?P<app>[\w-]+/[\w-]+)/(?P<id>[\w-]+)"},
    calls={
        "status": {"path": "/{app:path}/requests/{id}/status", "query": {"logs": "1"}},
        "follow_up": {"path": "/{app:path}/requests/{id}"},
        "cancel": {"method": "PUT", "path": "/{app:path}/requests/{id}/cancel"},
    },
    status={
        "at": "status",
        "words": {"queued": "IN_QUEUE", "processing": "IN_PROGRESS", "completed": "COMPLETED"},
        "guards": [{"if": "error", "then": "failed"}],
    },
    fields={
        "task_id": "request_id",
        "queue_position": "queue_position",
        "error_code": "error_type",
        "error_message": "error",
    },
    follow_up={
        "on": "completed",
        "answer": {"http": {"422": "failed"}, "error_message": "detail"},
        "outputs": [
            {"at": "images", "url": "url", "type": "image"},
            {"at": "video", "url": "url", "type": "video"},
        ],
    },
)


def test_fal_completed_with_an_error_is_failed():
    seen = look(
        FAL, {"request_id": "r", "status": "COMPLETED", "error": "bad prompt", "error_type": "input"}
    ).observation
    assert (seen.status, seen.error) == (Status.FAILED, Failure("input", "bad prompt"))


def test_fal_has_its_result_behind_a_second_call_whose_422_is_the_failure():
    assert FAL.auth_headers("k") == {"Authorization": "Key k"}
    assert FAL.status_request("fal-ai/flux/764c").path == "/fal-ai/flux/requests/764c/status?logs=1"
    assert (
        look(
            FAL, {"request_id": "r", "status": "IN_QUEUE", "queue_position": 3}, 202
        ).observation.queue_position
        == 3
    )
    done = look(FAL, {"request_id": "764c", "status": "COMPLETED"}, task_id="fal-ai/flux/764c")
    assert done.follow.path == "/fal-ai/flux/requests/764c"
    answer = HttpResponse(200, {}, b'{"images":[{"url":"https://a.example/1"}]}')
    assert FAL.read_follow_up(done.observation, answer).outputs == (
        Output(type="image", url="https://a.example/1"),
    )
    failed = FAL.read_follow_up(done.observation, HttpResponse(422, {}, b'{"detail":"nsfw"}'))
    assert (failed.status, failed.error) == (Status.FAILED, Failure(None, "nsfw"))


def test_fal_without_the_app_in_the_id_is_refused_not_guessed():
    with pytest.raises(InvalidRequest):
        FAL.status_request("764c")
    assert look(FAL, {"request_id": "764c", "status": "COMPLETED"}).follow is None


SAMPLES = "response.generateVideoResponse.generatedSamples"
VEO = dialect(
    calls={"status": {"path": "/v1beta/{task_id:path}"}},
    auth={"headers": {"x-goog-api-key": "{api_key}"}},
    status={
        "at": "done",
        "types": "boolean",
        "absent": "processing",
        "words": {"processing": False, "completed": True},
        "guards": [
            {"if": "error", "then": "failed"},
            {"if": f"response.generateVideoResponse.raiMediaFilteredCount && !({SAMPLES})", "then": "failed"},
        ],
    },
    fields={"task_id": "name", "error_code": "error.code", "error_message": "error.message"},
    outputs=[{"at": f"{SAMPLES}[].video", "url": "uri", "type": "video"}],
)


def test_veo_has_no_word_and_slashes_in_its_id():
    name = "models/veo-3/operations/abc"
    assert VEO.status_request(name).path == "/v1beta/models/veo-3/operations/abc"
    assert look(VEO, {"name": name}).observation.status is Status.PROCESSING
    error = look(VEO, {"name": name, "done": True, "error": {"code": 3, "message": "x"}}).observation
    assert (error.status, error.error) == (Status.FAILED, Failure("3", "x"))
    filtered = {"generateVideoResponse": {"raiMediaFilteredCount": 1}}
    assert look(VEO, {"name": name, "done": True, "response": filtered}).observation.status is Status.FAILED
    response = {"generateVideoResponse": {"generatedSamples": [{"video": {"uri": "https://a.example/v"}}]}}
    done = look(VEO, {"name": name, "done": True, "response": response}).observation
    assert (done.status, done.outputs) == (
        Status.COMPLETED,
        (Output(type="video", url="https://a.example/v"),),
    )


def test_stability_says_it_by_http_status():
    made = dialect(
        answer={
            "http": {"202": "processing", "200": "completed", "400": "failed"},
            "binary": "video",
            "error_code": "name",
        },
        fields={"task_id": "id"},
        outputs=[{"at": "video", "content": "base64", "type": "video"}],
    )
    assert look(made, {"id": "a", "status": "in-progress"}, 202).observation.status is Status.PROCESSING
    assert look(made, {"video": "AAAAIGZ0eXBpc29t"}).observation.outputs[0].media_type == "video/mp4"
    assert look(made, b"\x00\x00\x00\x20ftyp", headers={"content-type": "video/mp4"}).observation.outputs == (
        Output(type="video"),
    )
    assert look(made, {"name": "moderation"}, 400).observation.error == Failure("moderation", None)
    with pytest.raises(TaskNotFound):
        look(made, {"id": "a"}, 404)


BFL = dialect(
    hosts=["api.bfl.ai", "*.bfl.ai"],
    task_id={
        "pattern": r"(?:https://(?P<host>api(?:\.[a-z0-9]+)*\.bfl\.ai)/v1/get_result\?id=)?(?P<id>[\w-]+)",
        "defaults": {"host": "api.bfl.ai"},
    },
    calls={"status": {"base_url": "https://{host}", "path": "/v1/get_result?id={id}"}},
    status={
        "at": "status",
        "words": {
            "processing": "Pending",
            "completed": "Ready",
            "failed": ["Error", "Request Moderated", "Content Moderated"],
            "not_found": "Task not found",
        },
    },
    fields={"task_id": ["polling_url", "id"], "progress": "progress"},
    units={"progress": 100},
    outputs=[{"at": "result.sample", "type": "image"}],
)


def test_bfl_is_asked_where_it_told_us_to_ask_and_nowhere_else():
    request = BFL.status_request("https://api.eu1.bfl.ai/v1/get_result?id=abc")
    assert (request.base_url, request.path) == ("https://api.eu1.bfl.ai", "/v1/get_result?id=abc")
    assert BFL.status_request("abc").base_url == "https://api.bfl.ai"
    with pytest.raises(InvalidRequest):
        BFL.status_request("https://evil.example/v1/get_result?id=abc")


def test_bfl_words_hold_spaces_and_its_progress_is_a_fraction():
    assert look(BFL, {"id": "a", "status": "Pending", "progress": 0.45}).observation.progress == 45
    assert look(BFL, {"id": "a", "status": "Content Moderated"}).observation.status is Status.FAILED
    with pytest.raises(TaskNotFound):
        look(BFL, {"id": "a", "status": "Task not found"})


def test_kie_has_numbers_for_words_and_json_in_a_string():
    made = dialect(
        unfold="data.resultJson",
        calls={"status": {"path": "/api/v1/jobs/recordInfo", "query": {"taskId": "{task_id}"}}},
        answer={"code": "code", "success": 200, "message": "msg"},
        status={
            "at": ["data.state", "data.successFlag"],
            "types": ["string", "integer"],
            "words": {"processing": ["generating", 0], "completed": ["success", 1], "failed": ["fail", 2, 3]},
        },
        fields={"task_id": "data.taskId", "created_at": "data.createTime", "error_code": "data.failCode"},
        outputs=[{"at": "data.resultJson.resultUrls"}],
    )
    assert made.status_request("a&b").path == "/api/v1/jobs/recordInfo?taskId=a%26b"
    done = {"taskId": "t", "state": "success", "resultJson": '{"resultUrls":["https://a.example/1.mp4"]}'}
    assert look(made, {"code": 200, "data": done}).observation.outputs == (
        Output(type="video", url="https://a.example/1.mp4"),
    )
    open_ = {"taskId": "t", "successFlag": 0, "resultJson": "", "createTime": 1720000000000}
    seen = look(made, {"code": 200, "data": open_}).observation
    assert (seen.status, seen.upstream_status, seen.created_at) == (Status.PROCESSING, "0", 1720000000)
    with pytest.raises(UpstreamUnavailable, match="slow down"):
        look(made, {"code": 430, "msg": "slow down"})


def test_kling_needs_the_action_in_its_path_and_code_for_its_credential():
    made = dialect(
        auth={"hook": "kling-jwt"},
        task_id={"pattern": r"(?P<action>text2video|image2video)/(?P<id>.+)"},
        calls={"status": {"path": "/v1/videos/{action}/{id}"}},
        status={"at": "data.task_status"},
    )
    assert made.auth_hook == "kling-jwt"
    assert made.status_request("image2video/9").path == "/v1/videos/image2video/9"


def test_a_percentage_in_a_text_and_hints_in_header_and_body():
    made = dialect(
        status={"at": "status"},
        fields={"progress": "progress", "poll_after": "pollInterval"},
        units={"poll_after": 0.001},
        poll={"hint_headers": {"openai-poll-after-ms": 0.001}},
    )
    seen = look(made, {"status": "x", "progress": "45%", "pollInterval": 3000}).observation
    assert (seen.progress, seen.poll_after) == (45, 3)
    hinted = look(made, {"status": "x", "pollInterval": 3000}, headers={"openai-poll-after-ms": "1500"})
    assert hinted.observation.poll_after == 1.5


def test_piapi_has_an_error_on_success_and_times_before_time():
    made = dialect(
        status={"at": "data.status", "words": {"completed": "completed"}},
        fields={"created_at": "data.meta.started_at", "error_code": "data.error.code"},
    )
    data = {
        "status": "Completed",
        "error": {"code": 0, "message": ""},
        "meta": {"started_at": "0001-01-01T00:00:00Z"},
    }
    seen = look(made, {"data": data}).observation
    assert (seen.status, seen.error, seen.created_at) == (Status.COMPLETED, None, None)


def test_a_stream_whose_progress_has_its_own_event():
    made = dialect(
        status={"at": "run.status", "words": {"completed": "completed"}},
        fields={"task_id": "task_id", "progress": "progress"},
        units={"progress": 100},
        stream={"events": {"processing": "progress"}},
    )
    seen = made.read_stream_event("progress", '{"task_id":"1","progress":0.35}')
    assert (seen.status, seen.progress) == (Status.PROCESSING, 35)


def test_pixverse_wants_its_own_reply():
    made = dialect(status={"at": "s"}, callback={"task_id": "id", "reply": "ok"})
    assert made.read_callback(b'{"id":1}').reply == b"ok"
