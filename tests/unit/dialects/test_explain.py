"""An explanation tells the same as the reading itself, for every recorded payload."""

import json
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.explain import explain
from bridge.dialects.registry import load_document, load_preset, preset_names
from bridge.errors import UpstreamError

RECORDINGS = Path(__file__).parents[3] / "bridge" / "simulator" / "recordings"


def recorded():
    for file in sorted(RECORDINGS.glob("*/*.json")) + sorted(RECORDINGS.glob("*/submit/*.json")):
        case = json.loads(file.read_text("utf-8"))
        body = case["answer"]["body"]
        raw = body.encode() if isinstance(body, str) else orjson.dumps(body)
        yield (
            file.relative_to(RECORDINGS).parts,
            case,
            HttpResponse(case["answer"]["status"], case["answer"]["headers"], raw),
        )


CASES = {}  # one id a preset: some hundred recordings, and each takes a fraction of a millisecond
for recording in recorded():
    CASES.setdefault(recording[0][0], []).append(recording)


def reading(dialect, answer, submission, task_id):
    try:
        if submission is not None:
            return dialect.read_submitted(answer, submission).status
        return dialect.read_status(answer, task_id).observation.status
    except UpstreamError as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", CASES)
def test_the_explanation_ends_as_the_reading_does(name):
    dialect, differing = load_preset(name), []
    for place, case, answer in CASES[name]:
        task_id = case.get("task_id")
        submission = Submission(body=b"{}", options=case.get("options", {})) if "submit" in place else None
        explained = explain(dialect, answer, submission=submission, task_id=task_id)
        expected = reading(dialect, answer, submission, task_id)
        if explained.trouble is None:
            same = f"  status              {expected}" in explained.lines
        else:
            same = (type(explained.trouble), str(explained.trouble)) == expected
            same = same and f"  class               {type(explained.trouble).__name__}" in explained.lines
        if not same:
            differing.append(("/".join(place), explained, expected))
    assert not differing


GUARDED = load_document(
    {
        "base_url": "https://x.example",
        "calls": {"status": {"path": "/t/{task_id}"}},
        "answer": {
            "code": ["code", "inner.code"],
            "classes": {"busy": [7]},
            "phrases": {"not_found": ["no such"]},
            "error_message": "msg",
        },
        "status": {
            "at": ["a.status", "status"],
            "words": {"completed": "done"},
            "guards": [{"if": "error"}, {"when": ["failed"], "if": "again", "then": "processing"}],
        },
        "fields": {"progress": ["percent", "progress"], "task_id": "id"},
        "outputs": [{"at": "files[?ok]", "url": "url"}],
    },
    "made-up",
)


def told(document, status=200, headers=None):
    body = document if isinstance(document, bytes) else orjson.dumps(document)
    return explain(GUARDED, HttpResponse(status, headers or {}, body)).lines


def row(label, text):
    return f"  {label:<20}{text}"


def test_every_place_is_told_up_to_the_first_hit():
    lines = told(
        {"id": 1, "status": "Done", "percent": "many", "progress": 5, "error": "", "files": [{"ok": 1}]}
    )
    assert row("at", "a.status: nothing there") in lines
    assert row("at", 'status = "Done": hit') in lines
    assert row("words", '"Done" means completed') in lines
    assert row("guards[0]", 'error = "": does not hold') in lines
    assert row("guards[1]", "again: nothing there") in lines
    assert row("progress", 'percent = "many": not of a kind that is taken') in lines
    assert row("progress", "progress = 5: hit, taken as 5.0") in lines
    assert row("outputs[0]", 'files[?ok] = [{"ok":1}]: looked into') in lines
    assert row("", "gives nothing") in lines


def test_a_guard_that_holds_changes_what_the_next_one_is_asked():
    lines = told({"id": 1, "status": "done", "error": "x", "again": True})
    assert row("guards[0]", 'error = "x": holds: completed becomes failed') in lines
    assert row("guards[1]", "again = true: holds: failed becomes processing") in lines
    assert row("status", "processing") in lines


def test_a_word_of_the_wrong_type_is_told_as_such():
    assert row("at", "status = 7: is no word here (a word is str)") in told({"id": 1, "status": 7})


def test_codes_classes_and_phrases_are_told():
    lines = told({"code": 0, "inner": {"code": 7}, "msg": "No such thing"})
    assert row("code", "code = 0: says success") in lines
    assert row("code", "inner.code = 7: says trouble") in lines
    assert row("classes", '"7" means busy') in lines
    assert row("phrases", '"no_such" stands in the message and means not_found') in lines
    assert row("http", "429 is not stated, and usually means busy") in told({}, 429)


@pytest.mark.parametrize("name", preset_names())
@settings(max_examples=10)
@given(st.binary() | st.just(b"[" * 100_000) | st.just(b'{"status":' + b"[" * 1000 + b"]" * 1000 + b"}"))
def test_any_bytes_are_explained(name, body):
    lines = explain(load_preset(name), HttpResponse(200, {}, body), submission=Submission(body=b"")).lines
    assert all(line.isprintable() for line in lines)
    assert all(len(line) < 700 for line in lines)
