"""What is news, field by field, as contract section 2 has it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.estimate import NO_ESTIMATE, Estimate
from bridge.core.merge import lost, merge, unknown
from bridge.core.task import Failure, Observation, Source, State, Status
from tests.fakes.tasks import WALL, observations, open_statuses, seen, state, statuses, video


def weigh(
    known: State | None, showed: Observation, *, late: bool = False, at: float = WALL + 5
) -> State | None:
    return merge(known, showed, source=Source.STREAM, unix_time=at, late=late)


def history(looks: list[Observation]) -> list[State]:
    """The states recorded when looks bring `looks`, one after the other."""
    known, recorded = None, []
    for number, look in enumerate(looks):
        news = merge(known, look, source=Source.POLL, unix_time=WALL + number)
        if news is not None:
            known = news
            recorded.append(news)
    return recorded


def test_the_first_observation_is_news_and_stamped() -> None:
    first = weigh(None, seen("queued", upstream_status="WAIT", raw=b"{}"))
    assert first == State(
        status=Status.QUEUED,
        upstream_status="WAIT",
        changed_at=WALL + 5,
        observed_at=WALL + 5,
        source=Source.STREAM,
        raw=b"{}",
    )


@given(observations)
def test_the_same_twice_is_no_news(showed: Observation) -> None:
    first = weigh(None, showed)
    assert first is not None
    assert weigh(first, showed, at=WALL + 99) is None


@given(observations, st.floats(0, 999), st.text(max_size=5))
def test_estimates_signatures_and_times_of_looking_are_no_news(
    showed: Observation, number: float, text: str
) -> None:
    first = weigh(None, showed)
    again = replace(
        showed,
        eta_seconds=number,
        estimated_seconds=number,
        poll_after=number,
        credits_estimated=number,
        outputs=tuple(
            replace(one, url=(one.url or "").partition("?")[0] + "?" + text, expires_at=number)
            for one in showed.outputs
        ),
        raw=text.encode(),
    )
    assert (
        merge(first, again, source=Source.POLL, unix_time=WALL + 9, estimate=Estimate(number, number)) is None
    )


@pytest.mark.parametrize(
    "change",
    [
        {"status": Status.QUEUED},
        {"status": Status.UNKNOWN},
        {"upstream_status": "HALF"},
        {"progress": 43.0},
        {"queue_position": 3},
        {"model": "wan3"},
        {"action": "extend"},
        {"alias": "theirs"},
        {"created_at": WALL - 61},
        {"completed_at": WALL},
        {"outputs": (video("https://a/other.mp4"),)},
        {"outputs": (video("https://a/1.mp4", width=640),)},
        {"error": Failure("E", None)},
        {"credits_used": 3.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_a_viewer_would_notice_is_news(change: dict[str, object]) -> None:
    before = seen(
        "processing",
        42,
        queue_position=4,
        model="wan2",
        action="generate",
        alias="mine",
        created_at=WALL - 60,
    )
    known = weigh(None, before)
    assert weigh(known, replace(before, **change)) is not None  # type: ignore[arg-type]


@given(st.lists(observations, max_size=20))
def test_no_two_recorded_states_in_a_row_say_the_same(looks: list[Observation]) -> None:
    recorded = history(looks)
    for earlier, later in pairwise(recorded):
        same_times = replace(
            later, changed_at=0, observed_at=0, raw=None, eta_at=None, credits_estimated=None
        )
        assert same_times != replace(
            earlier, changed_at=0, observed_at=0, raw=None, eta_at=None, credits_estimated=None
        )


@given(st.lists(observations, max_size=20))
def test_progress_never_goes_down_and_an_ending_is_a_latch(looks: list[Observation]) -> None:
    recorded = history(looks)
    assert not any(one.status.final for one in recorded[:-1])
    shown = [one.progress for one in recorded if one.progress is not None]
    assert shown == sorted(shown)
    if recorded and recorded[-1].status is Status.COMPLETED:
        assert recorded[-1].progress == 100


def test_progress_stays_where_it_was_on_failure() -> None:
    failed = weigh(state("processing", 70), seen("failed", 0))
    assert failed is not None
    assert failed.progress == 70


def test_progress_that_is_not_told_stays() -> None:
    moved = weigh(state("queued", 10), seen("processing"))
    assert moved is not None
    assert moved.progress == 10


@given(statuses)
def test_a_real_ending_may_replace_lost_and_nothing_else_may(status: Status) -> None:
    news = weigh(state("lost", 30), seen(status))
    assert (news is not None) == status.final
    assert weigh(state("lost"), seen("lost")) is None


@given(st.sampled_from(["completed", "failed", "cancelled"]), observations, st.booleans())
def test_nothing_replaces_a_real_ending(ending: str, showed: Observation, late: bool) -> None:
    assert weigh(state(ending), showed, late=late) is None


@given(open_statuses, open_statuses)
def test_a_frame_that_may_be_late_moves_no_status_back_and_a_poll_may(before: Status, after: Status) -> None:
    rank = [Status.UNKNOWN, Status.QUEUED, Status.PROCESSING]
    known = state(before)
    back = before in rank and after in rank and rank.index(after) < rank.index(before)
    if back:
        assert weigh(known, seen(after), late=True) is None
    polled = weigh(known, seen(after))
    assert (polled.status if polled is not None else known.status) is after


def test_an_ending_pushed_late_is_an_ending() -> None:
    assert weigh(state("processing"), seen("cancelled"), late=True) is not None


def test_what_was_known_stays_when_a_later_answer_is_silent() -> None:
    known = state(
        "processing",
        10,
        alias="mine",
        model="wan",
        action="generate",
        created_at=1.0,
        credits_used=2.0,
        credits_estimated=3.0,
        outputs=(video("https://a/1.mp4"),),
    )
    later = weigh(known, seen("failed", error=Failure("E", "no")))
    assert later is not None
    kept = ("alias", "model", "action", "created_at", "credits_used", "credits_estimated", "outputs")
    assert all(getattr(later, name) == getattr(known, name) for name in kept)
    assert later.error == Failure("E", "no")


def test_a_final_state_has_no_time_left() -> None:
    for status, expected in (("completed", NO_ESTIMATE), ("unknown", NO_ESTIMATE), ("queued", SOON)):
        told = merge(None, seen(status), source=Source.POLL, unix_time=WALL, estimate=SOON)
        assert told is not None
        assert (told.eta_at, told.eta_by) == expected


SOON = Estimate(WALL + 3, WALL + 6)
GONE = Failure("not_found", "no such task")


def test_losing_a_task_keeps_what_was_known_of_it() -> None:
    known = state("processing", 70, eta_at=WALL + 5, eta_by=WALL + 9, model="wan")
    gone = lost(known, GONE, unix_time=WALL + 60)
    assert (gone.status, gone.progress, gone.eta_at, gone.eta_by) == (Status.LOST, 70, None, None)
    assert gone.model == "wan"
    assert gone.error == GONE
    assert gone.changed_at == gone.observed_at == WALL + 60
    assert lost(None, GONE, unix_time=WALL).status is Status.LOST
    assert unknown(unix_time=WALL).status is Status.UNKNOWN
