"""What may be asked of each credential, over all replicas."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict

from bridge.core.price import raised_factor
from bridge.core.schedule import MAX_BACKOFF, MAX_WAIT
from bridge.engine.base import Lent, Report, Take
from bridge.engine.store.sessions import MICROSECONDS, Sessions

FIRST_PAUSE = 1.0
_IDLE_MICROSECONDS = 600 * MICROSECONDS
_MAX_SLOTS = 10_000


class CredentialState:
    """Of one credential; times in microseconds."""

    __slots__ = (
        "factor",
        "failures",
        "next_slot",
        "open_tasks",
        "pause",
        "paused_until",
        "permits",
        "planned",
        "probe",
        "touched_at",
    )

    def __init__(self) -> None:
        self.next_slot = 0
        self.paused_until = 0
        self.pause = 0.0  # seconds, what the last pause was
        self.failures = 0
        self.probe: tuple[str, int] | None = None
        self.permits: dict[str, int] = {}
        self.planned: dict[str, float] = {}
        self.open_tasks: dict[str, int] = {}
        self.factor = 0.0  # none known
        self.touched_at = 0


class Budgets:
    """Of all credentials."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._budgets: OrderedDict[str, CredentialState] = OrderedDict()

    def take(self, session: str, take: Take, now: int) -> Lent:
        """See `Engine.take`."""
        state = self._get(take.credential, now)
        for held in (state.permits, state.planned, state.open_tasks):
            for name in [name for name in held if not self._sessions.alive(name, now)]:
                del held[name]
        slots: list[int] = []
        if self._sessions.alive(session, now):
            slots = _lend_slots(state, take, now)
            others = sum(permits for name, permits in state.permits.items() if name != session)
            most = (
                take.permits
                if take.max_permits is None
                else min(take.permits, max(take.max_permits - others, 0))
            )
            _set(state.permits, session, max(most, 0))
            _set(state.planned, session, max(take.planned, 0.0) if math.isfinite(take.planned) else 0.0)
            _set(state.open_tasks, session, max(take.open_tasks, 0))
            if take.open_tasks > 0:
                known = state.factor or take.factor
                state.factor = raised_factor(known, take.raised if state.factor else 1.0)
            elif not state.open_tasks:
                state.factor = 0.0  # the next tasks begin without the price of these
        return Lent(
            now=now,
            slots=slots,
            permits=state.permits.get(session, 0),
            next_slot=max(state.next_slot, state.paused_until, now),
            paused_until=state.paused_until,
            failures=state.failures,
            planned=sum(state.planned.values()),
            open_tasks=sum(state.open_tasks.values()),
            factor=state.factor or 1.0,
        )

    def report(
        self, session: str, credential: str, report: Report, seconds: float, now: int
    ) -> tuple[int, int, bool]:
        """See `Engine.report`; the third is whether it changed something."""
        state = self._get(credential, now)
        before = state.paused_until, state.failures
        if self._sessions.alive(session, now):
            match report:
                case Report.PAUSE:
                    _pause(state, seconds, now)
                case Report.FAILED:
                    state.failures += 1
                case Report.WORKS:
                    _works(state, now)
        after = state.paused_until, state.failures
        return *after, before != after

    def probe(self, session: str, credential: str, until: int, now: int) -> bool:
        """See `Engine.probe`."""
        if not self._sessions.alive(session, now):
            return False
        state = self._get(credential, now)
        if state.probe is not None:
            prober, ends = state.probe
            if prober != session and now < ends and self._sessions.alive(prober, now):
                return False
        state.probe = (session, until)
        return True

    def forget_idle(self, limit: int, now: int) -> None:
        """Forget credentials that have not been used for long; checks up to `limit`."""
        for name in list(itertools.islice(self._budgets, limit)):
            state = self._budgets[name]
            if now - max(state.touched_at, state.paused_until, state.next_slot) < _IDLE_MICROSECONDS:
                return
            del self._budgets[name]

    def _get(self, credential: str, now: int) -> CredentialState:
        state = self._budgets.get(credential)
        if state is None:
            state = self._budgets[credential] = CredentialState()
        state.touched_at = now
        self._budgets.move_to_end(credential)
        return state


def _lend_slots(state: CredentialState, take: Take, now: int) -> list[int]:
    if take.rate is None or not take.rate > 0:
        return []
    # Rounded up: a microsecond less would make 41 of 40 per second.
    apart = math.ceil(MICROSECONDS / take.rate) if take.rate > 1e-6 else MICROSECONDS * MICROSECONDS
    last = now + round(min(max(take.horizon, 0.0), MAX_WAIT) * MICROSECONDS)
    at = max(now, state.next_slot, state.paused_until)
    slots: list[int] = []
    while len(slots) < min(take.slots, _MAX_SLOTS) and at <= last:
        slots.append(at)
        at += apart
    if slots:
        state.next_slot = at
    return slots


def _pause(state: CredentialState, seconds: float, now: int) -> None:
    wish = min(seconds, MAX_WAIT) if seconds > 0 else 0.0
    if now >= state.paused_until:
        state.pause = min(max(state.pause * 2, FIRST_PAUSE), MAX_BACKOFF)
    elif not wish:
        # Calls that were in flight together meet the same limit: it counts once.
        return
    state.paused_until = max(state.paused_until, now + round((wish or state.pause) * MICROSECONDS))


def _works(state: CredentialState, now: int) -> None:
    state.failures = 0
    state.probe = None
    # As `CredentialLimiter.succeed`: half, and a little less, so that it reaches zero.
    state.pause = max(state.pause / 2 - 0.25, 0.0)
    if not state.pause and state.paused_until <= now:
        state.paused_until = 0


def _set(held: dict[str, int] | dict[str, float], session: str, amount: float) -> None:
    if amount:
        held[session] = amount  # type: ignore[assignment] # an int for permits
    else:
        held.pop(session, None)
