"""The SSE decoder against golden streams; most are the web platform tests' `eventsource/format-*` cases."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest

from bridge.errors import UnreadablePayload
from bridge.wire.sse import KEEPALIVE, MAX_EVENT_BYTES, OK_COMMENT, Decoder, ServerSentEvent, encode

BOM = b"\xef\xbb\xbf"


def decoded(stream: bytes, *, size: int | None = None, bound: int = MAX_EVENT_BYTES) -> list[ServerSentEvent]:
    decoder = Decoder(max_event_bytes=bound)
    size = size or max(len(stream), 1)
    return [event for at in range(0, len(stream), size) for event in decoder.feed(stream[at : at + size])]


def datas(stream: bytes) -> list[str]:
    return [event.data for event in decoded(stream)]


GOLDEN = [
    ("a plain message", b"data: one\n\n", ["one"]),
    ("CR line ends", b"data: one\r\rdata: two\r\r", ["one", "two"]),
    ("CRLF line ends", b"data: one\r\n\r\ndata: two\r\n\r\n", ["one", "two"]),
    ("mixed line ends", b"data:test\r\ndata\ndata:test\r\n\r\n", ["test\n\ntest"]),
    ("CR then LF is one line end", b"data: a\r\ndata: b\n\n", ["a\nb"]),
    ("LF then CR is two", b"data: a\n\rdata: b\n\n", ["a", "b"]),
    ("a leading BOM", BOM + b"data: one\n\n", ["one"]),
    ("a second BOM hides the field", BOM + BOM + b"data: one\n\n", []),
    ("a BOM later on", b"data: one\n\n" + BOM + b"data: two\n\ndata: three\n\n", ["one", "three"]),
    ("a BOM within the data", b"data: " + BOM + b"one\n\n", ["\ufeffone"]),
    ("only one space is removed", b"data:  one\n\ndata:\ttwo\n\n", [" one", "\ttwo"]),
    ("no space at all", b"data:one\n\n", ["one"]),
    ("colons in the value", b'data: {"a":1}\n\n', ['{"a":1}']),
    ("several data lines", b"data: one\ndata: two\n\n", ["one\ntwo"]),
    ("empty data lines", b"data:\n\ndata\ndata\n\ndata:test\n\n", ["", "\n", "test"]),
    ("no data, no event", b"event: ghost\nid: 1\n\nretry: 5\n\n\n\n", []),
    ("comments", b":\n: ok\ndata: one\n:" + b"x" * 3000 + b"\ndata: two\n: end\n\n", ["one\ntwo"]),
    ("unknown fields", b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacomment\n\n", ["test\n"]),
    ("field names are exact", b"DATA: a\ndata : b\n\ndata: c\n\n", ["c"]),
    ("an unfinished block is dropped", b"data: one\n\ndata: two\n", ["one"]),
    ("an unfinished line is dropped", b"data: one\n\ndata: two", ["one"]),
    ("NUL in data stays", b"data: a\x00b\n\n", ["a\x00b"]),
    ("NUL in a field name hides it", b"data:te\x00st\n\ndat\x00a: b\n\n", ["te\x00st"]),
    (
        "form feed and line separators are no line ends",
        "data: a\x0b\x0c\x85\u2028b\n\n".encode(),
        ["a\x0b\x0c\x85\u2028b"],
    ),
    ("other languages", "data: ok… 完成\n\n".encode(), ["ok… 完成"]),
    ("bad UTF-8 is replaced", b"data: a\xff\xe2\x82\ndata: b\n\n", ["a\ufffd\ufffd\nb"]),
]


@pytest.mark.parametrize(
    ("stream", "expected"), [case[1:] for case in GOLDEN], ids=[case[0] for case in GOLDEN]
)
def test_golden_streams(stream: bytes, expected: list[str]) -> None:
    assert datas(stream) == expected


@pytest.mark.parametrize("stream", [case[1] for case in GOLDEN], ids=[case[0] for case in GOLDEN])
def test_golden_streams_do_not_care_where_they_are_cut(stream: bytes) -> None:
    whole = decoded(stream)
    for size in (1, 2, 3, 7):
        assert decoded(stream, size=size) == whole


def test_a_name_belongs_to_its_own_block() -> None:
    events = decoded(b"event: done\ndata: a\n\ndata: b\n\nevent: ghost\n\ndata: c\n\nevent:\ndata: d\n\n")
    assert [event.name for event in events] == ["done", None, None, None]


def test_the_last_name_in_a_block_counts() -> None:
    assert decoded(b"event: a\nevent: b\ndata: x\n\n")[0].name == "b"


def test_an_id_is_kept_until_another_comes() -> None:
    events = decoded(b"id: 1\ndata: a\n\ndata: b\n\nid: 2\ndata: c\n\n")
    assert [event.id for event in events] == ["1", "1", "2"]


def test_an_id_with_nul_is_ignored_and_an_empty_one_resets() -> None:
    events = decoded(b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\nid\ndata: c\n\n")
    assert [event.id for event in events] == ["1", "1", None]


def test_a_block_of_an_id_alone_is_a_silent_bookmark() -> None:
    decoder = Decoder()
    assert decoder.feed(b"id: 7\n\n") == []
    assert decoder.last_event_id == "7"


def test_the_cursor_moves_at_the_blank_line_and_not_before() -> None:
    decoder = Decoder(last_event_id="1")
    decoder.feed(b"id: 2\ndata: x\n")
    assert decoder.last_event_id == "1"
    assert decoder.feed(b"\n") == [ServerSentEvent(data="x", id="2")]
    assert decoder.last_event_id == "2"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"retry: 2140", 2140),
        (b"retry:0", 0),
        (b"retry: 1e3", None),
        (b"retry: -1", None),
        (b"retry:  5", None),
        (b"retry:", None),
        (b"retry", None),
        ("retry: ٣".encode(), None),
        (b"retry: " + b"9" * 5000, None),
    ],
)
def test_retry_is_ascii_digits_or_nothing(line: bytes, expected: int | None) -> None:
    decoder = Decoder()
    [event] = decoder.feed(line + b"\ndata: x\n\n")
    assert event.retry == expected
    assert decoder.retry == expected


def test_a_retry_outlives_its_block_on_the_decoder_only() -> None:
    decoder = Decoder()
    [event] = decoder.feed(b"retry: 5\n\ndata: x\n\n")
    assert event.retry is None
    assert decoder.retry == 5


def test_comments_show_that_the_line_is_alive() -> None:
    decoder = Decoder()
    assert decoder.feed(OK_COMMENT + KEEPALIVE + KEEPALIVE) == []
    assert decoder.comments == 3


def test_cr_ends_a_line_at_once_and_its_late_lf_is_swallowed() -> None:
    decoder = Decoder()
    assert [event.data for event in decoder.feed(b"data: a\r\r")] == ["a"]
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"") == []
    assert [event.data for event in decoder.feed(b"data: b\r\n\r\n")] == ["b"]


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + b"x" * 200,
        b"data: " + b"x" * 200 + b"\n\n",
        b": " + b"x" * 200 + b"\n",
        b"data: x\n" * 60 + b"\n",
        b"data\n" * 200 + b"\n",
    ],
    ids=["endless line", "long line", "long comment", "many lines", "empty lines"],
)
def test_what_is_held_is_bounded_however_it_comes(stream: bytes, size: int) -> None:
    with pytest.raises(UnreadablePayload):
        decoded(stream, size=size, bound=100)


def test_what_is_not_held_is_not_counted() -> None:
    decoder = Decoder(max_event_bytes=100)
    for _ in range(1000):
        decoder.feed(KEEPALIVE + b"unknown: field\n")
    assert [event.data for event in decoder.feed(b"data: x\n\n" * 100)] == ["x"] * 100


def test_an_event_of_exactly_the_bound_passes() -> None:
    line = b"data: " + b"x" * 94
    assert len(Decoder(max_event_bytes=100).feed(line + b"\n\n")) == 1
    with pytest.raises(UnreadablePayload):
        Decoder(max_event_bytes=99).feed(line)


@pytest.mark.parametrize(
    "held", [b"data: " + b"x" * 1_000_000, (b"data: " + b"x" * 994 + b"\n") * 1000], ids=["line", "lines"]
)
def test_one_more_byte_does_not_copy_what_is_held(held: bytes) -> None:
    """Linear whatever the chunking: with a megabyte held, a one-byte chunk allocates next to nothing."""
    decoder = Decoder()
    decoder.feed(held)
    copies = 0
    tracemalloc.start()
    try:
        for byte in (b"data: " + b"y" * 1000) * 2:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            decoder.feed(bytes((byte,)))
            _, peak = tracemalloc.get_traced_memory()
            copies += peak - before > 100_000
    finally:
        tracemalloc.stop()
    assert copies <= 2  # a growing bytearray moves now and then


def test_a_megabyte_in_single_bytes_arrives_whole() -> None:
    stream = encode(b"x" * 1_000_000, id="a-1")
    [event] = decoded(stream, size=1)
    assert event.data == "x" * 1_000_000


def test_our_frames_are_those_of_the_contract() -> None:
    assert encode(b'{"task":"q/1"}', id="k3f9-17", retry=2140) == (
        b'retry: 2140\ndata: {"task":"q/1"}\nid: k3f9-17\n\n'
    )
    assert (
        encode(b"{}", id="k3f9-31", event="done", retry=1)
        == b"retry: 1\nevent: done\ndata: {}\nid: k3f9-31\n\n"
    )
    assert encode(b'{"tasks":1}', event="end") == b'event: end\ndata: {"tasks":1}\n\n'
    assert OK_COMMENT == b": ok\n"
    assert KEEPALIVE == b":\n"


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"a\nb", {}),
        (b"a\rb", {}),
        (b"x", {"id": ""}),
        (b"x", {"id": "a\nevent: x"}),
        (b"x", {"id": "a\n"}),
        (b"x", {"id": "a b"}),
        (b"x", {"id": "é"}),
        (b"x", {"id": "a" * 129}),
        (b"x", {"event": ""}),
        (b"x", {"event": "done\n"}),
        (b"x", {"event": "Done"}),
        (b"x", {"retry": -1}),
    ],
)
def test_nothing_that_would_break_a_frame_is_encoded(data: bytes, fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        encode(data, **fields)  # type: ignore[arg-type]


def test_events_come_out_as_soon_as_they_are_whole() -> None:
    decoder = Decoder()
    seen = [len(decoder.feed(bytes((byte,)))) for byte in b"data: a\n\ndata: b\n\n"]
    ends = [at for at, count in enumerate(seen) if count]
    assert ends == [8, 17]
    assert all(later > earlier for earlier, later in pairwise(ends))
