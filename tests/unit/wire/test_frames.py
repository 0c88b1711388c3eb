"""What leaves on a connection, byte for byte, as contract section 4 has it."""

from __future__ import annotations

import re
import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.cursor import Cursor, EventId
from bridge.core.event import Closing, Confirmation, Notice, NoticeCode
from bridge.core.task import State, TaskKey
from bridge.wire.document import PLAIN
from bridge.wire.formats import NdjsonFormat, OpenAiFormat, ProviderFormat, SseFormat, WebSocketFormat
from bridge.wire.frames import Format, Frames, format_of
from bridge.wire.sse import Decoder
from tests.fakes.tasks import TASK, WALL, event, state, video
from tests.fakes.writers import CHUNKED, FRAMED, NDJSON, RAW, SOCKET, SSE

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["\n", "\r\ndata: x", "\u2028", "\x85", '"', "\x00"]
)
states = st.builds(
    state,
    st.sampled_from(["processing", "completed", "failed"]),
    st.none() | st.floats(0, 100),
    upstream_status=texts,
    alias=texts,
    model=texts,
    outputs=st.lists(texts.map(video), max_size=2).map(tuple),
    raw=st.none() | st.just(b'{"a":\r\n [1,\n2]}'),
)
keys = st.builds(TaskKey, st.just("qingbo"), texts.filter(bool))
NOTICE = Notice(NoticeCode.STALE, "not\nconfirmed")
MARKED = format_of(SseFormat, mark="abcd2345")


def test_the_example_of_the_contract_comes_out_byte_for_byte() -> None:
    first = Frames(event(17, state(progress=42))).payload_for(SSE, retry=2140, now=WALL)
    last = Frames(event(31, state("completed", 100))).payload_for(SSE, now=WALL)
    assert re.fullmatch(
        rb'retry: 2140\ndata: \{"task":"qingbo/task-1",.*'
        rb'"status":"processing",.*"progress":42,.*\}\nid: k3f9-17\n\n',
        first,
    )
    assert re.fullmatch(
        rb'data: \{"task":"qingbo/task-1",.*"status":"completed",.*\}\nid: k3f9-31\n\n'
        rb'event: done\ndata: \{"task":"qingbo/task-1","status":"completed"\}\nid: k3f9-31\n\n',
        last,
    )
    assert SSE.end(1) == b'retry: 86400000\nevent: end\ndata: {"tasks":1}\n\n'


def test_control_events_have_names_and_no_place_in_the_journal() -> None:
    assert SSE.reset("new_epoch") == b'event: reset\ndata: {"reason":"new_epoch"}\n\n'
    assert SSE.notice(TASK, NOTICE) == (
        b'event: notice\ndata: {"code":"stale","task":"qingbo/task-1","retriable":true,'
        b'"message":"not\\nconfirmed"}\n\n'
    )
    assert SSE.closing(Closing.DRAIN, retry=1500) == (
        b'retry: 1500\nevent: notice\ndata: {"code":"closing","task":null,"retriable":true,'
        b'"message":"the bridge is restarting; please reconnect","reason":"drain"}\n\n'
    )


@given(keys, states, st.sampled_from([SSE, format_of(SseFormat, RAW)]))
def test_nothing_a_provider_says_breaks_an_event(key: TaskKey, known: State, form: Format) -> None:
    frame = Frames(event(7, known, key)).payload_for(form, now=WALL)
    names = [one.name for one in Decoder().feed(frame)]
    assert names == ([None, "done"] if known.status.final else [None])
    assert all(line.startswith((b"id: ", b"event: ", b"data: ")) for line in frame.split(b"\n") if line)
    assert b"\r" not in frame


@given(
    keys,
    states,
    st.sampled_from([NDJSON, format_of(NdjsonFormat, RAW), SOCKET, format_of(WebSocketFormat, RAW)]),
)
def test_nothing_a_provider_says_breaks_a_line(key: TaskKey, known: State, form: Format) -> None:
    lines = Frames(event(7, known, key)).payload_for(form, now=WALL).split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == (2 if known.status.final else 1)
    documents = [orjson.loads(line) for line in lines]
    if isinstance(form, NdjsonFormat):
        assert documents[0]["task"] == key.ref
        assert documents[1:] == [
            {"event": "done", "task": key.ref, "status": known.status.value, "cursor": "k3f9-7"}
        ] * (len(lines) - 1)
    else:
        assert [one["type"] for one in documents] == ["state", "done"][: len(lines)]
        assert documents[0]["cursor"] == documents[0]["state"]["cursor"] == "k3f9-7"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_message_breaks_a_notice(text: str) -> None:
    notice = Notice(NoticeCode.UPSTREAM_UNAVAILABLE, text, retriable=False)
    [one] = Decoder().feed(SSE.notice(None, notice))
    told = {"code": "upstream_unavailable", "task": None, "retriable": False, "message": text}
    assert orjson.loads(one.data) == told
    assert orjson.loads(NDJSON.notice(None, notice)) == {"event": "notice"} | told
    assert orjson.loads(SOCKET.notice(None, notice)) == {"type": "notice"} | told


def test_an_id_carries_the_mark_of_its_list_and_the_document_does_not() -> None:
    one, done = Decoder().feed(Frames(event(7, state("completed"))).payload_for(MARKED, now=WALL))
    assert one.id == done.id == "k3f9-7.abcd2345"
    assert orjson.loads(one.data)["cursor"] == "k3f9-7"


def test_a_state_that_is_no_place_in_the_journal_moves_no_position_of_a_list() -> None:
    placeholder = Frames(event(0, state("unknown")))
    assert b"\nid: " not in placeholder.payload_for(MARKED, now=WALL)
    assert placeholder.payload_for(SSE, now=WALL).endswith(b"\nid: k3f9-0\n\n")


