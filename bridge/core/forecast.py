"""When one open task probably ends: what its polls showed, against what ended tasks taught.

A forecast rests on one ground at a time. Each ground is a curve of a measure, the seconds that one unit of
it means for this task, and the moment it counts from:

- `run` seconds from the creation to the end, `work` from the first sign of processing, `run:N` from the
  first poll that showed progress in bin N: the newest place that the task has reached;
- `slope:N` the true time left over the time left by the rate of its progress, in bin N;
- `estimate` the true run over the provider's estimate of it; `eta` the time left over the one it reports;
- `wait` seconds from the creation to processing, `position` the same left over its place in the queue plus
  one: for the end of the queue alone.

`rank` is the judge of all of them: which part of tasks was expected to end before this one did, by one of its
polls at random. Where these parts are not spread evenly, the estimates are moved by as much.

The ground with the least expected cost of polls is the sharpest, and is taken. A figure that a
provider reports is never believed as it is: it is a unit, and what came of it in other tasks is the curve.

Rule 1: an end, or a begin of processing, that the provider does not date lies at a random moment between the
        two polls around it. Taken as the moment of the poll, what is learned would only repeat the schedule.
Rule 2: time in the queue is not work: progress counts from processing.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bridge.core.curve import Curve
from bridge.core.estimate import NO_ESTIMATE, PLAUSIBLE_SECONDS, Estimate
from bridge.core.learned import PROGRESS_BINS, LearnedRuns, Measurement, Run, TaskKind
from bridge.core.task import Observation, Status

_MIN_ESTIMATE = 0.5
_MET_LATE_SECONDS = 5.0
"""A task first seen later after its creation may have passed phases unseen: it teaches none."""

_MIN_SLOPE_PROGRESS = 5.0
_TWO_POINTS_GROWTH = 10.0
_EARLY = 0.1
_QUEUE_PRICE = 10.0  # what its end is worth, against the end of the task
_STAMP_EARLIER = 1.0  # seconds that a provider's stamp may lie before the last poll that showed the task open

_WORKING = frozenset({Status.PROCESSING, Status.INPUT_REQUIRED})

GUESS = Curve((0.5, 0.75, 0.9, 1.0, 1.15, 1.4, 2.2))
"""What comes of a figure that a provider reports, before any task ended."""


class Ground(NamedTuple):
    """What a forecast rests on.

    Args:
        name: The measure.
        unit: Seconds that one unit of it means for this task.
        since: Monotonic seconds that it counts from.
    """

    name: str
    curve: Curve
    unit: float
    since: float

    def wait(self, now: float, price: float) -> float:
        """Seconds until the next poll, by a price in seconds of delay."""
        x = max(now - self.since, 0.0) / self.unit
        effort = self.curve.effort(x) + math.sqrt(2 * price / self.unit)
        return max(self.curve.when(effort) - x, 0.0) * self.unit

    @property
    def cost(self) -> float:
        """Expected cost of polls by this ground, over tasks like this one."""
        return self.curve.root * self.curve.cost

    def left(self, now: float, part: float) -> float:
        """Seconds until `part` (0-1) of such tasks have ended."""
        x = max(now - self.since, 0.0) / self.unit
        return (self.curve.quantile(part, after=x) - x) * self.unit

    def rank(self, now: float, end: float) -> float:
        """Which part (0-1) of such tasks, as it seemed at `now`, ends before `end`."""
        x, last = max(now - self.since, 0.0) / self.unit, max(end - self.since, 0.0) / self.unit
        return 1 - min(self.curve.survival(max(last, x)) / self.curve.survival(x), 1.0)


class _Figure(NamedTuple):
    """A figure of the task, to be compared with what came of it.

    Args:
        at: Monotonic seconds when it was seen.
        unit: The figure, in seconds.
        times: How many of the same measure were seen; one of them is kept, at random.
    """

    at: float
    unit: float
    times: int


class Forecast:
    """What the polls of one task showed of its times.

    Times are monotonic seconds of the moment that a poll shows: the middle between question and answer.

    Args:
        random: Returns 0-1.
        started: When the watch started.

    Attributes:
        ground: What the newest choice rests on; None without any.
        wait: Seconds until the next poll, as of the newest schedule; None where nothing is known.
        queued: Whether the task waits in the provider's queue.
    """

    __slots__ = (
        "_born",
        "_born_known",
        "_chosen_by",
        "_entered",
        "_estimated",
        "_estimated_at",
        "_estimates",
        "_figures",
        "_first_progress",
        "_last_seen",
        "_met_late",
        "_p50_at",
        "_p90_at",
        "_random",
        "_slope_from",
        "_started",
        "_units",
        "_worked",
        "ground",
        "queued",
        "wait",
    )

    def __init__(self, random: Callable[[], float], started: float) -> None:
        self.ground: Ground | None = None
        self.wait: float | None = None
        self.queued = False
        self._p50_at = self._p90_at = started
        self._random = random
        self._started = self._born = started
        self._born_known = self._met_late = False
        self._last_seen: float | None = None
        self._worked: float | None = None
        self._slope_from: float | None = None
        self._entered: dict[int, float] = {}
        self._first_progress: tuple[float, float] | None = None
        self._estimated: float | None = None
        self._estimates = 0
        self._chosen_by = 0
        self._estimated_at: tuple[float, Ground] | None = None  # one estimate, at random
        self._units: dict[str, tuple[float, float]] = {}  # by measure: the newest figure, and since when
        self._figures: dict[str, _Figure] = {}

    def born(self, at: float, *, known: bool) -> None:
        """Take the task as created then.

        Args:
            known: Whether that is so, and not only the latest it can have been.
        """
        if not self._born_known and (known or at < self._born):
            self._born, self._born_known = at, known

    def saw(self, observation: Observation, at: float) -> None:
        """A poll or a frame showed the open task at `at`."""
        if self._last_seen is None:
            self._met_late = at - self._born > _MET_LATE_SECONDS
        status = observation.status
        if status is not Status.UNKNOWN:
            self.queued = status is Status.QUEUED
        if self.queued and observation.queue_position is not None:
            self._record("position", observation.queue_position + 1.0, at)
        if status in _WORKING:
            self._works(observation.progress, at)
        told = observation.estimated_seconds
        if told is not None and _MIN_ESTIMATE <= told <= PLAUSIBLE_SECONDS:
            self._estimated = told
        told = observation.eta_seconds
        if told is not None and 0 < told <= PLAUSIBLE_SECONDS:
            self._record("eta", max(told, _MIN_ESTIMATE), at)
        self._last_seen = at

    def saw_again(self, at: float) -> None:
        """A poll showed the same as the one before."""
        self._last_seen = at

    def _works(self, progress: float | None, at: float) -> None:
        first = self._last_seen is None
        before = self._born if self._last_seen is None else self._last_seen
        if self._worked is None and not (first and self._met_late):
            self._worked = self._between(before, at)
        if self._slope_from is None and (not first or self._born_known):
            self._slope_from = (before + at) / 2
        if progress is None:
            return
        place = bisect_right(PROGRESS_BINS, progress) - 1
        if place > max(self._entered, default=-1) and not (first and self._met_late):
            self._entered[place] = self._between(before, at)
        if self._first_progress is None:
            self._first_progress = at, progress
        left = self._left_by_slope(progress, at)
        if left is not None and place >= 0:
            self._record(f"slope:{place}", max(left, _MIN_ESTIMATE), at)

    def _left_by_slope(self, progress: float, at: float) -> float | None:
        """Seconds to 100 % at the rate so far; None while that says nothing."""
        assert self._first_progress is not None
        since, begin = self._first_progress
        # Many jump by a few points at the start: two points of the way say more than the way from its start.
        if progress - begin < _TWO_POINTS_GROWTH:
            if self._slope_from is None or progress < _MIN_SLOPE_PROGRESS:
                return None
            since, begin = self._slope_from, 0.0
        left = (at - since) * (100 - progress) / (progress - begin)
        return left if 0 < left <= PLAUSIBLE_SECONDS else None

    def _record(self, measure: str, unit: float, at: float) -> None:
        self._units[measure.partition(":")[0]] = unit, at
        before = self._figures.get(measure)
        times = 1 if before is None else before.times + 1
        if before is None or self._random() * times < 1:
            self._figures[measure] = _Figure(at, unit, times)
        else:
            self._figures[measure] = before._replace(times=times)

    def _between(self, before: float, at: float) -> float:
        return before + (at - before) * self._random()

    def choose_again(self, learned: LearnedRuns, kind: TaskKind) -> None:
        """As `choose`, where nothing is new of the task: only once enough others have ended."""
        more = learned.version - self._chosen_by
        if more > (0 if self.ground is None else self.ground.curve.size / 4):
            self.choose(learned, kind)

    def choose(self, learned: LearnedRuns, kind: TaskKind) -> None:
        """Take the sharpest ground."""
        self._chosen_by = learned.version
        best, least = None, math.inf
        for ground in self._grounds(learned, kind):
            cost = ground.cost
            if cost < least:
                best, least = ground, cost
        self.ground = best

    def _grounds(self, learned: LearnedRuns, kind: TaskKind) -> Iterator[Ground]:
        place = self._elapsed_ground(learned, kind)
        if place is not None:
            yield place
        if "slope" in self._units and self._entered:
            unit, since = self._units["slope"]
            measure = f"slope:{max(self._entered)}"
            yield Ground(measure, learned.curve(kind, measure) or GUESS, unit, since)
        if self._estimated is not None:
            yield Ground("estimate", learned.curve(kind, "estimate") or GUESS, self._estimated, self._born)
        if "eta" in self._units:
            yield Ground("eta", learned.curve(kind, "eta") or GUESS, *self._units["eta"])

    def _elapsed_ground(self, learned: LearnedRuns, kind: TaskKind) -> Ground | None:
        """By the newest place that the task has reached and that something is known about."""
        for place in sorted(self._entered, reverse=True):
            measure = f"run:{place}"
            if (curve := learned.curve(kind, measure)) is not None:
                return Ground(measure, curve, 1.0, self._entered[place])
        if self._worked is not None and (curve := learned.curve(kind, "work")) is not None:
            return Ground("work", curve, 1.0, self._worked)
        curve = learned.curve(kind, "run")
        return None if curve is None else Ground("run", curve, 1.0, self._born)

    def schedule(self, learned: LearnedRuns, kind: TaskKind, now: float, price: float) -> None:
        """Work out the next poll (`wait`) and the end, by the ground that was chosen.

        Args:
            now: When a poll has just shown the task open.
            price: Of a poll, in seconds of delay.
        """
        ground, wait = self.ground, None
        if ground is not None:
            # All three of one curve at once: this runs for every poll.
            _, curve, unit, since = ground
            x = max(now - since, 0.0) / unit
            due, p50, p90 = curve.due_and_quantiles(x, math.sqrt(2 * price / unit), *learned.calibrated(kind))
            wait = max((due - x) * unit, 0.0)
            self._p50_at, self._p90_at = since + p50 * unit, since + p90 * unit
            self._estimates += 1
            if self._random() * self._estimates < 1:
                self._estimated_at = now, ground
        self.wait = self._wait_for_queue(learned, kind, now, price, wait) if self.queued else wait

    def _wait_for_queue(
        self, learned: LearnedRuns, kind: TaskKind, now: float, price: float, wait: float | None
    ) -> float | None:
        """Seconds until the next poll of a queued task.

        Args:
            wait: The same by the ground of its end.
        """
        queue = self._queue(learned, kind)
        if queue is None:
            return wait
        by_queue = queue.wait(now, price * _QUEUE_PRICE)
        if wait is None:
            return by_queue
        work = learned.curve(kind, "work")
        if work is not None:
            # The end cannot come before the queue's, even where the times of other tasks suggest it.
            wait = max(wait, queue.left(now, _EARLY) + work.quantile(_EARLY))
        if not wait or not by_queue:
            return 0.0
        # Two reasons to poll: their rates add up, as independent ones do.
        return 1 / math.sqrt(1 / wait**2 + 1 / by_queue**2)

    def _queue(self, learned: LearnedRuns, kind: TaskKind) -> Ground | None:
        """When the queue ends."""
        grounds = []
        if (curve := learned.curve(kind, "wait")) is not None:
            grounds.append(Ground("wait", curve, 1.0, self._born))
        if "position" in self._units and (curve := learned.curve(kind, "position")) is not None:
            grounds.append(Ground("position", curve, *self._units["position"]))
        return min(grounds, key=lambda ground: ground.cost, default=None)

    def estimate(self, now: float, unix_time: float) -> Estimate:
        """When the task probably ends, as `schedule` worked it out.

        Args:
            now: The moment of `unix_time`, on the clock that `schedule` was given.
        """
        if self.ground is None:
            return NO_ESTIMATE
        ahead = unix_time - now
        return Estimate(self._p50_at + ahead, self._p90_at + ahead)

    def drop(self) -> None:
        """The provider is done with the task: no time that was learned still applies."""
        self.ground = self.wait = None

    @property
    def seconds(self) -> float | None:
        """About how long the task takes in all, by its ground; None without any."""
        if self.ground is None:
            return None
        return self.ground.since - self._born + self.ground.curve.quantile(0.5) * self.ground.unit

    def ended(self, kind: TaskKind, *, stamped: float | None, at: float, unix_time: float) -> Run | None:
        """What the ended task teaches; None for nothing.

        Args:
            stamped: When it ended by the provider's word.
            at: The moment that showed the end.
        """
        last = self._last_seen
        end = at if stamped is None else stamped
        if last is not None and (stamped is None or not last - _STAMP_EARLIER < stamped <= at):
            end = self._between(last, at)
        measured: dict[str, Measurement] = {}
        if self._born_known and (last is not None or stamped is not None):
            measured["run"] = Measurement(end - self._born)
            if self._estimated is not None:
                measured["estimate"] = Measurement((end - self._born) / self._estimated, self._estimated)
        if last is not None:
            measured["watched"] = Measurement(at - self._started)
            measured |= self._phases(end)
            if self._estimated_at is not None:
                at, ground = self._estimated_at
                measured["rank"] = Measurement(ground.rank(at, end), self._estimates)
        sane = {
            measure: sample
            for measure, sample in measured.items()
            if 0 <= sample.value * sample.scale <= PLAUSIBLE_SECONDS or measure == "rank"
        }
        return Run(kind, unix_time, sane) if sane else None

    def _phases(self, end: float) -> dict[str, Measurement]:
        measured = {f"run:{place}": Measurement(end - at) for place, at in self._entered.items()}
        if self._worked is not None and not self._met_late:
            measured["work"] = Measurement(end - self._worked)
            if self._born_known:
                measured["wait"] = Measurement(self._worked - self._born)
        for measure, figure in self._figures.items():
            until = self._worked if measure == "position" else end
            if until is not None:
                measured[measure] = Measurement(max(until - figure.at, 0.0) / figure.unit, figure.unit)
        return measured
