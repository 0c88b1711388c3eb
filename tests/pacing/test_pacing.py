"""The product's pacing on a few small workloads, with margin; the demands themselves are `extended`."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from tests.pacing import fast, whole
from tests.pacing.__main__ import BASELINE
from tests.pacing.bars import ETA_AT, ETA_BY, bars
from tests.pacing.measure import measure
from tests.pacing.workloads import FLOOD, WORKLOADS


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("video log-normal .25", 0.85),
        ("video jitter 3 %", 0.40),
        ("progress saturating", 0.40),
        ("estimate x0.5", 0.60),
        ("nothing named", 0.90),
    ],
)
def test_ends_are_seen_sooner_than_by_a_fixed_poller_with_as_many_polls(name: str, share: float) -> None:
    run = fast.judge(WORKLOADS[name], 0, 200)
    assert run.share <= share
    assert (run.too_close, run.too_rare, run.hint_broken) == (0, 0, 0)


def test_the_eta_is_calibrated_also_where_a_provider_tells_twice_the_truth() -> None:
    run = fast.judge(WORKLOADS["estimate x2"], 0, 300)
    assert ETA_AT[0] <= run.before_eta_at <= ETA_AT[1]
    assert ETA_BY[0] <= run.before_eta_by <= ETA_BY[1]


def test_news_of_the_queue_hurries_no_poll() -> None:
    # 150 tasks at once, three at a time: four minutes of queue, at 10 s at most; it was a poll each second.
    assert fast.judge(FLOOD, 0, 150).polls <= 50


def test_what_is_kept_over_a_restart_is_as_good_as_what_was_learned() -> None:
    found = fast.restarted(WORKLOADS["video jitter 3 %"], range(3), 60, 25)
    assert found["restarted_ratio"] <= 1.3


def test_submits_get_their_turn_beside_polls_under_a_short_rate_limit() -> None:
    """The scheduler and a submit wait for the same slot: the scheduler, woken first, took every one."""
    short = replace(whole.WHOLE["rate limit, demand 4x"], rate=0.5)
    numbers = whole.judge(short, 0, 20)
    assert (numbers["refused"], numbers["over_rate"], numbers["too_close"]) == (0, 0, 0)


MISSED = {
    # Submits take from the rate here, and did not in e07285d: a sixth of it in these two.
    "rate limit, demand 4x: mean delay / before": 0.68,
    "demand 4x, half unwatched: watched tasks' mean delay / before": 0.52,  # 0.44 to 0.50 by chance
}
"""Demands that are not held, or not at each run, and what they come to at most."""


@pytest.mark.extended
@pytest.mark.timeout(1_500)
def test_all_demands_are_held() -> None:
    before = orjson.loads(BASELINE.read_bytes())["full"]
    parts = ("fast", "flood", "misleading", "cold", "restart", "whole", "whole restart")
    missed = [
        f"{bar.what}: {bar.value:.3g} {bar.rows}"
        for bar in bars(measure(parts, seeds=5), before)
        if not bar.held and not bar.value <= MISSED.get(bar.what, 0.0)
    ]
    assert not missed, "\n".join(missed)
