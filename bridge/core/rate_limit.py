"""How much one provider credential may be asked, decided in one place for all its tasks.

Rule 1: one 429 slows the whole budget, not the task that met it.
Rule 2: the circuit opens when looks fail in a row across tasks; then one probe at a time.
Rule 3: `free_at` promises nothing; `started` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from bridge.core.schedule import MAX_WAIT
from bridge.errors import CredentialRefused, UpstreamBusy, UpstreamError

CIRCUIT_AFTER_FAILURES = 8
_FIRST_PAUSE = 1.0
_MAX_PAUSE = 60.0


@dataclass(slots=True)
class CredentialLimiter:
    """May I look now, else when.

    Args:
        max_in_flight: Requests at once; above 32 an aiohttp client gets slower, not faster.
        requests_per_second: Rate over all tasks; None where the provider names no limit.
        random: Chance between 0 and 1, so that replicas do not come back together.
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
        """Whether only a probe at a time goes out."""
        return self.failures >= CIRCUIT_AFTER_FAILURES

    def anew(self, *, max_in_flight: int) -> Self:
        """The budget of another credential: the same rates, nothing used up."""
        return type(self)(max_in_flight, self.random, self.requests_per_second)

    def free_at(self, now: float) -> float | None:
        """When the next request may start (monotonic seconds); None until one in flight ends."""
        if self.in_flight >= self.max_in_flight or (self.open_circuit and self.in_flight > 0):
            return None
        return max(now, self._paused_until, self._next_slot)

    def started(self, now: float) -> None:
        """Take one request out of the budget."""
        self.in_flight += 1
        if self.requests_per_second is not None:
            self._next_slot = max(self._next_slot, now) + 1 / self.requests_per_second

    def succeeded(self) -> None:
        """The provider answered something sensible, a 404 or a refusal included."""
        self.in_flight -= 1
        self.failures = 0
        self._pause = max(self._pause / 2 - 0.25, 0.0)

    def failed(self, error: UpstreamError, now: float) -> None:
        """The provider did not, or asked for patience."""
        if not error.retryable and not isinstance(error, CredentialRefused):
            self.succeeded()  # a 404 or a refusal of one task says that the provider works
            return
        self.in_flight -= 1
        if isinstance(error, UpstreamBusy | CredentialRefused):
            self._slow_down(error.retry_after, now)
            return
        if self.open_circuit and now < self._paused_until:
            return  # it was in flight when the circuit opened; only a probe says more
        self.failures += 1
        if self.open_circuit:
            self._hold_off(now)

    def abandoned(self) -> None:
        """A request was cancelled by us; it tells nothing."""
        self.in_flight -= 1

    def _slow_down(self, retry_after: float | None, now: float) -> None:
        if now >= self._paused_until:  # requests that were in flight together meet the same limit once
            self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _MAX_PAUSE)
        elif retry_after is None:
            return
        wait = retry_after if retry_after is not None else self._pause * (0.75 + self.random() / 2)
        self._paused_until = max(self._paused_until, now + min(wait, MAX_WAIT))

    def _hold_off(self, now: float) -> None:
        doublings = min(self.failures - CIRCUIT_AFTER_FAILURES, 6)
        wait = min(_FIRST_PAUSE * 2**doublings, _MAX_PAUSE) * (0.75 + self.random() / 2)
        self._paused_until = max(self._paused_until, now + wait)

    def paused(self, now: float) -> float:
        """Seconds for which nothing may be asked: by the wish of the provider, or after failures."""
        return max(self._paused_until - now, 0.0)

    def statistics(self, now: float) -> dict[str, object]:
        """For `/status`."""
        return {
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "requests_per_second": self.requests_per_second,
            "paused_seconds": round(self.paused(now), 3),
            "circuit_open": self.open_circuit,
        }
