"""Whatever a provider sends, a dialect answers with a look or one of six errors."""

import re
from importlib.resources import files

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import errors
from bridge.core.task import Observation, Output, Status
from bridge.dialects.base import Callback, HttpResponse, StatusReading, Submission
from bridge.dialects.registry import load_preset, preset_names

NAMED = (
    errors.TaskNotFound,
    errors.CredentialRefused,
    errors.UpstreamRefused,
    errors.UpstreamBusy,
    errors.UpstreamUnavailable,
    errors.UnreadablePayload,
)
NAMED_OF_A_SUBMIT = tuple(error for error in NAMED if error is not errors.TaskNotFound)
KEYS = [
    "task_id", "status", "data", "result", "videos", "url", "output", "error", "code", "message",
    "base_resp", "status_code", "status_msg", "file_id", "file", "download_url", "resp_data",
    "progress", "created_at", "completed_at", "image_urls", "video_url", "binary_data_base64",
    "task_status", "task_result", "type", "event", "challenge", "estimated_seconds", "expires_at",
    "credits_used", "video_width", "error_code", "error_message",
]  # fmt: skip
WORDS = [
    "completed",
    "Success",
    "failed",
    "queued",
    "done",
    "not_found",
    "task_not_found",
    "https://a.example/v.mp4",
    "[1]",
    "{}",
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.sampled_from(WORDS)
)
CODES = st.sampled_from([0, 200, 404, 500, 1002, 1026, 10000, "10000"])
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "date", "x-ratelimit-reset", "content-type"]), st.text()
)
STATUSES = st.integers(100, 599) | st.just(200)
DONE = Observation(status=Status.COMPLETED, outputs=(Output(type="video", file_id="7"),))


def words_of(name):
    """Whatever a preset may look for: documents made of these go deep into it."""
    text = files("bridge.dialects").joinpath("presets", f"{name}.toml").read_text("utf-8")
    return sorted({word for word in re.findall(r"[A-Za-z_][\w-]*", text) if len(word) < 40})


def documents_of(name):
    words = words_of(name)
    keys = st.sampled_from(KEYS + words)
    json = st.recursive(
        LEAVES | CODES | st.sampled_from(words),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=8),
        max_leaves=15,
    )
    return json, st.dictionaries(keys, json, max_size=8)


def bodies_of(name):
    json, documents = documents_of(name)
    return st.binary() | json.map(orjson.dumps) | documents.map(orjson.dumps)


BODIES = {name: bodies_of(name) for name in preset_names()}
FRAMES = {name: st.one_of(*documents_of(name)) for name in preset_names()}
DIALECTS = {name: load_preset(name) for name in preset_names()}
FEW = settings(max_examples=8)  # for each of two dozen presets
EVERY = pytest.mark.parametrize("name", preset_names())

MIB = 1 << 20


