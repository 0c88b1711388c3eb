"""What is computed from the times of polls."""

from __future__ import annotations

import pytest

from tests.replicas import polls

SEEN = [(1.0, "a"), (1.1, "b"), (1.5, "a"), (1.6, "a"), (4.0, "a")]


def test_two_polls_of_one_task_that_are_too_near_are_found() -> None:
    (pair,) = polls.doubled(SEEN, 0.5)
    assert (pair.task, pair.at) == ("a", 1.6)
    assert str(pair) == "a was polled twice within 0.10 s at 1.6"


def test_the_first_poll_after_a_moment() -> None:
    assert polls.first_after(SEEN, 1.2) == {"a": pytest.approx(0.3)}


def test_the_longest_time_without_a_poll_counts_what_reaches_beyond_the_span() -> None:
    times = polls.by_task(SEEN)["a"]
    assert polls.longest_gap(times, 1.7, 2.0) == pytest.approx(2.4)
    assert polls.longest_gap(times, 1.0, 1.55) == pytest.approx(0.5)
    assert polls.longest_gap([], 1.0, 3.0) == 2.0


def test_polls_per_second_and_the_busiest_second() -> None:
    times = [at for at, _ in SEEN]
    assert polls.per_window(times, 1.0, 4.5) == [4, 0, 0]
    assert polls.busiest(times) == 4
