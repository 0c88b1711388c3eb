"""One configured provider as one credential sees it: dialect, session, rate limit, run times, health."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, asynccontextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import blake2b
from types import TracebackType
from typing import Self

from bridge.clock import Clock
from bridge.core.learned import LearnedRuns
from bridge.core.many import ManyCalls
from bridge.core.price import PollPrice
from bridge.core.rate_limit import (
    ABOUT_ONE_TASK,
    FROM_CLIENTS,
    CallKind,
    CredentialLimiter,
    Permit,
    Scope,
)
from bridge.core.schedule import CallbackSupport, Pace
from bridge.core.task import OWN_ACCOUNT, State, TaskKey
from bridge.dialects.base import HttpResponse, Request
from bridge.dialects.dialect import Dialect
from bridge.errors import CredentialRefused, UpstreamError, UpstreamUnreachable
from bridge.sources.credentials import Credential
from bridge.sources.http_client import Session
from bridge.sources.signatures import Verifier
from bridge.telemetry.metrics import Metrics, UpstreamSeries
from bridge.telemetry.tracing import NO_TRACING, Tracing

ACCOUNT_IN_FLIGHT = 8
MAX_WAIT_SECONDS = 2.0
"""How long a create, cancel, alias search or ownership check waits for its turn before it is 503."""

MAX_CREATE_WAIT_SECONDS = 20.0
"""The same for a create that knows when it starts: it is the next, or the provider named its pause.

Where the provider has refused a create, the next one waits no longer than other calls."""

logger = logging.getLogger(__name__)


BeforeEnd = Callable[["Upstream", TaskKey, State], Awaitable[State] | None]


def _nothing() -> None:
    """Default of `Upstream.capacity_freed`."""


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


@dataclass(slots=True)
class TaskCosts:
    """What tasks that ended here cost, for `/status`.

    Args:
        tasks: How many ended.
        unreported: How many of them without a cost that the provider reported: they count 0.
    """

    total: float = 0.0
    tasks: int = 0
    unreported: int = 0


def mark_of_key(key: str) -> str:
    """Distinguishes the keys of one upstream; too short to check a guess against."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=2).hexdigest()


