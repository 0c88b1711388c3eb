"""Rate limit, concurrency limits, pause, circuit breaker and key state of one provider credential.

Rule 1: rate, pause, circuit and a rejected key are common to every call with the credential.
Rule 2: concurrency is three pools: status calls, creates, streams. A full pool never holds up another one.
Rule 3: one task's failure is not the credential's: only what says that the *way* to the provider fails counts
        here, and only when different tasks meet it with no valid answer in between.
Rule 4: `free_at` is advisory; only `start` consumes capacity, and exactly one `finish` gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from bridge.core.schedule import MAX_BACKOFF, MAX_WAIT, backoff
from bridge.errors import (
    CredentialRefused,
    UpstreamBusy,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)

CIRCUIT_AFTER_FAILURES = 8
CIRCUIT_AFTER_TASKS = 2
KEY_RETRY_SECONDS = 30.0
"""How often one call goes out with a key the provider rejected."""

KEY_TURN_SECONDS = 2.0
"""How much later than the process whose call was rejected another one tries a rejected key again."""

FORBIDDEN_WINDOW_SECONDS = 60.0
"""402 or 403 for two different tasks within this time, with no valid answer between, is about the key."""

CONFIRM_KEY_SECONDS = (0.5, 2.0)
"""After 402s or 403s for two tasks, further calls show whether the key is rejected: seconds before each."""

ABOUT_ONE_TASK = frozenset({402, 403})
"""HTTP statuses that may be about one task: out of credit, or another account's. The key itself is valid."""

_MAX_DENIED = 10_000
_MAX_DISPROOFS = 4
_FIRST_PAUSE = 1.0
_LASTING_SECONDS = 1.0
_SERVER_ERROR = 500
_RETRY_WHILE_OFF_SECONDS = 60.0


class CallKind(StrEnum):
    """What a call is for; it decides which pool it takes its place from."""

    FIRST = "first"  # the first poll of a task that no viewer was shown yet
    POLL = "poll"  # every later poll, and an ownership check
    CONTROL = "control"  # cancel and alias: a client waits for the response, and chooses how many there are
    CREATE = "create"
    STREAM = "stream"


_POLLS_PER_CALL = {CallKind.CREATE: 1, CallKind.CONTROL: 3}
"""Polls that must have started for a call of a client to go before those that wait."""

FROM_CLIENTS = frozenset(_POLLS_PER_CALL)
_MAX_POLLS_SAVED = 12

_TIMER_SECONDS = 1e-6
"""A timer may fire so much early: then the time has come. Otherwise two that wait for the same time wake each
other again and again."""


class Scope(StrEnum):
    """Whose failure an error is."""

    TASK = "task"
    CREDENTIAL = "credential"


@dataclass(slots=True, eq=False)
class Permit:
    """Capacity of one call, from `start` to `finish`.

    Attributes:
        task_id: The task it is about; None for a create.
        shown: Whether the provider has shown this task before.
        owner: The connection whose turn a first poll takes.
        key_version: Which key of the credential it was started with.
    """

    call: CallKind
    task_id: str | None
    shown: bool
    started_at: float
    owner: Hashable = None
    key_version: int = 0
    finished: bool = False


