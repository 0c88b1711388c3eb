"""The fast level: the decisions about each task in virtual time, without sockets and journals."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from tests.pacing.fixed import at_equal_polls
from tests.pacing.numbers import mean, percentile
from tests.pacing.product import Decisions
from tests.pacing.tasks import ROUND_TRIP, START_OF_TIME, Task, Workload

LEARNING_TASKS = 60
"""The first tasks of a run, after which the ETA is judged."""


@dataclass(slots=True)
class Seen:
    """What was seen of one task, when.

    Args:
        polled_at: Virtual seconds when each poll started.
        started: Delay of `processing`, seconds; `ended` that of the final status.
    """

    polled_at: list[float] = field(default_factory=list)
    started: float = math.nan
    ended: float = math.nan


@dataclass(slots=True)
class Calibration:
    """The estimates that the polls of one run led to, against what was really left."""

    error: float = 0.0
    shown: int = 0
    before_eta_at: int = 0
    at_known: int = 0
    before_eta_by: int = 0
    by_known: int = 0

    def add(
        self,
        eta_seconds: float | None,
        eta_at: float | None,
        eta_by: float | None,
        *,
        end: float,
        now: float,
        run: float,
    ) -> None:
        """Count one poll of a task that is still open; times are Unix seconds."""
        if end <= now:
            return
        if eta_seconds is not None:
            self.shown += 1
            self.error += abs(eta_seconds - (end - now)) / run
        if eta_at is not None:
            self.at_known += 1
            self.before_eta_at += end <= eta_at
        if eta_by is not None:
            self.by_known += 1
            self.before_eta_by += end <= eta_by


@dataclass(frozen=True, slots=True)
class Run:
    """One workload with one seed; seconds.

    Args:
        share: Mean delay of the end, over that of a fixed poller with as many polls; `share95` of the p95.
        before_eta_at: Share of polls whose task ended before `eta_at`; NaN without any.
        too_close: Polls nearer to the one before than the minimum; `too_rare` beyond the maximum.
        hint_broken: Polls inside the `poll_after` of the answer before.
    """

    polls: float
    mean: float
    p50: float
    p95: float
    p99: float
    start: float
    share: float
    share95: float
    share_start: float
    eta_error: float
    before_eta_at: float
    before_eta_by: float
    too_close: float
    too_rare: float
    hint_broken: float

    def as_dict(self) -> dict[str, float]:
        """The numbers by name."""
        return asdict(self)


class _Watched:
    """One task and its watch."""

    __slots__ = ("document", "seen", "task", "watch")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.seen = Seen()
        self.document: dict[str, object] | None = None
        self.watch = None


def play(
    workload: Workload, tasks: Sequence[Task], seed: int, decisions: Decisions | None = None
) -> tuple[list[Seen], Calibration]:
    """Watch every task to its end.

    Args:
        decisions: Of an upstream that has learned something before; a new one if left out.
    """
    provider = workload.provider
    decisions = decisions or Decisions(provider.pace, random.Random(f"decisions {seed}"))
    watched = [_Watched(task) for task in tasks]
    calibration, order = Calibration(), itertools.count()
    queue = [(one.task.at + one.task.known_at, next(order), index) for index, one in enumerate(watched)]
    heapq.heapify(queue)
    while queue:
        due, _, index = heapq.heappop(queue)
        one = watched[index]
        task, unix_time = one.task, START_OF_TIME + due
        if one.watch is None:
            one.watch = decisions.begin(due)
            if task.late is None:
                document = provider.document(task, 0.0)
                decisions.observed(
                    one.watch, document, now=due, unix_time=unix_time, started_at=due, submitted=True
                )
        else:
            _poll(one, due, decisions, workload)
            if index >= LEARNING_TASKS and one.watch.due is not None:
                now = unix_time + ROUND_TRIP
                calibration.add(
                    *decisions.estimates(one.watch, now),
                    end=START_OF_TIME + task.at + task.end,
                    now=now,
                    run=task.end,
                )
        if one.watch.due is not None:
            heapq.heappush(queue, (one.watch.due, next(order), index))
    return [one.seen for one in watched], calibration


def _poll(one: _Watched, due: float, decisions: Decisions, workload: Workload) -> None:
    task, seen, now = one.task, one.seen, due + ROUND_TRIP
    seen.polled_at.append(due)
    age = due + ROUND_TRIP / 2 - task.at
    document = workload.provider.document(task, age)
    status = document["status"]
    if math.isnan(seen.started) and status != "queued":
        seen.started = now - task.at - max(task.start, task.known_at)
    if age >= task.end:
        seen.ended = now - task.at - max(task.end, task.known_at)
    if document == one.document:
        decisions.unchanged(one.watch, now=now, unix_time=START_OF_TIME + now, started_at=due)
    else:
        one.document = document
        decisions.observed(one.watch, document, now=now, unix_time=START_OF_TIME + now, started_at=due)


def judge(workload: Workload, seed: int, count: int | None = None) -> Run:
    """Play one workload with one seed and compare it with the fixed poller."""
    tasks = workload.draw(seed, count)
    seen, calibration = play(workload, tasks, seed)
    return numbers(workload, tasks, seen, calibration, seed)


def judge_one(workload: Workload, end: float) -> dict[str, float]:
    """The polls of one task that others of its kind came before, as ages in seconds.

    Args:
        end: About its age at the end.
    """
    tasks = workload.draw(0)
    seen, _ = play(workload, tasks, 0)
    later = range(len(tasks) // 2, len(tasks))
    chosen = min(later, key=lambda index: abs(tasks[index].end - end))
    ages = [at - tasks[chosen].at for at in seen[chosen].polled_at]
    return {"end": tasks[chosen].end} | {f"poll {number}": age for number, age in enumerate(ages, 1)}


def cold(workload: Workload, seeds: Sequence[int], count: int) -> Run:
    """The first tasks of as many fresh processes, counted together: one run of so few is mostly noise."""
    all_tasks: list[Task] = []
    all_seen: list[Seen] = []
    for seed in seeds:
        tasks = workload.draw(seed, count)
        all_tasks += tasks
        all_seen += play(workload, tasks, seed)[0]
    return numbers(workload, all_tasks, all_seen, Calibration(), seeds[0])


def restarted(workload: Workload, seeds: Sequence[int], learned: int, count: int) -> dict[str, float]:
    """Mean delays of tasks that come after others, in the same process and in one that loads what is kept."""
    steady: list[float] = []
    fresh: list[float] = []
    for seed in seeds:
        tasks = workload.draw(seed, learned + count)
        one = Decisions(workload.provider.pace, random.Random(f"decisions {seed}"))
        play(workload, tasks[:learned], seed, one)
        two = Decisions(workload.provider.pace, random.Random(f"restarted {seed}"), one.kept)
        for decisions, delays in ((one, steady), (two, fresh)):
            delays += [seen.ended for seen in play(workload, tasks[learned:], seed, decisions)[0]]
    return {"steady": mean(steady), "restarted": mean(fresh), "restarted_ratio": mean(fresh) / mean(steady)}


def numbers(
    workload: Workload, tasks: Sequence[Task], seen: Sequence[Seen], calibration: Calibration, seed: int
) -> Run:
    """What came of a run, as numbers."""
    polls = mean(len(one.polled_at) for one in seen)
    ends = sorted(one.ended for one in seen)
    start = mean(one.started for one in seen)
    yardstick = at_equal_polls(tasks, polls, seed)
    shortest, _, longest = workload.provider.pace
    gaps: list[float] = []
    hint_broken = 0
    for task, one in zip(tasks, seen, strict=True):
        waits = [later - earlier - ROUND_TRIP for earlier, later in itertools.pairwise(one.polled_at)]
        if task.hint is None:
            gaps += waits
        else:
            hint_broken += sum(wait < task.hint - 1e-6 for wait in waits)
    return Run(
        polls=polls,
        mean=mean(ends),
        p50=percentile(ends, 50),
        p95=percentile(ends, 95),
        p99=percentile(ends, 99),
        start=start,
        share=mean(ends) / yardstick.mean,
        share95=percentile(ends, 95) / yardstick.p95,
        share_start=start / yardstick.start,
        eta_error=calibration.error / calibration.shown if calibration.shown else math.nan,
        before_eta_at=calibration.before_eta_at / calibration.at_known if calibration.at_known else math.nan,
        before_eta_by=calibration.before_eta_by / calibration.by_known if calibration.by_known else math.nan,
        too_close=sum(gap < shortest - 1e-6 for gap in gaps),
        too_rare=sum(gap > longest + 1e-6 for gap in gaps),
        hint_broken=hint_broken,
    )
