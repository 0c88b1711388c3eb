"""When to poll next: the intervals of a healthy task, and the back-off after failures."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_WAIT = 300.0
"""Seconds. Caps a provider's Retry-After with an error, so that a wrong one cannot stop a watch."""

MAX_POLL_AFTER = 3600.0
"""Seconds. Caps what a provider that answers asks to wait before the next poll of one task."""

MAX_BACKOFF = 60.0
MAX_TASK_BACKOFF = 300.0
MAX_UNWATCHED_TASK_BACKOFF = 3600.0

_GROWTH = 1.25
_MAX_STEPS = 40  # 1.25**40 is 7,500 times the start, beyond every `max_seconds`; it keeps the power finite
_MAX_DOUBLINGS = 12
_FIRST_TRY = 5.0


def backoff(doublings: int, *, first: float, limit: float, jitter: float) -> float:
    """Exponential back-off in seconds, spread by a quarter in both directions.

    Everything in the server that retries waits by this function.

    Args:
        doublings: 0 for the first wait, then one more per failure.
        first: Seconds of the first wait.
        limit: Seconds that no wait exceeds before it is spread.
        jitter: Random, 0-1. Replicas and tasks that failed together must not retry together.
    """
    return min(first * 2.0 ** min(doublings, _MAX_DOUBLINGS), limit) * (0.75 + jitter / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Bounds of the poll interval of one upstream, in seconds.

    Args:
        min_seconds: The shortest interval.
        max_seconds: The longest, unless the provider or an error asks for more, or the rate limit is short.
        recommended_seconds: The interval the provider's documentation recommends.
        safety_net_seconds: The interval while a healthy stream pushes every change.
        thrift: How dear a poll is: 1 for more polls and ends seen sooner, 3 for fewer.
        usual_seconds: The even interval, at a thrift of 1, for tasks whose ends have no pattern: what the
            price is made of. None for the geometric mean of `recommended_seconds` and `max_seconds`.
    """

    min_seconds: float = 2.0
    max_seconds: float = 10.0
    recommended_seconds: float = 2.0
    safety_net_seconds: float = 60.0
    thrift: float = 2.0
    usual_seconds: float | None = None

    @property
    def _usual_squared(self) -> float:
        if self.usual_seconds is None:
            return self.recommended_seconds * self.max_seconds
        return self.usual_seconds**2

    def price(self, run_seconds: float) -> float:
        """The price of a poll, in seconds of delay, while the rate limit is not short.

        At this price a task of which nothing is known but its mean run time is polled about every
        `usual_seconds * sqrt(thrift)`.

        Args:
            run_seconds: How long tasks are watched, on average.
        """
        squared = self._usual_squared
        # Of shorter tasks the even interval would see the end only long after it.
        return self.thrift * squared / (2 * max(run_seconds, math.sqrt(squared)))

    def requested_delay(self, poll_after: float) -> float:
        """Seconds until the next poll of an open task whose provider asked for that many."""
        return min(max(poll_after, self.min_seconds), MAX_POLL_AFTER)

    def growing(self, quiet: int, factor: float = 1.0) -> float:
        """Seconds until the next poll where nothing is known of such tasks: the longer, the longer it lasts.

        Args:
            quiet: Consecutive polls without progress.
            factor: Of the price of a poll; see `bridge.core.price`.
        """
        growth = self.recommended_seconds * _GROWTH ** min(quiet, _MAX_STEPS)
        # A maximum above the usual one is for tasks of which more is known.
        return min(growth, self._usual_squared / self.recommended_seconds) * math.sqrt(factor)

    def spread(self, wait: float, jitter: float, longest: float) -> float:
        """Seconds until the next poll within the bounds.

        Args:
            jitter: Random, 0-1; tasks started together must not stay together.
            longest: The longest interval.
        """
        return min(max(wait * (0.95 + 0.1 * jitter), self.min_seconds), longest)

    def retry_delay(self, *, jitter: float, failures: int, retry_after: float | None) -> float:
        """Seconds until the next poll after `failures` failed ones in a row."""
        delay = backoff(failures - 1, first=self.min_seconds, limit=MAX_BACKOFF, jitter=jitter)
        return min(max(delay, self.min_seconds, retry_after or 0.0), MAX_WAIT)

    def task_delay(self, *, jitter: float, failures: int, watched: bool) -> float:
        """Seconds until the next poll after `failures` polls in a row failed for a reason of this task alone.

        Args:
            watched: Whether the task has subscribers.
        """
        limit = MAX_TASK_BACKOFF if watched else MAX_UNWATCHED_TASK_BACKOFF
        delay = backoff(failures - 1, first=self.min_seconds, limit=limit, jitter=jitter)
        # The jitter lengthens no wait beyond the limit.
        return min(max(delay, self.min_seconds), limit)


def grace_delay(polls: int, elapsed: float, grace: float, *, shortest: float) -> float:
    """Seconds until the next try within a time of grace: doubling, at least three tries, the last at its end.

    Args:
        polls: Tries so far.
        elapsed: Seconds since the first of them.
        shortest: No wait is shorter.
    """
    step = min(_FIRST_TRY * 2.0 ** min(polls - 1, _MAX_DOUBLINGS), grace / 2)
    return max(min(step, grace - elapsed), shortest)


@dataclass(slots=True)
class CallbackSupport:
    """Whether the provider's callbacks reach the bridge, shared by all tasks of one upstream.

    Attributes:
        come: True until a poll finds a final status that no callback announced; True again with the next
            callback.
    """

    come: bool = True
