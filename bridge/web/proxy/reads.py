"""A status call under the provider's own path, answered from the bridge's one look."""

from __future__ import annotations

from starlette.responses import Response

from bridge.core.event import Event
from bridge.core.task import Status, TaskKey
from bridge.delivery.subscriptions import Subscriptions
from bridge.errors import BridgeError, UpstreamBusy
from bridge.sources.poll import JSON, CachedResponse
from bridge.web.proxy.responses import error_response, state_response


class ProxyReads:
    """Answers with the provider's own document."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions

    async def status(self, key: TaskKey) -> Response:
        """What the provider says of a task: as it said at its end, else as it said lately.

        Raises:
            JournalError: The journal cannot be read.
        """
        ended = await self._end_of(key)
        if ended is not None:
            return document(ended)
        shown = await self._subscriptions.pool.shown(
            key, seconds=self._subscriptions.settings.first_state_timeout_seconds
        )
        if isinstance(shown, BridgeError):
            return error_response(shown, wait=self._next_look_in(key))
        (latest,) = await self._subscriptions.journal.latest([key])
        if shown is None and latest is not None and _ended(latest):
            return document(latest)
        late = shown or self._last_shown(key)
        if latest is not None and latest.state.raw is not None and (late is None or late.body is None):
            return document(latest)  # another source knows better, or the answer was too large to keep twice
        if late is None or late.body is None:
            return error_response(UpstreamBusy("the upstream has not answered yet", retry_after=1.0))
        age = str(max(0, int(self._subscriptions.clock.monotonic() - late.at)))
        return state_response(late.status, late.content_type, late.body, {"Age": age})

    async def _end_of(self, key: TaskKey) -> Event | None:
        (latest,) = await self._subscriptions.journal.latest([key])
        return latest if latest is not None and _ended(latest) else None

    def _last_shown(self, key: TaskKey) -> CachedResponse | None:
        """A look that is late, not failed: what the last one brought is still all that is known."""
        watcher = self._subscriptions.pool.watcher(key)
        return watcher.shown if watcher is not None else None

    def _next_look_in(self, key: TaskKey) -> float | None:
        watcher = self._subscriptions.pool.watcher(key)
        due = watcher.watch.due if watcher is not None else None
        return due - self._subscriptions.clock.monotonic() if due is not None else None


def document(event: Event) -> Response:
    """The provider's document of a recorded state."""
    if event.state.raw is None:
        return error_response(UpstreamBusy("the upstream's own document of this task was not kept"))
    return state_response(200, JSON, event.state.raw)


def _ended(event: Event) -> bool:
    """Whether this is an end that stays; of a lost task the provider may know more by now."""
    return event.state.status.final and event.state.status is not Status.LOST
