"""How long tasks take: the provider's estimate, their progress, or what was learned."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

from bridge.core.task import Observation, Status

_KINDS = 256
_SAMPLES = 64
_MIN_SAMPLES = 3
_TELLING_PROGRESS = 5.0

PLAUSIBLE_SECONDS = 86_400.0  # a time further away than a day is a unit or a clock gone wrong


@dataclass(frozen=True, slots=True)
class TaskKind:
    """What run times are learned for."""

    model: str | None
    action: str | None


class RuntimeHistory:
    """Run times of one upstream, learned per kind of task; the oldest kind is forgotten first."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[TaskKind, deque[float]] = OrderedDict()

    def learn(self, kind: TaskKind, seconds: float) -> None:
        """Take in that one task of `kind` took `seconds` from first seen to completed."""
        samples = self._seconds.setdefault(kind, deque(maxlen=_SAMPLES))
        self._seconds.move_to_end(kind)
        samples.append(seconds)
        while len(self._seconds) > _KINDS:
            self._seconds.popitem(last=False)

    def usual(self, kind: TaskKind) -> float | None:
        """The median run time in seconds; None below three samples."""
        samples = self._seconds.get(kind)
        if samples is None or len(samples) < _MIN_SAMPLES:
            return None
        return sorted(samples)[len(samples) // 2]

    def statistics(self) -> list[dict[str, object]]:
        """What was learned, for `/status`."""
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
    """How fast progress was seen to grow.

    Args:
        since: Monotonic seconds of the first progress seen.
        progress: That progress, 0-100.
    """

    since: float
    progress: float

    def seconds_left(self, progress: float, now: float) -> float | None:
        """At this speed; None while too little was seen to tell."""
        grown = progress - self.progress
        if grown < _TELLING_PROGRESS or now <= self.since:
            return None
        return (now - self.since) * (100 - progress) / grown


def age(created_at: float | None, *, wall: float, watched_seconds: float) -> float:
    """How long a task has been on its way: by the provider's time where that can be believed."""
    if created_at is not None and 0 <= wall - created_at <= PLAUSIBLE_SECONDS:
        return wall - created_at
    return watched_seconds


def eta_seconds(
    seen: Observation, *, elapsed: float, usual: float | None, by_slope: float | None = None
) -> float | None:
    """Estimated time left, from the best ground there is; None without any.

    Args:
        elapsed: Seconds since the task was created, or first seen.
        usual: What tasks of this kind usually take.
        by_slope: What is left at the speed its progress was seen to grow.
    """
    if seen.status.final or seen.status is Status.UNKNOWN:
        return None
    if seen.eta_seconds is not None:
        return max(round(seen.eta_seconds, 1), 0.0)
    if seen.estimated_seconds is not None:
        return max(round(seen.estimated_seconds - elapsed, 1), 0.0)
    if by_slope is not None:
        return round(by_slope, 1)
    if usual is not None:
        return max(round(usual - elapsed, 1), 0.0)
    return None
