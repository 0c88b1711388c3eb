"""What leaves on a connection, byte for byte, as contract section 4 has it."""

from __future__ import annotations

import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.event import Closing, Notice, NoticeCode
from bridge.core.task import State, TaskKey
from bridge.wire.document import Include
from bridge.wire.frames import (
    Format,
    Frames,
    Transport,
    closing_frame,
    end_frame,
    keepalive,
    message,
    notice_frame,
    pack,
    reset_frame,
    state_frame,
    text_frame,
)
from bridge.wire.sse import Decoder
from tests.fakes.tasks import TASK, event, state, video
from tests.fakes.writers import NDJSON, SOCKET, SSE

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
FRAMED = Format(Transport.WEBSOCKET, framed=True)
RAW = Include(raw=True)


def test_the_example_of_the_contract_comes_out_byte_for_byte() -> None:
    first = state_frame(SSE, event(17, state(progress=42)), retry=2140)
    last = state_frame(SSE, event(31, state("completed", 100)))
    assert re.fullmatch(
        rb'id: k3f9-17\nretry: 2140\ndata: \{"task":"qingbo/task-1",.*'
        rb'"status":"processing",.*"progress":42,.*\}\n\n',
        first,
    )
    assert re.fullmatch(
        rb'id: k3f9-31\ndata: \{"task":"qingbo/task-1",.*"status":"completed",.*\}\n\n'
        rb'id: k3f9-31\nevent: done\ndata: \{"task":"qingbo/task-1","status":"completed"\}\n\n',
        last,
    )
    assert end_frame(SSE, 1) == b'event: end\ndata: {"tasks":1}\n\n'


def test_control_events_have_names_and_no_place_in_the_journal() -> None:
    assert reset_frame(SSE, "new_epoch") == b'event: reset\ndata: {"reason":"new_epoch"}\n\n'
    assert notice_frame(SSE, TASK, NOTICE) == (
        b'event: notice\ndata: {"code":"stale","task":"qingbo/task-1","retriable":true,'
        b'"message":"not\\nconfirmed"}\n\n'
    )
    assert closing_frame(SSE, Closing.DRAIN, retry=1500) == (
        b'event: notice\nretry: 1500\ndata: {"code":"closing","task":null,"retriable":true,'
        b'"message":"the bridge is restarting; please reconnect","reason":"drain"}\n\n'
    )


@given(keys, states, st.sampled_from([SSE, Format(Transport.SSE, RAW)]))
def test_nothing_a_provider_says_breaks_an_event(key: TaskKey, known: State, form: Format) -> None:
    frame = state_frame(form, event(7, known, key))
    names = [one.name for one in Decoder().feed(frame)]
    assert names == ([None, "done"] if known.status.final else [None])
    assert all(line.startswith((b"id: ", b"event: ", b"data: ")) for line in frame.split(b"\n") if line)
    assert b"\r" not in frame


@given(
    keys,
    states,
    st.sampled_from([NDJSON, Format(Transport.NDJSON, RAW), SOCKET, Format(Transport.WEBSOCKET, RAW)]),
)
def test_nothing_a_provider_says_breaks_a_line(key: TaskKey, known: State, form: Format) -> None:
    lines = state_frame(form, event(7, known, key)).split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == (2 if known.status.final else 1)
    documents = [orjson.loads(line) for line in lines]
    if form.transport is Transport.NDJSON:
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
    [one] = Decoder().feed(notice_frame(SSE, None, notice))
    told = {"code": "upstream_unavailable", "task": None, "retriable": False, "message": text}
    assert orjson.loads(one.data) == told
    assert orjson.loads(notice_frame(NDJSON, None, notice)) == {"event": "notice"} | told
    assert orjson.loads(notice_frame(SOCKET, None, notice)) == {"type": "notice"} | told


def test_a_state_that_is_no_place_in_the_journal_moves_no_cursor() -> None:
    frame = state_frame(SSE, event(0, state("unknown")), with_cursor=False)
    assert frame.startswith(b"data: ")


def test_keepalives_are_as_short_as_can_be() -> None:
    assert keepalive(SSE) == b":\n"
    assert keepalive(Format(Transport.SSE, chunked=True)) == b"2\r\n:\n\r\n"
    assert keepalive(NDJSON) == b"\n"
    assert keepalive(SOCKET) == keepalive(FRAMED) == b""


@given(st.binary(max_size=5000))
def test_chunks_are_framed_as_http_has_it_and_an_empty_one_ends_nothing(payload: bytes) -> None:
    packed = pack(Format(Transport.SSE, chunked=True), payload)
    if not payload:
        assert packed == b""
        return
    size, _, rest = packed.partition(b"\r\n")
    assert int(size, 16) == len(payload)
    assert rest == payload + b"\r\n"
    assert pack(SSE, payload) == payload


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
    assert text_frame(FRAMED, payload) == head + payload
    assert text_frame(SOCKET, payload) == payload + b"\n"


def test_a_socket_has_no_end_and_control_messages_have_types() -> None:
    assert end_frame(SOCKET, 1) == b""
    assert end_frame(NDJSON, 2) == b'{"event":"end","tasks":2}\n'
    assert message(SOCKET, {"type": "pong", "id": 3}) == b'{"type":"pong","id":3}\n'


def test_the_bytes_of_an_event_are_made_once_a_form() -> None:
    frames = Frames(event(17, state(progress=42)))
    assert frames.bytes_for(SSE) is frames.bytes_for(Format(Transport.SSE))
    chunked = frames.bytes_for(Format(Transport.SSE, chunked=True))
    assert chunked == pack(Format(Transport.SSE, chunked=True), frames.bytes_for(SSE))


def test_newcomers_share_a_document_and_each_has_its_own_wait() -> None:
    frames = Frames(event(17, state(raw=b"{}")))
    at = 1_800_000_100.0
    for include in (Include(), RAW, Include()):
        for retry in (None, 1500):
            form = Format(Transport.SSE, include)
            [one] = Decoder().feed(frames.first_for(form, confirmed_at=at, retry=retry))
            told = orjson.loads(one.data)
            assert one.retry == retry
            assert told["raw"] == ({} if include.raw else None)
            assert told["observed_at"] == "2027-01-15T08:01:40.000Z"
    assert orjson.loads(Decoder().feed(frames.bytes_for(SSE))[0].data)["observed_at"] < "2027-01-15T08:01"
