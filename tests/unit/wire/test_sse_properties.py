"""What holds for every stream and every way of cutting it."""

from __future__ import annotations

import re
from itertools import pairwise

import orjson
from hypothesis import given
from hypothesis import strategies as st

from bridge.wire.sse import Decoder, ServerSentEvent, encode

ids = st.from_regex(re.compile(r"[A-Za-z0-9._~-]{1,128}"), fullmatch=True)
names = st.from_regex(re.compile(r"[a-z_]{1,20}"), fullmatch=True)
retries = st.integers(min_value=0, max_value=10**9)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
frames = st.tuples(anything, st.none() | ids, st.none() | names, st.none() | retries)
cuts = st.lists(st.integers(min_value=0, max_value=4000), max_size=40)
# Bytes that mean something to the grammar come up far more often than chance would bring them.
streams = st.lists(
    st.sampled_from(
        [
            b"data",
            b"data:",
            b"id: ",
            b"id",
            b"event:",
            b"retry: ",
            b":",
            b" ",
            b"\n",
            b"\r",
            b"\r\n",
            b"\n\n",
            b"\x00",
            b"\xef\xbb\xbf",
            b"\xe5\xae\x8c",
            b"\xe5",
            b"\xae",
            b"\xff",
            b"12",
            b"x",
        ]
    ),
    max_size=60,
).map(b"".join)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


def decode(chunks: list[bytes]) -> tuple[list[ServerSentEvent], str | None, int | None, int]:
    decoder = Decoder()
    events = [event for chunk in chunks for event in decoder.feed(chunk)]
    return events, decoder.last_event_id, decoder.retry, decoder.comments


@given(st.lists(frames, max_size=6), cuts)
def test_what_was_encoded_comes_back_under_any_chunking(
    sent: list[tuple[object, str | None, str | None, int | None]], where: list[int]
) -> None:
    stream = b"".join(
        encode(orjson.dumps(value), id=cursor, event=name, retry=retry) for value, cursor, name, retry in sent
    )
    events, _, _, _ = decode(pieces(stream, where))
    expected, last = [], None
    for value, cursor, name, retry in sent:
        last = cursor or last
        expected.append(ServerSentEvent(data=orjson.dumps(value).decode(), name=name, id=last, retry=retry))
    assert events == expected


@given(st.binary(max_size=200), st.none() | st.text(max_size=140), st.none() | st.text(max_size=30))
def test_no_field_can_be_injected(data: bytes, cursor: str | None, name: str | None) -> None:
    try:
        frame = encode(data, id=cursor, event=name)
    except ValueError:
        return
    [event] = Decoder().feed(frame)
    assert event == ServerSentEvent(data=data.decode("utf-8", "replace"), name=name, id=cursor)
    assert frame.count(b"\n") == 2 + (cursor is not None) + (name is not None)


@given(streams | st.binary(max_size=120), cuts)
def test_a_decoder_agrees_with_itself_for_any_split(stream: bytes, where: list[int]) -> None:
    assert decode(pieces(stream, where)) == decode([stream])


@given(streams, st.integers(0, 400))
def test_a_stream_cut_short_gives_a_prefix_of_its_events(stream: bytes, at: int) -> None:
    short, _, _, _ = decode([stream[:at]])
    whole, _, _, _ = decode([stream])
    assert short == whole[: len(short)]
