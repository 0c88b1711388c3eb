"""The page that teaches the format is true."""

import json
import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

from bridge.core.task import Output, Status
from bridge.dialects import schema
from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.credentials import HOOKS
from bridge.dialects.registry import load_document, load_text
from bridge.dialects.schema import Document
from bridge.dialects.state import FieldRules
from bridge.dialects.words import COMMON_WORDS
from bridge.errors import TaskNotFound

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "dialects.md").read_text("utf-8")


def examples(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def example(language):
    return examples(language)[0]


def test_the_example_reads_its_payload():
    acme = load_text(example("toml"), "acme")
    assert acme.status_request("88").body == b'{"job":"88"}'
    assert acme.auth_headers("k") == {"Authorization": "Token k"}
    seen = acme.read_status(HttpResponse(200, {}, example("json").encode())).observation
    assert (seen.status, seen.upstream_status, seen.task_id) == (Status.PROCESSING, "In Progress", "88")
    assert (seen.progress, seen.created_at) == (45, 1720000000.123)
    assert seen.outputs == (
        Output(type="video", url="https://cdn.acme.example/a.mp4", media_type="video/mp4"),
    )
    with pytest.raises(TaskNotFound, match="gone"):
        acme.read_status(HttpResponse(200, {}, b'{"code":4004,"msg":"gone"}'))


def test_the_example_submits():
    acme = load_text(example("toml"), "acme")
    asked = acme.with_callback(
        Submission(body=b'{"reference":"mine"}', options={"queue": "fast"}), "https://bridge.example/cb"
    )
    request = acme.submit_request(asked)
    assert (request.method, request.path) == ("POST", "/api/fast/jobs")
    assert json.loads(request.body) == {"reference": "mine", "notify": {"url": "https://bridge.example/cb"}}
    seen = acme.read_submitted(HttpResponse(200, {}, examples("json")[1].encode()), asked)
    assert (seen.task_id, seen.status, seen.alias) == ("88", Status.QUEUED, "mine")
    assert acme.callback_signature.timestamp_header == "x-acme-timestamp"


def test_the_dialect_inside_a_configuration_is_one():
    inside = next(tomllib.loads(text) for text in examples("toml") if "upstreams.acme.dialect]" in text)
    acme = load_document(inside["upstreams"]["acme"]["dialect"], "acme")
    assert acme.status_request("88").path == "/api/jobs/88"


def test_every_hook_is_on_the_page():
    assert [name for name in HOOKS if f"`{name}`" not in PAGE] == []


def test_every_field_is_on_the_page():
    assert [field.name for field in fields(FieldRules) if f"`{field.name}`" not in PAGE] == []


def test_every_key_of_the_schema_is_on_the_page():
    tables = [Document, *(table for table in vars(schema).values() if is_table(table))]
    keys = {field.alias or name for table in tables for name, field in table.model_fields.items()}
    assert {"recommended_seconds", "client_id", "pattern", "hosts", "tolerance_seconds", "if"} <= keys
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`|\n#+ .*", PAGE))))
    assert keys - named == set()


def test_every_common_word_is_on_the_page():
    table = PAGE.split("The common words;")[1].split("###")[0]
    for status, words in COMMON_WORDS.items():
        assert f"| `{status}` | {', '.join(f'`{word}`' for word in words)} |" in table


def is_table(value):
    return isinstance(value, type) and issubclass(value, schema.Table)
