"""Status calls under the provider's own path, served from the bridge's one poll per task."""

from __future__ import annotations

from starlette.responses import Response

from bridge.core.event import Event
from bridge.core.merge import is_ended
from bridge.core.task import TaskKey
from bridge.errors import BridgeError, UpstreamBusy
from bridge.sources.poll import JSON
from bridge.web.proxy.files import ResultFiles
from bridge.web.proxy.links import Answers
from bridge.web.proxy.responses import provider_response
from bridge.web.services import Services


class ProxyReads:
    """Responds to status calls with the provider's own document."""

    def __init__(self, services: Services, files: ResultFiles) -> None:
        self._settings = services.settings
        self._clock = services.clock
        self._pool = services.pool
        self._journal = services.journal
        self._files = files

    async def status(self, key: TaskKey, answers: Answers) -> Response:
        """The provider's document of a task: the final one if it has ended, else the last poll's.

        Raises:
            JournalError: The journal cannot be read.
        """
        # an ended task no longer has a watch and must not get one: clients poll it for hours
        (latest,) = await self._journal.latest([key])
        if latest is not None and _ended(latest):
            self._remember(key, latest.state.raw)
            return recorded_response(latest, answers)
        polled = await self._pool.shown(key, seconds=self._settings.first_state_timeout_seconds)
        watcher = self._pool.watcher(key)
        if watcher is not None and answers.details:
            watcher.ask_for_details()
        if isinstance(polled, BridgeError):
            due = watcher.watch.due if watcher is not None else None
            # A rejected key or an open circuit holds back a poll that is due.
            wait = max(due - self._clock.monotonic(), polled.retry_after or 0.0) if due is not None else None
            return answers.error(polled, wait=wait)
        # read again: a callback or the provider's stream may have ended the task during the wait
        (latest,) = await self._journal.latest([key])
        if polled is None and latest is not None and _ended(latest):
            self._remember(key, latest.state.raw)
            return recorded_response(latest, answers)
        too_old = polled is None and self._is_too_old(latest, key)
        if polled is None and watcher is not None:
            polled = watcher.shown  # the poll is late, not failed: the last response is still the newest
        if (
            not too_old
            and latest is not None
            and latest.state.raw is not None
            and (polled is None or polled.body is None)
        ):
            # the state came from another source, or the body was too large to be cached
            return recorded_response(latest, answers)
        if too_old or polled is None or polled.body is None:
            return answers.error(UpstreamBusy("the upstream has not responded yet", retry_after=1.0))
        age = str(max(0, int(self._clock.monotonic() - polled.at)))
        self._remember(key, polled.body)
        outputs = latest.state.outputs if latest is not None else ()
        body = answers.status(polled.body, polled.content_type, outputs)
        return provider_response(polled.status, polled.content_type, body, {"Age": age})

    def _is_too_old(self, latest: Event | None, key: TaskKey) -> bool:
        """Whether no source has seen the recorded state for longer than the longest interval of the upstream.

        A client that polls the provider itself would not get anything so old. A lost task is polled
        rarely.
        """
        if latest is None or latest.state.status.final:
            return False
        confirmation = self._journal.confirmation(key)
        seen_at = latest.state.observed_at if confirmation is None else confirmation.observed_at
        longest = self._pool.upstream(key.upstream, key.account).pace.max_seconds
        return self._clock.time() - seen_at >= longest

    def _remember(self, key: TaskKey, document: bytes | None) -> None:
        self._files.remember(self._pool.upstream(key.upstream, key.account).dialect, key, document)


def recorded_response(event: Event, answers: Answers) -> Response:
    """The provider's document of a recorded state."""
    body = answers.document(event.state)
    if body is None:
        return answers.error(UpstreamBusy("the upstream's own document of this task was not recorded"))
    return provider_response(200, JSON, body)


def _ended(event: Event) -> bool:
    """Whether the recorded end is definite; a lost task may have reappeared at the provider."""
    return is_ended(event.state)
