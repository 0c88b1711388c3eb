"""The field table against all that repeats it: dialects, API documents, types, docs; and its functions."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from bridge.core.columns import Emit, Merge, Read, Write, rows
from bridge.core.merge import merge
from bridge.core.task import FIELDS, Failure, Observation, Output, Source, State, Status
from bridge.dialects.base import HttpResponse
from bridge.dialects.registry import load_text
from bridge.dialects.state import FieldRules
from bridge.wire.document import document
from tests.fakes.tasks import WALL, event, state

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "bridge/web/static/api/state.schema.json").read_text("utf-8"))
COST = [row.name for row in FIELDS if row.write is Write.COST]
KEYS = list(dict.fromkeys("cost" if row.name in COST else row.name for row in FIELDS))

READ = [row for row in rows(Observation) if row.rules]
"""The fields that a dialect's `[fields]` table reads."""

ACCEPTED: dict[Read, list[tuple[object, object]]] = {
    Read.IDENTIFIER: [("a/b", "a/b"), (2**60, str(2**60)), ("", None), (1.5, None), ("a\nb", None)],
    Read.WORD: [("wan2", "wan2"), (7, "7"), ("", None), ([], None)],
    Read.NUMBER: [(1.5, 1.5), ("2", 2.0), (-1, None), ("soon", None), (True, None)],
    Read.PERCENTAGE: [(45, 45.0), ("45%", 45.0), (150, 100.0), (-5, 0.0), ("half", None)],
    Read.COUNT: [(3, 3), ("3", 3), (1.5, None), (-1, None)],
    Read.TIME: [(WALL, WALL), ("2027-01-15T08:00:00Z", WALL), ("later", None)],
}

JSON_TYPES = {
    Read.KEY: "string",
    Read.STATUS: "string",
    Read.WORD: "string",
    Read.IDENTIFIER: "string",
    Read.NUMBER: "number",
    Read.PERCENTAGE: "number",
    Read.COUNT: "integer",
    Read.OUTPUTS: "array",
    Read.RAW: "object",
    Read.FAILURE: "object",
}


def observe(**given: object) -> Observation:
    """What a dialect reads from a document whose keys are the names of the fields."""
    table = "\n".join(f'{name} = "{name}"' for row in READ for name in row.rules)
    dialect = load_text(
        f"""title = "Any"
        base_url = "https://provider.example"
        [calls.status]
        path = "/{{task_id}}"
        [status]
        at = "status"
        words.processing = ["run"]
        words.failed = ["bad"]
        [fields]
        {table}
        """,
        "any",
    )
    answer = HttpResponse(200, {}, orjson.dumps({"status": "run"} | given))
    return dialect.read_status(answer).observation


