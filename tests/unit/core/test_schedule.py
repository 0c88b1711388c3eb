"""How soon to look again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.schedule import MAX_POLL_AFTER, MAX_WAIT, Pace, backoff, grace_delay

chances = st.floats(0, 1)
seconds = st.floats(0, 10_000)
paces = st.tuples(st.floats(0.1, 30), st.floats(0, 60), st.floats(0, 1)).map(
    lambda drawn: Pace(
        min_seconds=drawn[0],
        max_seconds=drawn[0] + drawn[1],
        recommended_seconds=drawn[0] + drawn[1] * drawn[2],
    )
)


@given(paces, chances, st.integers(0, 10_000), st.none() | seconds)
def test_looks_keep_within_the_bounds_of_the_upstream(
    pace: Pace, chance: float, quiet: int, wait: float | None
) -> None:
    delay = pace.spread(pace.growing(quiet) if wait is None else wait, chance, pace.max_seconds)
    assert pace.min_seconds <= delay <= pace.max_seconds


@given(paces, seconds)
def test_what_the_provider_asks_for_is_kept(pace: Pace, wish: float) -> None:
    delay = pace.requested_delay(wish)
    assert delay >= min(wish, MAX_POLL_AFTER)
    assert pace.min_seconds <= delay <= max(MAX_POLL_AFTER, pace.min_seconds)


@given(paces, chances, st.integers(1, 10_000), st.none() | seconds)
def test_a_failed_look_waits_at_least_as_long_as_asked_for(
    pace: Pace, chance: float, failures: int, retry_after: float | None
) -> None:
    delay = pace.retry_delay(jitter=chance, failures=failures, retry_after=retry_after)
    assert min(max(retry_after or 0, pace.min_seconds), MAX_WAIT) <= delay <= MAX_WAIT


def test_without_ground_polls_become_rarer_and_with_one_the_forecast_is_waited_for() -> None:
    pace = Pace(min_seconds=1, max_seconds=60, recommended_seconds=2)
    rare = [pace.spread(pace.growing(n), 0.5, pace.max_seconds) for n in range(30)]
    assert rare == sorted(rare)
    assert (rare[0], rare[-1]) == (2.0, 60)
    assert pace.spread(40, 0.5, pace.max_seconds) == 40
    assert pace.spread(0, 0.5, pace.max_seconds) == 1
    # While the rate limit is short, polls without ground are rarer too, and the longest interval gives way.
    assert pace.growing(0, 4.0) == 4
    assert pace.spread(200, 0.5, 300) == 200


def test_failures_back_off_up_to_a_minute() -> None:
    pace = Pace(min_seconds=2, max_seconds=10)
    waits = [pace.retry_delay(jitter=0.5, failures=n, retry_after=None) for n in range(1, 9)]
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


@given(st.integers(0, 10_000), chances)
def test_back_off_doubles_up_to_its_limit_and_is_spread_by_a_quarter(doublings: int, chance: float) -> None:
    middle = min(1.5 * 2.0 ** min(doublings, 10), 60)
    assert backoff(doublings, first=1.5, limit=60, jitter=0.5) == middle
    assert 0.75 * middle <= backoff(doublings, first=1.5, limit=60, jitter=chance) <= 1.25 * middle


@given(st.sampled_from([10.0, 15.0, 60.0, 600.0]), st.floats(0.1, 30))
def test_a_time_of_grace_has_at_least_three_tries_and_the_last_at_its_end(
    grace: float, shortest: float
) -> None:
    elapsed, polls = 0.0, 1
    while elapsed < grace or polls < 3:
        elapsed += grace_delay(polls, elapsed, grace, shortest=shortest)
        polls += 1
    assert polls >= 3
    assert elapsed <= max(grace, 3 * shortest) + shortest


@given(paces, chances, st.integers(1, 10_000), st.booleans())
def test_a_tasks_own_trouble_waits_up_to_five_minutes_or_an_hour_unwatched(
    pace: Pace, chance: float, failures: int, watched: bool
) -> None:
    delay = pace.task_delay(jitter=chance, failures=failures, watched=watched)
    assert pace.min_seconds <= delay <= (300 if watched else 3600)
