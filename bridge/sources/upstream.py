"""One configured provider: its dialect, the way to it, its budget, and what was learned of it."""

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

# Out of credit, or not your task: that says nothing against the key.
STILL_ACCEPTED = frozenset({402, 403})


logger = logging.getLogger(__name__)


class UpstreamState(StrEnum):
    """How a provider does, for `/status`."""

    VALID = "VALID"
    INITIALIZING = "INITIALIZING"
    INTERRUPTED = "INTERRUPTED"
    OFF = "OFF"


@dataclass(slots=True)
class UpstreamHealth:
    """What `/status` says of a provider."""

    state: UpstreamState
    since: float
    last_error: str | None = None
    last_error_at: float | None = None


@dataclass(slots=True, eq=False)
class Upstream:
    """A provider the operator configured, under the operator's name; as one credential sees it.

    Args:
        account: Whose credential that is; `-` for the operator's own.
        refused: Called when the provider says that it takes the credential no more.
    """

    name: str
    dialect: Dialect
    session: Session
    limiter: CredentialLimiter
    pace: Pace
    clock: Clock
    metrics: Metrics
    deadline_seconds: float | None = None
    submit_timeout_seconds: float = 60.0
    callback_secret: str | None = field(default=None, repr=False)
    verifier: Verifier | None = None
    max_streams: int = 100
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
        """The same provider as another credential sees it.

        The way there, the advice and the counters are shared; budget and everything learned are its own.
        """
        view = copy(self)
        view.account = account
        view.session = self.session.acting_as(credential)
        view.limiter = self.limiter.anew(max_in_flight=min(ACCOUNT_IN_FLIGHT, self.limiter.max_in_flight))
        view.run_times, view.callbacks = RuntimeHistory(), CallbackSupport()
        view.refused = refused
        if self.verifier is not None and not self.verifier.published:
            view.verifier = None  # the signing key in the configuration is the operator's
        return view

    def part(self) -> None:
        """Nothing more is asked with this credential."""
        self._show_circuit(is_open=False)

    async def ask(
        self,
        call: str,
        request: Request,
        timeout_seconds: float | None = None,
        *,
        task_id: str | None = None,
    ) -> HttpResponse:
        """Make one call and time it; its outcome is counted by whoever reads the answer.

        Args:
            timeout_seconds: Instead of the upstream's own.
            task_id: Whom it is about, for the exemplar.

        Raises:
            UpstreamError: There is no answer to read.
        """
        began = self.clock.monotonic()
        try:
            with self.tracing.request(self.name, call, request, self.session.base_of(request)) as span:
                answer = await self.session.ask(request, timeout_seconds)
                span.answered(answer.status)
                return answer
        finally:
            example = None if task_id is None else self.metrics.example(f"{self.name}/{task_id}")
            self._series.seconds[call].observe(self.clock.monotonic() - began, example)

    def record_call(self, call: str, error: UpstreamError | None = None, *, outcome: str = "ok") -> None:
        """Count how a call ended and keep the standing of the provider."""
        self._series.requests[call, error.outcome if error else outcome].inc()
        works = error is None or error.outcome in {"not_found", "refused"}
        if error is not None:
            # what a provider says to one account is for that account alone
            self.health.last_error = str(error) if self.account == OWN_ACCOUNT else error.code
            self.health.last_error_at = self.clock.time()
        self._stands(UpstreamState.VALID if works else UpstreamState.INTERRUPTED)
        if error is None:
            return
        gone = isinstance(error, CredentialRefused) and error.provider_status not in STILL_ACCEPTED
        if gone and self.refused is not None:
            self.refused()

    def polled(self, result: str) -> None:
        """Count what a look brought."""
        self._series.polls[result].inc()

    def record_stream(self, outcome: str) -> None:
        """Count how a stream ended; that says less of the provider's standing than a look does."""
        self._series.requests["stream", outcome].inc()

    def waited(self, seconds: float) -> None:
        """Count how long a look that was due waited for the budget."""
        self._series.budget_wait.observe(seconds)

    def _stands(self, state: UpstreamState) -> None:
        if self.health.state is not state:
            self._tell(state)
            self.health.state = state
            self.health.since = self.clock.time()
        if self.limiter.open_circuit is not (self.account in self._open_circuits):
            self._show_circuit(is_open=self.limiter.open_circuit)

    def _tell(self, state: UpstreamState) -> None:
        """A provider that does not work is news, and so is one that works again."""
        fields: dict[str, object] = {"upstream": self.name}
        if state is UpstreamState.INTERRUPTED:
            logger.warning("upstream does not work", extra=fields | {"error": self.health.last_error})
        elif self.health.state is UpstreamState.INTERRUPTED:
            seconds = round(self.clock.time() - self.health.since, 1)
            # as grave as what it ends: whoever reads of the trouble must read that it is over
            logger.warning("upstream works again", extra=fields | {"after_seconds": seconds})

    def _show_circuit(self, *, is_open: bool) -> None:
        if is_open:
            self._open_circuits.add(self.account)
        else:
            self._open_circuits.discard(self.account)
        self._series.circuit_open.set(bool(self._open_circuits))
