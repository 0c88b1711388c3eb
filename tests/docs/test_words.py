"""The product speaks plain technical English: no retired word in anything it says or is called."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.docs.wording import NAMES, PLACES, WORDS, Allowed, Hit, exceptions, hits, report, sentences

EXCEPTIONS = exceptions()


@cache
def in_the_product() -> tuple[list[Hit], set[Allowed]]:
    return hits(ROOT, EXCEPTIONS)


def test_no_retired_word_is_left() -> None:
    found, _ = in_the_product()
    assert not found, f"{len(found)} retired words (tests/docs/retired_words.toml):\n{report(found)}"


def test_every_exception_has_a_reason_and_is_needed() -> None:
    assert [one for one in EXCEPTIONS if len(one.reason.split()) < 3] == []
    _, needed = in_the_product()
    assert set(EXCEPTIONS) - needed == set()


def test_the_list_is_long_and_each_entry_finds_what_it_is_for() -> None:
    assert len(WORDS) >= 60
    assert len({one.word for one in WORDS}) == len(WORDS)
    assert len({one.word for one in NAMES}) == len(NAMES)
    assert [one.word for one in WORDS if not one.find.search(one.seen)] == []
    assert [one.word for one in NAMES if not one.find.fullmatch(one.seen)] == []


def test_an_exception_covers_its_word_in_its_place_only(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("What is told is told by whoever asks.\n", encoding="utf-8")
    (tmp_path / "SECURITY.md").write_text("What is told.\n", encoding="utf-8")
    one = Allowed(path="README.md", word="told", reason="it is a test", text="whoever asks")
    other = Allowed(path="README.md", word="nobody", reason="it is a test")
    found, needed = hits(tmp_path, [one, other])
    assert [(hit.sentence.path, hit.retired.word) for hit in found] == [
        ("README.md", "whoever"),
        ("SECURITY.md", "told"),
    ]
    assert needed == {one}


@pytest.mark.parametrize("place", PLACES)
def test_every_place_exists(place: str) -> None:
    assert list(ROOT.glob(place))


# One sentence for each kind of place, with a retired word at `RETIRED`; and one without, which must pass.
PLANTED = {
    "API error": ("bridge/web/x.py", 'raise InvalidRequest("the request WORD")\n'),
    "API error, f-string": ("bridge/web/x.py", 'def f(n):\n    return problem(f"{n} requests WORD")\n'),
    "log event": ("bridge/hub/x.py", 'logger.info("a client WORD", extra={})\n'),
    "command help": ("bridge/cli/x.py", '@click.command()\ndef serve():\n    """Polls, and WORD."""\n'),
    "option help": ("bridge/cli/x.py", 'option("--port", help="The port WORD.")\n'),
    "setting": ("bridge/config/x.py", 'port = Field(0, description="The port WORD.")\n'),
    "metric help": ("bridge/telemetry/x.py", 'Gauge("bridge_x", "Connections WORD.")\n'),
    "docstring": ("bridge/core/x.py", '"""Polls tasks and WORD."""\n'),
    "comment": ("bridge/core/x.py", "x = 1  # because a client WORD\n"),
    "example TOML": ("bridge.example.toml", 'port = 8080 # "#" is the port WORD\n'),
    "preset": ("bridge/dialects/presets/x.toml", "# the provider WORD\n"),
    "inspector HTML": ("bridge/web/static/inspector.html", "<p>The task WORD</p>\n"),
    "inspector script": ("bridge/web/static/inspector/x.js", 'show("the task WORD");\n'),
    "inspector template": ("bridge/web/static/inspector/x.js", "show(`the ${task} WORD`);\n"),
    "script comment": ("bridge/web/static/bridge.js", "// the task WORD\n"),
    "API document": ("bridge/web/static/api/openapi.yaml", "description: The task WORD\n"),
    "schema": ("bridge/web/static/api/x.json", json.dumps({"a": [{"description": "The task WORD"}]})),
    "dashboard": ("grafana/dashboards/x.json", json.dumps({"panels": [{"title": "Polls WORD"}]})),
    "dashboard's maker": ("grafana/make_dashboard.py", 'panel("Polls WORD")\n'),
    "alert rule": ("grafana/rules/x.yaml", "annotations:\n  summary: The upstream WORD\n"),
    "README": ("README.md", "The bridge WORD.\n"),
    "page": ("docs/concepts.md", "The bridge WORD.\n"),
    "output on a page": ("docs/concepts.md", "```\nbridge: the task WORD\n```\n"),
    "recipe": ("docs/recipes/react/x.jsx", "return <p>The task WORD</p>;\n"),
    "recipe in Go": ("docs/recipes/go/x.go", "// the task WORD\n"),
    "script": (".ci/run", "# the suite WORD\n"),
    "Makefile": ("Makefile", "serve: ## the bridge WORD\n"),
    "unit": ("deploy/systemd/x.service", "# the unit WORD\n"),
    "manifest": ("deploy/kubernetes/base/x.yaml", "# the pod WORD\n"),
    "proxy": ("deploy/nginx/x.conf", "# the proxy WORD\n"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_retired_word_is_found_wherever_it_is(kind: str, tmp_path: Path) -> None:
    path, text = PLANTED[kind]
    file = tmp_path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text.replace("WORD", "waits for the upstream"), encoding="utf-8")
    assert hits(tmp_path) == ([], set())
    assert "waits for the upstream" in "".join(one.text for one in sentences(tmp_path))
    file.write_text(text.replace("WORD", "is told by whoever asks"), encoding="utf-8")
    found, _ = hits(tmp_path)
    assert {hit.retired.word for hit in found} == {"told", "whoever"}
    assert {hit.sentence.path for hit in found} == {path}


@pytest.mark.parametrize(
    "code",
    [
        "class Desk:\n    pass\n",
        "def hand_over():\n    pass\n",
        "MOST_KEYS = 5\n",
        "def f(wishes):\n    pass\n",
        "class A:\n    def __init__(self):\n        self.doubts = 1\n",
        "class A:\n    losses: int = 0\n",
    ],
)
def test_a_retired_name_is_found(code: str, tmp_path: Path) -> None:
    file = tmp_path / "bridge" / "x.py"
    file.parent.mkdir()
    file.write_text(code, encoding="utf-8")
    (hit,) = hits(tmp_path)[0]
    assert hit.sentence.kind == "name"


@pytest.mark.parametrize("entry", WORDS, ids=lambda one: one.word)
def test_each_word_of_the_list_is_found_on_a_page(entry, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"{entry.seen}\n", encoding="utf-8")
    assert entry.word in {hit.retired.word for hit in hits(tmp_path)[0]}