def test_keepalives_are_as_short_as_can_be() -> None:
    assert SSE.keepalive() == b":\n"
    assert CHUNKED.keepalive() == b"2\r\n:\n\r\n"
    assert NDJSON.keepalive() == b"\n"
    assert SOCKET.keepalive() == FRAMED.keepalive() == b""


@given(st.binary(max_size=5000))
def test_chunks_are_framed_as_http_has_it_and_an_empty_one_ends_nothing(payload: bytes) -> None:
    packed = CHUNKED.pack(payload)
    if not payload:
        assert packed == b""
        return
    size, _, rest = packed.partition(b"\r\n")
    assert int(size, 16) == len(payload)
    assert rest == payload + b"\r\n"
    assert SSE.pack(payload) == payload


@pytest.mark.parametrize(
    ("size", "head"),
    [
        (0, b"\x81\x00"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65_535, b"\x81\x7e\xff\xff"),
        (65_536, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
    ],
)
def test_a_websocket_frame_says_its_size_as_the_rfc_has_it(size: int, head: bytes) -> None:
    payload = b"x" * size
    assert FRAMED._frame(payload) == head + payload
    assert SOCKET._frame(payload) == payload + b"\n"


def test_a_socket_has_no_end_and_control_messages_have_types() -> None:
    assert SOCKET.end(1) == b""
    assert NDJSON.end(2) == b'{"event":"end","tasks":2}\n'
    assert SOCKET.control("pong", {"id": 3}) == b'{"type":"pong","id":3}\n'


def test_the_bytes_of_an_event_are_made_once_a_form() -> None:
    frames = Frames(event(17, state(progress=42)))
    assert frames.bytes_for(SSE, now=WALL) is frames.bytes_for(format_of(SseFormat), now=WALL)
    chunked = frames.bytes_for(CHUNKED, now=WALL)
    assert chunked == CHUNKED.pack(frames.bytes_for(SSE, now=WALL))


def test_newcomers_share_a_document_and_each_has_its_own_wait() -> None:
    frames = Frames(event(17, state(raw=b"{}")))
    at = 1_800_000_100.0
    confirmed = Confirmation(at)
    for include in (PLAIN, RAW, PLAIN):
        for retry in (None, 1500):
            form = format_of(SseFormat, include)
            [one] = Decoder().feed(frames.payload_for(form, now=at, confirmation=confirmed, retry=retry))
            told = orjson.loads(one.data)
            assert one.retry == retry
            assert told["raw"] == ({} if include.raw else None)
            assert told["observed_at"] == "2027-01-15T08:01:40.000Z"
    [live] = Decoder().feed(frames.bytes_for(SSE, now=WALL))
    assert orjson.loads(live.data)["observed_at"] < "2027-01-15T08:01"


# Groups

counts = st.dictionaries(
    st.sampled_from(["completed", "failed", "cancelled", "lost"]), st.integers(0, 50_000)
)
words = st.from_regex(r"[A-Za-z0-9._:-]{1,64}", fullmatch=True)


def test_a_group_that_is_done_has_a_place_in_the_journal() -> None:
    place = EventId(Cursor("k3f9", 31), "abcd2345")
    ended = {"completed": 2, "failed": 1}
    assert MARKED.group_done("g", ended, place) == (
        b'event: group_done\ndata: {"group":"g","counts":{"completed":2,"failed":1}}\n'
        b"id: k3f9-31.abcd2345\n\n"
    )
    fields = {"group": "g", "counts": ended, "cursor": "k3f9-31.abcd2345"}
    assert orjson.loads(NDJSON.group_done("g", ended, place)) == {"event": "group_done"} | fields
    assert orjson.loads(SOCKET.group_done("g", ended, place)) == {"type": "group_done"} | fields
    openai = format_of(OpenAiFormat, mark="abcd2345").group_done("g", ended, place)
    assert openai == (
        b'data: {"type":"group_done","group":"g","counts":{"completed":2,"failed":1}}\n'
        b"id: k3f9-31.abcd2345\n\n"
    )
    assert ProviderFormat(lambda _: None).group_done("g", ended, place) == b""


@given(words, counts, st.integers(0, 2**53 - 1))
def test_every_frame_about_a_group_is_framed_as_all_are(
    group: str, ended: dict[str, int], offset: int
) -> None:
    place = EventId(Cursor("k3f9", offset), "abcd2345")
    for fmt in (MARKED, format_of(OpenAiFormat, mark="abcd2345")):
        frame = fmt.group_done(group, ended, place)
        lines = frame.split(b"\n")
        assert frame.endswith(b"\n\n")
        assert sum(line.startswith(b"data: ") for line in lines) == 1
        assert lines[-3] == b"id: " + str(place).encode(), "the id is not last"
        [read] = Decoder().feed(frame)
        assert orjson.loads(read.data).items() >= {"group": group, "counts": ended}.items()
        assert EventId.parse(read.id or "") == place
    for fmt in (NDJSON, SOCKET):
        line = fmt.group_done(group, ended, place)
        assert line.count(b"\n") == 1
        assert orjson.loads(line)["counts"] == ended


def test_a_kept_document_takes_no_more_memory_than_it_is_long() -> None:
    """What orjson returns takes kilobytes, however short it is."""
    fmt = format_of(SseFormat)
    kept = [Frames(event(offset, state(progress=offset))) for offset in range(1, 101)]
    tracemalloc.start()
    try:
        for frames in kept:
            frames.payload_for(fmt, now=WALL)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    longest = max(len(frames.payload_for(fmt, now=WALL)) for frames in kept)
    assert taken / len(kept) < longest + 600  # the dictionary that it is in
