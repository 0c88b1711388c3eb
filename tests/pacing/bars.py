"""What has to hold, from the numbers of one run and those of the commit it is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tests.pacing.measure import Numbers, Results
from tests.pacing.numbers import geometric_mean
from tests.pacing.workloads import FLOOD, WORKLOADS

STATIONARY = {name for name, one in WORKLOADS.items() if one.stationary}
ETA_AT, ETA_BY = (0.38, 0.60), (0.78, 0.97)


@dataclass(frozen=True, slots=True)
class Bar:
    """One demand.

    Args:
        rows: The rows that miss it, with their value, where it is one of each row.
    """

    what: str
    most: float
    value: float
    least: float = -math.inf
    rows: tuple[str, ...] = ()

    @property
    def held(self) -> bool:
        """Whether it was met; what was not measured was not."""
        return self.least <= self.value <= self.most


def ratios(ours: dict[str, Numbers], theirs: dict[str, Numbers], name: str) -> dict[str, float]:
    """A number of each row, over the same of the other commit; rows that both have."""
    return {
        row: numbers[name] / theirs[row][name]
        for row, numbers in ours.items()
        if row in theirs and known(numbers.get(name)) and known(theirs[row].get(name)) and theirs[row][name]
    }


def known(value: float | None) -> bool:
    """Whether a number was measured: JSON has null for what was not."""
    return value is not None and not math.isnan(value)


def bars(ours: Results, theirs: Results) -> Iterator[Bar]:
    """Every demand that these results can be held against."""
    if "fast" in ours:
        yield from _shares(ours["fast"])
        yield from _against(ours["fast"], theirs.get("fast", {}))
        yield from _eta(ours["fast"], theirs.get("fast", {}))
    if "flood" in ours:
        polls = ratios(ours["flood"], theirs.get("flood", {}), "polls")
        yield Bar(f"{FLOOD.name}: polls / before", 0.65, polls.get(FLOOD.name, math.nan))
    if "cold" in ours:
        share = geometric_mean(one["share"] for one in ours["cold"].values())
        yield Bar("cold start, first 25 tasks: share, geometric mean", 0.85, share)
    if "restart" in ours:
        again = geometric_mean(one["restarted_ratio"] for one in ours["restart"].values())
        yield Bar("after a restart, first 25 tasks: mean delay / without, geometric mean", 1.15, again)
    if "whole restart" in ours:
        (one,) = ours["whole restart"].values()
        yield Bar("the same of the whole bridge on a journal on disk", 1.15, one["restarted"] / one["steady"])
    if "whole" in ours:
        yield from _rate_limits(ours["whole"], theirs.get("whole", {}))
    broken = sum(
        one.get(name, 0.0)
        for part in ("fast", "flood", "misleading", "cold", "whole")
        for one in ours.get(part, {}).values()
        for name in ("too_close", "too_rare", "hint_broken", "quiet_broken", "over_rate")
    )
    yield Bar(
        "polls too near, inside poll_after or Retry-After, over the rate, beyond the maximum", 0, broken
    )


def _rate_limits(ours: dict[str, Numbers], theirs: dict[str, Numbers]) -> Iterator[Bar]:
    for row, name, most in (
        ("rate limit, demand 2x", "mean", 0.65),
        ("rate limit, demand 4x", "mean", 0.55),
        ("demand 4x, half unwatched", "viewed_mean", 0.45),
    ):
        value = ratios(ours, theirs, name).get(row, math.nan)
        what = "watched tasks' mean delay" if name == "viewed_mean" else "mean delay"
        yield Bar(f"{row}: {what} / before", most, value)


def _shares(rows: dict[str, Numbers]) -> Iterator[Bar]:
    shares = {name: one["share"] for name, one in rows.items()}
    yield Bar("share of a fixed poller at equal polls, geometric mean", 0.66, geometric_mean(shares.values()))
    yield Bar("the same of the p95", 0.80, geometric_mean(one["share95"] for one in rows.values()))
    yield Bar(
        "the worst workload's share",
        1.10,
        max(shares.values()),
        rows=tuple(f"{name} {share:.2f}" for name, share in shares.items() if share > 1.10),
    )


def _against(ours: dict[str, Numbers], theirs: dict[str, Numbers]) -> Iterator[Bar]:
    for name, what, most in (
        ("polls", "polls", 1.05),
        ("mean", "mean delay", 0.75),
        ("p95", "p95 of the delay", 0.75),
        ("start", "queued to processing", 0.70),
    ):
        of_rows = ratios(ours, theirs, name)
        yield Bar(f"{what} / before, geometric mean", most, geometric_mean(of_rows.values()))


def _eta(ours: dict[str, Numbers], theirs: dict[str, Numbers]) -> Iterator[Bar]:
    stationary = {name: one for name, one in ours.items() if name in STATIONARY}
    for key, what, (least, most) in (
        ("before_eta_at", "eta_at", ETA_AT),
        ("before_eta_by", "eta_by", ETA_BY),
    ):
        values = {name: one[key] if known(one[key]) else math.nan for name, one in stationary.items()}
        missed = {name: value for name, value in values.items() if not least <= value <= most}
        rows = tuple(f"{name} {value:.2f}" for name, value in missed.items())
        sentence = f"workloads where not {least:.0%} to {most:.0%} end before {what}"
        yield Bar(sentence, 0, len(missed), rows=rows)
    errors = ratios(stationary, theirs, "eta_error")
    yield Bar("ETA error / before, geometric mean", 0.6, geometric_mean(errors.values()))
