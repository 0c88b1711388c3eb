"""No text of a provider ends a line that is sent, whatever a reader takes for the end of a line."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.event import Notice, NoticeCode
from bridge.core.task import Failure, State
from bridge.errors import UpstreamRefused
from bridge.web.problems import problem
from bridge.wire.document import Include, document
from bridge.wire.formats import NdjsonFormat, OpenAiFormat, ProviderFormat, SseFormat, WebSocketFormat
from bridge.wire.frames import Format, Frames, format_of
from bridge.wire.text import dumps, escaped, on_one_line
from tests.fakes.tasks import TASK, WALL, event, state, video

SEPARATORS = "\u2028\u2029\x85\n\r\x0b\x0c\x1c\x1d\x1e"
FULL = Include(raw=True, data=True)
FORMATS: list[Format] = [
    format_of(SseFormat, FULL),
    format_of(SseFormat, FULL, "abcd2345"),
    format_of(OpenAiFormat, FULL),
    format_of(NdjsonFormat, FULL),
    format_of(WebSocketFormat, FULL),
    ProviderFormat(lambda known: known.raw),
]
# As Python's `str.splitlines`, httpx and Java's \R take it; \x85 as a byte, as who reads latin-1 does.
ENDS = re.compile("\r\n|[\n\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029]")

texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(SEPARATORS), max_size=12)
leaves = texts | st.none() | st.floats(allow_nan=False)
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=4)
raws = st.tuples(values, st.sampled_from([0, orjson.OPT_INDENT_2])).map(
    lambda pair: orjson.dumps({"prompt": pair[0]}, option=pair[1])
)
states = st.builds(
    state,
    st.sampled_from(["processing", "completed", "failed"]),
    upstream_status=texts,
    model=texts,
    alias=texts,
    error=st.none() | st.builds(Failure, texts, texts),
    outputs=st.lists(texts.map(video), max_size=2).map(tuple),
    raw=raws,
)


@given(states, texts)
@settings(max_examples=50)
def test_every_reader_sees_the_same_lines(known: State, text: str) -> None:
    frames = Frames(event(7, known))
    for fmt in FORMATS:
        sent = frames.payload_for(fmt, now=WALL) + fmt.notice(TASK, Notice(NoticeCode.STALE, text))
        assert ENDS.split(sent.decode()) == sent.decode().split("\n")


@given(raws)
@settings(max_examples=50)
def test_a_document_means_the_same_on_one_line(raw: bytes) -> None:
    assert orjson.loads(on_one_line(raw)) == orjson.loads(raw)
    assert on_one_line(raw) == escaped(on_one_line(raw))


@pytest.mark.parametrize("text", ["a\u2028b", "a\\\u2029", '"\x85"', "\u201cquoted\u201d \u00c5"])
def test_what_is_escaped_reads_as_it_was(text: str) -> None:
    written: Any = dumps({"a": text})
    assert orjson.loads(written) == {"a": text}
    assert not {"\u2028", "\u2029", "\x85"} & set(written.decode())


def test_documents_and_problems_are_escaped_too() -> None:
    told = document(event(1, state(model="a\u2028b\x85")), now=WALL)
    refused = problem(UpstreamRefused("no\u2029\x85", provider_code="\u2028")).body
    for body in (told, bytes(refused)):
        assert len(ENDS.split(body.decode())) == 1
