"""When a delivery is attempted again."""

from __future__ import annotations

from collections.abc import Callable

ATTEMPTS_AT = (0.0, 5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
"""Seconds after the first attempt; then one an hour."""

HOUR = 3600.0
GIVEN_UP_SECONDS = 86_400.0
"""After it was written a delivery is attempted for so long."""

JITTER = 0.1
_MIN_DELAY = 1.0
_LAST = 300.0
_TOLERANCE = 60.0
_STEPS = ((10.0, 0.1), (120.0, 1.0), (float("inf"), 10.0))


def delay_after(attempt: int, random: Callable[[], float], retry_after: float | None = None) -> float:
    """Seconds from the start of an attempt that failed to the next one.

    Args:
        attempt: Its number, from 1.
        retry_after: What the receiver asked for, in seconds.
    """
    delay = ATTEMPTS_AT[attempt] - ATTEMPTS_AT[attempt - 1] if attempt < len(ATTEMPTS_AT) else HOUR
    delay *= 1 + JITTER * (2 * random() - 1)
    return max(delay, min(retry_after or 0.0, HOUR))


def next_attempt(written_at: float, now: float, wished: float) -> float | None:
    """The time of the next attempt, Unix seconds; None if there is none.

    The last one is at the end of the 24 hours, however the ones before were jittered.
    """
    end = written_at + GIVEN_UP_SECONDS
    at = max(wished, now + _MIN_DELAY)
    if at <= end:
        return at
    return end if end - now > _LAST else None


def is_too_old(written_at: float, enabled_at: float | None) -> bool:
    """Whether a delivery was given up before its endpoint was enabled.

    What waits because no bridge ran, or could reach the ledger, is attempted all the same.

    Args:
        enabled_at: Unix seconds; None if it was never disabled.
    """
    return enabled_at is not None and enabled_at - written_at > GIVEN_UP_SECONDS


def is_failing(since: float, now: float) -> bool:
    """Whether nothing has arrived for 24 hours, but for the moments of an attempt."""
    return now - since >= GIVEN_UP_SECONDS - _TOLERANCE


def in_steps(seconds: float) -> float:
    """A delay rounded up, so that thousands of them have few different ends."""
    step = next(step for below, step in _STEPS if seconds < below)
    return -(-seconds // step) * step
