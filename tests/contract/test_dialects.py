"""Every preset against every recorded or documented payload, each with the place it was taken from.

`recordings/NAME/` holds answers of the status call; below it `submit/`, `follow_up/` and `cancel/` hold
answers of those calls, `status_many/` answers about many tasks, `stream/` frames of the provider's own
stream, `calls/` the calls themselves, and `callback/` what it posts (see `test_preset_callbacks.py`). What
a preset is asked for here follows from its document: none is an exception by name.
"""

import json
import tomllib
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path

import orjson
import pytest

from bridge import errors
from bridge.core.task import Status
from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.registry import load_preset, preset_names
from bridge.dialects.words import STATUS_WORDS, fold

PAYLOADS = Path(__file__).parents[2] / "bridge" / "simulator" / "recordings"
FOLDERS = ("submit", "follow_up", "cancel", "stream", "callback", "calls", "status_many")
FILES = sorted(PAYLOADS.glob("*/*.json"))


def below(folder):
    return sorted(PAYLOADS.glob(f"*/{folder}/*.json"))


def preset_of(file):
    return file.relative_to(PAYLOADS).parts[0]


def named(file):
    return "/".join(file.relative_to(PAYLOADS).with_suffix("").parts)


def read(file):
    case = json.loads(file.read_text("utf-8"))
    assert case["source"]
    return case


def bytes_of(body):
    return body.encode() if isinstance(body, str) else orjson.dumps(body)


def recorded(file):
    case = read(file)
    answer = case["answer"]
    return case, HttpResponse(answer["status"], answer["headers"], bytes_of(answer["body"]))


def document(name):
    return tomllib.loads(files("bridge.dialects").joinpath("presets", f"{name}.toml").read_text("utf-8"))


def seen_in(observation):
    state = asdict(observation)
    raw, outputs = state.pop("raw"), state.pop("outputs")
    del state["result"], state["result_status"]  # the response itself, checked where it is served
    seen = {key: value for key, value in state.items() if value is not None and value is not False}
    if outputs:
        seen["outputs"] = [{k: v for k, v in output.items() if v is not None} for output in outputs]
    return seen, raw


def shown(look):
    seen, raw = seen_in(look.observation)
    if look.follow:
        seen["follow"] = look.follow.path
    return seen, raw


def told(error):
    seen = {"error": type(error).__name__, "message": str(error)}
    seen |= {"provider_code": error.provider_code} if error.provider_code else {}
    return seen | ({"retry_after": error.retry_after} if error.retry_after is not None else {})


def check(expect, look, answer):
    """The error the call ends with, or what it shows; None when it is an error."""
    if isinstance(expect.get("error"), str):
        with pytest.raises(getattr(errors, expect["error"])) as caught:
            look()
        assert told(caught.value) == expect
        assert caught.value.provider_status == answer.status
        return None
    return look()


@pytest.mark.parametrize("file", FILES, ids=named)
def test_a_payload_reads_as_expected(file):
    case, answer = recorded(file)
    dialect, expect, task_id = load_preset(preset_of(file)), case["expect"], case.get("task_id")
    look = check(expect, lambda: dialect.read_status(answer, task_id), answer)
    if look is not None:
        seen, raw = shown(look)
        assert seen == expect
        assert raw is None if look.observation.outputs and not is_json(answer) else raw == answer.body
        assert shown(dialect.read_status(answer, task_id)) == (seen, raw)


@pytest.mark.parametrize("file", below("submit"), ids=named)
def test_the_answer_to_a_submit_reads_as_expected(file):
    case, answer = recorded(file)
    dialect, expect = load_preset(preset_of(file)), case["expect"]
    submission = Submission(body=bytes_of(case.get("submitted", {})), options=case.get("options", {}))
    assert dialect.submit_request(submission) is not None
    seen = check(expect, lambda: dialect.read_submitted(answer, submission), answer)
    if seen is not None:
        assert seen_in(seen)[0] == expect
        assert dialect.status_request(seen.task_id)


@pytest.mark.parametrize("file", below("follow_up"), ids=named)
def test_the_answer_with_the_result_reads_as_expected(file):
    case, answer = recorded(file)
    dialect, expect = load_preset(preset_of(file)), case["expect"]
    first, status_answer = recorded(file.parents[1] / f"{case['after']}.json")
    look = dialect.read_status(status_answer, first.get("task_id"))
    assert look.follow is not None
    seen = check(expect, lambda: dialect.read_follow_up(look.observation, answer), answer)
    assert seen is None or seen_in(seen)[0] == expect


@pytest.mark.parametrize("file", below("cancel"), ids=named)
def test_the_answer_to_a_cancel_reads_as_expected(file):
    case, answer = recorded(file)
    dialect, expect, task_id = load_preset(preset_of(file)), case["expect"], case.get("task_id")
    assert dialect.cancel_request(task_id or an_id(preset_of(file))) is not None
    look = check(expect, lambda: dialect.read_status(answer, task_id), answer)
    assert look is None or shown(look)[0] == expect


@pytest.mark.parametrize("file", below("status_many"), ids=named)
def test_each_document_of_an_answer_about_many_tasks_reads_as_expected(file):
    case, answer = recorded(file)
    dialect, expect, task_ids = load_preset(preset_of(file)), case["expect"], case["task_ids"]
    documents = check(expect, lambda: dialect.read_status_many(answer, task_ids), answer)
    if documents is not None:
        looks = {
            task_id: dialect.read_status(HttpResponse(200, {}, text), task_id)
            for task_id, text in documents.items()
        }
        assert {task_id: shown(look)[0] for task_id, look in looks.items()} == expect


