"""Result calls under the provider's own path: answered with the document of the bridge's own second call."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.responses import Response

from bridge.core.event import Event
from bridge.core.rate_limit import CallKind
from bridge.core.task import Status, TaskKey, check_task_id
from bridge.dialects.base import HttpResponse, Request
from bridge.errors import BridgeError, ResultNotReady, TaskNotFound, UpstreamError, UpstreamRefused
from bridge.sources.upstream import Upstream
from bridge.web.proxy.files import FileName, ResultFiles
from bridge.web.proxy.links import Answers
from bridge.web.proxy.writes import ProxyCall
from bridge.web.services import Services

CACHE_SIZE = 256
CACHED_BYTES = 256 * 1024
CACHED_SECONDS = 10.0

_NEVER = float("-inf")


@dataclass(slots=True)
class _Lookup:
    """One call to the provider for all concurrent callers.

    Args:
        until: Monotonic seconds until which its outcome is given to others.
    """

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    response: HttpResponse | None = None
    error: UpstreamError | None = None
    until: float = _NEVER


class ProxyResults:
    """Answers result calls."""

    def __init__(self, services: Services, files: ResultFiles) -> None:
        self._settings = services.settings
        self._clock = services.clock
        self._pool = services.pool
        self._journal = services.journal
        self._files = files
        self._lookups: OrderedDict[FileName, _Lookup] = OrderedDict()

    def task_of(self, call: ProxyCall) -> TaskKey | None:
        """The task that a result call is about; None where only the provider knows.

        Raises:
            InvalidRequest: Its id is malformed.
        """
        if call.match.task_id is not None:
            return TaskKey(call.upstream.name, check_task_id(call.match.task_id), call.upstream.account)
        name = call.upstream.dialect.name_of(call.match.options)
        return (
            None if name is None else self._files.task_of((call.upstream.name, call.upstream.account, name))
        )

    async def result(self, call: ProxyCall, key: TaskKey) -> Response:
        """The result of a task, or why there is none yet.

        Raises:
            BridgeError: There is none, or not yet.
        """
        event = await self._ended(key)
        state = event.state
        recorded = call.answers.result(state)
        if recorded is not None:
            return recorded
        if state.status is Status.COMPLETED:
            return await self.ask(call)
        if state.status is Status.LOST:
            raise TaskNotFound("the upstream no longer shows this task")
        error = state.error
        message = (error and error.message) or f"the task is {state.status.value} and has no result"
        code = (error and error.code) or f"task_{state.status.value}"
        return call.answers.error(UpstreamRefused(message, provider_status=422, provider_code=code))

    async def ask(self, call: ProxyCall) -> Response:
        """The provider's own answer, requested once for all concurrent callers.

        Raises:
            UpstreamError: There is none.
        """
        request = call.upstream.dialect.result_request(call.match.task_id, call.match.options)
        return await self.fetch(call.upstream, request, call.answers)

    async def fetch(self, upstream: Upstream, request: Request, answers: Answers) -> Response:
        """As `ask`, for any call that changes nothing.

        Raises:
            UpstreamError: The provider did not answer.
        """
        lookup = self._entry(upstream, request.path)
        async with lookup.lock:
            if self._clock.monotonic() >= lookup.until:
                await self._ask(upstream, lookup, request)
        if lookup.response is not None:
            return answers.passthrough(lookup.response, lookup.error)
        assert lookup.error is not None
        # Without its traceback, which would grow with every caller that gets this exception.
        raise lookup.error.with_traceback(None)

    async def _ask(self, upstream: Upstream, lookup: _Lookup, request: Request) -> None:
        lookup.response = lookup.error = None
        try:
            async with upstream.acquire(CallKind.CONTROL):
                lookup.response = await upstream.ask("status", request)
                upstream.dialect.check_result(lookup.response)
        except UpstreamError as error:
            lookup.error = error
        upstream.record_call("status", lookup.error)
        small = lookup.response is None or len(lookup.response.body) <= CACHED_BYTES
        lookup.until = self._clock.monotonic() + (CACHED_SECONDS if small else 0.0)

    def _entry(self, upstream: Upstream, path: str) -> _Lookup:
        name = (upstream.name, upstream.account, path)
        entry = self._lookups.setdefault(name, _Lookup())
        self._lookups.move_to_end(name)
        if len(self._lookups) > CACHE_SIZE:
            self._lookups.popitem(last=False)
        return entry

    async def _ended(self, key: TaskKey) -> Event:
        """The newest state of a task, which has ended.

        Raises:
            BridgeError: It has not, or nothing is known of it.
        """
        (latest,) = await self._journal.latest([key])
        if latest is None or not latest.state.status.final:
            polled = await self._pool.shown(key, seconds=self._settings.first_state_timeout_seconds)
            (latest,) = await self._journal.latest([key])
            if isinstance(polled, BridgeError) and (latest is None or not latest.state.status.final):
                raise polled
        if latest is None or not latest.state.status.final:
            watcher = self._pool.watcher(key)
            due = watcher.watch.due if watcher is not None else None
            wait = 1.0 if due is None else max(due - self._clock.monotonic(), 1.0)
            raise ResultNotReady("the task is still in progress", retry_after=wait)
        return latest
