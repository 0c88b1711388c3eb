"""Which stream format a client asks for, by weight and in any case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers, QueryParams

from bridge.errors import InvalidRequest
from bridge.web.params import stream_format
from bridge.wire.formats import NdjsonFormat, OpenAiFormat, SseFormat

LINES = "application/x-ndjson"
EVENTS = "text/event-stream"


def asked(*accept: str, query: str = "") -> type:
    headers = Headers(raw=[(b"accept", value.encode("latin-1")) for value in accept])
    return stream_format(headers, QueryParams(query))


@pytest.mark.parametrize(
    "accept",
    [
        LINES,
        "Application/X-NDJSON",
        f"{LINES}; charset=utf-8",
        f"{LINES}, {EVENTS};q=0.9",
        f"{EVENTS};q=0.2, {LINES};q=0.3",
        f"{EVENTS} ; Q=0.2 , {LINES} ; q = 0.3",
        f"{LINES}, {EVENTS}",
        "application/*",
        f"*/*;q=0.1, {LINES}",
        f"{EVENTS};q=0, */*",
    ],
)
def test_lines_where_they_are_more_welcome(accept: str) -> None:
    assert asked(accept) is NdjsonFormat


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "text/*",
        EVENTS,
        "TEXT/EVENT-STREAM",
        f"{EVENTS}, {LINES}",
        f"{LINES};q=0",
        f"{LINES};q=0.000, */*;q=0.1",
        f"{LINES};q=0.4, {EVENTS};q=0.5",
        f"{LINES};q=0.4, */*;q=0.5",
        f'{LINES};p="a,b;q=1";q=0.4, {EVENTS};q=0.5',
        "application/json",
        "text/html",
        f"x{LINES}",
        f"{LINES}x",
    ],
)
def test_events_otherwise(accept: str) -> None:
    assert asked(accept) is SseFormat


def test_several_fields_are_one_list_and_a_named_format_wins() -> None:
    assert asked("text/event-stream;q=0.1", LINES) is NdjsonFormat
    assert asked() is SseFormat
    assert asked(LINES, query="format=openai") is OpenAiFormat
    with pytest.raises(InvalidRequest):
        asked(LINES, query="format=ndjson")


@given(st.text("aplictonx-ndjs/*;q=0.1, ", max_size=60) | st.text(st.characters(max_codepoint=255)))
def test_whatever_a_client_accepts_it_gets_one_of_ours(accept: str) -> None:
    assert asked(accept) in (SseFormat, NdjsonFormat)
