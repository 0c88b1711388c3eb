"""Percentiles and means."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean; NaN of nothing."""
    known = list(values)
    return math.fsum(known) / len(known) if known else math.nan


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean of positive numbers; NaN of nothing."""
    return math.exp(mean(math.log(value) for value in values))


def percentile(ordered: Sequence[float], percent: float) -> float:
    """A percentile of sorted numbers, between two neighbours linear; NaN of nothing."""
    if not ordered:
        return math.nan
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
