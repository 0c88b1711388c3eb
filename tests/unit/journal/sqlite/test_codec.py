"""What is written is what is read, whatever a state holds."""

from __future__ import annotations

import dataclasses

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.task import Failure, Output, Source, State, Status, TaskKey
from bridge.errors import JournalError
from bridge.journal.sqlite.codec import decode, decode_key, encode, encode_key
from bridge.journal.sqlite.storage import make_entry
from tests.fakes.tasks import TASK, state

texts = st.text(st.characters(exclude_categories=())) | st.sampled_from(["null", "\ud83d\ude00", "\0", ""])
numbers = st.floats() | st.integers() | st.sampled_from([1e15, 1e16, 1e22, -0.0, 2**64, 5e-324])
some_text, some_number, some_integer = st.none() | texts, st.none() | numbers, st.none() | st.integers()
outputs = st.builds(
    Output,
    type=texts,
    url=some_text,
    expires_at=some_number,
    width=some_integer,
    height=some_integer,
    duration_seconds=some_number,
    file_id=some_text,
    data=some_text,
    media_type=some_text,
)
states = st.builds(
    State,
    status=st.sampled_from(Status),
    upstream_status=some_text,
    alias=some_text,
    progress=some_number,
    eta_at=some_number,
    eta_by=some_number,
    queue_position=some_integer,
    model=some_text,
    action=some_text,
    created_at=some_number,
    completed_at=some_number,
    outputs=st.lists(outputs, max_size=3).map(tuple),
    error=st.none() | st.builds(Failure, some_text, some_text),
    credits_used=some_number,
    credits_estimated=some_number,
    changed_at=numbers,
    observed_at=numbers,
    source=st.sampled_from(Source),
    raw=st.none() | st.binary(),
)
every_field = State(
    status=Status.FAILED,
    upstream_status="FAILED",
    alias="mine",
    progress=50.0,
    eta_at=5.0,
    eta_by=6.5,
    queue_position=3,
    model="wan2.7",
    action="generate",
    created_at=1.0,
    completed_at=2.0,
    outputs=(
        Output(type="image", url="u", expires_at=1.0, width=1, height=2, file_id="f"),
        Output(type="file"),
    ),
    error=Failure("E1", None),
    credits_used=0.5,
    credits_estimated=2.0,
    changed_at=3.0,
    observed_at=4.0,
    source=Source.CALLBACK,
    raw=b"",
    result=b'{"a":"\xc3\xa9"}',
    result_status=422,
)


@settings(deadline=None)
@given(states)
def test_every_state_comes_back_exactly(known: State) -> None:
    # By their words: NaN is not equal to itself, and 1 is equal to 1.0 and not the same.
    assert _words(decode(encode(known), known.raw)) == _words(known)


def test_no_field_is_left_out() -> None:
    assert decode(encode(every_field), every_field.raw) == every_field
    given_fields = {
        one.name for one in dataclasses.fields(State) if getattr(every_field, one.name) is not None
    }
    assert given_fields == {one.name for one in dataclasses.fields(State)}, "a new field: is it recorded?"


@settings(deadline=None)
@given(texts, texts, texts)
def test_every_key_comes_back_exactly(upstream: str, task_id: str, account: str) -> None:
    key = TaskKey(upstream, task_id, account)
    assert decode_key(*encode_key(key)) == key


@pytest.mark.parametrize(
    "document",
    [b"", b"{}", b"[]", b"null", b'{"status":"nonsense"}', b"\xff", b'{"status":"queued","new_field":1}'],
)
def test_a_document_that_is_none_of_ours_is_a_journal_error(document: bytes) -> None:
    with pytest.raises(JournalError):
        decode(document, None)


@pytest.mark.parametrize(
    "known",
    [state(progress=object()), state(progress=10**5000), state(changed_at=10**400)],
    ids=["no JSON", "too many digits", "beyond all floats"],
)
def test_a_state_that_cannot_be_written_is_refused_alone(known: State) -> None:
    with pytest.raises(JournalError, match="cannot be"):
        make_entry(TASK, known, 0.0)


def test_a_state_beyond_all_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.journal.sqlite.codec.MAX_BYTES", 1000)
    with pytest.raises(JournalError, match="too large"):
        encode(state(raw=b"x" * 1000))


def _words(known: State) -> str:
    return f"{known!r} {known.raw!r}"


def test_a_state_of_a_version_before_is_read_with_the_moment_its_time_left_led_to() -> None:
    fields = {"status": "processing", "source": "poll", "changed_at": 1000.0, "observed_at": 1000.0}
    old = decode(orjson.dumps(fields | {"eta_seconds": 30.5}), None)
    assert (old.eta_at, old.eta_by) == (1030.5, None)
    assert decode(orjson.dumps(fields), None).eta_at is None
    both = decode(orjson.dumps(fields | {"eta_seconds": 30.5, "eta_at": 5, "eta_by": 6.5}), None)
    assert (both.eta_at, both.eta_by) == (5, 6.5)
    with pytest.raises(JournalError):
        decode(orjson.dumps(fields | {"eta_seconds": "soon"}), None)
