"""Submit, sync and cancel under the provider's own paths: asked one by one, answered in its own words."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.authenticator import Caller
from bridge.auth.origins import Origins
from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.delivery.subscriptions import Subscriptions
from bridge.dialects.base import HttpResponse, ProxyMatch, Submission
from bridge.errors import (
    BridgeError,
    Overloaded,
    UnreadablePayload,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.sources.poll import JSON
from bridge.sources.upstream import Upstream
from bridge.watchers.submitter import Submitter
from bridge.web import params
from bridge.web.limits.limits import Limits
from bridge.web.proxy.aliases import Aliases
from bridge.web.proxy.reads import document
from bridge.web.proxy.responses import error_response, passthrough, state_response
from bridge.web.submit import admit
from bridge.web.tasks import links

DRAIN_PERIOD_SECONDS = 1.0

_UNCERTAIN = (UpstreamUnavailable, UpstreamTimeout, UnreadablePayload)


@dataclass(frozen=True, slots=True)
class _Created:
    """What became of a submit: the provider's answer, and the task or what the answer amounts to."""

    answer: HttpResponse
    key: TaskKey | None = None
    event: Event | None = None
    error: UpstreamError | None = None


class ProxyWrites:
    """Creates and cancels tasks for clients that speak the provider's language."""

    def __init__(
        self,
        subscriptions: Subscriptions,
        submitter: Submitter,
        origins: Origins,
        limits: Limits,
        aliases: Aliases,
    ) -> None:
        self._subscriptions = subscriptions
        self._submitter = submitter
        self._origins = origins
        self._limits = limits
        self._aliases = aliases

    async def submit(
        self, request: Request, caller: Caller, upstream: Upstream, asked: ProxyMatch, body: bytes
    ) -> Response:
        """The provider's own answer; the task is watched to its end.

        Raises:
            BridgeError: The request may not be made.
        """
        created = await self._create(request, caller, upstream, asked, body)
        return created if isinstance(created, Response) else passthrough(created.answer, created.error)

    async def sync(
        self,
        request: Request,
        caller: Caller,
        upstream: Upstream,
        asked: ProxyMatch,
        body: bytes,
        *,
        seconds: float,
    ) -> Response:
        """The finished task, or after so many seconds where to ask for it.

        Raises:
            BridgeError: The request may not be made.
        """
        created = await self._create(request, caller, upstream, asked, body)
        if isinstance(created, Response):
            return created
        if created.key is None or created.event is None:
            return passthrough(created.answer, created.error)
        event = await self._end_of(created.key, created.event, seconds)
        if event.state.status.final:
            return document(event)
        progress = event.state.progress
        fields = {
            "task_id": created.key.task_id,
            "status": event.state.upstream_status or event.state.status.value,
            "progress": int(progress) if progress is not None and progress == int(progress) else progress,
            "poll_url": _poll_path(upstream, created.key, params.mounted_at(request)),
        }
        return state_response(200, JSON, orjson.dumps(fields))

    async def cancel(self, request: Request, key: TaskKey) -> Response:
        """The provider's own answer, and a look at what came of it.

        Raises:
            BridgeError: The request may not be made, or the provider could not be asked.
        """
        admit(self._origins, request.headers)
        return await self._submitter.through(self._cancelled(key))

    async def _cancelled(self, key: TaskKey) -> Response:
        answer = await self._submitter.ask_cancel(key)
        try:
            await self._submitter.take_cancel(key, answer)
        except BridgeError as error:
            return passthrough(answer, error)
        return passthrough(answer)

    async def _create(
        self, request: Request, caller: Caller, upstream: Upstream, asked: ProxyMatch, body: bytes
    ) -> _Created | Response:
        admit(self._origins, request.headers)
        if self._subscriptions.closed is not None:
            raise Overloaded("this bridge is being restarted; nothing was submitted")
        self._limits.submit(caller.name)
        content_type = request.headers.get("content-type")
        submission = Submission(body=body, content_type=content_type, options=asked.options)
        try:
            created = await self._submitter.through(self._asked(upstream, submission))
        except _UNCERTAIN as error:  # a client's own retry would be a second task
            return error_response(error, repeatable=isinstance(error, UpstreamUnreachable))
        alias = upstream.dialect.client_id(submission)
        if alias is not None and created.key is not None:
            self._aliases.remember(alias, created.key)
        return created

    async def _asked(self, upstream: Upstream, submission: Submission) -> _Created:
        answer = await self._submitter.ask(upstream, submission)
        try:
            key, event = await self._submitter.take(upstream, submission, answer)
        except UpstreamError as error:
            return _Created(answer, error=error)
        return _Created(answer, key, event)

    async def _end_of(self, key: TaskKey, event: Event, seconds: float) -> Event:
        """The newest event of the task, once it has ended or the time is over."""
        clock = self._subscriptions.clock
        until = clock.monotonic() + seconds
        while not event.state.status.final and self._subscriptions.closed is None:
            left = until - clock.monotonic()
            if left <= 0:
                break
            await self._subscriptions.hub.changed(
                key, event.cursor.offset, seconds=min(left, DRAIN_PERIOD_SECONDS)
            )
            (latest,) = await self._subscriptions.journal.latest([key])
            event = latest or event
        return event


def _poll_path(upstream: Upstream, key: TaskKey, under: str) -> str:
    """Where a plain `GET` asks for the task in the provider's own shape; else in ours."""
    request = upstream.dialect.status_request(key.task_id)
    if request.method != "GET" or request.base_url is not None:
        return links(key, under)["self"]
    return f"{under}/proxy/{upstream.name}{upstream.dialect.documented(request.path)}"
