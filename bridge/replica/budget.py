"""The budget of each credential over all replicas: what is lent from the engine, and what is reported to it.

Rule 1: an engine call happens only while calls wait and slots, permits or a probe are short, at most every
        `TAKE_SECONDS` per credential, and every few seconds while there are plans of polls. Without rate and
        `max_in_flight_total` there is none but for probes.
Rule 2: a 429 here is reported at once; the log brings it to the others within milliseconds.
Rule 3: without the engine each replica uses its part (`SharedLimiter`), and callers that wait are woken to
        find that out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import NamedTuple
from weakref import WeakValueDictionary

from bridge.clock import Clock
from bridge.core.price import PollPrice
from bridge.core.shared_limit import SharedLimiter
from bridge.engine.base import BudgetEntry, Report, Take
from bridge.replica.replica import Replica
from bridge.sources.upstream import Upstream

TAKE_SECONDS = 0.05
HORIZON_SECONDS = 0.25
"""How far ahead slots are lent: what a replica lends and does not use is lost to the others."""

BURST_SECONDS = 0.1
"""A replica asks for its part of so much of the rate at once, and for what it used lately."""

IDLE_SECONDS = 1.0
"""After this long without waiting calls, permits that are not in use are given back."""

SURPLUS_SECONDS = 0.2
"""For calls above this replica's part to end, before their permits are given back."""

PROBE_SECONDS = 15.0
DENIED_SECONDS = 1.0
MAX_RETURN_SECONDS = 8.0
PLANS_SECONDS = 2.0
"""How often plans are exchanged while the price is raised or they change."""

QUIET_PLANS_SECONDS = 10.0
PLANS_PART = 0.1
"""A smaller change of the plans waits for the next one."""

MAX_REPORTS = 1000


class _Reported(NamedTuple):
    credential: str
    report: Report
    seconds: float


class _Shared:
    """One credential.

    Attributes:
        take_at: Monotonic seconds before which it is not asked for again.
        asked_at: When something was wanted last.
        return_at: When permits above this replica's part are given back next, and how often.
        sent: Polls per second that the engine was last sent as the plans of this replica; at `sent_at`.
    """

    __slots__ = (
        "__weakref__",
        "asked_at",
        "credential",
        "limiter",
        "price",
        "probe_at",
        "return_at",
        "return_every",
        "sent",
        "sent_at",
        "take_at",
        "wake",
    )

    def __init__(
        self, credential: str, limiter: SharedLimiter, price: PollPrice, wake: Callable[[], None]
    ) -> None:
        self.credential = credential
        self.limiter = limiter
        self.price = price
        self.wake = wake
        self.sent = 0.0
        self.take_at = self.probe_at = self.asked_at = self.return_at = self.sent_at = float("-inf")
        self.return_every = IDLE_SECONDS


