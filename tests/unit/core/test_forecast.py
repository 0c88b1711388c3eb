"""What the polls of a task say of its end."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.core.forecast import Forecast
from bridge.core.learned import MEASURES, LearnedRuns, Measurement, Run, TaskKind
from tests.fakes.tasks import WALL, observations, seen

KIND = TaskKind("wan", "generate")


def taught(**measures: list[float]) -> LearnedRuns:
    """Runs with these values each; of figures that a provider told, of 100 s."""
    learned = LearnedRuns()
    told = ("slope", "estimate", "eta")
    learned.load(
        Run(
            KIND,
            WALL,
            {
                measure.replace("_", ":"): Measurement(value, 100.0 if measure.startswith(told) else 1.0)
                for measure, value in zip(measures, values, strict=True)
            },
        )
        for values in zip(*measures.values(), strict=True)
    )
    return learned


def forecast(born: float = 0.0, *, known: bool = True) -> Forecast:
    made = Forecast(Random(7).random, born)
    made.born(born, known=known)
    return made


def about(center: float, spread: float = 0.1) -> list[float]:
    return [center * (1 + spread * place / 10) for place in range(-10, 11)]


def estimate(made: Forecast, learned: LearnedRuns, now: float) -> tuple[float, float]:
    made.choose(learned, KIND)
    made.schedule(learned, KIND, now, 1.0)
    at, by = made.estimate(now, WALL + now)
    assert at is not None
    assert by is not None
    return at - WALL, by - WALL


def test_nothing_known_is_no_forecast() -> None:
    made = forecast()
    made.saw(seen("processing"), 1.0)
    made.choose(LearnedRuns(), KIND)
    assert made.ground is None
    made.schedule(LearnedRuns(), KIND, 1.0, 0.1)
    assert made.wait is None
    assert made.estimate(1.0, WALL) == (None, None)


def test_the_sharpest_ground_is_taken() -> None:
    learned = taught(run=about(100, 5.0), work=about(60, 0.02), estimate=about(1.0, 3.0))
    made = forecast()
    made.saw(seen("queued", estimated_seconds=100), 1.0)
    made.saw(seen("processing", estimated_seconds=100), 40.0)
    made.choose(learned, KIND)
    assert made.ground is not None
    assert made.ground.name == "work"
    assert estimate(made, learned, 41.0)[0] == pytest.approx(80, abs=22)  # 60 s from some moment in 1-40


@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_a_provider_is_believed_as_far_as_it_was_right(ratio: float) -> None:
    made = forecast()
    made.saw(seen("processing", estimated_seconds=100), 1.0)
    at, by = estimate(made, taught(estimate=about(ratio, 0.05)), 1.0)
    assert at == pytest.approx(100 * ratio, rel=0.03)
    assert at < by < 1.2 * at


def test_an_estimate_that_has_passed_moves_on_and_may_lie_in_the_past_until_the_next_poll() -> None:
    learned = taught(run=about(100))
    made = forecast()
    made.saw(seen("processing"), 1.0)
    at, _ = estimate(made, learned, 50.0)
    made.saw_again(105.0)
    later, _ = estimate(made, learned, 105.0)
    assert at == pytest.approx(100, abs=2)
    assert later > 105


def test_the_queue_is_no_work() -> None:
    """Half done 30 s after a queue of two minutes: 30 s are left, not 150."""
    made = forecast()
    for at in (1.0, 60.0, 119.0):
        made.saw(seen("queued", 0), at)
    for at, progress in ((121.0, 1), (130.0, 16), (150.0, 50)):
        made.saw(seen("processing", progress), at)
    at, _ = estimate(made, LearnedRuns(), 150.0)
    assert at == pytest.approx(180, abs=5)


def test_the_end_is_not_expected_before_that_of_the_queue() -> None:
    learned = taught(run=about(5), work=about(4), position=about(1.0, 0.05))
    made = forecast()
    made.saw(seen("queued", queue_position=99), 1.0)
    made.choose(learned, KIND)
    made.schedule(learned, KIND, 1.0, 0.5)
    assert made.wait is not None
    assert made.wait > 50  # a hundred places at one a second


def test_polls_are_densest_where_the_end_is_likeliest() -> None:
    learned = taught(run=about(100, 1.0))
    made = forecast()
    made.saw(seen("processing"), 1.0)
    made.choose(learned, KIND)
    waits = []
    for now in (1.0, 60.0, 100.0):
        made.schedule(learned, KIND, now, 0.2)
        assert made.wait is not None
        waits.append(made.wait)
    assert waits[0] > waits[1] >= waits[2]


@pytest.mark.parametrize(("rank", "lowest", "highest"), [(None, 98, 104), (0.9, 108, 130), (0.1, 70, 94)])
def test_how_earlier_estimates_came_out_moves_the_next(
    rank: float | None, lowest: float, highest: float
) -> None:
    learned = LearnedRuns()
    ranked = {} if rank is None else {"rank": Measurement(rank, 3.0)}
    learned.load(Run(KIND, WALL, {"run": Measurement(value), **ranked}) for value in about(100, 0.3))
    made = forecast()
    made.saw(seen("processing"), 1.0)
    at, by = estimate(made, learned, 1.0)
    assert lowest < at < highest
    assert at <= by


@given(st.lists(st.tuples(observations, st.floats(0, 100)), max_size=20), st.floats(0, 1e5), st.booleans())
def test_whatever_is_shown_a_run_teaches_sane_times(
    shown: list[tuple[Any, float]], after: float, known: bool
) -> None:
    made, learned = forecast(known=known), taught(run=about(50), work=about(40), wait=about(10))
    now = 0.0
    for observation, wait in shown:
        now += wait
        made.saw(observation, now)
        made.choose(learned, KIND)
        made.schedule(learned, KIND, now, 0.3)
        assert made.wait is not None
        assert made.wait >= 0
        assert math.isfinite(made.wait)
    run = made.ended(KIND, stamped=None, at=now + after, unix_time=WALL)
    assert (run is None) == (not shown)
    if run is not None:
        assert set(run.samples) <= MEASURES
        assert all(sample.value >= 0 and math.isfinite(sample.value) for sample in run.samples.values())
        learned.learn(run)
        assert all(math.isfinite(row["p90_seconds"]) for row in learned.statistics())


def test_a_stamped_end_is_taken_only_between_the_polls_around_it() -> None:
    for stamped, lowest, highest in ((15.0, 15.0, 15.0), (500.0, 10.0, 20.0), (2.0, 10.0, 20.0)):
        made = forecast()
        made.saw(seen("processing"), 10.0)
        run = made.ended(KIND, stamped=stamped, at=20.0, unix_time=WALL)
        assert run is not None
        assert lowest <= run.samples["run"].value <= highest


@pytest.mark.parametrize("own", [False, True])
def test_an_open_task_without_a_ground_finds_one_once_others_have_ended(*, own: bool) -> None:
    upstream = LearnedRuns()
    learned = LearnedRuns(upstream)
    made = forecast()
    made.saw(seen("processing"), 1.0)
    made.choose(learned, KIND)
    assert made.ground is None
    for seconds in about(100):
        (learned if own else upstream).learn(Run(KIND, WALL, {"run": Measurement(seconds)}))
    made.choose_again(learned, KIND)
    assert made.ground is not None


@pytest.mark.parametrize("account", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_an_open_task_rests_on_nothing_that_was_forgotten(*, account: bool, own: bool) -> None:
    upstream = LearnedRuns()
    learned = LearnedRuns(upstream) if account else upstream
    for seconds in about(100):
        (learned if own else upstream).learn(Run(KIND, WALL, {"run": Measurement(seconds)}))
    made = forecast()
    made.saw(seen("processing"), 1.0)
    assert estimate(made, learned, 1.0)[0] == pytest.approx(100, rel=0.1)
    upstream.load([Run(TaskKind("other", None), WALL, {"watched": Measurement(20.0)})])
    made.choose_again(learned, KIND)
    made.schedule(learned, KIND, 2.0, 1.0)
    assert made.ground is None
    assert made.estimate(2.0, WALL + 2) == (None, None)
    assert learned.watched_seconds == 20
    assert [row["model"] for row in upstream.statistics()] == ["other"]
