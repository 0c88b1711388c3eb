"""Cursors, and what a client that comes back with one gets."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.resume import Position, Resume, locate, resume
from tests.fakes.tasks import EPOCH, event, state

cursors = st.builds(
    Cursor, st.from_regex(re.compile(r"[A-Za-z0-9]{1,32}"), fullmatch=True), st.integers(0, 10**18 - 1)
)
near_cursors = st.text("abk3f9-0127._~ \n٣", max_size=12)
histories = st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=6, unique_by=lambda pair: pair[0])


def events(history: list[tuple[int, bool]]) -> list[Event]:
    return [event(offset, state("completed" if final else "processing")) for offset, final in history]


@given(cursors)
def test_a_cursor_comes_back_as_it_went_out(cursor: Cursor) -> None:
    token = str(cursor)
    assert Cursor.parse(token) == cursor
    assert re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", token)


@given(st.text() | near_cursors)
def test_what_we_never_gave_out_is_no_cursor(token: str) -> None:
    cursor = Cursor.parse(token)
    assert cursor is None or str(cursor) == token


@given(near_cursors | cursors.map(str) | st.just(f"{EPOCH}-7"), st.integers(0, 20))
def test_any_token_is_a_place_or_a_reset(token: str, head: int) -> None:
    position = locate(token, epoch=EPOCH, head=head)
    if not token:
        assert position == Position()
    elif position.after is not None:
        assert position.reset_reason is None
        assert token == f"{EPOCH}-{position.after}"
        assert position.after <= head
    else:
        assert position.reset_reason in {"unknown_cursor", "new_epoch", "future_cursor"}


@pytest.mark.parametrize(
    "token", ["k3f9-007", "k3f9-", "-7", "k3f9-7 ", "k3f9-٣", "k3_f9-7", "k3f9-" + "9" * 19]
)
def test_what_only_looks_like_a_cursor_is_none(token: str) -> None:
    assert Cursor.parse(token) is None


def test_a_client_without_a_cursor_starts() -> None:
    assert locate(None, epoch=EPOCH, head=9) == Position()
    assert resume(Position(), [event(1)]) is None


def test_each_kind_of_cursor_we_cannot_honour_has_its_reason() -> None:
    reasons = [locate(token, epoch=EPOCH, head=9).reset_reason for token in ("?", "other-3", f"{EPOCH}-10")]
    assert reasons == ["unknown_cursor", "new_epoch", "future_cursor"]


@given(histories, st.integers(0, 60))
def test_a_resume_ends_only_when_every_end_was_seen(history: list[tuple[int, bool]], after: int) -> None:
    outcome = resume(Position(after=after), events(history))
    newer = any(offset > after for offset, _ in history)
    if newer:
        assert outcome is Resume.NEWER
    elif all(final for _, final in history):
        assert outcome is Resume.ENDED
    else:
        assert outcome is Resume.CURRENT


def test_a_task_nobody_has_seen_keeps_a_resume_open() -> None:
    assert resume(Position(after=5), [event(3, state("completed")), None]) is Resume.CURRENT
    assert resume(Position(reset_reason="new_epoch"), [event(3)]) is Resume.RESET
