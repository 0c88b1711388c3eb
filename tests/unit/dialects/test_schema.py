"""The models of a dialect's document, and the JSON schema that editors get."""

import copy
import json
import tomllib
import warnings
from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.dialects import schema
from bridge.dialects.credentials import HOOKS
from bridge.dialects.registry import _PRESETS, preset_names
from bridge.dialects.rules import compile_document
from bridge.dialects.schema import Document, FieldsTable, UnitsTable, json_schema, parse
from bridge.dialects.signature import Scheme
from bridge.dialects.state import FieldRules
from bridge.dialects.words import OUTCOMES, STATUS_WORDS

PRESETS = {
    name: tomllib.loads(_PRESETS.joinpath(f"{name}.toml").read_text("utf-8")) for name in preset_names()
}
TABLES = [
    value for value in vars(schema).values() if isinstance(value, type) and issubclass(value, schema.Table)
]


def places(value, keys=()):
    """Every key and position in a document, from the outside in."""
    if keys:
        yield keys
    items = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    for key, item in items:
        yield from places(item, (*keys, key))


def changed(document, keys, value):
    document = copy.deepcopy(document)
    parent = document
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value
    return document


def test_the_names_of_the_schema_are_those_of_the_rules():
    assert get_args(schema.StatusName) == tuple(STATUS_WORDS)
    assert get_args(schema.OutcomeName) == tuple(OUTCOMES)
    assert set(FieldsTable.model_fields) == {field.name for field in fields(FieldRules)}
    assert set(UnitsTable.model_fields) < set(FieldsTable.model_fields)
    signatures = [table.model_fields["scheme"] for table in TABLES if "scheme" in table.model_fields]
    assert {name for field in signatures for name in get_args(field.annotation)} == {*Scheme}
    hooks = json_schema()["$defs"]["AuthTable"]["properties"]["hook"]
    assert {hooks["const"]} if "const" in hooks else set(hooks["enum"]) == HOOKS.keys()


def test_every_key_has_a_description():
    for table in TABLES:
        assert [name for name, field in table.model_fields.items() if not field.description] == []


def test_the_json_schema_is_made_without_a_warning_and_knows_no_null():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = json.dumps(json_schema())
    assert "null" not in text
    assert json_schema()["required"] == ["base_url", "calls"]
    assert json_schema()["$defs"]["StatusTable"]["properties"]["types"]["default"] == "string"


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_valid_by_the_json_schema(name):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator(json_schema()).validate(PRESETS[name])


def test_an_unknown_key_is_found_wherever_it_is():
    free = {"query", "headers", "by_code", "body", "needs", "options", "defaults", "hint_headers"}
    free |= {
        "classes",
        "phrases",
        "http",
        "words",
        "events",
        "answer_headers",
        "error",
        "details",
        "without_details",
    }
    for preset in PRESETS.values():
        tables = [keys for keys in places(preset) if isinstance(keys[-1], str)]
        for keys in [(), *(keys for keys in tables if keys[-1] not in free and not free & {*keys[:-1]})]:
            table = preset
            for key in keys:
                table = table.get(key) if isinstance(table, dict) else None
            if isinstance(table, dict):
                errors = parse(changed(preset, (*keys, "no_such_key"), 1)).errors
                assert [error.keys for error in errors] == [(*keys, "no_such_key")]
                assert "unknown key (known here: " in errors[0].message


WRONG = st.sampled_from(
    [None, 7, -1.5, True, "", "{", "x y", [], [1], ["a", 2], {}, {"x": {"y": 1}}, [{}], [[]]]
)


@given(st.sampled_from(sorted(PRESETS)), st.data())
def test_a_wrong_value_is_an_error_at_its_place_or_none_at_all(name, data):
    document = PRESETS[name]
    keys = data.draw(st.sampled_from(list(places(document))))
    wrong = data.draw(WRONG)
    parsed = parse(changed(document, keys, wrong))
    assert parsed.document is not None
    for error in parsed.errors:
        assert error.keys[: len(keys)] == keys or error.keys == keys[: len(error.keys)], str(error)
        assert "Input should" not in error.message
    compile_document(changed(document, keys, wrong))


@pytest.mark.parametrize("wrong", [None, {}, 7])
def test_a_table_whose_word_is_missing_is_one_error(wrong):
    parsed = parse(changed(PRESETS["bytespike"], ("accepted", 1), wrong))
    assert parsed.document is not None
    assert {error.keys[:2] for error in parsed.errors} == {("accepted", 1)}


@given(st.sampled_from(sorted(PRESETS)), st.data())
def test_errors_at_two_places_are_both_found(name, data):
    document = PRESETS[name]
    known = [keys for keys in places(document) if len(keys) == 2 and keys[0] in ("poll", "stream", "units")]
    known = [keys for keys in known if keys[1] not in ("hint_headers", "events")]
    if not known:
        return
    keys = data.draw(st.sampled_from(known))
    broken = changed(changed(document, keys, {}), ("status", "at"), "a..b")
    assert {keys, ("status", "at")} <= {error.keys for error in compile_document(broken)[1]}


def test_errors_between_values_are_found_beside_wrong_values():
    rules, errors = compile_document(
        {
            "base_url": "https://x.example",
            "calls": {"status": {"path": "/{nobody}", "method": "LOOK"}, "sync": {"path": "sync"}},
            "answer": {"classes": {"busy": [1], "refused": ["1"]}},
            "status": {"at": 7},
        }
    )
    assert rules is not None
    assert [str(error) for error in errors] == [
        "calls.status.method: 'LOOK' is not one of GET, POST, PUT, PATCH, DELETE",
        "status.at: must be a string or a list of strings, none of them empty",
        "answer.classes.refused: '1' already means something else",
        "calls.status.path: {nobody} is not known here (task_id)",
        "calls.sync.path: must begin with /",
        "calls.sync: needs [calls.submit]: the bridge submits, and waits itself",
    ]


def test_a_missing_value_is_reported_once():
    assert [str(error) for error in compile_document({})[1]] == [
        "base_url: missing",
        "calls.status: missing",
        "status.at: missing, and no [answer.http] status takes its place",
    ]


def test_the_document_itself_is_left_as_it_was():
    document = {"calls": {}, "outputs": [{}], "colour": 1}
    assert parse(document).errors
    assert document == {"calls": {}, "outputs": [{}], "colour": 1}


def test_the_defaults_of_an_absent_table_are_those_of_an_empty_one():
    smallest = {"base_url": "https://x.example", "calls": {"status": {"path": "/"}}}
    empty = {name: {} for name in ("auth", "poll", "task_id", "answer", "status", "fields", "units")}
    assert Document.model_validate(smallest).poll == Document.model_validate({**smallest, **empty}).poll
