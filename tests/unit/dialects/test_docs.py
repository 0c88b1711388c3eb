"""The page that teaches the format is true."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from bridge.core.task import Output, Status
from bridge.dialects.base import Answer
from bridge.dialects.registry import load_text
from bridge.dialects.state import FieldRules
from bridge.errors import TaskNotFound

PAGE = (Path(__file__).parents[3] / "docs" / "dialects.md").read_text("utf-8")


def example(language):
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def test_the_example_reads_its_payload():
    acme = load_text(example("toml"), "acme")
    assert acme.status_request("88").body == b'{"job":"88"}'
    assert acme.auth_headers("k") == {"Authorization": "Token k"}
    seen = acme.read_status(Answer(200, {}, example("json").encode())).observation
    assert (seen.status, seen.upstream_status, seen.task_id) == (Status.PROCESSING, "In Progress", "88")
    assert (seen.progress, seen.created_at) == (45, 1720000000.123)
    assert seen.outputs == (
        Output(type="video", url="https://cdn.acme.example/a.mp4", media_type="video/mp4"),
    )
    with pytest.raises(TaskNotFound, match="gone"):
        acme.read_status(Answer(200, {}, b'{"code":4004,"msg":"gone"}'))


def test_every_field_is_on_the_page():
    assert [field.name for field in fields(FieldRules) if f"`{field.name}`" not in PAGE] == []


def test_every_key_the_compiler_asks_for_is_on_the_page():
    source = (Path(__file__).parents[3] / "bridge" / "dialects" / "compile.py").read_text("utf-8")
    asks = "text|texts|spelled|number|flag|choice|paths|field|table|tables|value"
    asked = set(re.findall(rf"\.(?:{asks})\(\s*\"(\w+)\"", source))
    assert "recommended_seconds" in asked
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`\n]+`|\n#+ .*", PAGE))))
    assert asked - named == set()
