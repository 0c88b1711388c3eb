"""Keeps a provider's own stream of one task open while its watch lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from urllib.parse import unquote

from bridge.core.schedule import backoff
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
    """Connects, and reconnects with back-off; stops for good when the provider has no stream of this task.

    Args:
        done: Called once, when the follower has stopped.
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
        """Follow the stream in a task of `group`."""
        self._task = group.create_task(self._run())
        # A callback of the task, not a `finally` in it: a task cancelled before its first step runs no code.
        self._task.add_done_callback(lambda _: self._done(self))

    def stop(self) -> None:
        """Close the stream; `done` is still called."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        detach_from_request()
        failures = 0
        try:
            await self.watcher.hydrate()
            while not self.watcher.watch.ended:
                delivered = await self._follow_once()
                if delivered is None or self.watcher.watch.ended:
                    return
                # Any frame resets the back-off: a stream that the provider cuts every minute is healthy.
                failures = 0 if delivered else failures + 1
                delay = backoff(
                    failures, first=FIRST_BACKOFF_SECONDS, limit=MAX_BACKOFF_SECONDS, jitter=self._random()
                )
                await self.watcher.upstream.clock.sleep(delay)
        except JournalError as error:
            # Polls continue and retry the journal; a stream that cannot record would only repeat the failure.
            logger.warning(
                "upstream stream stopped", extra={"task": self.watcher.key.ref, "error": str(error)}
            )
        except Exception:
            logger.exception("unhandled exception in upstream stream", extra={"task": self.watcher.key.ref})
        finally:
            self.watcher.source = Source.POLL

    async def _follow_once(self) -> bool | None:
        """Whether the stream delivered anything; None when there is no stream to reconnect to."""
        delivered = False

        def alive() -> None:
            nonlocal delivered
            delivered = True
            self.watcher.source = Source.STREAM
            self.watcher.streaming()

        async def observed(observations: Sequence[Observation]) -> bool:
            trusted = [observation for observation in observations if self._is_trusted(observation)]
            if trusted:
                await self.watcher.take_pushed(trusted)
                if not self.watcher.ending:
                    self.watcher.polled_once.set()
            return any(observation.status.final for observation in trusted)

        try:
            await follow(self.watcher.upstream, self._request, on_observations=observed, on_alive=alive)
        except (UpstreamRefused, TaskNotFound):
            return None
        except UpstreamError as error:
            logger.debug(
                "upstream stream disconnected", extra={"task": self.watcher.key.ref, "error": str(error)}
            )
        self.watcher.source = Source.POLL
        if not self.watcher.watch.ended:
            self.watcher.stream_ended()
        return delivered

    def _is_trusted(self, observation: Observation) -> bool:
        # Case 1: a frame of another task, on a stream that several share.
        named = observation.task_id
        if named is not None and unquote(named) not in unquote(self.watcher.key.task_id):
            return False
        # Case 2: an end without an id may be that of a part, or of another task: the poll decides.
        # Case 3: a completed task without its outputs. A final state is never corrected, so the outputs would
        # be missing for good: the poll that is requested here brings both.
        is_end = named is None and observation.status.final
        if not is_end and (observation.status is not Status.COMPLETED or observation.outputs):
            return True
        self.watcher.poll_now()
        return False
