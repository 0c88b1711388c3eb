"""Every preset against every recorded or documented payload, each with the place it was taken from."""

import json
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest

from bridge import errors
from bridge.dialects.base import Answer
from bridge.dialects.registry import load_preset, preset_names
from bridge.dialects.words import fold

PAYLOADS = Path(__file__).parent / "payloads"
FILES = sorted(PAYLOADS.glob("*/*.json"))


def recorded(file):
    case = json.loads(file.read_text("utf-8"))
    answer, body = case["answer"], case["answer"]["body"]
    raw = body.encode() if isinstance(body, str) else orjson.dumps(body)
    return case, Answer(answer["status"], answer["headers"], raw)


def shown(look):
    state = asdict(look.observation)
    raw, outputs = state.pop("raw"), state.pop("outputs")
    seen = {key: value for key, value in state.items() if value is not None}
    if outputs:
        seen["outputs"] = [{k: v for k, v in output.items() if v is not None} for output in outputs]
    if look.follow:
        seen["follow"] = look.follow.path
    return seen, raw


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_a_payload_reads_as_expected(file):
    case, answer = recorded(file)
    dialect, expect = load_preset(file.parent.name), case["expect"]
    assert case["source"]
    if isinstance(expect.get("error"), str):
        with pytest.raises(getattr(errors, expect["error"])) as caught:
            dialect.read_status(answer)
        error = caught.value
        told = {"error": type(error).__name__, "message": str(error)}
        told |= {"provider_code": error.provider_code} if error.provider_code else {}
        told |= {"retry_after": error.retry_after} if error.retry_after is not None else {}
        assert told == expect
        assert error.provider_status == answer.status
    else:
        seen, raw = shown(dialect.read_status(answer))
        assert seen == expect
        assert raw == answer.body
        assert shown(dialect.read_status(answer)) == (seen, raw)


@pytest.mark.parametrize("name", preset_names())
def test_every_word_a_preset_maps_stands_in_some_payload(name):
    words = {fold(word) for file in PAYLOADS.glob(f"{name}/*.json") for word in words_in(recorded(file)[0])}
    assert set(load_preset(name).words) <= words


@pytest.mark.parametrize("name", preset_names())
def test_the_states_that_a_preset_knows_are_all_reached(name):
    reached = {recorded(file)[0]["expect"].get("status") for file in PAYLOADS.glob(f"{name}/*.json")}
    assert {"queued", "processing", "completed", "failed"} <= reached


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_says_where_it_was_learned_and_speaks_to_its_own_host(name):
    dialect = load_preset(name)
    assert dialect.base_url.startswith("https://")
    assert dialect.docs
    assert dialect.auth_headers("k") == {"Authorization": "Bearer k"}
    assert dialect.status_request("task-1").base_url is None


def test_no_payload_folder_is_an_orphan():
    assert {file.parent.name for file in FILES} == set(preset_names())


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

    return walk(case["answer"]["body"])
