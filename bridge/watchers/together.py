"""Polls of many tasks with one call: which tasks go along, and what becomes of each.

One call takes one slot of the rate and one place in flight. It can only show tasks (`bridge.core.many`): a
task that it leaves out stays due, and is polled alone next.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Sequence

from bridge.core.many import ManyCalls
from bridge.core.rate_limit import Permit
from bridge.core.task import Observation
from bridge.errors import BridgeError, CredentialRefused, UpstreamBusy, UpstreamError, UpstreamUnreachable
from bridge.sources.poll import ManyAnswers, poll_many
from bridge.sources.upstream import Upstream
from bridge.watchers.watcher import Watcher

MAX_PASSED_OVER = 32
"""Polls found unfit to go along, after which no more are tried for one call."""

_WORK_PER_TURN = (
    32  # unchanged tasks that are processed before other coroutines run; a changed one counts for 4
)
_WORK_OF_CHANGED = 4

Entry = tuple[float, int, Watcher]

logger = logging.getLogger(__name__)


class Company:
    """Gathers the tasks of calls with one credential, and makes the calls.

    Args:
        polling: The tasks of which a poll is under way; those that are done are taken out.
        schedule: Schedules the next poll of a task.
        retry_later: Called for a task whose result could not be processed.
    """

    def __init__(
        self,
        upstream: Upstream,
        many: ManyCalls,
        polling: set[Watcher],
        schedule: Callable[[Watcher], None],
        retry_later: Callable[[Watcher], None],
    ) -> None:
        call = upstream.dialect.status_many
        assert call is not None
        self._upstream = upstream
        self._many = many
        self._call = call
        self._polling = polling
        self._schedule = schedule
        self._retry_later = retry_later

    def gather(self, leader: Watcher, ready: list[Entry], waiting: list[Entry], now: float) -> list[Entry]:
        """The polls that go along with the one of `leader`; they are taken from the heaps.

        Args:
            ready: Those that are due.
            waiting: Those that are not: what is due within the shortest interval may go along.
        """
        places = self._many.limit(now) - 1
        size = self._call.size_of(leader.key.task_id)
        if places < 1 or size is None or self._upstream.limiter.probing or not leader.goes_with_others:
            return []
        room = self._call.room() - size
        until = now + self._upstream.pace.min_seconds
        found: list[Entry] = []
        passed_over: list[tuple[list[Entry], Entry]] = []
        for heap, early in ((ready, False), (waiting, True)):
            while heap and len(found) < places and len(passed_over) < MAX_PASSED_OVER and room > 0:
                due, generation, watcher = heap[0]
                current = watcher.generation == generation
                if current and due > until:
                    break
                entry = heapq.heappop(heap)
                if not current:
                    continue
                size = self._call.size_of(watcher.key.task_id) if watcher.goes_with_others else None
                if size is None or size > room or (early and not watcher.watch.may_be_early(now)):
                    passed_over.append((heap, entry))
                else:
                    found.append(entry)
                    room -= size
        for heap, entry in passed_over:
            heapq.heappush(heap, entry)
        return found

    async def poll(self, watchers: Sequence[Watcher], permit: Permit) -> None:
        """Ask for these tasks with one call, and process what it shows of each. Settles the permit."""
        upstream, many = self._upstream, self._many
        upstream.price.sent(len(watchers))
        upstream.metrics.saved.record_poll(upstream.name, len(watchers))
        started_at = upstream.clock.monotonic()
        for watcher in watchers:
            watcher.begin_with_others()
        many.started()
        try:
            with upstream.hold(permit):
                # Tasks that such answers always leave out may meet in one call, which works nevertheless.
                answers = await poll_many(
                    upstream,
                    [watcher.key.task_id for watcher in watchers],
                    may_be_empty=all(watcher.left_out for watcher in watchers),
                )
        except UpstreamError as error:
            self._failed(error)
            if _of_any_call(error):
                await watchers[0].fail_for_others(error)
        except BaseException:
            many.abandoned()
            raise
        else:
            if many.succeeded():
                logger.info("status calls about many tasks work again", extra={"upstream": upstream.name})
            await self._process(watchers, answers, started_at)

    def _failed(self, error: UpstreamError) -> None:
        first = self._many.failed(str(error), self._upstream.clock.monotonic(), own=not _of_any_call(error))
        if first:
            logger.warning(
                "status calls about many tasks fail: each task is polled alone",
                extra={"upstream": self._upstream.name, "error": str(error)},
            )

    async def _process(self, watchers: Sequence[Watcher], answers: ManyAnswers, started_at: float) -> None:
        unix_time = self._upstream.clock.time()
        unchanged = work = 0
        async with asyncio.TaskGroup() as recording:
            for watcher in watchers:
                try:
                    observation = watcher.read(answers)
                    if observation is None:
                        unchanged += 1
                        self._polling.discard(watcher)
                        watcher.confirm_with_others(started_at, answers.at, unix_time)
                    else:
                        # Each waits for its own record: one after the other, a hundred would take seconds.
                        recording.create_task(self._take(watcher, observation, started_at))
                        work += _WORK_OF_CHANGED
                except UpstreamError:
                    self._settle(watcher)  # it is polled alone next
                except Exception:
                    logger.exception("unhandled exception in poll", extra={"task": watcher.key.ref})
                    self._retry_later(watcher)
                    self._settle(watcher)
                work += 1
                if work >= _WORK_PER_TURN:
                    work = 0
                    await asyncio.sleep(0)
        self._upstream.record_poll("unchanged", unchanged)

    async def _take(self, watcher: Watcher, observation: Observation, started_at: float) -> None:
        try:
            await watcher.take_with_others(observation, started_at)
        except BridgeError as error:
            logger.warning("poll failed", extra={"task": watcher.key.ref, "error": str(error)})
            self._retry_later(watcher)
        except Exception:
            # One task's document must not stop the polls of all the others.
            logger.exception("unhandled exception in poll", extra={"task": watcher.key.ref})
            self._retry_later(watcher)
        finally:
            self._settle(watcher)

    def _settle(self, watcher: Watcher) -> None:
        watcher.polling = False
        self._polling.discard(watcher)
        self._schedule(watcher)


def _of_any_call(error: UpstreamError) -> bool:
    """Whether a call about one task would have failed as well: the key, the rate limit, no connection."""
    return isinstance(error, CredentialRefused | UpstreamBusy | UpstreamUnreachable)
