"""What ended tasks taught about the times of tasks like them: the newest samples, by kind. No I/O.

Rule 1: a run is learned whole, at the task's end, by the process that polled it.
Rule 2: everything is bounded: kinds, samples of a kind, measures. Model names come from clients.
Rule 3: an account may use the times of all accounts of its upstream, and is shown no names from them.
"""

from __future__ import annotations

import math
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakSet

from bridge.core.curve import MIN_SAMPLES, Curve

MAX_KINDS = 256
MAX_RUNS = 64
"""Of a kind; a newer one replaces the oldest."""

PROGRESS_BINS = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 98.0, 99.0)
"""Where the bins of progress begin, in percent."""

MEASURES = frozenset(
    {"run", "work", "wait", "position", "estimate", "eta", "watched", "rank"}
    | {f"{name}:{number}" for name in ("run", "slope") for number in range(len(PROGRESS_BINS))}
)
"""What a run may measure; `bridge.core.forecast` says what each is."""

CALIBRATED_PARTS = (0.5, 0.9)
_CALIBRATION_PRIOR = 16
_MAX_PART = 0.98
_MAX_CURVES = 512


class TaskKind(NamedTuple):
    """Tasks whose run times are comparable."""

    model: str | None
    action: str | None


_UNNAMED = TaskKind(None, None)


class Measurement(NamedTuple):
    """One measured value.

    Args:
        value: Seconds; or, of a time that the provider reports, the true time over the reported one.
        scale: Seconds that a unit of `value` meant for that task; 1.0 for seconds.
    """

    value: float
    scale: float = 1.0


class Run(NamedTuple):
    """What one ended task teaches.

    Args:
        ended_at: Unix seconds when its end was seen.
        samples: By measure, see `MEASURES`.
    """

    kind: TaskKind
    ended_at: float
    samples: Mapping[str, Measurement]


class _Ring:
    """The newest values of one measure."""

    __slots__ = ("_next", "calibrated", "mean", "scales", "values")

    def __init__(self) -> None:
        self.calibrated: tuple[float, float] | None = None
        self.mean: float | None = None
        self.values = array("d")
        self.scales = array("d")
        self._next = 0

    def add(self, sample: Measurement) -> None:
        self.calibrated = self.mean = None
        if len(self.values) < MAX_RUNS:
            self.values.append(sample.value)
            self.scales.append(sample.scale)
            return
        self.values[self._next], self.scales[self._next] = sample
        self._next = (self._next + 1) % MAX_RUNS

    def curve(self) -> Curve | None:
        if len(self.values) < MIN_SAMPLES:
            return None
        return Curve(self.values, sum(map(math.sqrt, self.scales)) / len(self.scales))


_Rings = dict[str, _Ring]


def _unstored(run: Run) -> None:
    """Default of `LearnedRuns.taught`."""


