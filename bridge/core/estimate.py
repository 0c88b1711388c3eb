"""Remaining time of a task: from the provider's estimate, its progress, or the run times of similar tasks."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import NamedTuple

from bridge.core.task import Observation, Status

_MAX_KINDS = 256
_MAX_SAMPLES = 64
_MIN_SAMPLES = 3
_MIN_PROGRESS_GROWTH = 5.0

PLAUSIBLE_SECONDS = 86_400.0
"""A provider's time further away than a day is in the wrong unit or of a wrong clock."""


class Estimate(NamedTuple):
    """When a task will be done, as it was estimated at a poll. Both moments may have passed since.

    Args:
        at: When half of such tasks are done, Unix seconds; None without ground.
        by: When nine of ten are.
    """

    at: float | None = None
    by: float | None = None


NO_ESTIMATE = Estimate()


@dataclass(frozen=True, slots=True)
class TaskKind:
    """Tasks whose run times are comparable."""

    model: str | None
    action: str | None


class RuntimeHistory:
    """Run times of the tasks of one upstream, by kind. Bounded: the kind not seen for longest is dropped."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[TaskKind, deque[float]] = OrderedDict()

    def learn(self, kind: TaskKind, seconds: float) -> None:
        """Add the run time of a completed task."""
        samples = self._seconds.setdefault(kind, deque(maxlen=_MAX_SAMPLES))
        self._seconds.move_to_end(kind)
        samples.append(seconds)
        # Model names come from clients: without a bound, made-up ones would fill the memory.
        while len(self._seconds) > _MAX_KINDS:
            self._seconds.popitem(last=False)

    def median(self, kind: TaskKind) -> float | None:
        """The median run time in seconds of the last 64 tasks; None below three samples."""
        samples = self._seconds.get(kind)
        if samples is None or len(samples) < _MIN_SAMPLES:
            return None
        return sorted(samples)[len(samples) // 2]

    def statistics(self) -> list[dict[str, object]]:
        """The run times as `/status` reports them."""
        return [
            {
                "model": kind.model,
                "action": kind.action,
                "samples": len(samples),
                "median_seconds": round(sorted(samples)[len(samples) // 2], 3),
            }
            for kind, samples in self._seconds.items()
        ]


@dataclass(slots=True)
class ProgressRate:
    """How fast the progress of one task grows.

    Args:
        since: Monotonic seconds of the first progress observed.
        progress: That progress, 0-100.
    """

    since: float
    progress: float

    def seconds_left(self, progress: float, now: float) -> float | None:
        """Seconds to 100 % at the average rate so far; None below five points of growth."""
        grown = progress - self.progress
        # Many providers jump by a few points at the start: that says nothing about the rate.
        if grown < _MIN_PROGRESS_GROWTH or now <= self.since:
            return None
        return (now - self.since) * (100 - progress) / grown


def age(created_at: float | None, *, unix_time: float, watched_seconds: float) -> float:
    """Seconds since the task was created; since the watch started if the provider's time is implausible."""
    if created_at is not None and 0 <= unix_time - created_at <= PLAUSIBLE_SECONDS:
        return unix_time - created_at
    return watched_seconds


def eta_seconds(
    observation: Observation, *, elapsed: float, median: float | None, by_rate: float | None = None
) -> float | None:
    """Estimated time left; None when there is nothing to estimate it from.

    Args:
        elapsed: Seconds since the task was created, or first seen.
        median: Median run time of tasks of this kind.
        by_rate: Time left at the rate its progress has grown so far.
    """
    if observation.status.final or observation.status is Status.UNKNOWN:
        return None
    # Most specific first: what the provider says of this task, its own progress, then tasks like it.
    if observation.eta_seconds is not None:
        return max(round(observation.eta_seconds, 1), 0.0)
    if observation.estimated_seconds is not None:
        return max(round(observation.estimated_seconds - elapsed, 1), 0.0)
    if by_rate is not None:
        return round(by_rate, 1)
    if median is not None:
        return max(round(median - elapsed, 1), 0.0)
    return None
