"""What the three presets ask for, and what they make of follow-ups and callbacks."""

from dataclasses import replace

import orjson
import pytest

from bridge.core.task import Failure, Observation, Output, Status
from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.registry import load_preset
from bridge.errors import InvalidRequest, TaskNotFound, UnreadablePayload, UpstreamBusy, UpstreamUnavailable

QINGBO, VAPI, BYTESPIKE = map(load_preset, ("qingbo", "vapi", "bytespike"))
DONE = Observation(
    status=Status.COMPLETED, outputs=(Output(type="video", file_id="7", width=768),), raw=b"{}"
)


def ok(document, status=200):
    return HttpResponse(status, {}, orjson.dumps(document))


def test_status_calls():
    assert QINGBO.status_request("a/b?").path == "/v1/tasks/a%2Fb%3F"
    assert VAPI.status_request("314052875571396").path == "/task/314052875571396"
    request = BYTESPIKE.status_request("task_1")
    assert (request.method, request.path, request.body) == (
        "POST",
        "/v1/tasks/query",
        b'{"task_id":"task_1"}',
    )
    assert request.headers == {"content-type": "application/json"}


def test_other_calls():
    assert BYTESPIKE.alias_request("mine").body == b'{"out_task_id":"mine"}'
    stream = BYTESPIKE.stream_request("task_1")
    assert (stream.method, stream.path, stream.headers) == (
        "GET",
        "/v1/tasks/stream/task_1",
        {"Accept": "text/event-stream"},
    )
    assert BYTESPIKE.cancel_request("t/1").path == "/v1/tasks/cancel/t%2F1"
    submit = QINGBO.submit_request(Submission(body=b'{"model":"x"}'))
    assert (submit.method, submit.path, submit.body) == ("POST", "/v1/tasks", b'{"model":"x"}')
    assert (QINGBO.alias_request("x"), QINGBO.stream_request("x"), VAPI.cancel_request("x")) == (
        None,
        None,
        None,
    )


@pytest.mark.parametrize("task_id", ["", "..", ".", "a\nb", "x" * 1025, "\ud800"])
def test_an_id_that_cannot_be_asked_for_is_refused(task_id):
    with pytest.raises(InvalidRequest):
        QINGBO.status_request(task_id)


def test_a_key_with_a_line_break_is_refused():
    with pytest.raises(InvalidRequest):
        QINGBO.auth_headers("k\r\nX-Admin: 1")


def test_estimates_pace_only_where_the_provider_says_so():
    assert (QINGBO.poll.min_seconds, QINGBO.poll.max_seconds) == (2, 5)


def test_the_follow_up_brings_the_link():
    answer = ok(
        {"file": {"file_id": 7, "download_url": "https://cdn.example/v"}, "base_resp": {"status_code": 0}}
    )
    assert VAPI.read_follow_up(DONE, answer).outputs == (
        Output(type="video", url="https://cdn.example/v", file_id="7", width=768),
    )


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (ok({"base_resp": {"status_code": 1002, "status_msg": "rate limit"}}), UpstreamBusy),
        (ok({"base_resp": {"status_code": 5, "status_msg": "?"}}), UpstreamUnavailable),
        (ok({"base_resp": {"status_code": 0}, "file": {}}), UnreadablePayload),
        (ok({}, 404), TaskNotFound),
        (HttpResponse(200, {}, b"<html>"), UnreadablePayload),
    ],
)
def test_the_follow_up_fails_as_a_status_call_does(answer, error):
    with pytest.raises(error):
        VAPI.read_follow_up(DONE, answer)


def test_a_follow_up_may_say_that_the_task_failed():
    answer = ok({"base_resp": {"status_code": 1027, "status_msg": "output new_sensitive"}})
    assert VAPI.read_follow_up(DONE, answer) == replace(
        DONE,
        status=Status.FAILED,
        error=Failure("1027", "output new_sensitive"),
        result=answer.body,
        result_status=200,
    )


def test_where_a_result_may_be_words_its_document_is_kept_beside_raw():
    done = Observation(status=Status.COMPLETED, raw=b"{}")
    words = ok({"output": "A cat on a wall."})
    assert load_preset("fal").read_follow_up(done, words) == replace(
        done, result=words.body, result_status=200
    )


