"""How often somebody may do something: a token bucket for each key, forgotten once it is full again."""

from __future__ import annotations

from collections import OrderedDict

from bridge.clock import Clock

MAX_KEYS = 65_536


class RateLimiter:
    """One bucket a key, all of the same size; every method takes the same time however many there are.

    A bucket is remembered as the moment when it will be full again: one that is full needs no memory.
    Beyond `MOST_KEYS` the one used longest ago is forgotten, which makes it full.

    Args:
        per_second: Tokens that come back each second; 0 for as many as anybody wants.
        burst: Tokens in a full bucket, at least one.
    """

    def __init__(self, per_second: float, burst: float, clock: Clock) -> None:
        self._seconds_each = 1 / per_second if per_second else 0.0
        self._slack = (max(burst, 1.0) - 1) * self._seconds_each
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str) -> float:
        """Take one token.

        Returns:
            0 when it was taken, else seconds until there is one.
        """
        if not self._seconds_each:
            return 0.0
        now = self._clock.monotonic()
        full_at = max(self._full_at.get(key, now), now)
        wait = full_at - now - self._slack
        if wait > 0:
            return wait
        self._full_at[key] = full_at + self._seconds_each
        self._full_at.move_to_end(key)
        self._forget(now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Two at the most for the one that came, so that what is kept shrinks at no one's expense."""
        for _ in range(2):
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= MAX_KEYS:
                return
            del self._full_at[oldest]
