"""The price of a poll: what all tasks of a credential share when its rate limit is short.

Each task plans its polls by the same price, so the plans fit the rate without a central order: a price that
is too low lets the plans exceed the rate, and rises until they do not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

LATEST_SECONDS = 300.0
"""A healthy task is polled at the latest after this, whatever the price."""

_USABLE = 0.95  # of the rate: the rest is for first polls and polls that a callback asks for
_MAX_EXCESS = 3.0
_MIN_STEPS = 4
_MAX_FACTOR = 1e6


@dataclass(slots=True)
class PollPrice:
    """The price factor of one credential; see `hear` for replicas.

    Args:
        rate: Requests per second that the credential allows; None without a limit.

    Attributes:
        factor: By how much the price is higher than without a limit; at least 1.
        planned: Polls per second that the plans of this process's tasks come to.
        open_tasks: Tasks that have a plan here.
    """

    rate: float | None = None
    factor: float = 1.0
    planned: float = 0.0
    open_tasks: int = 0
    _planned_elsewhere: float = field(init=False, default=0.0)
    _open_elsewhere: int = field(init=False, default=0)

    def replan(self, before: float | None, after: float | None) -> None:
        """A task has another plan.

        Args:
            before: Seconds until its next poll by the plan it had; None if it had none.
            after: The same by the plan it has now; None if none is left.
        """
        if before is not None:
            self.planned -= 1 / before
            self.open_tasks -= 1
        if after is not None:
            self.planned += 1 / after
            self.open_tasks += 1
        if self.open_tasks <= 0:
            self.planned, self.open_tasks = 0.0, 0  # what rounding leaves
        if self.rate:
            excess = (self.planned + self._planned_elsewhere) / (_USABLE * self.rate)
            step = (min(excess, _MAX_EXCESS) - 1) / max(self.open_tasks, _MIN_STEPS)
            self.factor = min(max(self.factor * (1 + step), 1.0), _MAX_FACTOR)

    def hear(self, planned_elsewhere: float, open_elsewhere: int) -> None:
        """What the tasks of all other replicas come to; their sums."""
        self._planned_elsewhere, self._open_elsewhere = planned_elsewhere, open_elsewhere

    def longest(self, max_seconds: float) -> float:
        """Seconds between two polls of a healthy task at most: beyond the maximum only at a high price."""
        if self.factor <= 1.0 or not self.rate:
            return max_seconds
        latest = max(LATEST_SECONDS, (self.open_tasks + self._open_elsewhere) / self.rate)
        return max(min(max_seconds * self.factor**4, latest), max_seconds)
