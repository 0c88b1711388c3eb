"""Curves of times: what they say of samples, and the schedule that follows from them."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.curve import Curve

samples = st.lists(st.floats(0, 1e5), min_size=3, max_size=64)
places = st.floats(0, 2e5)


@given(samples, places, places)
def test_fewer_survive_a_later_time_and_more_effort_is_spent_until_then(
    values: list[float], one: float, other: float
) -> None:
    curve = Curve(values)
    early, late = sorted((one, other))
    assert 1 >= curve.survival(early) >= curve.survival(late) > 0
    assert curve.effort(early) <= curve.effort(late)


@given(samples, places)
def test_when_is_the_inverse_of_effort(values: list[float], place: float) -> None:
    curve = Curve(values)
    back = curve.when(curve.effort(place))
    assert back == pytest.approx(place, rel=1e-5, abs=1e-3 * max(1.0, *values))


@given(samples, st.floats(0, 1e5), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_quantiles_grow_and_lie_beyond_what_has_passed(
    values: list[float], after: float, one: float, other: float
) -> None:
    curve = Curve(values)
    early, late = (curve.quantile(part, after=after) for part in sorted((one, other)))
    assert after - 1e-6 * max(after, 1.0) <= early <= late
    left = curve.survival(after)
    assert curve.survival(early) == pytest.approx(left * (1 - min(one, other)), rel=1e-3, abs=1e-9)


def test_its_cost_and_effort_are_the_integrals_they_stand_for() -> None:
    rng = Random(1)
    curve = Curve([120 * math.exp(rng.gauss(0, 0.25)) for _ in range(64)])
    step, cost, effort = 0.01, 0.0, 0.0
    for number in range(40_000):
        here, there = number * step, (number + 1) * step
        falls = (curve.survival(here) - curve.survival(there)) / step
        middle = curve.survival((here + there) / 2)
        cost += math.sqrt(falls * middle) * step
        effort += math.sqrt(falls / middle) * step
    assert effort == pytest.approx(curve.effort(400), rel=1e-3)
    assert cost < curve.cost < 1.02 * cost  # the rest is beyond 400


def test_sharp_times_promise_more_than_memoryless_ones() -> None:
    rng = Random(2)
    sharp = Curve([90 + rng.random() for _ in range(64)])
    blunt = Curve([rng.expovariate(1 / 90) for _ in range(64)])
    assert sharp.sharpness < 0.2
    assert blunt.sharpness > 0.8


@pytest.mark.parametrize("values", [[0.0, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 86_400.0]])
def test_equal_samples_make_a_curve_too(values: list[float]) -> None:
    curve = Curve(values)
    for place in (0.0, values[0], values[-1], values[-1] + 1):
        assert math.isfinite(curve.effort(place))
        assert curve.when(curve.effort(place) + 0.5) > place
        assert math.isfinite(curve.quantile(0.9, after=place))
    assert math.isfinite(curve.cost)
