"""Reconnect back-off: the stream's `retry:` first, then decorrelated jitter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

MAX_RETRY = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Timeouts and reconnect delays of a watch, in seconds.

    Args:
        silence: A connection without a byte for this long is considered dead; the bridge sends a keepalive
            every 15 s.
        first_delay: Delay before the first reconnect, unless the stream set one with `retry:`.
        min_delay: Lower bound of a delay, also for what the stream asks for.
        max_delay: Upper bound of the growing delays.
        end_timeout: How long to wait for the bridge's `end` event once every task is final.
    """

    silence: float = 45.0
    first_delay: float = 1.0
    min_delay: float = 0.1
    max_delay: float = 30.0
    end_timeout: float = 2.0


class Backoff:
    """Reconnect delays of one watch (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)."""

    def __init__(self, timeouts: Timeouts, rng: random.Random) -> None:
        self.timeouts = timeouts
        self._base = timeouts.first_delay
        self._max = timeouts.max_delay
        self._rng = rng
        self._last: float | None = None

    def set_retry(self, milliseconds: int) -> None:
        """Use the `retry:` value of the stream, bounded, as the base delay."""
        self._base = max(self.timeouts.min_delay, min(milliseconds / 1000, MAX_RETRY))

    def reset(self) -> None:
        """Start from the base delay again, after a connection that delivered an event."""
        self._last = None

    def next(self, at_least: float | None = None) -> float:
        """Return the delay before the next attempt, in seconds.

        Args:
            at_least: `Retry-After` of the rejection. Jitter is added: other clients received the same value.
        """
        # The bridge's own `retry:` is jittered already, so the first delay stays near it.
        top = 1.5 * self._base if self._last is None else 3 * self._last
        self._last = min(max(self._max, self._base), self._rng.uniform(self._base, max(self._base, top)))
        if at_least is None:
            return self._last
        return max(self._last, at_least + self._rng.uniform(0, self._base))
