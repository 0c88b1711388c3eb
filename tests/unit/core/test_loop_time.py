"""Time of the event loop: who floods takes turns, who does not is never held up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.core.loop_time import (
    CONNECTION_BURST_SECONDS,
    CONNECTION_RATE,
    HEAVY_RATE,
    MAX_PIECE,
    MIN_PIECE,
    SLICE_SECONDS,
    TOTAL_BURST_SECONDS,
    TOTAL_RATE,
    ConnectionTime,
    LoopTime,
)


def played(flooding: list[ConnectionTime], seconds: float, slice_seconds: float) -> tuple[float, float]:
    """Each connection parses a slice whenever it may; returns the time parsed and the time passed."""
    now = parsed = 0.0
    while now < seconds:
        ready = [one for one in flooding if one.rest(now) <= 0]
        for one in ready:
            now += slice_seconds
            parsed += slice_seconds
            one.spend(slice_seconds, now)
        if not ready:
            now += min(one.rest(now) for one in flooding) + 1e-6
    return parsed, now


@settings(max_examples=40)
@given(number=st.integers(1, 60), slice_ms=st.floats(0.1, 2.0))
def test_however_many_flood_they_get_their_part_and_no_more(number: int, slice_ms: float) -> None:
    shared = LoopTime()
    flooding = [ConnectionTime(shared) for _ in range(number)]

    parsed, passed = played(flooding, 4.0, slice_ms / 1000)

    bursts = TOTAL_BURST_SECONDS + number * 3 * CONNECTION_BURST_SECONDS
    assert parsed <= max(HEAVY_RATE, TOTAL_RATE) * passed + bursts
    if number == 1:
        assert parsed <= CONNECTION_RATE * passed + bursts


@given(number=st.integers(1, 60))
def test_who_answers_in_little_time_never_rests_beside_floods(number: int) -> None:
    shared = LoopTime()
    flooding = [ConnectionTime(shared) for _ in range(number)]
    good = ConnectionTime(shared)
    now = 0.0
    for _ in range(2000):
        for one in flooding:
            if one.rest(now) <= 0:
                now += SLICE_SECONDS
                one.spend(SLICE_SECONDS, now)
        now += 0.01
        good.spend(0.00004, now)
        assert good.rest(now) == 0


def test_a_flood_that_ends_is_forgotten() -> None:
    one = ConnectionTime(LoopTime())
    for number in range(20):
        one.spend(0.01, number * 0.01)
    assert one.rest(0.2) > 0
    assert one.rest(10.0) == 0
    one.spend(0.001, 10.0)
    assert one.rest(10.0) == 0


@given(st.lists(st.tuples(st.integers(0, MAX_PIECE), st.floats(0, 0.1))))
def test_pieces_stay_within_their_bounds(measured: list[tuple[int, float]]) -> None:
    one = ConnectionTime(LoopTime())
    for size, seconds in measured:
        one.measured(size, seconds)
        assert MIN_PIECE <= one.piece <= MAX_PIECE
