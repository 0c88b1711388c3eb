"""Poll scheduler of one upstream: starts the next due poll when the credential's limiter allows it."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Hashable, Iterable
from itertools import count

from bridge.core.fair_share import FairShare
from bridge.core.rate_limit import CallKind, Permit
from bridge.core.task import OWN_ACCOUNT, Status
from bridge.errors import BridgeError
from bridge.sources.upstream import Upstream
from bridge.telemetry.request_context import detach_from_request
from bridge.watchers.together import Company
from bridge.watchers.watcher import Watcher

RETRY_AFTER_ERROR_SECONDS = 5.0
RETRY_LEASE_SECONDS = 0.5
CANCELLED = -1
FIRST_PER_TURN = 4  # first polls started before the event loop gets a turn: a flood of ids makes nothing else
MAX_SKIPPED = 100

logger = logging.getLogger(__name__)


class PollScheduler:
    """Starts the polls of one upstream with one credential.

    Two heaps for repeats, both by the time a poll is due: `_waiting` until then, `_ready` from then on. Which
    polls are worth more was decided when they were planned, by their price (`bridge.core.price`); a tight
    rate limit raises it until the plans fit, so few wait here, and none starves. First polls, of tasks
    without a state, have a share of their own (`FairShare`).

    Where the provider shows many tasks with one call, a repeat takes others along (`Company`): those that are
    due, and those that are within the shortest interval. A first poll goes alone: clients choose the ids, and
    one that the provider refuses must not fail the polls of others.

    Rescheduling does not search the heaps: each entry carries the generation of its watcher, and an entry of
    an older generation is dropped when it comes to the top.

    Args:
        may_poll: Asked once more before a poll is sent, where several processes share the tasks.
    """

    def __init__(self, upstream: Upstream, may_poll: Callable[[Watcher], bool] | None = None) -> None:
        self._upstream = upstream
        self._may_poll = may_poll
        self._waiting: list[tuple[float, int, Watcher]] = []
        self._ready: list[tuple[float, int, Watcher]] = []
        self._first: FairShare[tuple[int, Watcher, float, Hashable]] = FairShare()
        self._generations = count(1)
        self._woken = asyncio.Event()
        self._polling: set[Watcher] = set()
        self._firsts = 0  # first polls started at this turn of the event loop
        self._company: Company | None = None
        self._along: dict[Watcher, list[Watcher]] = {}  # who goes along with a poll that starts
        if upstream.many is not None:
            self._company = Company(upstream, upstream.many, self._polling, self.schedule, self._retry_later)
        # A cancel or a submit that ends may free what a poll waits for.
        upstream.capacity_freed = self._woken.set

    def schedule(self, watcher: Watcher) -> None:
        """Poll `watcher` at its due time; replaces what was scheduled for it before."""
        if watcher.generation == CANCELLED:
            return  # its last poll finished after the watch had ended
        watcher.generation = next(self._generations)
        due = watcher.watch.due
        if due is None or watcher in self._polling or not watcher.polls_here:
            # A running poll schedules the next one when it finishes: never two polls of a task at once.
            return
        heapq.heappush(self._waiting, (due, watcher.generation, watcher))
        if self._waiting[0][2] is watcher:
            # Only a new first entry shortens the sleep of `run`.
            self._woken.set()

    def queued_by(self, connection: Hashable) -> int:
        """First polls of this connection that wait for their turn."""
        return self._first.queued_by(connection)

    @property
    def upstream(self) -> Upstream:
        """The upstream whose polls it starts."""
        return self._upstream

    def hold(self, now: float) -> str | None:
        """Why polls that are due do not start, in words for a notice; None if they do."""
        reason = self._upstream.limiter.held_up_by(now)
        if reason is None and len(self._first):
            reason = "the first poll waits for its turn: too many calls, or the rate limit of this upstream"
        return reason

    def cancel(self, watcher: Watcher) -> None:
        """Never poll `watcher` again."""
        watcher.generation = CANCELLED

    async def run(self) -> None:
        """Start polls until cancelled."""
        detach_from_request()
        clock = self._upstream.clock
        async with asyncio.TaskGroup() as group:
            while True:
                self._woken.clear()
                now = clock.monotonic()
                taken = self._take(now)
                if taken is None:
                    await clock.wait(self._woken, self._wait(now))
                else:
                    group.create_task(self._work(*taken))

    async def _work(self, watcher: Watcher, permit: Permit) -> None:
        # One poll, then the next that is ready: a new asyncio task for each would cost a fifth of the poll.
        taken: tuple[Watcher, Permit] | None = (watcher, permit)
        while taken is not None:
            if self._along and (along := self._along.pop(taken[0], None)):
                await self._poll_many([taken[0], *along], taken[1])
            else:
                await self._poll(*taken)
            # What else may start, `run` starts: the end of each call wakes it, once a turn of the event loop.
            taken = self._take(self._upstream.clock.monotonic())

    def _take(self, now: float) -> tuple[Watcher, Permit] | None:
        """The watch to poll now, with its capacity; None when none is due or the limiter says no.

        Ordering: the caller must run `_poll` next, which gives the capacity back.
        """
        self._promote_due(now)
        limiter = self._upstream.limiter
        limiter.polls_wait = bool(self._ready) or len(self._first) > 0
        repeat_at = limiter.free_at(CallKind.POLL, now) if self._ready else None
        repeats_wait = repeat_at is not None and repeat_at <= now
        in_turn = self._firsts < FIRST_PER_TURN
        if len(self._first) and in_turn and not (repeats_wait and self._has_probe_for_key()):
            # Case 1: a newcomer's turn.
            first_at = limiter.free_at(CallKind.FIRST, now)
            skipped = 0
            while first_at is not None and first_at <= now:
                if skipped == MAX_SKIPPED:
                    # A flood has left many behind: other coroutines run in between.
                    asyncio.get_running_loop().call_soon(self._woken.set)
                    break
                skipped += 1
                turn = self._first.next_first(
                    repeats_wait=repeats_wait,
                    in_flight=limiter.in_flight_of(CallKind.FIRST),
                    share=limiter.share,
                    limit=limiter.max_in_flight,
                )
                if turn is None:
                    break
                generation, watcher, due, owner = turn
                if watcher.generation != generation:
                    self._first.not_started(owner)  # cancelled, or rescheduled, while it waited
                    continue
                if not self._firsts:
                    asyncio.get_running_loop().call_soon(self._end_turn)
                self._firsts += 1
                return watcher, self._start(CallKind.FIRST, watcher, due, now, owner)
        if not repeats_wait:
            return None
        # Case 2: the most urgent repeat. A half-open circuit probes with a task that a viewer waits for.
        due, _, watcher = heapq.heappop(self._ready) if not limiter.probing else self._pop_probe()
        self._first.repeat_started()
        if self._company is not None:
            self._take_along(watcher, now)
        return watcher, self._start(CallKind.POLL, watcher, due, now)

    def _take_along(self, leader: Watcher, now: float) -> None:
        assert self._company is not None
        entries = self._company.gather(leader, self._ready, self._waiting, now)
        for due, _, watcher in entries:
            self._polling.add(watcher)
            if due <= now:
                self._upstream.record_wait(now - due)
        if entries:
            self._along[leader] = [watcher for _, _, watcher in entries]
        else:
            self._upstream.price.sent(1)

    def _end_turn(self) -> None:
        self._firsts = 0
        if len(self._first):
            self._woken.set()

    def _start(
        self, call: CallKind, watcher: Watcher, due: float, now: float, owner: Hashable = None
    ) -> Permit:
        self._polling.add(watcher)
        self._upstream.record_wait(now - due)
        if call is CallKind.FIRST:
            self._upstream.price.started_other(now)
        known = watcher.watch.known
        shown = known is not None and known.status is not Status.UNKNOWN
        permit = self._upstream.limiter.start(call, now, task_id=watcher.key.task_id, shown=shown)
        permit.owner = owner
        return permit

    def _pop_probe(self) -> tuple[float, int, Watcher]:
        # Linear, but rarely more than once a second while the circuit is open or the key rests.
        current = [entry for entry in self._ready if entry[2].generation == entry[1]]
        entry = min(current, key=lambda one: (*self._hope(one[2]), *one[:2]))
        self._ready.remove(entry)
        heapq.heapify(self._ready)
        return entry

    def _hope(self, watcher: Watcher) -> tuple[bool, bool, int, float, float]:
        """How much a probe with this task promises; the smallest goes out.

        Probes rotate: each that failed goes behind the others. Among the rest, the task that the provider
        showed last, or that changed last, before a restart too, is the least likely to be sick itself.
        """
        watch = watcher.watch
        changed_at = watch.known.changed_at if watch.known is not None else 0.0
        denied = self._upstream.limiter.is_denied(watcher.key.task_id)
        return denied, not watch.viewed, watch.failures, -watcher.shown_at, -changed_at

    def _has_probe_for_key(self) -> bool:
        """Whether a rejected key is best tried with a task that it was accepted for."""
        limiter = self._upstream.limiter
        return limiter.rejected is not None and any(
            watcher.generation == generation and not limiter.is_denied(watcher.key.task_id)
            for _, generation, watcher in self._ready
        )

    def _wait(self, now: float) -> float | None:
        """Seconds until a poll may start; None until something wakes `run`."""
        limiter = self._upstream.limiter
        times = [limiter.free_at(CallKind.POLL, now)] if self._ready else []
        if len(self._first):
            times.append(limiter.free_at(CallKind.FIRST, now))
        # A time that has come was refused for another reason (a connection's share): an event ends that.
        later = [at - now for at in times if at is not None and at > now]
        if self._waiting:
            later.append(max(self._waiting[0][0] - now, 0.0))
        return min(later) if later else None

    def _promote_due(self, now: float) -> None:
        """Move due entries to `_ready` or `_first`; drop stale ones."""
        waiting, ready = self._waiting, self._ready
        while waiting:
            due, generation, watcher = waiting[0]
            current = watcher.generation == generation
            if current and due > now:
                break
            heapq.heappop(waiting)
            if not current:
                continue
            if watcher.watch.known is None:
                turn = (generation, watcher, due, watcher.asked_by)
                self._first.add(watcher.asked_by, turn, party=watcher.party)
            else:
                heapq.heappush(ready, (due, generation, watcher))
        # A task rescheduled while it waited for the limiter is in `_waiting` again.
        while ready and ready[0][2].generation != ready[0][1]:
            heapq.heappop(ready)

    async def _poll(self, watcher: Watcher, permit: Permit) -> None:
        # `Watcher.poll` settles the permit; what ends before it is reached settles here.
        try:
            if not watcher.hydrated:
                await watcher.hydrate()
            if watcher.over:
                return
            if self._may_poll is not None and not self._may_poll(watcher):
                # The lease ran out while this process stood still, or its tasks are being handed over.
                self._retry_later(watcher, RETRY_LEASE_SECONDS)
                return
            self._upstream.metrics.saved.record_poll(self._upstream.name)
            await watcher.poll(permit)
        except BridgeError as error:
            logger.warning("poll failed", extra={"task": watcher.key.ref, "error": str(error)})
            self._retry_later(watcher)
        except Exception:
            # One task's document must not stop the polls of all the others.
            logger.exception("unhandled exception in poll", extra={"task": watcher.key.ref})
            self._retry_later(watcher)
        finally:
            if not permit.finished:
                self._upstream.abandon(permit)
            if permit.call is CallKind.FIRST:
                self._first.finished(permit.owner)
            self._polling.discard(watcher)
            self.schedule(watcher)

    async def _poll_many(self, watchers: list[Watcher], permit: Permit) -> None:
        assert self._company is not None
        try:
            polled = []
            for watcher in watchers:
                if watcher.over or not watcher.polls_here or watcher.generation == CANCELLED:
                    continue  # since it was gathered
                if self._may_poll is not None and not self._may_poll(watcher):
                    self._retry_later(watcher, RETRY_LEASE_SECONDS)
                    continue
                polled.append(watcher)
            if polled:
                await self._company.poll(polled, permit)
        except BridgeError as error:
            logger.warning("poll failed", extra={"upstream": self._upstream.name, "error": str(error)})
            self._retry_all_later(watchers)
        except Exception:
            logger.exception("unhandled exception in poll", extra={"upstream": self._upstream.name})
            self._retry_all_later(watchers)
        finally:
            if not permit.finished:
                self._upstream.abandon(permit)
            for watcher in watchers:
                if watcher in self._polling:
                    watcher.polling = False
                    self._polling.discard(watcher)
                    self.schedule(watcher)

    def _retry_all_later(self, watchers: Iterable[Watcher]) -> None:
        for watcher in watchers:
            if watcher in self._polling:
                self._retry_later(watcher)

    def _retry_later(self, watcher: Watcher, seconds: float = RETRY_AFTER_ERROR_SECONDS) -> None:
        # The due time has passed: without a floor the poll would start again at once, in a tight loop.
        if watcher.watch.due is not None:
            soonest = self._upstream.clock.monotonic() + seconds
            watcher.watch.due = max(watcher.watch.due, soonest)


class PollSchedulers:
    """The schedulers of all credentials.

    Args:
        upstreams: As the operator configured them; their schedulers run as long as the pool.
        may_poll: As `PollScheduler`.
    """

    def __init__(
        self, upstreams: Iterable[Upstream], may_poll: Callable[[Watcher], bool] | None = None
    ) -> None:
        self._may_poll = may_poll
        self._schedulers = {(one.name, one.account): PollScheduler(one, may_poll) for one in upstreams}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def run(self, group: asyncio.TaskGroup) -> None:
        """Run all of them in `group`, those created later too."""
        self._group = group
        for key, scheduler in self._schedulers.items():
            self._running[key] = group.create_task(scheduler.run())

    def settle_prices(self, now: float) -> None:
        """Move the prices of all credentials; call about once a second."""
        for one in self._schedulers.values():
            one.upstream.price.settle(now)

    def holds(self, now: float) -> dict[Upstream, str]:
        """The upstreams, each with one credential, whose due polls do not start, and why."""
        reasons = {one.upstream: one.hold(now) for one in self._schedulers.values()}
        return {upstream: reason for upstream, reason in reasons.items() if reason is not None}

    def queued_by(self, connection: Hashable) -> int:
        """First polls of this connection that wait for their turn."""
        return sum(one.queued_by(connection) for one in self._schedulers.values())

    def of(self, upstream: Upstream) -> PollScheduler:
        """The scheduler of this upstream with this credential, created if need be."""
        key = upstream.name, upstream.account
        scheduler = self._schedulers.get(key)
        if scheduler is None:
            scheduler = self._schedulers[key] = PollScheduler(upstream, self._may_poll)
            if self._group is not None:
                self._running[key] = self._group.create_task(scheduler.run())
        return scheduler

    def close(self, account: str) -> None:
        """Stop the schedulers of an account whose key is evicted."""
        assert account != OWN_ACCOUNT
        for key in [key for key in self._schedulers if key[1] == account]:
            del self._schedulers[key]
            running = self._running.pop(key, None)
            if running is not None:
                running.cancel()