@pytest.mark.parametrize(
    "name", [name for name in preset_names() if "status_many" in document(name)["calls"]]
)
def test_a_preset_with_a_call_about_many_tasks_has_its_answer_and_its_request(name):
    assert list(PAYLOADS.glob(f"{name}/status_many/*.json"))
    assert (PAYLOADS / name / "calls" / "status_many.json").is_file()


@pytest.mark.parametrize("file", below("stream"), ids=named)
def test_a_frame_reads_as_expected(file):
    case = read(file)
    dialect, expect, data = load_preset(preset_of(file)), case["expect"], case["data"]
    text = data if isinstance(data, str) else json.dumps(data)
    if expect is not None and isinstance(expect.get("error"), str):
        with pytest.raises(getattr(errors, expect["error"])) as caught:
            dialect.read_stream_event(case["event"], text)
        assert told(caught.value) == expect
    else:
        seen = dialect.read_stream_event(case["event"], text)
        assert (seen if seen is None else seen_in(seen)[0]) == expect


@pytest.mark.parametrize("file", below("calls"), ids=named)
def test_a_call_goes_where_the_provider_documents_it(file):
    case = read(file)
    dialect, call = load_preset(preset_of(file)), case["call"]
    if call == "submit":
        options = case.get("options", {})
        request = dialect.submit_request(
            Submission(body=bytes_of(case.get("submitted", {})), options=options)
        )
    elif call == "status_many":
        request = dialect.status_many.request(case["task_ids"])
    else:
        request = getattr(dialect, f"{call}_request")(case["task_id"])
    body = None if request.body is None else json.loads(request.body)
    made = {"method": request.method, "path": request.path, "headers": dict(request.headers), "body": body}
    assert {**made, "base_url": request.base_url} == {"headers": {}, "body": None, "base_url": None} | case[
        "expect"
    ]


@pytest.mark.parametrize("name", preset_names())
def test_every_word_a_preset_maps_stands_in_some_payload(name):
    said = {fold(word) for file in PAYLOADS.glob(f"{name}/*.json") for word in words_in(recorded(file)[0])}
    assert set(load_preset(name).words) <= said


@pytest.mark.parametrize("name", preset_names())
def test_the_states_that_a_preset_knows_are_all_reached(name):
    reached = {recorded(file)[0]["expect"].get("status") for file in PAYLOADS.glob(f"{name}/*.json")}
    for file in PAYLOADS.glob(f"{name}/follow_up/*.json"):
        reached.add(recorded(file)[0]["expect"].get("status"))
    known = states_in(document(name))
    assert {"completed", "failed"} <= known
    assert known & {"queued", "processing"}
    assert known <= reached


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_where_it_was_learned_and_speaks_to_its_own_host(name):
    dialect = load_preset(name)
    assert dialect.base_url.startswith("https://")
    assert dialect.docs
    assert [value for value in dialect.auth_headers("the-key").values() if value.endswith("the-key")]
    elsewhere = dialect.status_request(an_id(name)).base_url
    assert elsewhere is None or elsewhere.startswith("https://")


@pytest.mark.parametrize("name", [name for name in preset_names() if "submit" in document(name)["calls"]])
def test_a_preset_that_submits_has_an_answer_to_show_for_it(name):
    created = [recorded(file)[0]["expect"] for file in PAYLOADS.glob(f"{name}/submit/*.json")]
    assert [expect for expect in created if expect.get("task_id")]


@pytest.mark.parametrize("name", [name for name in preset_names() if "follow_up" in document(name)])
def test_a_result_behind_a_further_call_is_found_there(name):
    found = [recorded(file)[0]["expect"] for file in PAYLOADS.glob(f"{name}/follow_up/*.json")]
    assert [expect for expect in found if expect.get("outputs")]


def test_no_payload_folder_is_an_orphan():
    assert {file.parent.name for file in FILES} == set(preset_names())
    assert {path.name for path in PAYLOADS.glob("*/*") if path.is_dir()} <= set(FOLDERS)


def an_id(name):
    """An id of this provider's: where it is more than the provider's own, the recordings say which."""
    cases = [read(file) for file in sorted(PAYLOADS.glob(f"{name}/*.json"))]
    return next((case["task_id"] for case in cases if "task_id" in case), "task-1")


def states_in(toml):
    """Every status a document can say by itself: words, guards, codes and HTTP statuses."""
    status, answer = toml.get("status", {}), toml.get("answer", {})
    told_by = {*status.get("words", {}), status.get("absent"), *answer.get("classes", {})}
    told_by |= set(answer.get("http", {}).values())
    told_by |= {guard.get("then", Status.FAILED.value) for guard in status.get("guards", [])}
    return told_by & set(STATUS_WORDS)


def is_json(answer):
    return answer.body[:1] in (b"{", b"[", b"\xef")


def words_in(case):
    def walk(value):
        if isinstance(value, dict):
            for item in value.values():
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)
        elif isinstance(value, str):
            yield value
        elif isinstance(value, bool | int):
            yield str(value).lower() if isinstance(value, bool) else str(value)

    return walk(case["answer"]["body"])