class LearnedRuns:
    """What the tasks of one upstream taught, as one credential sees it.

    Args:
        pooled: What all accounts of the upstream taught; None for the upstream's own.

    Attributes:
        taught: Called with each run that was learned here: to store it.
        runs: Grows with each run, and by more when all are others at once.
    """

    def __init__(self, pooled: LearnedRuns | None = None) -> None:
        self.taught: Callable[[Run], None] = _unstored
        self.runs = 0
        self._pooled = pooled
        self._views: WeakSet[LearnedRuns] = WeakSet()  # those that this is the pool of
        if pooled is not None:
            pooled._views.add(self)  # noqa: SLF001 - an instance of this class
        self._kinds: OrderedDict[TaskKind, _Rings] = OrderedDict()
        self._all: _Rings = {}
        self._curves: OrderedDict[tuple[TaskKind | None, str], Curve | None] = OrderedDict()

    def learn(self, run: Run) -> None:
        """Add a run whose end was seen here."""
        self.add(run)
        self.taught(run)
        if self._pooled is not None:
            self._pooled.learn(run)

    def load(self, runs: Iterable[Run]) -> None:
        """Start again from these runs, oldest first: what is stored, and what was learned here since.

        What is not among them was forgotten, perhaps on request: no account keeps its part of it.
        """
        self._kinds.clear()
        self._all.clear()
        self._curves.clear()
        self.runs += MAX_RUNS  # enough for every open task to choose its ground again
        for view in self._views:
            view.load(())
        for run in runs:
            self.add(run)

    def curve(self, kind: TaskKind, measure: str) -> Curve | None:
        """The distribution of a measure for tasks of this kind; of all kinds where this one is too new."""
        found = self._curve(kind, measure)
        if found is None and self._pooled is not None:
            found = self._pooled._curve(kind, measure)  # noqa: SLF001 - an instance of this class
        if found is None:
            found = self._curve(None, measure)
        if found is None and self._pooled is not None:
            found = self._pooled._curve(None, measure)  # noqa: SLF001 - the same
        return found

    def calibrated(self, kind: TaskKind) -> tuple[float, float]:
        """The parts (0-1) of the curves that half and nine of ten of such tasks truly ended within.

        Weighed by the polls of each task, and drawn towards `part` while there are few.
        """
        rings = self._kinds.get(kind)
        ring = None if rings is None else rings.get("rank")
        if ring is None:
            return CALIBRATED_PARTS
        if ring.calibrated is None:
            ranks = sorted(zip(ring.values, ring.scales, strict=True))
            total = sum(ring.scales)
            moved = []
            for wanted in CALIBRATED_PARTS:
                below = 0.0
                rank = wanted
                for rank, weight in ranks:  # noqa: B007 - the last one counts
                    below += weight
                    if below >= wanted * total:
                        break
                trust = len(ranks) / (len(ranks) + _CALIBRATION_PRIOR)
                moved.append(min(wanted + trust * (rank - wanted), _MAX_PART))
            ring.calibrated = moved[0], moved[1]
        return ring.calibrated

    @property
    def version(self) -> int:
        """Grows with each run that curves of this one may come from."""
        return self.runs if self._pooled is None else self.runs + self._pooled.runs

    @property
    def watched_seconds(self) -> float | None:
        """How long tasks are watched until they end, on average over all kinds; None before the first."""
        ring = self._all.get("watched")
        if ring is None:
            return None if self._pooled is None else self._pooled.watched_seconds
        if ring.mean is None:
            ring.mean = sum(ring.values) / len(ring.values)
        return ring.mean

    def statistics(self, *, names: bool = True) -> list[dict[str, Any]]:
        """The kinds as `/status` reports them.

        Args:
            names: Whether those of models may be shown; else one row is about all kinds.
        """
        kinds: dict[TaskKind, _Rings] = self._kinds if names else {_UNNAMED: self._all} if self._all else {}
        return [
            {
                "model": kind.model,
                "action": kind.action,
                "samples": len(rings["run"].values) if "run" in rings else 0,
                "p50_seconds": None if curve is None else round(curve.quantile(0.5), 3),
                "p90_seconds": None if curve is None else round(curve.quantile(0.9), 3),
            }
            for kind, rings in kinds.items()
            for curve in [self._curve(kind if names else None, "run")]
        ]

    def add(self, run: Run) -> None:
        """Add a run that is stored: it was learned elsewhere."""
        self.runs += 1
        rings = self._kinds.setdefault(run.kind, {})
        self._kinds.move_to_end(run.kind)
        while len(self._kinds) > MAX_KINDS:
            self._kinds.popitem(last=False)
        for measure, sample in run.samples.items():
            for kind, known in ((run.kind, rings), (None, self._all)):
                known.setdefault(measure, _Ring()).add(sample)
                self._curves.pop((kind, measure), None)

    def _curve(self, kind: TaskKind | None, measure: str) -> Curve | None:
        try:
            return self._curves[kind, measure]
        except KeyError:
            pass
        rings = self._all if kind is None else self._kinds.get(kind)
        ring = None if rings is None else rings.get(measure)
        curve = None if ring is None else ring.curve()
        self._curves[kind, measure] = curve
        if len(self._curves) > _MAX_CURVES:
            self._curves.popitem(last=False)
        return curve
