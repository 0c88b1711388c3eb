"""Rate limit, concurrency limit and circuit breaker of one provider credential.

Rule 1: one 429 slows down every call with the credential, not only the task that met it.
Rule 2: after eight failures in a row, over all tasks, the circuit opens: then one probe at a time.
Rule 3: `free_at` is advisory; only `started` consumes capacity, and exactly one of `succeeded`, `failed` or
        `abandoned` gives it back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from bridge.core.schedule import MAX_BACKOFF, MAX_WAIT, backoff
from bridge.errors import CredentialRefused, UpstreamBusy, UpstreamError

CIRCUIT_AFTER_FAILURES = 8
_FIRST_PAUSE = 1.0


@dataclass(slots=True)
class CredentialLimiter:
    """Rate limit, concurrency limit and circuit breaker of one provider credential.

    All times are monotonic seconds.

    Args:
        max_in_flight: Concurrent requests; above 32 one aiohttp session becomes slower, not faster.
        requests_per_second: Rate over all tasks; None where the provider documents no limit.
        random: Returns 0-1, for jitter.
    """

    max_in_flight: int
    random: Callable[[], float]
    requests_per_second: float | None = None
    in_flight: int = field(init=False, default=0)
    failures: int = field(init=False, default=0)
    _next_slot: float = field(init=False, default=0.0)
    _paused_until: float = field(init=False, default=0.0)
    _pause: float = field(init=False, default=0.0)

    @property
    def open_circuit(self) -> bool:
        """Whether the circuit is open: one probe at a time instead of normal traffic."""
        return self.failures >= CIRCUIT_AFTER_FAILURES

    def for_other_credential(self, *, max_in_flight: int) -> Self:
        """A limiter with the same rates and nothing used up."""
        return type(self)(max_in_flight, self.random, self.requests_per_second)

    def free_at(self, now: float) -> float | None:
        """When the next request may start; None until one in flight has ended."""
        if self.in_flight >= self.max_in_flight or (self.open_circuit and self.in_flight > 0):
            return None
        return max(now, self._paused_until, self._next_slot)

    def started(self, now: float) -> None:
        """Take the capacity of one request."""
        self.in_flight += 1
        if self.requests_per_second is not None:
            # From now, not from the last slot: idle time is not saved up for a burst.
            self._next_slot = max(self._next_slot, now) + 1 / self.requests_per_second

    def succeeded(self) -> None:
        """The provider gave a valid answer: a 404 or a rejected request is one too."""
        self.in_flight -= 1
        self.failures = 0
        # Half, so that one success does not undo the pauses that several 429s led to; and a little less
        # than half, so that it reaches zero.
        self._pause = max(self._pause / 2 - 0.25, 0.0)

    def failed(self, error: UpstreamError, now: float) -> None:
        """The provider did not answer, or it limits us."""
        if not error.retryable and not isinstance(error, CredentialRefused):
            # A 404, or one task that is rejected: the provider works.
            self.succeeded()
            return
        self.in_flight -= 1
        if isinstance(error, UpstreamBusy | CredentialRefused):
            # A rejected key is a pause, not an open circuit: the provider answers, and may accept it again.
            self._pause_after_rejection(error.retry_after, now)
            return
        if self.open_circuit and now < self._paused_until:
            # It was in flight when the circuit opened. Counted, each such request would double the wait.
            return
        self.failures += 1
        if self.open_circuit:
            doublings = self.failures - CIRCUIT_AFTER_FAILURES
            wait = backoff(doublings, first=_FIRST_PAUSE, limit=MAX_BACKOFF, jitter=self.random())
            self._paused_until = max(self._paused_until, now + wait)

    def abandoned(self) -> None:
        """We cancelled the request: its capacity is free again, and nothing was learned."""
        self.in_flight -= 1

    def _pause_after_rejection(self, retry_after: float | None, now: float) -> None:
        if now >= self._paused_until:
            self._pause = min(max(self._pause * 2, _FIRST_PAUSE), MAX_BACKOFF)
        elif retry_after is None:
            # Requests that were in flight together meet the same limit: it counts once.
            return
        # `_pause` is doubled here instead of by a count of failures, because successes shrink it again.
        wait = (
            backoff(0, first=self._pause, limit=MAX_BACKOFF, jitter=self.random())
            if retry_after is None
            else retry_after
        )
        self._paused_until = max(self._paused_until, now + min(wait, MAX_WAIT))

    def paused(self, now: float) -> float:
        """Seconds until any request may start, by the provider's request or after failures."""
        return max(self._paused_until - now, 0.0)

    def statistics(self, now: float) -> dict[str, object]:
        """The limiter as `/status` reports it."""
        return {
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "requests_per_second": self.requests_per_second,
            "paused_seconds": round(self.paused(now), 3),
            "circuit_open": self.open_circuit,
        }
