"""Whatever a provider sends, a dialect answers with a look or one of six errors."""

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge import errors
from bridge.core.task import Observation, Output, Status
from bridge.dialects.base import Answer, Callback, Look
from bridge.dialects.registry import load_preset, preset_names

NAMED = (
    errors.TaskNotFound,
    errors.CredentialRefused,
    errors.UpstreamRefused,
    errors.UpstreamBusy,
    errors.UpstreamUnavailable,
    errors.UnreadablePayload,
)
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
JSON = st.recursive(
    LEAVES | CODES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=8),
    max_leaves=15,
)
DOCUMENTS = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8)
BODIES = st.binary() | JSON.map(orjson.dumps) | DOCUMENTS.map(orjson.dumps)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "date", "x-ratelimit-reset", "content-type"]), st.text()
)
STATUSES = st.integers(100, 599) | st.just(200)
DONE = Observation(status=Status.COMPLETED, outputs=(Output(type="video", file_id="7"),))


EVERY = pytest.mark.parametrize("dialect", [load_preset(name) for name in preset_names()], ids=preset_names())


@EVERY
@given(STATUSES, HEADERS, BODIES)
@example(200, {}, b'{"status":"queued","created_at":1e400}')
@example(200, {}, b'{"status":"Success","file_id":"..","task_id":".."}')
def test_any_answer_gives_a_look_or_a_named_error(dialect, status, headers, body):
    answer = Answer(status, headers, body)
    try:
        look = dialect.read_status(answer)
    except NAMED as error:
        check_error(error, status)
        return
    assert isinstance(look, Look)
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


@EVERY
@given(STATUSES, BODIES)
def test_any_follow_up_gives_an_observation_or_a_named_error(dialect, status, body):
    try:
        seen = dialect.read_follow_up(DONE, Answer(status, {}, body))
    except NAMED:
        return
    assert isinstance(seen, Observation)


@EVERY
@given(BODIES)
def test_any_callback_is_taken_calmly(dialect, body):
    assert isinstance(dialect.read_callback(body), Callback)


@EVERY
@given(st.sampled_from([None, "error", "completed", "x"]), DOCUMENTS | JSON)
def test_any_frame_is_taken_calmly(dialect, name, document):
    try:
        seen = dialect.read_stream_event(name, orjson.dumps(document).decode())
    except (errors.UpstreamUnavailable, errors.UnreadablePayload):
        return
    assert seen is None or isinstance(seen, Observation)
