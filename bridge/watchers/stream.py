"""Keeps a provider's stream of one task open while the watch lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from bridge.core.task import Observation, Source, Status
from bridge.dialects.base import Request
from bridge.errors import JournalError, TaskNotFound, UpstreamError, UpstreamRefused
from bridge.sources.stream import follow
from bridge.telemetry.request_context import detach_from_request
from bridge.watchers.watcher import Watcher

FIRST_BACKOFF_SECONDS = 1.0
MAX_BACKOFF_SECONDS = 30.0

logger = logging.getLogger(__name__)


class StreamFollower:
    """Follows, and follows again with growing patience; gives up where there is no stream.

    Args:
        done: Called once, when nothing more will come of this follower.
    """

    def __init__(
        self,
        watcher: Watcher,
        request: Request,
        random: Callable[[], float],
        done: Callable[[StreamFollower], None],
    ) -> None:
        self.watcher = watcher
        self._request = request
        self._random = random
        self._done = done
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Follow within `group`."""
        self._task = group.create_task(self._run())
        self._task.add_done_callback(lambda _: self._done(self))  # also when it was stopped before it began

    def stop(self) -> None:
        """Follow no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        detach_from_request()
        failures = 0
        try:
            await self.watcher.hydrate()
            while not self.watcher.over:
                heard = await self._follow_once()
                if heard is None or self.watcher.over:
                    return
                failures = 0 if heard else failures + 1
                await self.watcher.upstream.clock.sleep(self._backoff(failures))
        except JournalError as error:
            logger.warning("stream given up", extra={"task": self.watcher.key.ref, "error": str(error)})
        except Exception:
            logger.exception("a bug ended a stream", extra={"task": self.watcher.key.ref})
        finally:
            self.watcher.source = Source.POLL

    async def _follow_once(self) -> bool | None:
        """Whether the stream said something; None when there is none to come back to."""
        heard = False

        def alive() -> None:
            nonlocal heard
            heard = True
            self.watcher.source = Source.STREAM
            self.watcher.streaming()

        async def seen(observations: Sequence[Observation]) -> bool:
            trusted = [one for one in observations if self._trustworthy(one)]
            if trusted:
                # together, so that what came together is recorded together and conflates
                await asyncio.gather(*(self.watcher.take(one, Source.STREAM) for one in trusted))
                self.watcher.polled_once.set()
            return any(one.status.final for one in trusted)

        try:
            await follow(self.watcher.upstream, self._request, seen=seen, alive=alive)
        except (UpstreamRefused, TaskNotFound):
            return None
        except UpstreamError as error:
            logger.debug("stream broke", extra={"task": self.watcher.key.ref, "error": str(error)})
        self.watcher.source = Source.POLL
        if not self.watcher.over:
            self.watcher.stream_ended()
        return heard

    def _trustworthy(self, observation: Observation) -> bool:
        """Not another task's frame, and no end without its result: that one a look must bring."""
        named = observation.task_id
        if named is not None and named not in self.watcher.key.task_id:
            return False
        if observation.status is not Status.COMPLETED or observation.outputs:
            return True
        self.watcher.poll_now()
        return False

    def _backoff(self, failures: int) -> float:
        wish = FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 5)
        return min(wish, MAX_BACKOFF_SECONDS) * (0.75 + self._random() / 2)