def kinds(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a property may have, references followed."""
    if "$ref" in schema:
        return kinds(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return {kind for one in schema["anyOf"] for kind in kinds(one)}
    kind = schema["type"]
    return {kind} if isinstance(kind, str) else set(kind)


def test_the_dialects_read_exactly_the_fields_of_the_table() -> None:
    assert {one.name for one in fields(FieldRules)} == {name for row in READ for name in row.rules}


@pytest.mark.parametrize(
    "row", [row for row in READ if row.read is not Read.FAILURE], ids=lambda row: row.name
)
def test_a_dialect_accepts_the_values_of_the_rows_kind(row: Any) -> None:
    for value, expected in ACCEPTED[row.read]:
        assert getattr(observe(**{row.name: value}), row.name) == expected, value


def test_a_dialect_reads_error_code_and_message_together() -> None:
    (row,) = (row for row in READ if row.read is Read.FAILURE)
    seen = observe(status="bad", error_code=7, error_message="no")
    assert getattr(seen, row.name) == Failure("7", "no")


def test_the_document_has_the_keys_of_the_table_in_its_order() -> None:
    assert list(orjson.loads(document(event(1), now=WALL))) == KEYS
    assert list(orjson.loads(document(event(1, state(credits_used=1.0)), now=WALL))["cost"]) == COST


def test_the_schema_has_the_keys_and_the_types_of_the_table() -> None:
    assert list(SCHEMA["properties"]) == SCHEMA["required"] == KEYS
    cost = SCHEMA["$defs"]["Cost"]["properties"]
    assert list(cost) == COST
    for row in FIELDS:
        schema = cost[row.name] if row.name in COST else SCHEMA["properties"][row.name]
        times = row.write in {Write.TIME, Write.ETA, Write.CHANGED, Write.OBSERVED}
        number = row.write is Write.LEFT
        expected = {"number" if number else "string" if times else JSON_TYPES.get(row.read, "string")}
        if row.read is Read.RAW:
            expected.add("array")  # a few providers send a list
        assert kinds(schema) - {"null"} == expected, row.name


@pytest.mark.parametrize("path", ["bridge/web/static/bridge.d.ts", "clients/js/dist/index.d.ts"])
def test_the_typescript_types_have_the_keys_of_the_table(path: str) -> None:
    text = (ROOT / path).read_text("utf-8")
    body = re.search(r"^export interface TaskState \{\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    assert body is not None
    assert re.findall(r"^  (\w+):", body[1], re.MULTILINE) == KEYS


def test_the_table_in_the_docs_has_a_row_for_every_key() -> None:
    text = (ROOT / "docs/concepts.md").read_text("utf-8")
    first_cells = re.findall(r"^\|((?: *`\w+`,?)+) *\|", text, re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert set(KEYS) <= named


SAMPLES: dict[str, tuple[Any, Any]] = {
    "alias": ("mine", "yours"),
    "status": (Status.PROCESSING, Status.QUEUED),
    "upstream_status": ("RUN", "WAIT"),
    "progress": (40.0, 50.0),
    "queue_position": (3, 2),
    "model": ("wan2", "wan3"),
    "action": ("generate", "extend"),
    "created_at": (WALL - 9, WALL - 8),
    "completed_at": (WALL - 2, WALL - 1),
    "outputs": ((Output(type="video", url="a"),), (Output(type="video", url="b"),)),
    "error": (Failure("E", None), Failure("F", None)),
    "credits_used": (1.0, 2.0),
    "credits_estimated": (1.0, 2.0),
    "raw": (b"{}", b"[]"),
    "result": (b"{}", b"[1]"),
}
MERGED = [row for row in rows(State) if row.read is not Read.OURS]


def known_and_seen() -> tuple[State, Observation]:
    seen = Observation(**{name: first for name, (first, _) in SAMPLES.items()})
    known = merge(None, seen, source=Source.POLL, unix_time=WALL)
    assert known is not None
    return known, seen


def test_every_field_an_observation_can_change_has_a_sample() -> None:
    assert {row.name for row in MERGED} == set(SAMPLES)


@pytest.mark.parametrize("row", MERGED, ids=lambda row: row.name)
def test_a_change_is_an_event_exactly_where_the_row_says_so(row: Any) -> None:
    known, seen = known_and_seen()
    changed = replace(seen, **{row.name: SAMPLES[row.name][1]})
    news = merge(known, changed, source=Source.POLL, unix_time=WALL + 1)
    assert (news is not None) == (row.emit is not Emit.NEVER)


@pytest.mark.parametrize("row", MERGED, ids=lambda row: row.name)
def test_a_missing_value_replaces_or_keeps_the_known_one_as_the_row_says(row: Any) -> None:
    if row.name == "status":
        return  # every observation has one
    known, seen = known_and_seen()
    missing = replace(seen, **{row.name: () if row.name == "outputs" else None})
    # a change of another field, so that there is an event to look at
    other = "model" if row.name != "model" else "action"
    missing = replace(missing, **{other: SAMPLES[other][1]})
    news = merge(known, missing, source=Source.STREAM, unix_time=WALL + 1)
    assert news is not None
    replaced = row.merge is Merge.REPLACE
    assert getattr(news, row.name) == (None if replaced else getattr(known, row.name))
    assert (news.changed_at, news.observed_at, news.source) == (WALL + 1, WALL + 1, Source.STREAM)
