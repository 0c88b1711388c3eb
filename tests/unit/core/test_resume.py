"""Cursors, marks of lists, and what a client that comes back with one gets."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.cursor import OFFSET_LIMIT, Cursor, EventId, mark_of, new_epoch
from bridge.core.event import Event
from bridge.core.resume import Decision, Position, Resume, decide, is_seen, locate
from bridge.core.task import TaskKey
from tests.fakes.tasks import EPOCH, OTHER, TASK, event, state

cursors = st.builds(
    Cursor,
    st.from_regex(re.compile(r"[A-Za-z0-9]{1,32}"), fullmatch=True),
    st.integers(0, OFFSET_LIMIT - 1),
    st.just("") | st.from_regex(re.compile(r"[a-z][0-9]{1,4}"), fullmatch=True),
)
keys = st.builds(
    TaskKey, st.sampled_from(["qingbo", "vapi"]), st.text("ab/0 ", min_size=1), st.sampled_from("-xy")
)
lists = st.lists(keys, min_size=1, max_size=5)
near_ids = st.text("abk3f9-0127._~ \n٣", max_size=24)
histories = st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=6, unique_by=lambda pair: pair[0])


def asked(
    latest: list[Event | None], token: str | None, *, mark: str | None = None, missing: bool = False
) -> Decision:
    """The answer where every task without a state is missing, or none is."""
    gone = [missing and event is None for event in latest]
    return decide(token, mark, epoch=EPOCH, head=60, latest=latest, missing=gone)


@given(cursors)
def test_a_cursor_comes_back_as_it_went_out(cursor: Cursor) -> None:
    token = str(cursor)
    assert Cursor.parse(token) == cursor
    assert EventId.parse(token) == EventId(cursor)
    assert re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", token)


@given(cursors, lists)
def test_an_id_with_a_mark_comes_back_as_it_went_out(cursor: Cursor, tasks: list[TaskKey]) -> None:
    token = str(EventId(cursor, mark_of(tasks)))
    assert f"{cursor.epoch}-{cursor.offset}.{mark_of(tasks)}" in token
    assert re.fullmatch(r"[A-Za-z0-9._~-]{1,128}", token)
    assert EventId.parse(token) == EventId(cursor, mark_of(tasks))
    assert Cursor.parse(token) is None


@given(st.text() | near_ids)
def test_what_we_never_gave_out_is_no_id(token: str) -> None:
    event_id = EventId.parse(token)
    if event_id is not None:
        assert str(event_id) == token


@pytest.mark.parametrize(
    "token",
    [
        *("k3f9-007", "k3f9-", "-7", "k3f9-7 ", "k3f9-٣", "k3_f9-7", f"k3f9-{OFFSET_LIMIT}"),
        *("k3f9-7~", "k3f9-7~500", "k3f9-7~p", "k3f9-7~p50000", "k3f9-7~P500", "k3f9-7~p500.abcdefgh"),
        *("k3f9-7.", "k3f9-7.abc", "k3f9-7.ABCDEFGH", "k3f9-7.abcdefgh.abcdefg", ".abcdefgh"),
    ],
)
def test_what_only_looks_like_an_id_is_none(token: str) -> None:
    assert EventId.parse(token) is None


@given(lists, st.randoms(use_true_random=False))
def test_a_mark_is_that_of_the_set_in_any_order(tasks: list[TaskKey], random: st.Random) -> None:
    other = [*tasks, *tasks[:2]]
    random.shuffle(other)
    assert mark_of(other) == mark_of(tasks)
    assert re.fullmatch("[a-z2-7]{8}", mark_of(tasks))


@given(lists, lists)
def test_two_lists_have_two_marks(one: list[TaskKey], two: list[TaskKey]) -> None:
    assert (mark_of(one) == mark_of(two)) == (set(one) == set(two))


@given(
    near_ids | st.just(f"{EPOCH}-7") | st.just(f"{EPOCH}-7.abcdefgh"),
    st.sampled_from([None, "abcdefgh"]),
    st.integers(0, 20),
)
def test_any_token_is_a_place_or_a_reset_or_every_current_state(
    token: str, mark: str | None, head: int
) -> None:
    position = locate(token, mark, epoch=EPOCH, head=head)
    assert position.resumes == bool(token)
    if position.after is not None:
        assert position.reset_reason is None
        assert token == f"{EPOCH}-{position.after}" + ("" if mark is None else f".{mark}")
        assert position.after <= head
    elif position.resumes:
        assert position.reset_reason in {"unknown_cursor", "new_epoch", None}


def test_each_kind_of_cursor_we_cannot_honour_has_its_reason_and_the_future_is_foreign() -> None:
    tokens = ("?", "other-3", f"{EPOCH}-10", f"{EPOCH}-10.abcdefgh", "other-3.abcdefgh")
    reasons = [locate(token, None, epoch=EPOCH, head=9).reset_reason for token in tokens]
    assert reasons == ["unknown_cursor", *["new_epoch"] * 4]


def test_a_reset_waits_while_it_is_unsure_what_others_have_shown() -> None:
    before = new_epoch(1_795_905_000.0, 1)
    now = new_epoch(1_795_905_060.0, 2)
    for token in (f"{before}-9", f"{before}-9~p960", f"{before}-9.abcdefgh"):
        assert locate(token, None, epoch=now, head=9).reset_reason == "new_epoch"
        position = locate(token, None, epoch=now, head=9, sure=False)
        assert position.of_epoch_before
        assert position.resumes
        assert position.epoch == before
        shown = event(10)._replace(cursor=Cursor(now, 10))
        assert is_seen(shown, position)
        assert is_seen(shown._replace(cursor=Cursor(now, 3, "p990")), position)


def test_a_client_without_a_cursor_starts() -> None:
    assert locate(None, "abcdefgh", epoch=EPOCH, head=9) == Position()
    assert asked([event(1)], None) == Decision(Position(), None, nothing_more=False)


@pytest.mark.parametrize(
    ("token", "mark"),
    [
        (f"{EPOCH}-9", mark_of([TASK, OTHER])),
        (f"{EPOCH}-9.{mark_of([TASK])}", mark_of([TASK, OTHER])),
        (f"{EPOCH}-9.{mark_of([TASK, OTHER])}", None),
    ],
    ids=["none", "another list's", "a list's, for one task"],
)
def test_a_cursor_of_another_list_gets_every_current_state(token: str, mark: str | None) -> None:
    decision = asked([event(3, state("completed")), event(5)], token, mark=mark)
    position = Position(resumes=True, epoch=EPOCH)
    assert decision == Decision(position, Resume.NEWER, nothing_more=False)
    over = [event(3, state("completed")), event(5, state("failed"))]
    assert not asked(over, token, mark=mark).nothing_more


@given(history=histories, after=st.integers(0, 60), one_missing=st.booleans())
def test_a_resume_ends_only_when_every_end_was_seen(
    history: list[tuple[int, bool]], after: int, *, one_missing: bool
) -> None:
    events = [event(offset, state("completed" if final else "processing")) for offset, final in history]
    latest = [*events, None] if one_missing else events
    decision = asked(latest, f"{EPOCH}-{after}", missing=True)
    if any(offset > after for offset, _ in history):
        assert decision.resume is Resume.NEWER
    elif all(final for _, final in history):
        assert decision.resume is Resume.ENDED
    else:
        assert decision.resume is Resume.CURRENT
    assert decision.nothing_more == (decision.resume is Resume.ENDED)


def test_a_task_nobody_has_seen_keeps_a_resume_open_unless_it_is_known_to_be_missing() -> None:
    latest = [event(3, state("completed")), None]
    assert asked(latest, f"{EPOCH}-5").resume is Resume.CURRENT
    assert asked(latest, f"{EPOCH}-5", missing=True).resume is Resume.ENDED
    assert asked([event(3)], "other-7").resume is Resume.RESET


@pytest.mark.parametrize("token", [None, "other-7", "?", f"{EPOCH}-5", f"{EPOCH}-99"])
def test_of_missing_tasks_nothing_more_comes_whatever_the_cursor(token: str | None) -> None:
    decision = asked([None, None], token, missing=True)
    assert decision.nothing_more
    assert decision.resume is (None if token is None else Resume.ENDED)
    assert not asked([None, event(3, state("completed"))], "other-7", missing=True).nothing_more
    assert not asked([None, event(3, state("completed"))], None, missing=True).nothing_more


def test_an_id_of_several_lists_is_of_each() -> None:
    event_id = EventId.parse("k3f9-7.abcdefgh.hgfedcba~p500")
    assert event_id is not None
    assert str(event_id) == "k3f9-7.abcdefgh.hgfedcba~p500"
    assert event_id.is_of("abcdefgh")
    assert event_id.is_of("hgfedcba")
    assert not event_id.is_of("abcdefgh.hgfedcba"[:12])
    assert not event_id.is_of(None)
    assert EventId.parse("k3f9-7" + 9 * ".abcdefgh") is None
    assert locate(str(event_id), "hgfedcba", epoch="k3f9", head=9).after == 7
    assert locate(str(event_id), "zzzzzzzz", epoch="k3f9", head=9).after is None
