"""One configured provider as one credential sees it: dialect, session, rate limit, run times, health."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from bridge.clock import Clock
from bridge.core.estimate import RuntimeHistory
from bridge.core.rate_limit import CredentialLimiter
from bridge.core.schedule import CallbackSupport, Pace
from bridge.core.task import OWN_ACCOUNT
from bridge.dialects.base import HttpResponse, Request
from bridge.dialects.dialect import Dialect
from bridge.errors import CredentialRefused, UpstreamError
from bridge.sources.credentials import Credential
from bridge.sources.http_client import Session
from bridge.sources.signatures import Verifier
from bridge.telemetry.metrics import Metrics, UpstreamSeries
from bridge.telemetry.tracing import NO_TRACING, Tracing

ACCOUNT_IN_FLIGHT = 8

# Out of credit, or another account's task: the key itself is valid.
VALID_KEY_STATUSES = frozenset({402, 403})


logger = logging.getLogger(__name__)


class UpstreamState(StrEnum):
    """State of an upstream in `/status`."""

    VALID = "VALID"
    INITIALIZING = "INITIALIZING"
    INTERRUPTED = "INTERRUPTED"
    OFF = "OFF"


@dataclass(slots=True)
class UpstreamHealth:
    """Health of an upstream in `/status`.

    Args:
        since: Unix seconds of the last change of `state`.
    """

    state: UpstreamState
    since: float
    last_error: str | None = None
    last_error_at: float | None = None


@dataclass(slots=True, eq=False)
class Upstream:
    """A configured provider as one credential sees it.

    Args:
        name: As the operator configured it.
        account: The account of the credential; `-` for the operator's own.
        refused: Called when the provider rejects the credential.
    """

    name: str
    dialect: Dialect
    session: Session
    limiter: CredentialLimiter
    pace: Pace
    clock: Clock
    metrics: Metrics
    deadline_seconds: float | None
    submit_timeout_seconds: float
    max_streams: int
    callback_secret: str | None = field(default=None, repr=False)
    verifier: Verifier | None = None
    run_times: RuntimeHistory = field(default_factory=RuntimeHistory)
    callbacks: CallbackSupport = field(default_factory=CallbackSupport)
    account: str = OWN_ACCOUNT
    refused: Callable[[], None] | None = None
    tracing: Tracing = NO_TRACING
    health: UpstreamHealth = field(init=False)
    _series: UpstreamSeries = field(init=False)
    _open_circuits: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self.health = UpstreamHealth(UpstreamState.INITIALIZING, self.clock.time())
        self._series = UpstreamSeries(self.metrics, self.name)

    def for_account(self, account: str, credential: Credential, *, refused: Callable[[], None]) -> Self:
        """The same provider with another credential.

        Connections, pace and metrics are shared; the limiter and everything learned are its own, or one
        account could slow down another, or see how long the tasks of another take.
        """
        view = copy(self)
        view.account = account
        view.session = self.session.acting_as(credential)
        view.limiter = self.limiter.for_other_credential(
            max_in_flight=min(ACCOUNT_IN_FLIGHT, self.limiter.max_in_flight)
        )
        view.run_times, view.callbacks = RuntimeHistory(), CallbackSupport()
        view.refused = refused
        if self.verifier is not None and not self.verifier.published:
            # The configured signing key belongs to the operator's account: it verifies no other account's
            # callbacks.
            view.verifier = None
        return view

    def close(self) -> None:
        """No more calls are made with this credential: its open circuit must not show in the metric."""
        self._show_circuit(is_open=False)

    async def ask(
        self,
        call: str,
        request: Request,
        timeout_seconds: float | None = None,
        *,
        task_id: str | None = None,
    ) -> HttpResponse:
        """Send one request and time it; the caller then reports the outcome with `record_call`.

        Args:
            timeout_seconds: Replaces the upstream's own.
            task_id: The task it is about, for the exemplar.

        Raises:
            UpstreamError: There is no response to read.
        """
        started_at = self.clock.monotonic()
        try:
            with self.tracing.request(self.name, call, request, self.session.base_of(request)) as span:
                answer = await self.session.ask(request, timeout_seconds)
                span.answered(answer.status)
                return answer
        finally:
            example = None if task_id is None else self.metrics.example(f"{self.name}/{task_id}")
            self._series.seconds[call].observe(self.clock.monotonic() - started_at, example)

    def record_call(self, call: str, error: UpstreamError | None = None, *, outcome: str = "ok") -> None:
        """Count the outcome of a call and update the health of the upstream."""
        self._series.requests[call, error.outcome if error else outcome].inc()
        # A 404 or a rejected request is an answer: the provider works.
        works = error is None or error.outcome in {"not_found", "refused"}
        if error is not None:
            # The provider's message to one account is private to it; `/status` shows all accounts.
            self.health.last_error = str(error) if self.account == OWN_ACCOUNT else error.code
            self.health.last_error_at = self.clock.time()
        state = UpstreamState.VALID if works else UpstreamState.INTERRUPTED
        if self.health.state is not state:
            fields: dict[str, object] = {"upstream": self.name}
            if state is UpstreamState.INTERRUPTED:
                logger.warning("upstream unhealthy", extra=fields | {"error": self.health.last_error})
            elif self.health.state is UpstreamState.INTERRUPTED:
                seconds = round(self.clock.time() - self.health.since, 1)
                # The level of the failure, so that a reader of warnings also sees its end.
                logger.warning("upstream recovered", extra=fields | {"after_seconds": seconds})
            self.health.state = state
            self.health.since = self.clock.time()
        if self.limiter.open_circuit is not (self.account in self._open_circuits):
            self._show_circuit(is_open=self.limiter.open_circuit)
        refused = isinstance(error, CredentialRefused) and error.provider_status not in VALID_KEY_STATUSES
        if refused and self.refused is not None:
            self.refused()

    def record_poll(self, result: str) -> None:
        """Count a poll by its result: `changed`, `unchanged` or `failed`."""
        self._series.polls[result].inc()

    def record_stream(self, outcome: str) -> None:
        """Count how a stream ended. Not a sign of health: many providers have no streams, or cut them."""
        self._series.requests["stream", outcome].inc()

    def record_wait(self, seconds: float) -> None:
        """Record how long a due poll waited for the limiter."""
        self._series.budget_wait.observe(seconds)

    def _show_circuit(self, *, is_open: bool) -> None:
        # Shared by all accounts of this upstream: the metric has no account label, which would be unbounded.
        if is_open:
            self._open_circuits.add(self.account)
        else:
            self._open_circuits.discard(self.account)
        self._series.circuit_open.set(bool(self._open_circuits))
