"""The price of a poll: what all tasks of a credential share when its rate limit is short.

Each task plans its polls by the same price, so the plans fit the rate without a central order: a price that
is too low lets the plans exceed the rate, and rises until they do not.

Replicas raise and lower one factor, each with its own plans: the engine multiplies it by what each sends.
Factors of their own would hold at any values once the plans fit together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

LATEST_SECONDS = 300.0
"""A healthy task is polled at the latest after this, at any price."""

_USABLE = 0.98  # of the rate: the rest is for polls that a callback or a viewer asks for
_OTHERS_SECONDS = 30.0
_MAX_EXCESS = 3.0
_MAX_LATE = 10.0
_LATE_POLLS = 64
_TOGETHER_CALLS = 16
_STEP = 3.0
_MIN_STEPS = 6
MAX_FACTOR = 1e6


def sane_raise(raised: float) -> float:
    """What a factor may be multiplied by at once; 1.0 for what is no such number."""
    return min(max(raised, 1 / MAX_FACTOR), MAX_FACTOR) if math.isfinite(raised) else 1.0


def raised_factor(factor: float, raised: float) -> float:
    """A factor multiplied by `raised`, within its bounds."""
    known = factor if math.isfinite(factor) else 1.0
    return min(max(known * sane_raise(raised), 1.0), MAX_FACTOR)


class PlannedPoll(NamedTuple):
    """What one task's next poll counts for.

    Args:
        rate: Polls per second.
        root: Square root of the factor that it was made by.
        due: When the poll is due, monotonic seconds.
    """

    rate: float
    root: float
    due: float


@dataclass(slots=True)
class PollPrice:
    """The price factor of one credential; see `receive` for replicas.

    Args:
        rate: Requests per second that the credential allows; None without a limit.

    Attributes:
        factor: By how much the price is higher than without a limit; at least 1.
        planned: Polls per second that the plans of this process's tasks come to.
        open_tasks: Tasks that have a plan here.
        raised: What `factor` was multiplied by here since the last `receive`.
        together: Tasks that one request showed, of late; 1 where each has its own.
    """

    rate: float | None = None
    factor: float = 1.0
    planned: float = 0.0
    open_tasks: int = 0
    raised: float = 1.0
    together: float = 1.0
    _unpriced: float = field(init=False, default=0.0)  # `planned`, had all plans been made at a factor of 1
    _late: float = field(init=False, default=0.0)  # seconds from when a poll is due to its answer
    _others: float = field(init=False, default=0.0)
    _others_at: float = field(init=False, default=0.0)
    _planned_elsewhere: float = field(init=False, default=0.0)
    _open_elsewhere: int = field(init=False, default=0)

    def started_other(self, now: float) -> None:
        """A call other than a repeated poll was started: it takes rate that no plan knows of."""
        if self.rate:
            self._others = self._others_now(now) + 1 / _OTHERS_SECONDS
            self._others_at = now

    def sent(self, tasks: int) -> None:
        """A request polled so many tasks; only called where one may poll several."""
        self.together += (tasks - self.together) / _TOGETHER_CALLS

    @property
    def requests(self) -> float:
        """Requests per second that the planned polls of this process come to."""
        return self.planned / self.together

    def _others_now(self, now: float) -> float:
        """Such calls per second, of late."""
        return self._others * math.exp(min(self._others_at - now, 0.0) / _OTHERS_SECONDS)

    def replan(
        self, before: PlannedPoll | None, seconds: float | None, *, now: float = 0.0
    ) -> PlannedPoll | None:
        """A task has another plan; returns it, to be given back.

        Args:
            before: The plan it had; None if it had none.
            seconds: Until its next poll; None if none is left.
            now: Monotonic seconds.
        """
        plan = None
        if before is not None:
            self.planned -= before.rate
            self.open_tasks -= 1
        if not self.rate:
            # The plain price: only what `/status` shows is kept.
            if seconds is not None:
                plan = PlannedPoll(1 / seconds, 1.0, 0.0)
                self.planned += plan.rate
                self.open_tasks += 1
            elif self.open_tasks <= 0:
                self.planned, self.open_tasks = 0.0, 0  # what rounding leaves
            return plan
        if before is not None:
            self._unpriced -= before.rate * before.root
            late = now - before.due
            if late >= 0:
                self._late += (min(late, _MAX_LATE) - self._late) / _LATE_POLLS
        if seconds is not None:
            plan = PlannedPoll(1 / (seconds + self._late), math.sqrt(self.factor), now + seconds)
            self.planned += plan.rate
            self._unpriced += plan.rate * plan.root
            self.open_tasks += 1
        if self.open_tasks <= 0:
            self.planned, self.open_tasks, self._unpriced = 0.0, 0, 0.0  # what rounding leaves
            if not self._open_elsewhere:
                # The next tasks begin without the price of these.
                self.factor = self.raised = 1.0
                return plan
        self._move_factor(now)
        return plan

    def settle(self, now: float) -> None:
        """Move the factor; call about once a second: the plans of a few tasks do that too rarely."""
        if self.rate and self.factor > 1.0 and self.open_tasks:
            self._move_factor(now)

    def _move_factor(self, now: float) -> None:
        assert self.rate is not None
        usable = max(_USABLE * self.rate - self._others_now(now), self.rate / 2)
        # Intervals grow with the root of the price. What the plans come to once all are made by the price
        # of now: plans made before it rose would have it rise further, until each task had its next poll.
        ahead = self._unpriced / (self.planned * math.sqrt(self.factor)) if self.planned > 0 else 1.0
        excess = (self.planned / self.together + self._planned_elsewhere) * ahead / usable
        # One task of all moves it by its part: as fast over replicas as in one process.
        open_tasks = max(self.open_tasks + self._open_elsewhere, _MIN_STEPS)
        step = _STEP * (min(excess, _MAX_EXCESS) - 1) / open_tasks
        factor = min(max(self.factor * (1 + step), 1.0), MAX_FACTOR)
        self.raised *= factor / self.factor
        self.factor = factor

    @property
    def shown(self) -> float:
        """The factor for operators: without open tasks here it is not kept current."""
        return self.factor if self.open_tasks else 1.0

    def load(self, now: float) -> float:
        """Requests per second of this process: those planned, and others of late."""
        return self.requests + self._others_now(now)

    def receive(
        self,
        planned_elsewhere: float,
        open_elsewhere: int,
        factor: float | None = None,
        *,
        counted: float = 1.0,
    ) -> None:
        """What the tasks of all other replicas come to; their sums.

        Args:
            planned_elsewhere: Requests per second.
            factor: Of all replicas; None if it is not shared.
            counted: What of `raised` is in it.
        """
        self._planned_elsewhere, self._open_elsewhere = max(planned_elsewhere, 0.0), max(open_elsewhere, 0)
        if factor is not None:
            self.raised = sane_raise(self.raised / counted)
            self.factor = raised_factor(factor, self.raised)

    def longest(self, max_seconds: float) -> float:
        """Seconds between two polls of a healthy task at most: beyond the maximum only at a high price."""
        if self.factor <= 1.0 or not self.rate:
            return max_seconds
        open_tasks = self.open_tasks + self._open_elsewhere
        latest = max(LATEST_SECONDS, open_tasks / (self.rate * self.together))
        return max(min(max_seconds * self.factor**4, latest), max_seconds)
