"""What the Python client tells people about the time left: by the bridge's clock, counted on."""

from __future__ import annotations

from typing import Any

import pytest

from bridge.client.state import TaskState

AT, BY = "2027-01-15T08:01:00.000Z", "2027-01-15T08:02:00.000Z"
OBSERVED = "2027-01-15T08:00:20.000Z"


def told(status: str = "processing", **more: Any) -> TaskState:
    document = {"task": "q/1", "status": status, "eta_at": AT, "eta_by": BY, "observed_at": OBSERVED}
    return TaskState.of(document | more)


@pytest.mark.parametrize(
    ("elapsed", "left", "text"),
    [
        (0.0, 40.0, "about 40 s"),
        (39.9, 0.1, "about 1 s"),
        (40.0, 0.0, "should finish soon"),
        (99.0, -59.0, "should finish soon"),
        (100.0, -60.0, "taking longer than usual"),
    ],
)
def test_the_words_follow_the_time_since_it_came(elapsed: float, left: float, text: str) -> None:
    state = told(eta_seconds=40.0)
    assert state.seconds_left(elapsed) == pytest.approx(left)
    assert state.eta_text(elapsed) == text


def test_a_copy_written_after_the_moment_counts_from_its_confirmation() -> None:
    late = told(eta_seconds=None, observed_at="2027-01-15T08:01:30.000Z")
    assert late.seconds_left() == -30.0
    assert (late.eta_text(), late.eta_text(31.0)) == ("should finish soon", "taking longer than usual")
    # The moment had passed when it was written, though the newest confirmation is from before.
    assert told(eta_seconds=None).seconds_left() == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.6, "about 1 min 00 s"), (125, "about 2 min 05 s"), (11_000, "about 3 h 03 min")]
)
def test_long_times_have_their_units(seconds: float, text: str) -> None:
    assert told(eta_seconds=seconds).eta_text() == text


def test_without_ground_and_after_the_end_nothing_is_said() -> None:
    for state in (told("completed"), told(eta_at=None, eta_by=None), told(eta_at="soon", eta_by=7)):
        assert (state.seconds_left(), state.eta_text()) == (None, None)
    # Without the second moment, "soon" is all there is to say.
    assert told(eta_by=None, eta_seconds=None).eta_text(9999) == "should finish soon"
    # A bridge of a version before sends the time left alone.
    assert told(eta_at=None, eta_by=None, eta_seconds=12.0).eta_text(2) == "about 10 s"
