"""Which watch of one upstream looks next: those that are due, within the budget of its credential."""

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

UNWATCHED_GRACE = 10.0
WATCHED_GRACE = 1.0
RETRY_AFTER_ERROR_SECONDS = 5.0
CANCELLED = -1

logger = logging.getLogger(__name__)


class PollScheduler:
    """Starts the looks of one upstream.

    Two heaps: `_waiting` by the time a look is due, `_ready` by the time it is wanted by.
    Watched tasks and tasks near their end are wanted sooner; the others wait longer, never for ever.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._waiting: list[tuple[float, int, Watcher]] = []
        self._ready: list[tuple[float, int, Watcher, float]] = []
        self._turns = count(1)
        self._woken = asyncio.Event()
        self._looking: set[Watcher] = set()

    def plan(self, watcher: Watcher) -> None:
        """Look when `watcher` is due; forgets what was planned for it before."""
        if watcher.generation == CANCELLED:
            return  # its last look came back after the watch had ended
        watcher.generation = next(self._turns)
        due = watcher.watch.due
        if due is None or watcher in self._looking:
            return
        heapq.heappush(self._waiting, (due, watcher.generation, watcher))
        if self._waiting[0][2] is watcher:
            self._woken.set()

    def forget(self, watcher: Watcher) -> None:
        """Look at `watcher` no more, whatever is planned for it."""
        watcher.generation = CANCELLED

    async def run(self) -> None:
        """Start looks until cancelled."""
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
        """One look, and then the next one that waits: a task for each would cost a fifth of it."""
        while watcher is not None:
            await self._look(watcher)
            now = self._upstream.clock.monotonic()
            watcher = self._take(now)
            if watcher is None or (self._ready and self._wait(now) == 0.0):  # else `run` has nothing to start
                self._woken.set()

    def _take(self, now: float) -> Watcher | None:
        """The watch to look at now, and its share of the budget; None when none is due or may be asked."""
        self._promote_due(now)
        if not self._ready:
            return None
        free_at = self._upstream.limiter.free_at(now)
        if free_at is None or free_at > now:
            return None
        _, _, watcher, due = heapq.heappop(self._ready)
        self._upstream.limiter.started(now)
        self._looking.add(watcher)
        self._upstream.waited(now - due)
        return watcher

    def _wait(self, now: float) -> float | None:
        """Seconds until a look may start; None until something else happens."""
        if self._ready:
            free_at = self._upstream.limiter.free_at(now)
            return free_at - now if free_at is not None else None
        return max(self._waiting[0][0] - now, 0.0) if self._waiting else None

    def _promote_due(self, now: float) -> None:
        """Move what is due to `_ready`; drop what was planned anew since."""
        waiting, ready = self._waiting, self._ready
        while waiting:
            due, generation, watcher = waiting[0]
            planned = watcher.generation == generation
            if planned and due > now:
                break
            heapq.heappop(waiting)
            if planned:
                heapq.heappush(ready, (due + self._grace(watcher), generation, watcher, due))
        while ready and ready[0][2].generation != ready[0][1]:
            heapq.heappop(ready)

    @staticmethod
    def _grace(watcher: Watcher) -> float:
        if not watcher.viewers:
            return UNWATCHED_GRACE
        return 0.0 if watcher.watch.near_end or watcher.watch.known is None else WATCHED_GRACE

    async def _look(self, watcher: Watcher) -> None:
        budgeted = True
        try:
            await watcher.hydrate()
            if watcher.over:
                return
            budgeted = False
            self._upstream.metrics.saved.polled(self._upstream.name)
            await watcher.poll()
        except BridgeError as error:
            logger.warning("look failed", extra={"task": watcher.key.ref, "error": str(error)})
            self._again(watcher)
        except Exception:
            logger.exception("a bug ended a look", extra={"task": watcher.key.ref})
            self._again(watcher)
        finally:
            if budgeted:
                self._upstream.limiter.abandoned()
            self._looking.discard(watcher)
            self.plan(watcher)

    def _again(self, watcher: Watcher) -> None:
        """Whatever went wrong here, the task is looked at again, but not in a tight circle."""
        if watcher.watch.due is not None:
            soonest = self._upstream.clock.monotonic() + RETRY_AFTER_ERROR_SECONDS
            watcher.watch.due = max(watcher.watch.due, soonest)


class PollSchedulers:
    """Starts and ends them.

    Args:
        upstreams: Those whose lookouts last as long as the pool.
    """

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self._all = {(one.name, one.account): PollScheduler(one) for one in upstreams}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def run(self, group: asyncio.TaskGroup) -> None:
        """Run all of them within `group`, those that come later too."""
        self._group = group
        for place, scheduler in self._all.items():
            self._running[place] = group.create_task(scheduler.run())

    def of(self, upstream: Upstream) -> PollScheduler:
        """The lookout over what this credential watches at this upstream."""
        place = upstream.name, upstream.account
        scheduler = self._all.get(place)
        if scheduler is None:
            scheduler = self._all[place] = PollScheduler(upstream)
            if self._group is not None:
                self._running[place] = self._group.create_task(scheduler.run())
        return scheduler

    def close(self, account: str) -> None:
        """Nobody of this account watches any more."""
        assert account != OWN_ACCOUNT
        for place in [place for place in self._all if place[1] == account]:
            del self._all[place]
            running = self._running.pop(place, None)
            if running is not None:
                running.cancel()
