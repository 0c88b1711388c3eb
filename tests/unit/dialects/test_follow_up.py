"""What the answer to the call for the result means, beside the result."""

import orjson
import pytest

from bridge.core.task import Failure, Observation, Output, Status
from bridge.dialects.base import HttpResponse
from bridge.dialects.registry import load_dialect, load_preset, load_text
from bridge.errors import ConfigError, ResultNotReady

FAL, VAPI = load_preset("fal"), load_preset("vapi")
DONE = Observation(status=Status.COMPLETED, upstream_status="COMPLETED", raw=b"{}")
SENTENCES = [
    "Request is still in progress",
    "The result is not ready",
    "Video not ready yet.",
    "task is still processing",
    "Generation not completed yet",
]


def answered(status, document, **headers):
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return HttpResponse(status, headers, body)


@pytest.mark.parametrize("sentence", SENTENCES)
@pytest.mark.parametrize("status", [400, 404, 409, 425])
def test_a_sentence_that_says_not_ready_is_no_failure(status, sentence):
    with pytest.raises(ResultNotReady) as caught:
        FAL.read_follow_up(DONE, answered(status, {"detail": sentence}, **{"retry-after": "4"}))
    assert (caught.value.retry_after, caught.value.provider_status) == (4, status)


@pytest.mark.parametrize(
    "answer",
    [
        answered(202, b""),
        answered(204, b""),
        answered(200, {"status": "IN_PROGRESS", "request_id": "q"}),
        answered(202, {"status": "IN_QUEUE"}),
    ],
)
def test_an_answer_that_shows_a_running_task_is_not_its_result(answer):
    with pytest.raises(ResultNotReady):
        FAL.read_follow_up(DONE, answer)


def test_a_failure_of_the_model_stays_one():
    seen = FAL.read_follow_up(DONE, answered(422, {"detail": [{"type": "bad_image", "msg": "too dark"}]}))
    assert (seen.status, seen.error) == (Status.FAILED, Failure("bad_image", "too dark"))


def test_a_result_counts_whatever_word_stands_beside_it():
    seen = FAL.read_follow_up(
        DONE, answered(200, {"status": "IN_PROGRESS", "video": {"url": "https://c.example/v"}})
    )
    assert seen.outputs == (Output(type="video", url="https://c.example/v"),)


def test_a_list_of_links_is_a_result():
    seen = FAL.read_follow_up(DONE, answered(200, ["https://c.example/a.png", "https://c.example/b.png"]))
    assert [output.url for output in seen.outputs] == ["https://c.example/a.png", "https://c.example/b.png"]


def test_a_result_in_the_answer_itself_is_a_result():
    png = "iVBORw0KGgoAAAANSUhEUg=="
    seen = FAL.read_follow_up(DONE, answered(200, {"images": [{"url": f"data:image/png;base64,{png}"}]}))
    assert seen.outputs == (Output(type="image", data=png, media_type="image/png"),)


def test_a_file_that_nobody_can_fetch_is_named():
    seen = FAL.read_follow_up(DONE, answered(200, {"video": {"url": "gs://bucket/v.mp4"}}))
    assert seen.outputs == (Output(type="video", file_id="gs://bucket/v.mp4"),)
    assert seen.result_unavailable


def test_the_grace_of_a_missing_result_is_the_dialects():
    assert (FAL.result_grace_seconds, load_preset("qingbo").result_grace_seconds) == (60, 60)
    own = load_text(
        'base_url="https://a.example"\ncalls.status.path="/{task_id}"\ncalls.follow_up.path="/r/{task_id}"\n'
        'status.at="state"\nfollow_up.result_grace_seconds=5',
        "own",
    )
    assert own.result_grace_seconds == 5


def test_the_operator_may_name_the_path_of_the_result():
    dialect = load_dialect("vapi", None, None, "/files/{file_id}/download")
    done = answered(200, {"status": "Success", "task_id": "1", "file_id": "a/7"})
    assert dialect.read_status(done).follow.path == "/files/a%2F7/download"
    assert VAPI.read_status(done).follow.path == "/minimax/v1/files/retrieve?file_id=a%2F7"


@pytest.mark.parametrize(("preset", "path"), [("qingbo", "/x"), ("vapi", "/{file}"), ("vapi", "x")])
def test_a_path_that_cannot_be_the_results_is_an_error(preset, path):
    with pytest.raises(ConfigError):
        load_dialect(preset, preset, None, path)