@dataclass(slots=True)
class CredentialLimiter:
    """Decides when one provider credential may be used, and learns from how the calls end.

    All times are monotonic seconds.

    Args:
        max_in_flight: Concurrent status calls; above 32 one aiohttp session becomes slower, not faster.
        max_submits_in_flight: Concurrent creates. They have connections of their own.
        max_streams: Concurrent streams. Only opening one takes rate.
        random: Returns 0-1, for jitter.
        requests_per_second: Rate over all calls; None where the provider documents no limit.
        interval: Seconds between two polls of a healthy task. A 429 that no success contradicts for so long
            is the credential's.
        forbidden_is_key: Whether 402 or 403 for two tasks is about the key. Not for a caller's own key:
            it may ask for other people's tasks.
        key_name: Names the key in a sentence, so that its reader knows whose key is rejected.
        off: Whether the operator has switched the upstream off: no call starts.

    Attributes:
        rejected: Why the provider rejects the key; None while it accepts it.
        polls_wait: Whether a due poll waits for its turn; set by the poll scheduler.
        other_at: When a create or a control call that waits may start; None while none waits that could.
    """

    max_in_flight: int
    random: Callable[[], float]
    requests_per_second: float | None = None
    max_submits_in_flight: int = 16
    max_streams: int = 100
    interval: float = 10.0
    forbidden_is_key: bool = True
    key_name: str = "the bridge's key for this upstream"
    off: bool = False
    failures: int = field(init=False, default=0)
    rejected: UpstreamError | None = field(init=False, default=None)
    polls_wait: bool = field(init=False, default=False)
    other_at: float | None = field(init=False, default=None)
    _in_flight: dict[CallKind, int] = field(init=False)
    _failed_tasks: set[str | None] = field(init=False, default_factory=set)
    _open: bool = field(init=False, default=False)
    _next_slot: float = field(init=False, default=0.0)
    _paused_until: float = field(init=False, default=0.0)
    _pause: float = field(init=False, default=0.0)
    _last_success: float = field(init=False, default=float("-inf"))
    _first_start: float | None = field(init=False, default=None)
    _forbidden: dict[str | None, float] = field(init=False, default_factory=dict)
    _denied: dict[str | None, None] = field(init=False, default_factory=dict)
    _key_probe_at: float = field(init=False, default=0.0)
    _key_version: int = field(init=False, default=0)
    _rejected_at: float = field(init=False, default=float("-inf"))
    _inferred: bool = field(init=False, default=False)
    _confirmations: int = field(init=False, default=0)
    _disproofs: int = field(init=False, default=0)
    _disproved_at: float = field(init=False, default=float("-inf"))
    _creates_paused_until: float = field(init=False, default=0.0)
    _polls_saved: int = field(init=False, default=_MAX_POLLS_SAVED)

    def __post_init__(self) -> None:
        self._in_flight = dict.fromkeys(CallKind, 0)

    @property
    def open_circuit(self) -> bool:
        """Whether the circuit is open: one probe at a time instead of normal traffic."""
        return self._open

    @property
    def probing(self) -> bool:
        """Whether only one call at a time goes out, to learn whether provider and key work again."""
        return self._open or self.rejected is not None

    @property
    def share(self) -> int:
        """Status calls that first polls may have in flight while repeats wait: a quarter, at least one."""
        return self.max_in_flight // 4 or 1

    @property
    def in_flight(self) -> int:
        """Status calls on their way: polls, ownership checks, cancels and alias searches."""
        known = self._in_flight
        return known[CallKind.FIRST] + known[CallKind.POLL] + known[CallKind.CONTROL]

    def in_flight_of(self, call: CallKind) -> int:
        """Calls of one kind on their way."""
        return self._in_flight[call]

    def for_other_credential(self, *, max_in_flight: int) -> Self:
        """A limiter with the same rates and nothing used up."""
        return type(self)(
            max_in_flight,
            self.random,
            self.requests_per_second,
            self.max_submits_in_flight,
            self.max_streams,
            self.interval,
            forbidden_is_key=False,
            key_name="this API key",
            off=self.off,
        )

    def free_at(self, call: CallKind, now: float) -> float | None:
        """When the next call of this kind may start; None until one in flight has ended, or while off."""
        if self.off or not self._has_room(call):
            return None
        at = max(now, self._paused_until, self._next_slot)
        if call is CallKind.CREATE:
            at = max(at, self._creates_paused_until)
        rate = self.requests_per_second
        reserved = self.other_at is not None and self.other_at <= at + _TIMER_SECONDS
        if rate is not None and call in FROM_CLIENTS and self.polls_wait:
            # Beside waiting polls a flood of creates gets every second slot, one of cancels or alias searches
            # every fourth: neither stops the polls. A few at once go first: a client waits for each.
            at += max(_POLLS_PER_CALL[call] - self._polls_saved, 0) / rate
        elif rate is not None and call not in FROM_CLIENTS and reserved:
            # Both wait for this slot, and polls would always be first: their timer is the older one.
            at = max(at, self._next_slot + 1 / rate)
        if self.rejected is not None:
            at = max(at, self._key_probe_at)
        return now if at - now < _TIMER_SECONDS else at

    def _has_room(self, call: CallKind) -> bool:
        same = self._in_flight[call]
        if self._open or self.rejected is not None:
            # Half-open: one probe. A create may be one: a bridge without open tasks would never learn that
            # the provider is back. A stream is not: it lasts for minutes. Each pool has its own, so that a
            # hanging create does not keep polls from finding out.
            return call is not CallKind.STREAM and (same if call is CallKind.CREATE else self.in_flight) == 0
        if call is CallKind.STREAM:
            return same < self.max_streams
        if call is CallKind.CREATE:
            return same < self.max_submits_in_flight
        room = self.max_in_flight
        if self.in_flight >= room:
            return False
        if call is CallKind.POLL:
            # Repeats never fill the pool: if all of them hang, a quarter is left for newcomers.
            room = room - self.share or 1
        elif call is CallKind.CONTROL:
            # Cancels and alias searches come from clients: hanging ones never stop the polls.
            room = self.share
        return same < room

    def start(self, call: CallKind, now: float, *, task_id: str | None = None, shown: bool = False) -> Permit:
        """Consume the capacity of one call.

        Args:
            task_id: The task it is about.
            shown: Whether the provider has shown that task before.
        """
        self._in_flight[call] += 1
        paid = _POLLS_PER_CALL.get(call, -1)
        self._polls_saved = min(max(self._polls_saved - paid, 0), _MAX_POLLS_SAVED)
        if self._first_start is None:
            self._first_start = now
        self.take_rate(now)
        if self.rejected is not None:
            self._key_probe_at = now + KEY_RETRY_SECONDS
        return Permit(call, task_id, shown, now, key_version=self._key_version)

    def take_rate(self, now: float) -> None:
        """Count one request against the rate. A call that needs a second one counts it when it is sent."""
        if self.requests_per_second is not None:
            # From now, not from the last slot: idle time is not saved up for a burst.
            self._next_slot = max(self._next_slot, now) + 1 / self.requests_per_second

    def replace_key(self) -> None:
        """Another key is in use: the old one's rest ends, and its late answers teach nothing."""
        self._key_version += 1
        self.rejected = None
        self._forbidden.clear()
        self._key_probe_at = 0.0

    def rest_elsewhere(self, error: UpstreamError, now: float, *, inferred: bool) -> None:
        """The key was rejected in another process: that one tries it again first.

        Args:
            inferred: Whether only the 402s and 403s of several tasks mean that.
        """
        if self.rejected is None:
            self.rejected, self._rejected_at, self._inferred = error, now, inferred
        self._inferred = self._inferred and inferred
        self._key_probe_at = max(self._key_probe_at, now + KEY_RETRY_SECONDS + KEY_TURN_SECONDS)

    def accepted_elsewhere(self) -> None:
        """Another process with the same key got a valid answer."""
        self.rejected = None
        self._forbidden.clear()
        self._key_probe_at = 0.0

    @property
    def inferred(self) -> bool:
        """Whether only the 402s and 403s of several tasks speak against the key."""
        return self._inferred

    def abandon(self, permit: Permit) -> None:
        """We cancelled the call: its capacity is free again, and nothing was learned."""
        if not permit.finished:
            permit.finished = True
            self._in_flight[permit.call] -= 1

    def succeed(self, permit: Permit, now: float) -> None:
        """The provider gave a valid answer: a 404 or a rejected request is one too."""
        self.abandon(permit)
        if permit.call is CallKind.STREAM:
            # It ends minutes after it was opened: it says nothing about now.
            return
        self.failures = 0
        self._failed_tasks.clear()
        if self._forbidden or self._denied:
            self._learn_denied(permit.task_id)
        self._open = False
        if self._inferred or permit.started_at >= self._rejected_at:
            # An answer to a call that was under way when a 401 came says nothing about now. It does where
            # only the 402s and 403s of two tasks speak against the key.
            if self._inferred and self.rejected is not None:
                self._disproofs = min(self._suspicions_disproved(now) + 1, _MAX_DISPROOFS)
                self._disproved_at = now
            self.rejected = None
        self._last_success = now
        # Half, so that one success does not undo the pauses that several 429s led to; and a little less
        # than half, so that it reaches zero.
        self._pause = max(self._pause / 2 - 0.25, 0.0)

    def fail(self, permit: Permit, error: UpstreamError, now: float) -> Scope:
        """The call failed. Returns whose failure that is."""
        if isinstance(error, CredentialRefused):
            return self._refused(permit, error, now)
        if isinstance(error, UpstreamBusy):
            return self._busy(permit, error, now)
        way_failed = isinstance(error, UpstreamUnavailable | UpstreamTimeout) and not error.about_task
        if permit.call is CallKind.CREATE:
            # Creates are slow and fail for reasons of their own. Only a refused connection says that no call
            # gets through.
            way_failed = isinstance(error, UpstreamUnreachable)
        elif permit.call is CallKind.STREAM:
            way_failed = False
        if not way_failed:
            # An unreadable 200, a 404, a redirect, a rejected request: the way works. An unreadable page does
            # not show that the key is accepted, though.
            self.abandon(permit)
            if not error.retryable and self.rejected is None:
                self.failures = 0
                self._failed_tasks.clear()
                self._open = False
                self._last_success = now
            return Scope.TASK
        self._count_failure(permit, now)
        return Scope.CREDENTIAL if self._open else Scope.TASK

    def is_denied(self, task_id: str) -> bool:
        """Whether the provider answers 402 or 403 about this task: such a poll cannot probe the key."""
        return task_id in self._forbidden or task_id in self._denied

    def _learn_denied(self, accepted: str | None) -> None:
        """The key works, so the 402s and 403s before were about their tasks, and will be.

        Without this, two such tasks that are polled one right after the other would rest the key again and
        again.
        """
        self._denied.update(dict.fromkeys(self._forbidden))
        self._forbidden.clear()
        self._denied.pop(accepted, None)
        while len(self._denied) > _MAX_DENIED:
            del self._denied[next(iter(self._denied))]

    def _refused(self, permit: Permit, error: CredentialRefused, now: float) -> Scope:
        self.abandon(permit)
        if permit.key_version != self._key_version:
            return Scope.TASK
        if permit.call is CallKind.CREATE and error.provider_status in ABOUT_ONE_TASK:
            # Out of credit, or a key that may not create: it still shows the tasks that exist.
            return Scope.TASK
        inferred = error.provider_status in ABOUT_ONE_TASK and not error.names_key
        if inferred:
            if not self.forbidden_is_key or permit.task_id in self._denied:
                return Scope.TASK
            if permit.started_at < self._last_success:
                # A valid answer came while this call was under way. Answers that arrive together are read in
                # any order, so it may well have been given between this one and another task's.
                return Scope.TASK
            self._forbidden = {
                task: at for task, at in self._forbidden.items() if now - at < FORBIDDEN_WINDOW_SECONDS
            }
            self._forbidden[permit.task_id] = now
            # Where a good answer has just disproved it, twice as many tasks are needed: 20 sick tasks would
            # hold up the healthy ones again and again.
            if len(self._forbidden) < 2 << self._suspicions_disproved(now) and self.rejected is None:
                return Scope.TASK
        self._rest_key(permit, now, inferred=inferred)
        self.rejected = error
        return Scope.CREDENTIAL

    def _suspicions_disproved(self, now: float) -> int:
        """How often a good answer showed lately that 402s and 403s were not about the key."""
        return self._disproofs if now - self._disproved_at < FORBIDDEN_WINDOW_SECONDS else 0

    def _rest_key(self, permit: Permit, now: float, *, inferred: bool) -> None:
        """Set when the next call goes out with the rejected key."""
        began = self.rejected is None
        if began:
            self._rejected_at, self._inferred, self._confirmations = now, inferred, 0
        self._inferred = self._inferred and inferred
        if not self._inferred:
            self._key_probe_at = max(self._key_probe_at, now + KEY_RETRY_SECONDS)
        elif began or permit.started_at > self._rejected_at:
            # The first call may have met one more task that is refused: another one is asked.
            rests = (*CONFIRM_KEY_SECONDS, KEY_RETRY_SECONDS)
            self._key_probe_at = now + rests[min(self._confirmations, len(rests) - 1)]
            self._confirmations += 1

    def _busy(self, permit: Permit, error: UpstreamBusy, now: float) -> Scope:
        """A 429, or a 503 with `Retry-After`."""
        self.abandon(permit)
        if permit.call is CallKind.CREATE and (error.provider_status or 0) >= _SERVER_ERROR:
            # 503 with `Retry-After`: the provider takes no new tasks at the moment, and shows the others.
            wait = min(error.retry_after or _FIRST_PAUSE, MAX_WAIT)
            self._creates_paused_until = max(self._creates_paused_until, now + wait)
            return Scope.TASK
        if self._is_contradicted(permit, now):
            # Providers answer 429 for ids they have never seen, too. A random id that one client subscribes
            # to must not slow down the polls of all other tasks.
            return Scope.TASK
        if permit.call is not CallKind.CREATE:
            self._failed_tasks.add(permit.task_id)
        self._extend_pause(error.retry_after, now)
        return Scope.CREDENTIAL

    def _is_contradicted(self, permit: Permit, now: float) -> bool:
        """Whether this failure may be of this id alone: it was never shown, and others succeed."""
        silent_since = max(self._last_success, now if self._first_start is None else self._first_start)
        of_unknown_id = permit.call in (CallKind.FIRST, CallKind.POLL, CallKind.CONTROL) and not permit.shown
        return of_unknown_id and now - silent_since < self.interval

    def _count_failure(self, permit: Permit, now: float) -> None:
        self.abandon(permit)
        if permit.started_at < self._last_success or self._is_contradicted(permit, now):
            # Another call got through since this one started, or these are ids that the provider never
            # showed: no matter how many time out or lose their connection together, the provider is
            # reachable.
            return
        if self._open and now < self._paused_until:
            # It was in flight when the circuit opened. Counting it would double the wait up to 32 times.
            return
        self.failures += 1
        self._failed_tasks.add(permit.task_id)
        if self.failures >= CIRCUIT_AFTER_FAILURES and len(self._failed_tasks) >= CIRCUIT_AFTER_TASKS:
            self._open = True
            doublings = self.failures - CIRCUIT_AFTER_FAILURES
            wait = backoff(doublings, first=_FIRST_PAUSE, limit=MAX_BACKOFF, jitter=self.random())
            self._paused_until = max(self._paused_until, now + wait)

    def _extend_pause(self, retry_after: float | None, now: float) -> None:
        if now >= self._paused_until:
            self._pause = min(max(self._pause * 2, _FIRST_PAUSE), MAX_BACKOFF)
        elif retry_after is None:
            # Calls that were in flight together meet the same limit: it counts once.
            return
        # `_pause` is doubled here instead of by a count of failures, because successes shrink it again.
        wait = (
            backoff(0, first=self._pause, limit=MAX_BACKOFF, jitter=self.random())
            if retry_after is None
            else retry_after
        )
        self._paused_until = max(self._paused_until, now + min(wait, MAX_WAIT))

    def paused(self, now: float) -> float:
        """Seconds until any call may start, by the provider's request or after failures."""
        return max(self._paused_until - now, 0.0)

    def held_up_by(self, now: float) -> str | None:
        """Why polls do not start now, in words for a notice; None when nothing holds them up."""
        if self.off:
            return "the operator of the bridge has switched this upstream off"
        if self.rejected is not None:
            return f"the provider rejects {self.key_name}"
        if self._open:
            return "the provider does not answer; the circuit breaker is open"
        if self._paused_until > now:
            return "the provider is rate limiting the bridge"
        return None

    def refuses_creates(self, now: float) -> bool:
        """Whether the provider refused a create, named a pause for it, and that is not over yet."""
        return self._creates_paused_until > now

    def held_up_for(self, now: float) -> float:
        """About how many seconds polls are held up: for `Retry-After`."""
        if self.off:
            return _RETRY_WHILE_OFF_SECONDS
        until = max(self._paused_until, self._key_probe_at if self.rejected is not None else now)
        return max(until - now, 0.0)

    def lasting_hold(self, now: float) -> str | None:
        """As `held_up_by`, without a hold that ends within a second: it needs no notice."""
        if self.off or self.probing or self._paused_until - now > _LASTING_SECONDS:
            return self.held_up_by(now)
        return None

    def statistics(self, now: float) -> dict[str, object]:
        """The limiter as `/status` reports it."""
        return {
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "requests_per_second": self.requests_per_second,
            "paused_seconds": round(self.paused(now), 3),
            "circuit_open": self.open_circuit,
        }
