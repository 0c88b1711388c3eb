"""What a stream looks like to clients that know the OpenAI libraries, or only the provider."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.event import Closing, Notice, NoticeCode
from bridge.core.task import Failure
from bridge.wire.document import document
from bridge.wire.formats import OpenAiFormat, ProviderFormat, SseFormat
from bridge.wire.frames import Frames, format_of
from bridge.wire.sse import Decoder
from tests.fakes.tasks import TASK, WALL, event, state

OPENAI = format_of(OpenAiFormat)
PROVIDER = ProviderFormat(lambda known: known.raw)
NOTICE = Notice(NoticeCode.STALE, "not\nconfirmed")


def test_a_state_is_an_unnamed_object_with_a_type_and_a_failure_stands_below_task():
    failed = event(17, state("failed", error=Failure("E1", "no")))
    frame = Frames(failed).payload_for(OPENAI, retry=2140, now=WALL)
    assert frame.startswith(b'retry: 2140\ndata: {"type":"state","cursor":"k3f9-17","task":{')
    (told,) = Decoder().feed(frame)
    assert told.name is None
    assert orjson.loads(told.data) == {
        "type": "state",
        "cursor": "k3f9-17",
        "task": orjson.loads(document(failed, now=WALL)),
    }
    assert "error" not in orjson.loads(told.data)


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        (OPENAI.notice(TASK, NOTICE), "notice"),
        (OPENAI.closing(Closing.DRAIN, retry=5), "notice"),
        (OPENAI.reset("new_epoch", retry=5), "reset"),
    ],
)
def test_what_else_is_said_is_unnamed_too(frame, kind):
    (told,) = Decoder().feed(frame)
    assert told.name is None
    fields = orjson.loads(told.data)
    assert fields["type"] == kind
    assert "error" not in fields


def test_the_end_is_the_word_those_libraries_wait_for():
    assert OPENAI.end(3) == b"retry: 86400000\ndata: [DONE]\n\n"


@pytest.mark.parametrize("form", [OPENAI, PROVIDER])
def test_a_keepalive_is_the_same_in_every_dress(form):
    assert form.keepalive() == b":\n"


def test_the_providers_document_is_one_line_and_nothing_else():
    raw = b'{ "status":\r\n "completed",\n "big": 12345678901234 }'
    frame = Frames(event(3, state("completed", raw=raw))).payload_for(PROVIDER, now=WALL)
    assert frame == b'data: { "status":   "completed",  "big": 12345678901234 }\n\n'


def test_what_no_provider_says_is_not_said_in_its_name():
    assert Frames(event(0, state("unknown"))).payload_for(PROVIDER, now=WALL) == b""
    assert PROVIDER.notice(TASK, NOTICE) == b""
    assert PROVIDER.closing(Closing.AGE, retry=1) == b""
    assert PROVIDER.reset("new_epoch") == b""
    assert PROVIDER.end(1) == b""
    assert PROVIDER.with_framing().pack(b"") == b""  # no chunk that ends a body


def test_each_dress_is_made_once_and_is_none_of_the_others():
    frames = Frames(event(5, state(progress=1, raw=b"{}")))
    made = [frames.bytes_for(form, now=WALL) for form in (format_of(SseFormat), OPENAI, PROVIDER)]
    assert len(set(made)) == 3
    again = format_of(OpenAiFormat)
    assert frames.bytes_for(again, now=WALL) is made[1]


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists))
def test_whatever_a_provider_sent_comes_through(value):
    raw = orjson.dumps({"a": value}, option=orjson.OPT_INDENT_2)
    (told,) = Decoder().feed(Frames(event(1, state(raw=raw))).payload_for(PROVIDER, now=WALL))
    assert orjson.loads(told.data) == {"a": value}
