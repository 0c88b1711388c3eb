"""What the provider saw: polls too near to each other, too many at once, or too long without one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

NEAR = 0.7
"""Of `min_seconds`: two polls nearer than this are doubled. A busy machine moves each by some of it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two polls of one task that were too near."""

    task: str
    at: float
    gap: float

    def __str__(self) -> str:
        return f"{self.task} was polled twice within {self.gap:.2f} s at {self.at:.1f}"


def by_task(polls: Iterable[tuple[float, str]]) -> dict[str, list[float]]:
    """The times of each task's polls, ascending."""
    found: dict[str, list[float]] = defaultdict(list)
    for at, task in polls:
        found[task].append(at)
    return found


def doubled(polls: Iterable[tuple[float, str]], min_seconds: float) -> list[Pair]:
    """Every pair of polls of one task that is nearer than the interval allows."""
    return [
        Pair(task, later, later - earlier)
        for task, times in by_task(polls).items()
        for earlier, later in pairwise(times)
        if later - earlier < NEAR * min_seconds
    ]


def first_after(polls: Sequence[tuple[float, str]], since: float) -> dict[str, float]:
    """How long after a moment each task was polled first."""
    found: dict[str, float] = {}
    for at, task in polls:
        if at >= since and task not in found:
            found[task] = at - since
    return found


def longest_gap(times: Sequence[float], since: float, until: float) -> float:
    """The longest time without a poll that touches a span of time."""
    edges = [at for at in times if at < since][-1:] or [since]
    edges += [at for at in times if since <= at <= until]
    edges += [at for at in times if at > until][:1] or [until]
    return max(later - earlier for earlier, later in pairwise(edges))


def per_window(times: Iterable[float], since: float, until: float, window: float = 1.0) -> list[int]:
    """How many polls each window had."""
    counts = [0] * max(int((until - since) / window), 1)
    for at in times:
        place = int((at - since) / window)
        if 0 <= place < len(counts):
            counts[place] += 1
    return counts


def busiest(times: Sequence[float], window: float = 1.0) -> int:
    """The most polls within any so long a time, wherever it begins; `times` ascending."""
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > window:
            first += 1
        most = max(most, last - first + 1)
    return most