def huge(size):
    """Bodies of the kinds that exhaust a reader; the longest has twice `size` bytes."""
    number = size // 40
    return {
        "an array as deep as it is long": b"[" * (2 * size),
        "a deep object": b'{"a":' * number,
        "1000 arrays deep, and closed": b'{"status":' + b"[" * 1000 + b"]" * 1000 + b"}",
        "1000 objects deep, and closed": b'{"data":' * 1000 + b"1" + b"}" * 1000,
        "depth inside a string": orjson.dumps(
            {"data": {"resp_data": "[" * (number // 2), "resultJson": "[" * (number // 2)}}
        ),
        "a word as long as possible": b'{"status":"' + b"x" * size + b'","task_id":"1"}',
        "a message as long as possible": b'{"error":{"message":"' + b"a b\\n" * (size // 5) + b'"}}',
        "a key as long as possible": b'{"' + b"k" * size + b'":1}',
        "a number of many digits": b'{"task_id":' + b"9" * number + b',"status":"queued"}',
        "an exponent out of reach": b'{"status":"queued","task_id":1,"progress":1e400,"created_at":-1e400}',
        "digits in a text": orjson.dumps({"status": "queued", "task_id": "1", "progress": "9" * number}),
        "many links": orjson.dumps({"status": "completed", "output": ["https://a.example/1"] * number}),
        "many keys": orjson.dumps({str(number): number for number in range(number)}),
        "a link as long as possible": b'{"status":"completed","output":"https://a.example/'
        + b"x" * size
        + b'"}',
        "a returned address as long as possible": b'{"id":"1","status_url":"https://'
        + b"a/" * (size // 2)
        + b'"}',
        "half a surrogate": b'{"status":"\\ud800","task_id":"\\ud800"}',
        "another encoding": '{"status":"queued"}'.encode("utf-16"),
        "nothing": b"",
    }


# All presets are read by the same code: what differs is found with smaller bodies.
HUGE = huge(4 * MIB)
LARGE = huge(MIB // 4)
READ_WHOLE = {"qingbo"}


@EVERY
@FEW
@given(st.data(), STATUSES, HEADERS)
def test_any_answer_gives_a_look_or_a_named_error(name, data, status, headers):
    check_status(DIALECTS[name], HttpResponse(status, headers, data.draw(BODIES[name])))


@EVERY
@pytest.mark.parametrize(
    "body", [b'{"status":"queued","created_at":1e400}', b'{"status":"Success","file_id":"..","task_id":".."}']
)
def test_an_answer_that_once_tripped_a_dialect_does_not(name, body):
    check_status(DIALECTS[name], HttpResponse(200, {}, body))


def check_status(dialect, answer):
    try:
        look = dialect.read_status(answer)
    except NAMED as error:
        check_error(error, answer.status)
        return
    assert isinstance(look, StatusReading)
    assert dialect.read_status(answer) == look
    check_observation(look.observation)


def check_error(error, status):
    assert error.provider_status == status
    assert len(str(error)) <= 500
    assert error.retry_after is None or 0 <= error.retry_after <= 86400


def check_observation(seen):
    assert seen.status is not Status.LOST
    assert seen.progress is None or 0 <= seen.progress <= 100
    assert all(output.url or output.data or output.file_id for output in seen.outputs)
    assert seen.error is None or seen.status in (Status.FAILED, Status.CANCELLED)


OPTIONS = st.dictionaries(
    st.sampled_from(["endpoint", "model", "app", "x"]), st.text(max_size=50), max_size=2
)


@EVERY
@FEW
@given(st.data(), STATUSES, HEADERS, OPTIONS)
def test_any_answer_to_a_submit_gives_a_task_or_a_named_error(name, data, status, headers, options):
    answer = HttpResponse(status, headers, data.draw(BODIES[name]))
    check_submitted(DIALECTS[name], answer, Submission(body=b"{}", options=options))


def check_submitted(dialect, answer, submission):
    try:
        seen = dialect.read_submitted(answer, submission)
    except NAMED_OF_A_SUBMIT as error:
        check_error(error, answer.status)
        return
    check_observation(seen)
    request = dialect.status_request(seen.task_id)
    assert request.base_url is None or dialect.hosts.own(request.base_url)


@EVERY
@FEW
@given(st.data(), STATUSES)
def test_any_follow_up_gives_an_observation_or_a_named_error(name, data, status):
    check_follow_up(DIALECTS[name], HttpResponse(status, {}, data.draw(BODIES[name])))


def check_follow_up(dialect, answer):
    try:
        seen = dialect.read_follow_up(DONE, answer)
    except NAMED:
        return
    assert isinstance(seen, Observation)


@EVERY
@FEW
@given(st.data())
def test_any_callback_is_taken_calmly(name, data):
    assert isinstance(DIALECTS[name].read_callback(data.draw(BODIES[name])), Callback)


@EVERY
@FEW
@given(st.data(), st.sampled_from([None, "error", "completed", "x"]))
def test_any_frame_is_taken_calmly(name, data, event):
    check_frame(DIALECTS[name], event, orjson.dumps(data.draw(FRAMES[name])).decode())


def check_frame(dialect, event, text):
    try:
        seen = dialect.read_stream_event(event, text)
    except (errors.UpstreamUnavailable, errors.UnreadablePayload):
        return
    assert seen is None or isinstance(seen, Observation)


@EVERY
def test_size_and_depth_are_no_weapons(name):
    dialect = DIALECTS[name]
    for body in (HUGE if name in READ_WHOLE else LARGE).values():
        for status in (200, 500):
            check_status(dialect, HttpResponse(status, {}, body))
            check_submitted(dialect, HttpResponse(status, {}, body), Submission(body=body))
            check_follow_up(dialect, HttpResponse(status, {}, body))
        for event in (None, "error"):
            check_frame(dialect, event, body.decode("utf-8", "replace"))
        assert isinstance(dialect.read_callback(body), Callback)
        submission = Submission(body=body)
        assert dialect.client_id(submission) is None
        assert isinstance(dialect.with_callback(submission, "https://bridge.example/cb"), Submission)


HOSTILE_IDS = [
    part * (256 // len(part)) for part in ("a", "-", "a/", "a-", "a.", "/", "videos/", "a_b/", "0", ":")
]
HOSTILE_IDS += [task_id[:-1] + "!" for task_id in HOSTILE_IDS]


@EVERY
def test_no_id_keeps_a_pattern_busy(name):
    dialect = DIALECTS[name]
    for task_id in HOSTILE_IDS:
        for call in (dialect.status_request, dialect.cancel_request, dialect.stream_request):
            try:
                request = call(task_id)
            except errors.InvalidRequest:
                continue
            assert request is None or request.base_url is None or dialect.hosts.own(request.base_url)


@EVERY
@FEW
@given(st.data())
def test_any_caller_is_answered_or_refused(name, data):
    options = data.draw(st.dictionaries(st.sampled_from(words_of(name)) | st.text(), st.text(), max_size=4))
    submission = Submission(
        body=data.draw(BODIES[name]), options=options, content_type=data.draw(st.none() | st.text())
    )
    asked = DIALECTS[name].with_callback(submission, "https://bridge.example/cb")
    try:
        request = DIALECTS[name].submit_request(asked)
    except errors.InvalidRequest:
        return
    assert request is None or (request.path.startswith("/") and request.base_url is None)
