"""Poll scheduler of one upstream: starts the next due poll when the credential's limiter allows it."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Iterable
from itertools import count

from bridge.core.task import OWN_ACCOUNT
from bridge.errors import BridgeError
from bridge.sources.upstream import Upstream
from bridge.telemetry.request_context import detach_from_request
from bridge.watchers.watcher import Watcher

UNWATCHED_GRACE_SECONDS = 10.0
WATCHED_GRACE_SECONDS = 1.0
RETRY_AFTER_ERROR_SECONDS = 5.0
CANCELLED = -1

logger = logging.getLogger(__name__)


class PollScheduler:
    """Starts the polls of one upstream with one credential.

    Two heaps: `_waiting` by the time a poll is due, `_ready` by the deadline of a due poll (due time plus
    grace). Under a tight rate limit, watched tasks and tasks near their end get the shorter grace and so go
    first; the others still have a deadline, so that none starves.

    Rescheduling does not search the heaps: each entry carries the generation of its watcher, and an entry of
    an older generation is dropped when it comes to the top.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._waiting: list[tuple[float, int, Watcher]] = []
        self._ready: list[tuple[float, int, Watcher, float]] = []
        self._generations = count(1)
        self._woken = asyncio.Event()
        self._polling: set[Watcher] = set()

    def schedule(self, watcher: Watcher) -> None:
        """Poll `watcher` at its due time; replaces what was scheduled for it before."""
        if watcher.generation == CANCELLED:
            return  # its last poll finished after the watch had ended
        watcher.generation = next(self._generations)
        due = watcher.watch.due
        if due is None or watcher in self._polling:
            # A running poll schedules the next one when it finishes: never two polls of a task at once.
            return
        heapq.heappush(self._waiting, (due, watcher.generation, watcher))
        if self._waiting[0][2] is watcher:
            # Only a new first entry shortens the sleep of `run`.
            self._woken.set()

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
                watcher = self._take(now)
                if watcher is None:
                    await clock.wait(self._woken, self._wait(now))
                else:
                    group.create_task(self._work(watcher))

    async def _work(self, watcher: Watcher | None) -> None:
        # One poll, then the next that is ready: a new asyncio task for each would cost a fifth of the poll.
        while watcher is not None:
            await self._poll(watcher)
            now = self._upstream.clock.monotonic()
            watcher = self._take(now)
            if watcher is None or (self._ready and self._wait(now) == 0.0):
                # Otherwise `run` has nothing to start, and waking it would be wasted.
                self._woken.set()

    def _take(self, now: float) -> Watcher | None:
        """The watch to poll now, with capacity taken for it; None when none is due or the limiter says no.

        Ordering: the caller must run `_poll` next, which gives the capacity back.
        """
        self._promote_due(now)
        if not self._ready:
            return None
        free_at = self._upstream.limiter.free_at(now)
        if free_at is None or free_at > now:
            return None
        _, _, watcher, due = heapq.heappop(self._ready)
        self._upstream.limiter.started(now)
        self._polling.add(watcher)
        self._upstream.record_wait(now - due)
        return watcher

    def _wait(self, now: float) -> float | None:
        """Seconds until a poll may start; None until something wakes `run`."""
        if self._ready:
            free_at = self._upstream.limiter.free_at(now)
            return free_at - now if free_at is not None else None
        return max(self._waiting[0][0] - now, 0.0) if self._waiting else None

    def _promote_due(self, now: float) -> None:
        """Move due entries to `_ready`; drop stale ones."""
        waiting, ready = self._waiting, self._ready
        while waiting:
            due, generation, watcher = waiting[0]
            current = watcher.generation == generation
            if current and due > now:
                break
            heapq.heappop(waiting)
            if current:
                heapq.heappush(ready, (due + self._grace(watcher), generation, watcher, due))
        # A task rescheduled while it waited for the limiter is in `_waiting` again.
        while ready and ready[0][2].generation != ready[0][1]:
            heapq.heappop(ready)

    @staticmethod
    def _grace(watcher: Watcher) -> float:
        if not watcher.viewers:
            return UNWATCHED_GRACE_SECONDS
        # A subscriber waits for the first state, or for the end: both are what people notice.
        return 0.0 if watcher.watch.near_end or watcher.watch.known is None else WATCHED_GRACE_SECONDS

    async def _poll(self, watcher: Watcher) -> None:
        # `Watcher.poll` settles the capacity taken in `_take`; what ends before it is reached settles here.
        settled = False
        try:
            await watcher.hydrate()
            if watcher.over:
                return
            settled = True
            self._upstream.metrics.saved.record_poll(self._upstream.name)
            await watcher.poll()
        except BridgeError as error:
            logger.warning("poll failed", extra={"task": watcher.key.ref, "error": str(error)})
            self._retry_later(watcher)
        except Exception:
            # One task's document must not stop the polls of all the others.
            logger.exception("unhandled exception in poll", extra={"task": watcher.key.ref})
            self._retry_later(watcher)
        finally:
            if not settled:
                self._upstream.limiter.abandoned()
            self._polling.discard(watcher)
            self.schedule(watcher)

    def _retry_later(self, watcher: Watcher) -> None:
        # The due time has passed: without a floor the poll would start again at once, in a tight loop.
        if watcher.watch.due is not None:
            soonest = self._upstream.clock.monotonic() + RETRY_AFTER_ERROR_SECONDS
            watcher.watch.due = max(watcher.watch.due, soonest)


class PollSchedulers:
    """The schedulers of all credentials.

    Args:
        upstreams: As the operator configured them; their schedulers run as long as the pool.
    """

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self._schedulers = {(one.name, one.account): PollScheduler(one) for one in upstreams}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def run(self, group: asyncio.TaskGroup) -> None:
        """Run all of them in `group`, those created later too."""
        self._group = group
        for key, scheduler in self._schedulers.items():
            self._running[key] = group.create_task(scheduler.run())

    def of(self, upstream: Upstream) -> PollScheduler:
        """The scheduler of this upstream with this credential, created if need be."""
        key = upstream.name, upstream.account
        scheduler = self._schedulers.get(key)
        if scheduler is None:
            scheduler = self._schedulers[key] = PollScheduler(upstream)
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
