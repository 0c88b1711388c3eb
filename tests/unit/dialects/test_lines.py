import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.dialects.lines import Lines
from bridge.dialects.registry import _PRESETS, preset_names

TEXT = '''# a comment, [not.a.table]
title = "x"

[upstreams.acme]
preset = "custom"
[upstreams.acme.dialect.status]   # with a comment
at = ["a",
      "[b]",
]
words.queued = "x"
words.failed = ["y"]
guards = [
  { when = ["completed"], if = "error" },
]

[[upstreams.acme.dialect.outputs]]
at = "first"
[upstreams.acme.dialect.outputs.more]
x = 1
[[upstreams.acme.dialect.outputs]]
url = """
[upstreams.false]
at = "no"
"""
at = "second"
[  "odd . name" . 'key'  ]
"quoted key" = 1
'''


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("title",), 2),
        (("upstreams",), 4),
        (("upstreams", "acme"), 4),
        (("upstreams", "acme", "preset"), 5),
        (("upstreams", "acme", "dialect"), 6),
        (("upstreams", "acme", "dialect", "status"), 6),
        (("upstreams", "acme", "dialect", "status", "at"), 7),
        (("upstreams", "acme", "dialect", "status", "words", "failed"), 11),
        (("upstreams", "acme", "dialect", "status", "guards", 0, "if"), 12),
        (("upstreams", "acme", "dialect", "outputs"), 16),
        (("upstreams", "acme", "dialect", "outputs", 0, "at"), 17),
        (("upstreams", "acme", "dialect", "outputs", 0, "more", "x"), 19),
        (("upstreams", "acme", "dialect", "outputs", 1), 20),
        (("upstreams", "acme", "dialect", "outputs", 1, "url"), 21),
        (("upstreams", "acme", "dialect", "outputs", 1, "at"), 25),
        (("odd . name", "key", "quoted key"), 27),
        (("upstreams", "acme", "dialect", "status", "missing"), 6),
        (("upstreams", "acme", "dialect", "outputs", 1, "type"), 20),
        (("upstreams", "acme", "dialect", "calls", "status"), 6),
        (("upstreams", "false"), 4),
        (("nowhere",), None),
        ((), None),
    ],
)
def test_a_key_is_found_or_what_is_nearest_around_it(keys, line):
    assert Lines(TEXT).of(keys) == line


def places(value, keys=()):
    if keys:
        yield keys
    inner = value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    for key, one in inner:
        yield from places(one, (*keys, key))


@pytest.mark.parametrize("name", preset_names())
def test_every_place_of_a_preset_is_found_in_its_text(name):
    text = _PRESETS.joinpath(f"{name}.toml").read_text("utf-8")
    lines = Lines(text)
    for keys in places(tomllib.loads(text)):
        found = text.splitlines()[lines.of(keys) - 1]
        named = [key for key in keys if isinstance(key, str)]
        assert any(key in found for key in named), (keys, found)


@given(st.text())
def test_any_text_that_is_toml_has_its_lines_told(text):
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = Lines(text)
    assert all(lines.of(keys) is not None for keys in places(document))
