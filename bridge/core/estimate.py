"""When a task probably ends, as clients read it."""

from __future__ import annotations

from typing import NamedTuple

PLAUSIBLE_SECONDS = 86_400.0
"""A provider's time further away than a day is in the wrong unit or of a wrong clock."""


class Estimate(NamedTuple):
    """When a task probably ends, Unix seconds; None if unknown. It may lie in the past.

    Args:
        at: Half of such tasks have ended by then.
        by: Nine of ten have.
    """

    at: float | None = None
    by: float | None = None


NO_ESTIMATE = Estimate()


class RememberedEstimate:
    """The estimate of one poll of a task, each as likely as the others: to compare it with the end."""

    __slots__ = ("_at", "_polls")

    def __init__(self) -> None:
        self._at: float | None = None
        self._polls = 0

    def record_poll(self, estimate: Estimate, *, jitter: float) -> None:
        """Take in a poll.

        Args:
            jitter: Random, 0-1.
        """
        if estimate.at is not None:
            self._polls += 1
            if jitter * self._polls < 1:
                self._at = estimate.at

    def error(self, *, began_at: float, ended_at: float) -> float | None:
        """How far it was from the end, as a part of the run; None without an estimate.

        Args:
            began_at: Unix seconds, as the other.
        """
        if self._at is None or not 0 <= ended_at - began_at <= PLAUSIBLE_SECONDS:
            return None
        return abs(self._at - ended_at) / max(ended_at - began_at, 1.0)
