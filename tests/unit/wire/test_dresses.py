"""What a stream looks like to clients that know the OpenAI libraries, or only the provider."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.event import Closing, Notice, NoticeCode
from bridge.core.task import Failure
from bridge.wire.document import document
from bridge.wire.frames import (
    Format,
    Frames,
    Transport,
    Variant,
    closing_frame,
    end_frame,
    keepalive,
    notice_frame,
    pack,
    reset_frame,
    state_frame,
)
from bridge.wire.sse import Decoder
from tests.fakes.tasks import TASK, event, state

OPENAI = Format(Transport.SSE, variant=Variant.OPENAI)
PROVIDER = Format(Transport.SSE, variant=Variant.PROVIDER)
NOTICE = Notice(NoticeCode.STALE, "not\nconfirmed")


def test_a_state_is_an_unnamed_object_with_a_type_and_a_failure_stands_below_task():
    failed = event(17, state("failed", error=Failure("E1", "no")))
    frame = state_frame(OPENAI, failed, retry=2140)
    assert frame.startswith(b'id: k3f9-17\nretry: 2140\ndata: {"type":"state","cursor":"k3f9-17","task":{')
    (told,) = Decoder().feed(frame)
    assert told.name is None
    assert orjson.loads(told.data) == {
        "type": "state",
        "cursor": "k3f9-17",
        "task": orjson.loads(document(failed)),
    }
    assert "error" not in orjson.loads(told.data)


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (notice_frame(OPENAI, TASK, NOTICE), "notice"),
        (closing_frame(OPENAI, Closing.DRAIN, retry=5), "notice"),
        (reset_frame(OPENAI, "new_epoch", retry=5), "reset"),
    ],
)
def test_what_else_is_said_is_unnamed_too(frame, kind):
    (told,) = Decoder().feed(frame)
    assert told.name is None
    fields = orjson.loads(told.data)
    assert fields["type"] == kind
    assert "error" not in fields


def test_the_end_is_the_word_those_libraries_wait_for():
    assert end_frame(OPENAI, 3) == b"data: [DONE]\n\n"


@pytest.mark.parametrize("form", [OPENAI, PROVIDER])
def test_a_keepalive_is_the_same_in_every_dress(form):
    assert keepalive(form) == b":\n"


def test_the_providers_document_is_one_line_and_nothing_else():
    raw = b'{ "status":\r\n "completed",\n "big": 12345678901234 }'
    frame = state_frame(PROVIDER, event(3, state("completed", raw=raw)))
    assert frame == b'data: { "status":   "completed",  "big": 12345678901234 }\n\n'


def test_what_no_provider_says_is_not_said_in_its_name():
    assert state_frame(PROVIDER, event(0, state("unknown"))) == b""
    assert notice_frame(PROVIDER, TASK, NOTICE) == b""
    assert closing_frame(PROVIDER, Closing.AGE, retry=1) == b""
    assert reset_frame(PROVIDER, "new_epoch") == b""
    assert end_frame(PROVIDER, 1) == b""
    assert (
        pack(Format(Transport.SSE, chunked=True, variant=Variant.PROVIDER), b"") == b""
    )  # no chunk that ends a body


def test_each_dress_is_made_once_and_is_none_of_the_others():
    frames = Frames(event(5, state(progress=1, raw=b"{}")))
    made = [frames.bytes_for(form) for form in (Format(Transport.SSE), OPENAI, PROVIDER)]
    assert len(set(made)) == 3
    again = Format(Transport.SSE, variant=Variant.OPENAI)
    assert frames.bytes_for(again) is made[1]


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists))
def test_whatever_a_provider_sent_comes_through(value):
    raw = orjson.dumps({"a": value}, option=orjson.OPT_INDENT_2)
    (told,) = Decoder().feed(state_frame(PROVIDER, event(1, state(raw=raw))))
    assert orjson.loads(told.data) == {"a": value}
