"""Whether one call may show many tasks now, and how many: learned from how such calls end.

Rule 1: a call about many tasks can only show tasks. What it does not show, or cannot, is decided by the call
        about that task alone: nothing is held against a task for what a call about many left out.
Rule 2: calls about many that fail for reasons of their own rest, with back-off, and return with half as many
        tasks. Meanwhile each task is polled alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.core.schedule import backoff

REST_SECONDS = 60.0
MAX_REST_SECONDS = 3600.0
MAX_ALONE = 32
"""Polls that a task is polled alone at most before it is asked for with others again."""

DOUBTFUL_FAILURES = 2
"""Failures in a row that each may have another reason, such as a rate limit, before the call rests."""


@dataclass(slots=True)
class ManyCalls:
    """The calls about many tasks with one credential.

    Args:
        max_ids: Tasks of one call, by the provider's documentation.
        random: Returns 0-1, for jitter.

    Attributes:
        failures: Rests since the last call that worked.
        last_error: Why the newest call failed; None once one has worked again.
    """

    max_ids: int
    random: Callable[[], float]
    failures: int = 0
    last_error: str | None = None
    _size: int = field(init=False)
    _failed_in_a_row: int = 0
    _in_flight: int = 0
    _rests_until: float = float("-inf")

    def __post_init__(self) -> None:
        self._size = self.max_ids

    def limit(self, now: float) -> int:
        """Tasks of a call that starts now; 1 while tasks are polled alone."""
        if now < self._rests_until or (self.failures and self._in_flight):
            return 1  # after a rest one call at a time finds out
        return self._size

    def rests_for(self, now: float) -> float:
        """Seconds until the next call about many tasks may start."""
        return max(self._rests_until - now, 0.0)

    def started(self) -> None:
        """A call was sent; exactly one of the others follows."""
        self._in_flight += 1

    def abandoned(self) -> None:
        """It was given up here: nothing was learned."""
        self._in_flight -= 1

    def succeeded(self) -> bool:
        """It showed tasks. Returns whether calls failed before."""
        self._in_flight -= 1
        self._failed_in_a_row = 0
        self._size = min(self._size * 2, self.max_ids)
        again, self.failures, self.last_error = self.failures > 0, 0, None
        return again

    def failed(self, why: str, now: float, *, own: bool) -> bool:
        """It failed. Returns whether that is the first rest since it worked.

        Args:
            own: Whether only this kind of call may be the reason; a rate limit or the key may be another.
        """
        self._in_flight -= 1
        self._failed_in_a_row += 1
        self.last_error = why
        if (not own and self._failed_in_a_row < DOUBTFUL_FAILURES) or now < self._rests_until:
            return False
        self.failures += 1
        self._failed_in_a_row = 0
        self._size = max(self._size // 2, 2)
        wait = backoff(self.failures - 1, first=REST_SECONDS, limit=MAX_REST_SECONDS, jitter=self.random())
        self._rests_until = now + wait
        return self.failures == 1

    def statistics(self, now: float) -> dict[str, object]:
        """As `/status` reports it."""
        return {
            "max_ids": self.max_ids,
            "failures": self.failures,
            "rests_seconds": round(self.rests_for(now), 3),
            "last_error": self.last_error,
        }