class SharedBudgets:
    """The credentials that this replica shares with others.

    Calls of one upstream and account have one limiter; `share` connects it with the engine.
    """

    def __init__(self, replica: Replica, clock: Clock) -> None:
        self._replica = replica
        self._connection = replica.connection
        self._clock = clock
        # As long as the upstream: its limiter refers to it.
        self._shared: WeakValueDictionary[str, _Shared] = WeakValueDictionary()
        self._asking: dict[str, _Shared] = {}
        self._reports: list[_Reported] = []
        self._wanted = asyncio.Event()
        self._reporting = asyncio.Event()
        replica.on_budget.append(self._on_entry)
        replica.on_up.append(self._wake_all)
        self._connection.workers += [self._lend, self._send_reports, self._give_back, self._exchange_plans]

    def share(self, upstream: Upstream) -> None:
        """Share the limiter of an upstream, as one of its accounts uses it, from now on."""
        limiter = upstream.limiter
        if not isinstance(limiter, SharedLimiter):
            return
        credential = f"{upstream.name}/{upstream.account}"
        shared = self._shared[credential] = _Shared(
            credential, limiter, upstream.price, upstream.wake_waiting
        )
        limiter.connected = lambda: self._connection.up
        limiter.live = lambda: self._replica.live
        limiter.asks = lambda: self._ask(shared)
        limiter.reports = lambda paused_for, *, failed: self._report(credential, paused_for, failed=failed)

    # What limiters want

    def _ask(self, shared: _Shared) -> None:
        shared.asked_at = self._clock.monotonic()
        if shared.credential not in self._asking:
            self._asking[shared.credential] = shared
            self._wanted.set()

    def _report(self, credential: str, paused_for: float | None, *, failed: bool) -> None:
        report = Report.FAILED if failed else Report.WORKS if paused_for is None else Report.PAUSE
        if report is Report.WORKS and any(
            one.credential == credential and one.report is report for one in self._reports
        ):
            return  # it is on its way
        if len(self._reports) < MAX_REPORTS:
            self._reports.append(_Reported(credential, report, paused_for or 0.0))
            self._reporting.set()

    def _on_entry(self, entry: BudgetEntry) -> None:
        shared = self._shared.get(entry.credential)
        if shared is None:
            return
        self._apply(shared, entry.paused_until, entry.failures)
        shared.wake()

    def _apply(self, shared: _Shared, paused_until: int, failures: int) -> None:
        until = self._connection.monotonic(paused_until) if paused_until else 0.0
        shared.limiter.apply_entry(until, failures, self._clock.monotonic())

    def _wake_all(self) -> None:
        for shared in list(self._shared.values()):
            shared.wake()

    # Workers: each runs while the log is followed

    async def _lend(self) -> None:
        """Lend what waiting calls need."""
        try:
            while True:
                self._wanted.clear()
                now = self._clock.monotonic()
                due = [shared for shared in self._asking.values() if shared.take_at <= now]
                for shared in due:
                    del self._asking[shared.credential]
                await asyncio.gather(*(self._lend_to(shared) for shared in due))
                now = self._clock.monotonic()
                later = [shared.take_at - now for shared in self._asking.values()]
                await self._clock.wait(self._wanted, max(min(later), 0.0) if later else None)
        finally:
            self._asking.clear()
            self._wake_all()

    async def _lend_to(self, shared: _Shared) -> None:
        limiter, now = shared.limiter, self._clock.monotonic()
        shared.take_at = now + TAKE_SECONDS
        if limiter.wants_probe and now >= shared.probe_at:
            await self._probe(shared)
        if limiter.limited:
            await self._take(shared, self._wanted_permits(limiter))
        shared.wake()

    async def _probe(self, shared: _Shared) -> None:
        limiter, session = shared.limiter, self._connection.session
        limiter.wants_probe = False
        granted = await self._connection.call(
            "probe", lambda engine: engine.probe(session, shared.credential, seconds=PROBE_SECONDS)
        )
        now = self._clock.monotonic()
        if granted:
            limiter.probe_until = now + PROBE_SECONDS
        else:
            shared.probe_at = now + DENIED_SECONDS

    async def _take(self, shared: _Shared, permits: int, *, slots: int | None = None) -> None:
        """Borrow, and exchange plans.

        Args:
            slots: How many; None for what is wanted.
        """
        limiter, price, session = shared.limiter, shared.price, self._connection.session
        rate = limiter.requests_per_second
        if slots is None:
            slots = 0 if rate is None else self._wanted_slots(limiter, rate)
        take = Take(
            credential=shared.credential,
            rate=rate,
            slots=slots,
            horizon=HORIZON_SECONDS,
            permits=permits,
            max_permits=limiter.max_in_flight_total,
            planned=price.load(self._clock.monotonic()) if price.open_tasks else 0.0,
            open_tasks=price.open_tasks,
            factor=price.factor,
            raised=price.raised,
        )
        lent = await self._connection.call("take", lambda engine: engine.take(session, take))
        now = self._clock.monotonic()
        shared.sent, shared.sent_at = take.planned, now
        price.receive(
            lent.planned - take.planned,
            lent.open_tasks - take.open_tasks,
            lent.factor,
            counted=take.raised,
        )
        if lent.permits < permits:
            shared.return_every = IDLE_SECONDS  # others use them
        limiter.offer([self._connection.monotonic(slot) for slot in lent.slots], lent.permits)
        self._apply(shared, lent.paused_until if lent.paused_until > lent.now else 0, lent.failures)
        if rate is not None and not lent.slots and take.slots:
            # The next one is further away than slots are lent.
            wait = self._connection.monotonic(lent.next_slot) - HORIZON_SECONDS - now
            shared.take_at = now + min(max(wait, TAKE_SECONDS), IDLE_SECONDS)

    def _wanted_slots(self, limiter: SharedLimiter, rate: float) -> int:
        part = rate * BURST_SECONDS / self._replica.live
        wanted = max(math.ceil(part), limiter.used) + 1
        limiter.used = 0
        return max(min(wanted, math.ceil(rate * HORIZON_SECONDS) + 1) - limiter.slots_left, 1)

    def _wanted_permits(self, limiter: SharedLimiter) -> int:
        """What is in use and one more; of many at once only this replica's part."""
        most = limiter.max_in_flight_total
        if most is None:
            return 0
        return min(max(limiter.in_flight + 1, self._part(limiter)), most)

    async def _send_reports(self) -> None:
        """Report pauses and failures, in their order, at once."""
        self._reports.clear()  # they were true before the engine was away
        while True:
            self._reporting.clear()
            while self._reports:
                reported = self._reports.pop(0)
                session = self._connection.session
                paused_until, failures = await self._connection.call(
                    "report",
                    lambda engine, session=session, reported=reported: engine.report(  # type: ignore[misc]
                        session, reported.credential, reported.report, seconds=reported.seconds
                    ),
                )
                shared = self._shared.get(reported.credential)
                if shared is not None:
                    self._apply(shared, paused_until, failures)
            await self._clock.wait(self._reporting, None)

    async def _give_back(self) -> None:
        """Give back permits that are not in use, and once a second those above this replica's part."""
        surplus: set[str] = set()
        while True:
            now = self._clock.monotonic()
            for credential, shared in list(self._shared.items()):
                if credential in surplus:
                    # Its calls had a moment to end; others that wait take theirs before this one asks again.
                    surplus.discard(credential)
                    await self._take(shared, max(self._part(shared.limiter), shared.limiter.in_flight))
                elif shared.limiter.permits and self._is_idle(shared):
                    await self._take(shared, shared.limiter.in_flight)
                elif shared.limiter.permits > self._part(shared.limiter) and now >= shared.return_at:
                    # Less and less often while it gets them all again: then no other replica needs them.
                    shared.return_at = now + shared.return_every
                    shared.return_every = min(shared.return_every * 2, MAX_RETURN_SECONDS)
                    surplus.add(credential)
                    shared.limiter.permits = self._part(shared.limiter)
                    shared.take_at = self._clock.monotonic() + SURPLUS_SECONDS + 2 * TAKE_SECONDS
            await self._clock.sleep(SURPLUS_SECONDS if surplus else IDLE_SECONDS)

    async def _exchange_plans(self) -> None:
        """Exchange the plans of credentials that borrow nothing at the moment."""
        while True:
            now = self._clock.monotonic()
            for shared in list(self._shared.values()):
                if shared.limiter.requests_per_second is not None and _plans_are_due(shared, now):
                    await self._take(shared, shared.limiter.permits, slots=0)
            await self._clock.sleep(PLANS_SECONDS / 2)

    def _is_idle(self, shared: _Shared) -> bool:
        unused = shared.limiter.permits > shared.limiter.in_flight
        return unused and self._clock.monotonic() - shared.asked_at > IDLE_SECONDS

    def _part(self, limiter: SharedLimiter) -> int:
        return math.ceil((limiter.max_in_flight_total or 0) / self._replica.live)


def _plans_are_due(shared: _Shared, now: float) -> bool:
    planned, sent = shared.price.requests, shared.sent
    if not (planned or sent):
        return False
    changed = abs(planned - sent) > PLANS_PART * max(planned, sent)
    urgent = changed or shared.price.factor > 1
    return now - shared.sent_at >= (PLANS_SECONDS if urgent else QUIET_PLANS_SECONDS)
