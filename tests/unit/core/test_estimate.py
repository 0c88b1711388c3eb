"""How long tasks take, and what is left of one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.core.estimate import PLAUSIBLE_SECONDS, ProgressRate, RuntimeHistory, TaskKind, age, eta_seconds
from bridge.core.task import Observation, Status
from tests.fakes.tasks import WALL, observations, seen

KIND = TaskKind("wan2.7", "generate")


def test_nothing_is_usual_below_three_samples_and_then_the_median_is() -> None:
    times = RuntimeHistory()
    for seconds in (10.0, 1000.0):
        times.learn(KIND, seconds)
        assert times.median(KIND) is None
    times.learn(KIND, 20.0)
    assert times.median(KIND) == 20.0
    assert times.median(TaskKind("wan2.7", None)) is None


@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=300))
def test_only_the_newest_64_samples_count(samples: list[float]) -> None:
    times = RuntimeHistory()
    for sample in samples:
        times.learn(KIND, sample)
    usual = times.median(KIND)
    assert usual is not None
    assert min(samples[-64:]) <= usual <= max(samples[-64:])
    assert times.statistics()[0]["samples"] == min(len(samples), 64)


def test_the_kind_seen_longest_ago_is_forgotten_first() -> None:
    times = RuntimeHistory()
    for number in range(256):
        times.learn(TaskKind(str(number), None), 1.0)
    times.learn(TaskKind("0", None), 1.0)
    times.learn(TaskKind("new", None), 1.0)
    models = [row["model"] for row in times.statistics()]
    assert len(models) == 256
    assert "0" in models
    assert "1" not in models


@given(observations, st.floats(0, 1e6), st.none() | st.floats(0, 1e6), st.none() | st.floats(0, 1e6))
def test_an_estimate_is_never_negative_and_never_without_ground(
    showed: Observation, elapsed: float, usual: float | None, slope: float | None
) -> None:
    eta = eta_seconds(showed, elapsed=elapsed, median=usual, by_rate=slope)
    grounds = (showed.eta_seconds, showed.estimated_seconds, usual, slope)
    if showed.status.final or showed.status is Status.UNKNOWN or all(one is None for one in grounds):
        assert eta is None
    else:
        assert eta is not None
        assert eta >= 0


def test_the_best_ground_is_taken() -> None:
    told = seen("processing", 50, eta_seconds=7.0, estimated_seconds=60.0)
    assert eta_seconds(told, elapsed=20, median=100, by_rate=30) == 7
    estimated = seen("processing", 50, estimated_seconds=60.0)
    assert eta_seconds(estimated, elapsed=20, median=100, by_rate=30) == 40
    assert eta_seconds(estimated, elapsed=99, median=100, by_rate=30) == 0
    assert eta_seconds(seen("processing", 50), elapsed=20, median=100, by_rate=30) == 30
    assert eta_seconds(seen("processing", 50), elapsed=20, median=100) == 80
    assert eta_seconds(seen("processing", 50), elapsed=20, median=None) is None


def test_a_slope_tells_only_after_enough_was_seen_of_it() -> None:
    slope = ProgressRate(since=100.0, progress=40.0)
    assert slope.seconds_left(44.0, 200.0) is None
    assert slope.seconds_left(60.0, 100.0) is None
    assert slope.seconds_left(60.0, 110.0) == 20.0
    assert slope.seconds_left(30.0, 110.0) is None


def test_an_age_is_the_providers_where_it_can_be_believed() -> None:
    assert age(WALL - 30, unix_time=WALL, watched_seconds=5) == 30
    for nonsense in (None, WALL + 1, WALL - PLAUSIBLE_SECONDS - 1, WALL * 1000):
        assert age(nonsense, unix_time=WALL, watched_seconds=5) == 5
