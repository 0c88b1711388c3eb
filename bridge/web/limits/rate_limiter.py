"""Rate limiter: the generic cell rate algorithm (GCRA) with one cell per key."""

from __future__ import annotations

from collections import OrderedDict

from bridge.clock import Clock

MAX_KEYS = 65_536


class RateLimiter:
    """Allows each key `per_second` actions, in bursts of at most `burst`.

    GCRA is a token bucket stored as one number per key: the moment when its bucket is full again (the
    theoretical arrival time). A key with a full bucket needs no memory, and `take` costs the same for any
    number of keys. Beyond `MAX_KEYS` the least recently used key is forgotten, that is, gets a full bucket.

    Args:
        per_second: Tokens added per second; 0 for no limit.
        burst: Tokens in a full bucket, at least 1.
    """

    def __init__(self, per_second: float, burst: float, clock: Clock) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._tolerance = (max(burst, 1.0) - 1) * self._interval
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, key: str) -> float:
        """Seconds until there is a token; 0 if there is one."""
        if not self._interval:
            return 0.0
        now = self._clock.monotonic()
        return max(max(self._full_at.get(key, now), now) - now - self._tolerance, 0.0)

    def take(self, key: str, tokens: float = 1.0) -> float:
        """Take tokens. One is enough to take more: the rest is a debt, so that the next call waits longer.

        Returns:
            0 if they were taken, else the seconds until there is one.
        """
        if not self._interval:
            return 0.0
        now = self._clock.monotonic()
        full_at = self._full_at.get(key, now)
        wait = full_at - now - self._tolerance
        if wait > 0:
            return wait
        self._full_at[key] = max(full_at, now) + tokens * self._interval
        self._full_at.move_to_end(key)
        # at most two keys are removed for one added: the table shrinks, and no single call pays for many
        for _ in range(2):
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= MAX_KEYS:
                break
            del self._full_at[oldest]
        return 0.0