@dataclass(slots=True, eq=False)
class Upstream:
    """A configured provider as one credential sees it.

    Args:
        name: As the operator configured it.
        account: The account of the credential; `-` for the operator's own.
        unknown_words: Status words without a mapping that were logged already.
        refused: Called when the provider rejects the credential.

    Attributes:
        capacity_freed: Called when a call has ended; set by the poll scheduler, which may wait for that.
        many: The calls about many tasks; None where the provider documents none.
        key_mark: Distinguishes the operator's key from the one before, see `mark_of_key`.
        key_judged: Called with each error by which the provider rejects the operator's key, and with None
            when it accepts it again.
        shared: Called with each view of an account: its limiter may be shared with other replicas.
        before_end: Called with the end of a task that is about to be recorded. Returns None, or what
            resolves, without failing, with what is recorded of it.
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
    learned: LearnedRuns = field(default_factory=LearnedRuns)
    callbacks: CallbackSupport = field(default_factory=CallbackSupport)
    costs: TaskCosts = field(default_factory=TaskCosts)
    account: str = OWN_ACCOUNT
    refused: Callable[[], None] | None = None
    tracing: Tracing = NO_TRACING
    unknown_words: set[str] = field(default_factory=set)
    health: UpstreamHealth = field(init=False)
    price: PollPrice = field(init=False)
    many: ManyCalls | None = field(init=False, default=None)
    capacity_freed: Callable[[], None] = field(init=False, default=_nothing)
    key_mark: str = field(init=False, default="")
    key_judged: Callable[[CredentialRefused | None], None] | None = field(init=False, default=None)
    shared: Callable[[Upstream], None] | None = field(init=False, default=None)
    before_end: BeforeEnd | None = field(init=False, default=None)
    _series: UpstreamSeries = field(init=False)
    _open_circuits: set[str] = field(init=False, default_factory=set)
    _queues: dict[CallKind, deque[asyncio.Event]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        state = UpstreamState.OFF if self.limiter.off else UpstreamState.INITIALIZING
        self.health = UpstreamHealth(state, self.clock.time())
        self._series = UpstreamSeries(self.metrics, self.name)
        self.price = PollPrice(self.limiter.requests_per_second)
        self.many = self._many_calls()

    def _many_calls(self) -> ManyCalls | None:
        # Dialects of other authors may have no such call.
        max_ids: int = getattr(self.dialect, "max_status_ids", 1)
        return ManyCalls(max_ids, self.limiter.random) if max_ids > 1 else None

    @property
    def poll_price_seconds(self) -> float:
        """What a poll of a task with viewers costs now, in seconds of delay."""
        seconds = self.learned.watched_seconds
        return self.pace.price(self.pace.max_seconds if seconds is None else seconds) * self.price.shown

    def for_account(
        self,
        account: str,
        credential: Credential,
        *,
        refused: Callable[[], None],
        secrets: Iterable[str] = (),
    ) -> Self:
        """The same provider with another credential.

        Connections, pace and metrics are shared; the limiter and its price are its own, or one account could
        slow down another. What its tasks teach is its own too; before there is enough of it, the times of all
        accounts serve, without a name of whose they were.

        Args:
            secrets: To be masked in the provider's responses besides the credential.
        """
        view = copy(self)
        view.account = account
        view.session = self.session.acting_as(credential, secrets=secrets)
        view.limiter = self.limiter.for_other_credential(
            max_in_flight=min(ACCOUNT_IN_FLIGHT, self.limiter.max_in_flight)
        )
        view.learned, view.callbacks = LearnedRuns(self.learned), CallbackSupport()
        view.price = PollPrice(view.limiter.requests_per_second)
        view.many = view._many_calls()  # noqa: SLF001 - an instance of this class
        view.capacity_freed, view._queues = _nothing, {}  # noqa: SLF001 - an instance of this class
        view.refused, view.key_judged = refused, None
        if self.verifier is not None and not self.verifier.published:
            # The configured signing key belongs to the operator's account: it verifies no other account's
            # callbacks.
            view.verifier = None
        if self.shared is not None:
            self.shared(view)
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
        known: bytes | None = None,
    ) -> HttpResponse:
        """Send one request and time it; the caller then reports the outcome with `record_call`.

        Args:
            timeout_seconds: Replaces the upstream's own.
            task_id: The task it is about, for the exemplar.
            known: The body of an earlier response, as it was returned.

        Raises:
            UpstreamError: There is no response to read.
        """
        if call == "submit":
            request = replace(request, creates=True)
        started_at = self.clock.monotonic()
        try:
            with self.tracing.request(self.name, call, request, self.session.base_of(request)) as span:
                answer = await self.session.ask(request, timeout_seconds, known=known)
                span.answered(answer.status)
                return answer
        finally:
            example = None if task_id is None else self.metrics.example(f"{self.name}/{task_id}")
            self._series.seconds[call].observe(self.clock.monotonic() - started_at, example)

    @asynccontextmanager
    async def acquire(
        self,
        call: CallKind,
        *,
        task_id: str | None = None,
        shown: bool = False,
        wait_seconds: float | None = None,
    ) -> AsyncIterator[Permit]:
        """Wait for the turn of a call with this credential, and report to the limiter how it ended.

        Calls of one kind take their turns in the order in which they came.

        Args:
            task_id: The task it is about.
            shown: Whether the provider has shown that task before.
            wait_seconds: The longest wait; None for that of the call's kind.

        Raises:
            UpstreamUnreachable: The turn does not come in time; nothing was sent.
        """
        if self.limiter.off:
            raise self.held_up() or UpstreamUnreachable()
        if wait_seconds is None:
            wait_seconds = MAX_WAIT_SECONDS
        deadline = latest = self.clock.monotonic() + wait_seconds
        if call is CallKind.CREATE:
            latest += MAX_CREATE_WAIT_SECONDS - wait_seconds
        queue = self._queues.setdefault(call, deque())
        turn = asyncio.Event()
        queue.append(turn)
        try:
            while True:
                now = self.clock.monotonic()
                free_at = self.limiter.free_at(call, now) if queue[0] is turn else None
                if free_at is not None and free_at <= now:
                    break
                deadline = self._deadline_in_pause(deadline, latest, now)
                refused = call is CallKind.CREATE and self.limiter.refuses_creates(now)
                if now >= deadline if free_at is None else free_at > (deadline if refused else latest):
                    raise self._no_turn(free_at, now, refused=refused)
                if call in FROM_CLIENTS and queue[0] is turn:
                    self.limiter.other_at = free_at
                turn.clear()
                await self.clock.wait(turn, (deadline if free_at is None else free_at) - now)
            now = self.clock.monotonic()
            permit = self.limiter.start(call, now, task_id=task_id, shown=shown)
            self.price.started_other(now)
        finally:
            queue.remove(turn)
            if queue:
                queue[0].set()
            if call in FROM_CLIENTS:
                self.limiter.other_at = None  # the next in the queue sets it again
        with self.hold(permit):
            yield permit

    def _no_turn(self, free_at: float | None, now: float, *, refused: bool) -> UpstreamUnreachable:
        reason = self.limiter.held_up_by(now) or "too many calls to this upstream are waiting"
        if refused:
            reason = "the provider accepts no new tasks at the moment"
        after = 1.0 if free_at is None else max(free_at - now, 1.0)
        return UpstreamUnreachable(f"{reason}; nothing was sent", retry_after=after)

    def _deadline_in_pause(self, deadline: float, latest: float, now: float) -> float:
        """A pause that the provider asked for has an end: what can wait for it, waits until `latest`."""
        pause = 0.0 if self.limiter.probing else self.limiter.paused(now)
        return max(deadline, min(now + pause + MAX_WAIT_SECONDS, latest)) if pause else deadline

    def hold(self, permit: Permit) -> AbstractContextManager[None]:
        """Report to the limiter how a started call ended, by the exception that leaves the block.

        Exactly one outcome for each permit: an `UpstreamError` is a failure; any other exception (a cancelled
        task, an exception of our own) says nothing about the provider.
        """
        return _Held(self, permit)

    def _settle(self, permit: Permit, error: BaseException | None) -> None:
        was_rejected = self.limiter.rejected is not None
        if error is None:
            self.limiter.succeed(permit, self.clock.monotonic())
            if was_rejected and self.limiter.rejected is None and self.key_judged is not None:
                self.key_judged(None)
            if self.health.state is not UpstreamState.VALID or self._open_circuits or self.limiter.probing:
                self._update_health(permit, None, Scope.TASK)
        elif isinstance(error, UpstreamError):
            scope = self.limiter.fail(permit, error, self.clock.monotonic())
            if isinstance(error, CredentialRefused):
                self._explain(error, scope, first=not was_rejected)
                if scope is Scope.CREDENTIAL and self.key_judged is not None:
                    self.key_judged(error)
            self._update_health(permit, error, scope)
        else:
            self.limiter.abandon(permit)
        self.wake_waiting()

    def _explain(self, error: CredentialRefused, scope: Scope, *, first: bool) -> None:
        """Say in the error whose key it is about, or that it is about one task.

        Args:
            first: Whether the key was accepted until now.
        """
        if scope is Scope.CREDENTIAL:
            error.key_name = self.limiter.key_name
            if self.account == OWN_ACCOUNT:
                # A caller would take it for the credential of its own request.
                error.args = (f"the provider rejects {error.key_name}: {error}",)
                if first:
                    logger.error("API key rejected", extra={"upstream": self.name, "error": str(error)})
        else:
            error.about_task = error.provider_status in ABOUT_ONE_TASK and not error.names_key

    def held_up(self) -> UpstreamUnreachable | None:
        """Why no poll starts now nor soon; None when nothing holds them up for more than a second."""
        now = self.clock.monotonic()
        reason = self.limiter.lasting_hold(now)
        if reason is None:
            return None
        after = max(self.limiter.held_up_for(now), 1.0)
        return UpstreamUnreachable(f"{reason}; nothing was sent", retry_after=after)

    def key_rejected_elsewhere(self, error: CredentialRefused, *, inferred: bool) -> None:
        """The operator's key was rejected in another bridge: it rests here too."""
        first = self.limiter.rejected is None
        self.limiter.rest_elsewhere(error, self.clock.monotonic(), inferred=inferred)
        if first:
            logger.error("API key rejected", extra={"upstream": self.name, "error": str(error)})
            self.health.last_error, self.health.last_error_at = str(error), self.clock.time()
        self._set_health(UpstreamState.INTERRUPTED)
        self.wake_waiting()

    def key_accepted_elsewhere(self) -> None:
        """Another bridge got a valid answer with the operator's key."""
        if self.limiter.rejected is not None:
            self.limiter.accepted_elsewhere()
            self._set_health(UpstreamState.VALID)
            self.wake_waiting()

    def replace_key(self) -> None:
        """The session sends another key from now on: a rest of the old one ends."""
        self.limiter.replace_key()
        logger.info("API key replaced", extra={"upstream": self.name})
        self.wake_waiting()

    def abandon(self, permit: Permit) -> None:
        """Give back the capacity of a call that was never sent."""
        self.limiter.abandon(permit)
        self.wake_waiting()

    def wake_waiting(self) -> None:
        """Capacity may be free: waiting callers ask again."""
        for queue in self._queues.values():
            if queue:
                queue[0].set()
        self.capacity_freed()

    def _state_after(
        self, permit: Permit, error: UpstreamError | None, scope: Scope, *, interrupted: bool
    ) -> UpstreamState:
        if interrupted:
            return UpstreamState.INTERRUPTED
        if error is None or error.about_task or isinstance(error, CredentialRefused):
            # A 404, a rejected request, an unreadable page or the key of one caller: the provider works.
            return UpstreamState.VALID
        if scope is Scope.TASK and permit.call is CallKind.CREATE:
            return self.health.state  # a create fails for reasons of its own
        if scope is Scope.TASK and not self.limiter.failures and self.health.state is UpstreamState.VALID:
            # An id that the provider never showed, beside polls that succeed.
            return UpstreamState.VALID
        return UpstreamState.INTERRUPTED

    def _update_health(self, permit: Permit, error: UpstreamError | None, scope: Scope) -> None:
        if error is not None:
            # The provider's words to one account are for that account alone; `/status` is public.
            self.health.last_error = str(error) if self.account == OWN_ACCOUNT else error.code
            self.health.last_error_at = self.clock.time()
        own_key_rejected = self.limiter.rejected is not None and self.account == OWN_ACCOUNT
        state = self._state_after(
            permit, error, scope, interrupted=own_key_rejected or self.limiter.open_circuit
        )
        self._set_health(state)
        if self.limiter.open_circuit is not (self.account in self._open_circuits):
            self._show_circuit(is_open=self.limiter.open_circuit)
        if isinstance(error, CredentialRefused) and scope is Scope.CREDENTIAL and self.refused is not None:
            self.refused()

    def _set_health(self, state: UpstreamState) -> None:
        if self.health.state is state:
            return
        fields: dict[str, object] = {"upstream": self.name}
        if self.limiter.rejected is not None and self.account == OWN_ACCOUNT:
            pass  # "API key rejected" was logged
        elif state is UpstreamState.INTERRUPTED:
            logger.warning("upstream unhealthy", extra=fields | {"error": self.health.last_error})
        elif self.health.state is UpstreamState.INTERRUPTED:
            seconds = round(self.clock.time() - self.health.since, 1)
            # The level of the failure, so that a reader of warnings sees the recovery.
            logger.warning("upstream recovered", extra=fields | {"after_seconds": seconds})
        self.health.state = state
        self.health.since = self.clock.time()

    def record_call(self, call: str, error: UpstreamError | None = None, *, outcome: str = "ok") -> None:
        """Count the outcome of a call."""
        self._series.requests[call, error.outcome if error else outcome].inc()

    def record_poll(self, result: str, tasks: int = 1) -> None:
        """Count a poll by its result, `changed`, `unchanged` or `failed`; one of each of so many tasks."""
        self._series.polls[result].inc(tasks)

    def record_cost(self, cost: float | None) -> None:
        """Count what a task that has ended cost; None if the provider reported none."""
        self.costs.tasks += 1
        if cost is None:
            self.costs.unreported += 1
        else:
            self.costs.total += cost
            self.metrics.cost.labels(self.name).inc(cost)

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


class _Held(AbstractContextManager[None]):
    """Reports the outcome of a call. Not a generator, which takes three times as long for each poll."""

    __slots__ = ("_permit", "_upstream")

    def __init__(self, upstream: Upstream, permit: Permit) -> None:
        self._upstream = upstream
        self._permit = permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._upstream._settle(self._permit, error)  # noqa: SLF001 - the other half of `hold`
