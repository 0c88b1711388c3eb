"""One configured provider: its dialect, the way to it, its budget, and what was learned of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bridge.clock import Clock
from bridge.core.budget import Budget
from bridge.core.forecast import RunTimes
from bridge.core.pacing import Callbacks, Pace
from bridge.dialects.base import Answer, Dialect, Request
from bridge.errors import UpstreamError
from bridge.metrics import Metrics, UpstreamSeries
from bridge.sources.session import Session
from bridge.sources.signatures import Verifier


class Standing(StrEnum):
    """How a provider does, for `/status`."""

    VALID = "VALID"
    INITIALIZING = "INITIALIZING"
    INTERRUPTED = "INTERRUPTED"
    OFF = "OFF"


@dataclass(slots=True)
class Health:
    """What `/status` says of a provider."""

    state: Standing
    since: float
    last_error: str | None = None
    last_error_at: float | None = None


@dataclass(slots=True, eq=False)
class Upstream:
    """A provider the operator configured, under the operator's name."""

    name: str
    dialect: Dialect
    session: Session
    budget: Budget
    pace: Pace
    clock: Clock
    metrics: Metrics
    deadline_seconds: float | None = None
    submit_timeout_seconds: float = 60.0
    callback_secret: str | None = None
    verifier: Verifier | None = None
    max_streams: int = 100
    run_times: RunTimes = field(default_factory=RunTimes)
    callbacks: Callbacks = field(default_factory=Callbacks)
    health: Health = field(init=False)
    _series: UpstreamSeries = field(init=False)
    _shown_open: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.health = Health(Standing.INITIALIZING, self.clock.wall())
        self._series = UpstreamSeries(self.metrics, self.name)

    async def ask(self, call: str, request: Request, timeout_seconds: float | None = None) -> Answer:
        """Make one call and time it; its outcome is counted by whoever reads the answer.

        Args:
            timeout_seconds: Instead of the upstream's own.

        Raises:
            UpstreamError: There is no answer to read.
        """
        began = self.clock.now()
        try:
            return await self.session.ask(request, timeout_seconds)
        finally:
            self._series.seconds[call].observe(self.clock.now() - began)

    def went(self, call: str, error: UpstreamError | None = None, *, outcome: str = "ok") -> None:
        """Count how a call ended and keep the standing of the provider."""
        self._series.requests[call, error.outcome if error else outcome].inc()
        works = error is None or error.outcome in {"not_found", "refused"}
        self._stands(Standing.VALID if works else Standing.INTERRUPTED)
        if error is not None:
            self.health.last_error = str(error)
            self.health.last_error_at = self.clock.wall()

    def polled(self, result: str) -> None:
        """Count what a look brought."""
        self._series.polls[result].inc()

    def streamed(self, outcome: str) -> None:
        """Count how a stream ended; that says less of the provider's standing than a look does."""
        self._series.requests["stream", outcome].inc()

    def waited(self, seconds: float) -> None:
        """Count how long a look that was due waited for the budget."""
        self._series.budget_wait.observe(seconds)

    def _stands(self, state: Standing) -> None:
        if self.health.state is not state:
            self.health.state = state
            self.health.since = self.clock.wall()
        if self.budget.open_circuit is not self._shown_open:
            self._shown_open = self.budget.open_circuit
            self._series.circuit_open.set(self._shown_open)
