"""ByteSpike's frames are not documented, so every framing we have seen anywhere must do."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.task import Observation, Status
from bridge.dialects.registry import load_preset
from bridge.errors import UnreadablePayload, UpstreamUnavailable

BYTESPIKE = load_preset("bytespike")
RUNNING = {"task_id": "task_1", "status": "running", "estimated_seconds": 35}
TEXT = orjson.dumps(RUNNING).decode()


@pytest.mark.parametrize("name", [None, "", "message", "status", "task.updated", "running", "state"])
@pytest.mark.parametrize(
    "frame",
    [
        RUNNING,
        {"data": RUNNING},
        {"task": RUNNING},
        {"event": "status", "payload": RUNNING},
        {"type": "task.updated", "data": {"task": RUNNING}},
        {"data": TEXT},
        TEXT,
        {"result": {"data": {"task": RUNNING}}},
    ],
)
def test_a_document_is_found_wherever_it_stands(name, frame):
    seen = BYTESPIKE.read_stream_event(name, orjson.dumps(frame).decode())
    assert (seen.status, seen.upstream_status, seen.task_id) == (Status.PROCESSING, "running", "task_1")
    assert seen.estimated_seconds == 35
    assert orjson.loads(seen.raw) == RUNNING


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (None, ""),
        (None, "[DONE]"),
        ("ping", "{}"),
        ("heartbeat", TEXT),
        (None, '{"type":"ping","status":"running"}'),
        (None, "hello"),
        (None, "{"),
        (None, "[1]"),
        (None, "5"),
        ("log", '{"line":"x"}'),
        (None, '{"status":"connected"}'),
        ("done", "{}"),
        ("completed", "{}"),
        ("end", ""),
        (None, '{"status":200}'),
    ],
)
def test_what_is_not_about_the_task_is_nothing(name, data):
    assert BYTESPIKE.read_stream_event(name, data) is None


def test_a_status_may_stand_in_the_event_name_alone():
    seen = BYTESPIKE.read_stream_event("running", '{"task_id":"task_1","progress":35}')
    assert (seen.status, seen.task_id, seen.progress) == (Status.PROCESSING, "task_1", 35)
    done = BYTESPIKE.read_stream_event(
        "completed", '{"task_id":"task_1","output":[{"type":"video","url":"https://a.example/v"}]}'
    )
    assert (done.status, len(done.outputs)) == (Status.COMPLETED, 1)


def test_done_without_a_result_is_no_result():
    assert BYTESPIKE.read_stream_event("completed", '{"task_id":"task_1"}') is None


def test_an_unknown_word_about_a_task_is_told_as_unknown():
    seen = BYTESPIKE.read_stream_event(None, '{"task_id":"task_1","status":"warming"}')
    assert (seen.status, seen.upstream_status) == (Status.UNKNOWN, "warming")


def test_a_failed_task_is_a_state_even_in_an_error_frame():
    seen = BYTESPIKE.read_stream_event("error", '{"task_id":"task_1","status":"failed","error_code":"x"}')
    assert (seen.status, seen.error.code) == (Status.FAILED, "x")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("error", '{"error":{"code":"overloaded","message":"try later"}}', "try later"),
        (None, '{"error":{"code":"overloaded","message":"try later"}}', "try later"),
        (None, '{"type":"error","message":"try later"}', "try later"),
        ("error", '{"status":"failed","message":"try later"}', "try later"),
        ("error", "try later", "try later"),
        ("error", "", "the stream reports an error"),
        (None, '{"error":true}', "the stream reports an error"),
    ],
)
def test_an_error_of_the_stream_is_an_error(name, data, sentence):
    with pytest.raises(UpstreamUnavailable) as caught:
        BYTESPIKE.read_stream_event(name, data)
    assert str(caught.value) == sentence


def test_an_error_that_cannot_be_read_says_so():
    with pytest.raises(UnreadablePayload):
        BYTESPIKE.read_stream_event("error", '{"error":{"code":')


@given(st.none() | st.text(), st.text())
def test_any_frame_is_an_observation_nothing_or_a_named_error(name, data):
    try:
        seen = BYTESPIKE.read_stream_event(name, data)
    except (UpstreamUnavailable, UnreadablePayload):
        return
    assert seen is None or isinstance(seen, Observation)


@pytest.mark.parametrize("data", ["[" * 100_000, '{"data":' * 100_000, '"\ud800"', '"' * 5])
def test_a_monstrous_frame_is_nothing(data):
    assert BYTESPIKE.read_stream_event(None, data) is None