def test_without_a_follow_up_in_the_dialect_nothing_changes():
    assert QINGBO.read_follow_up(DONE, ok({})) is DONE


def test_no_follow_up_when_the_link_is_there_or_the_task_is_open():
    done = {"status": "Success", "task_id": "1", "file_id": "7"}
    assert VAPI.read_status(ok({**done, "video_url": "https://cdn.example/v"})).follow is None
    assert VAPI.read_status(ok({**done, "status": "Processing"})).follow is None
    assert VAPI.read_status(ok({**done, "file_id": "x?y"})).follow.path.endswith("file_id=x%3Fy")
    assert VAPI.read_status(ok({**done, "file_id": "../x?y"})).follow is None  # names another resource


def test_a_challenge_is_echoed_as_it_came():
    for value in ("abc", 12345678901234567):
        callback = VAPI.read_callback(orjson.dumps({"challenge": value}))
        assert (callback.task_id, callback.challenge) == (None, True)
        assert orjson.loads(callback.reply) == {"challenge": value}


def test_a_callback_only_names_its_task():
    assert VAPI.read_callback(b'{"task_id":"t1","status":"success","file_id":"9"}').task_id == "t1"
    assert QINGBO.read_callback(b'{"task_id":42}').task_id == "42"
    assert BYTESPIKE.read_callback(b'{"data":{"task_id":"t2"}}').task_id == "t2"
    assert VAPI.read_callback(b'{"task_id":"t1"}').reply is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"task_id":{}}',
        b'{"task_id":"a\\u0000b"}',
        b'{"task_id":true}',
        b'{"challenge":{"$ne":1}}',
        b'{"challenge":""}',
        b'{"challenge":"' + b"x" * 5000 + b'"}',
        b'{"task_id":"' + b"x" * 1025 + b'"}',
        b"task_id=1",
    ],
)
def test_a_hostile_callback_asks_for_nothing(body):
    callback = VAPI.read_callback(body)
    assert (callback.task_id, callback.reply, callback.challenge) == (None, None, False)


def test_a_broken_byte_order_does_not_hide_a_document():
    body = b"\xef\xbb\xbf" + orjson.dumps({"task_id": "1", "status": "queued"})
    assert QINGBO.read_status(HttpResponse(200, {}, body)).observation.raw == body[3:]


@pytest.mark.parametrize(
    "body",
    [b"[" * (8 << 20), b'{"a":' * 100_000, b'{"status":"queued","x":' + b"[" * 1000 + b"]" * 1000 + b"}"],
)
@pytest.mark.parametrize("dialect", [QINGBO, VAPI, BYTESPIKE], ids=lambda dialect: dialect.name)
def test_depth_is_no_weapon(dialect, body):
    try:
        look = dialect.read_status(HttpResponse(200, {}, body))
    except UnreadablePayload:
        return
    assert look.observation.upstream_status == "queued"


def test_depth_inside_a_string_is_no_weapon():
    for deep in ("[" * 50_000, "[" * 1000 + '"https://a.example/v"' + "]" * 1000):
        look = VAPI.read_status(ok({"code": 10000, "data": {"status": "done", "resp_data": deep}}))
        assert look.observation.status is Status.COMPLETED


def test_provider_text_is_bounded_and_without_controls():
    error = {"message": "a\x00b\n" + "x" * 10_000, "code": "y" * 10_000}
    with pytest.raises(UpstreamUnavailable) as caught:
        QINGBO.read_status(ok({"error": error}, 500))
    assert str(caught.value).startswith("a b x")
    assert len(str(caught.value)) <= 500
    assert len(caught.value.provider_code) <= 200


@pytest.mark.parametrize(
    "number", [b"1e308", b"-1", b"1e15", b"123456789012345678901234567890", b"true", b'"x"', b"null"]
)
def test_numbers_out_of_reach_are_ignored(number):
    body = b'{"task_id":"1","status":"running","estimated_seconds":%b,"credits_used":%b,"progress":%b}'
    seen = BYTESPIKE.read_status(HttpResponse(200, {}, body % (number, number, number))).observation
    assert seen.estimated_seconds in (None, 1e15)
    assert seen.progress is None or 0 <= seen.progress <= 100
