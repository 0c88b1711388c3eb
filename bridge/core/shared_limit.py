"""The limiter of a credential that several replicas use: starts calls in slots and with permits lent to it.

Rule 1: what is lent comes from outside (`offer`). Without slots or permits `free_at` is None, and `asks` is
        called; the lender wakes the callers.
Rule 2: a slot is a moment, not a right to call later: one that has passed by most of its length is dropped.
        Otherwise calls that were late would meet those in time, and a second would have more than its rate.
Rule 3: while nothing can be lent, each replica uses its part: the rate divided by the replicas last known.
Rule 4: pauses and failures here are reported; those of the others come with `apply_entry`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from bridge.core.rate_limit import (
    CIRCUIT_AFTER_FAILURES,
    CIRCUIT_AFTER_TASKS,
    CallKind,
    CredentialLimiter,
    Permit,
    Scope,
)
from bridge.core.schedule import MAX_BACKOFF, backoff
from bridge.errors import UpstreamError

SLOT_PART = 0.6
"""Of the time between two slots: how much later than its slot a call may start."""

MIN_SLOT_SECONDS = 0.01
_TIMER_SECONDS = 1e-6
_STATUS_CALLS = frozenset({CallKind.FIRST, CallKind.POLL, CallKind.CONTROL})


def _nothing() -> None:
    """Default of `asks`."""


def _never() -> bool:
    """Default of `connected`."""
    return False


def _one() -> int:
    """Default of `live`."""
    return 1


def _unreported(paused_for: float | None, *, failed: bool) -> None:
    """Default of `reports`."""


@dataclass(slots=True, eq=False)
class SharedLimiter(CredentialLimiter):
    """A `CredentialLimiter` whose rate and concurrency are shared with other replicas.

    Attributes:
        max_in_flight_total: Status calls in flight over all replicas; None for no limit.
        asks: Called when slots, permits or a probe are wanted.
        connected: Whether they can be lent at the moment.
        live: Replicas, as last known.
        reports: Called with the seconds of a pause, 0.0 if the provider named none; with a failure; or with
            neither: a call succeeded although a pause or failures were reported.
        used: Slots used since they were last asked for.
        reported: Whether a pause or failures are active at any replica.
    """

    max_in_flight_total: int | None = field(init=False, default=None)
    asks: Callable[[], None] = field(init=False, default=_nothing)
    connected: Callable[[], bool] = field(init=False, default=_never)
    live: Callable[[], int] = field(init=False, default=_one)
    reports: Callable[..., None] = field(init=False, default=_unreported)
    used: int = field(init=False, default=0)
    reported: bool = field(init=False, default=False)
    permits: int = field(init=False, default=0)
    probe_until: float = field(init=False, default=float("-inf"))
    wants_probe: bool = field(init=False, default=False)
    _slots: deque[float] = field(init=False, default_factory=deque)
    _debt: int = field(init=False, default=0)
    _shared_failures: int = field(init=False, default=0)

    @property
    def limited(self) -> bool:
        """Whether anything has to be lent to start a call."""
        return self.requests_per_second is not None or self.max_in_flight_total is not None

    @property
    def slots_left(self) -> int:
        """Slots that are not used yet."""
        return len(self._slots)

    @classmethod
    def in_place_of(cls, limiter: CredentialLimiter, *, max_in_flight_total: int | None) -> Self:
        """A limiter with the limits of one that was not used yet."""
        shared = cls(
            limiter.max_in_flight,
            limiter.random,
            limiter.requests_per_second,
            limiter.max_submits_in_flight,
            limiter.max_streams,
            limiter.interval,
            limiter.forbidden_is_key,
            limiter.key_name,
            limiter.off,
        )
        shared.max_in_flight_total = max_in_flight_total
        return shared

    def for_other_credential(self, *, max_in_flight: int) -> Self:
        """See `CredentialLimiter`; it is lent nothing before it is shared too."""
        # Not `super()`: the decorator has made another class of this one.
        other = CredentialLimiter.for_other_credential(self, max_in_flight=max_in_flight)
        other.max_in_flight_total = self.max_in_flight_total
        return other

    def free_at(self, call: CallKind, now: float) -> float | None:
        """When the next call of this kind may start; None until something is lent, or one in flight ends."""
        at = CredentialLimiter.free_at(self, call, now)
        if at is None or (call in _STATUS_CALLS and not self._has_permit()):
            return None
        if not self.connected():
            return at
        if self._open and now >= self.probe_until:
            # One replica at a time finds out whether the provider is back.
            self.wants_probe = at <= now
        elif self.requests_per_second is None:
            return at
        else:
            self._drop_slots(now)
            if self._slots:
                # A timer cannot wait for less.
                return at if self._slots[0] - at < _TIMER_SECONDS else self._slots[0]
        if at > now:
            return at  # asked for when the pause ends
        self.asks()
        return None

    def take_rate(self, now: float) -> None:
        """Use a slot; a call that needs a second one uses one that is not lent yet."""
        if self.requests_per_second is None:
            return
        self.used += 1
        if not self.connected():
            apart = max(self.live(), 1) / self.requests_per_second
            self._next_slot = max(self._next_slot, now, *self._slots) + apart
            self._slots.clear()
        elif self._slots:
            self._slots.popleft()
        else:
            self._debt += 1

    def offer(self, slots: Sequence[float], permits: int) -> None:
        """Take what was lent.

        Args:
            slots: Monotonic seconds, growing.
            permits: In all, those in use included.
        """
        unpaid = min(self._debt, len(slots))
        self._debt -= unpaid
        self._slots.extend(slots[unpaid:])
        self.permits = permits

    def apply_entry(self, paused_until: float, failures: int, now: float) -> None:
        """Take over a pause or failures, as they are for all replicas.

        Args:
            paused_until: Monotonic seconds; 0.0 for no pause.
            failures: In a row.
        """
        self.reported = failures > 0 or paused_until > 0
        self._paused_until = max(self._paused_until, paused_until)
        self._drop_slots(now)
        if failures >= CIRCUIT_AFTER_FAILURES:
            if self._open and failures == self._shared_failures:
                return  # the same again
            self._open = True
            self.failures = max(self.failures, failures)
            wait = backoff(failures - CIRCUIT_AFTER_FAILURES, first=1.0, limit=MAX_BACKOFF, jitter=0.0)
            self._paused_until = max(self._paused_until, now + wait)
        elif not failures and self._open:
            self._open = False
            self.failures = 0
            self._failed_tasks.clear()
        self._shared_failures = failures

    def succeed(self, permit: Permit, now: float) -> None:
        """See `CredentialLimiter`."""
        CredentialLimiter.succeed(self, permit, now)
        if self.reported and permit.call is not CallKind.STREAM:
            self.reports(None, failed=False)

    def fail(self, permit: Permit, error: UpstreamError, now: float) -> Scope:
        """See `CredentialLimiter`."""
        paused_until, failures, last_success = self._paused_until, self.failures, self._last_success
        scope = CredentialLimiter.fail(self, permit, error, now)
        if self.failures > failures:
            # Of one task alone they may be its own: see rule 3 of `bridge.core.rate_limit`.
            if len(self._failed_tasks) >= CIRCUIT_AFTER_TASKS:
                self.reports(None, failed=True)
        elif self._paused_until > paused_until:
            self.reports(error.retry_after or 0.0, failed=False)
        elif self.reported and self._last_success > last_success:
            self.reports(None, failed=False)
        return scope

    def _has_permit(self) -> bool:
        if self.max_in_flight_total is None:
            return True
        if not self.connected():
            return self.in_flight < max(self.max_in_flight_total // max(self.live(), 1), 1)
        if self.in_flight < self.permits:
            return True
        self.asks()
        return False

    def _drop_slots(self, now: float) -> None:
        if not self._slots:
            return
        rate = self.requests_per_second or 1.0
        oldest = max(now - max(SLOT_PART / rate, MIN_SLOT_SECONDS), self._paused_until)
        while self._slots and self._slots[0] < oldest:
            self._slots.popleft()
