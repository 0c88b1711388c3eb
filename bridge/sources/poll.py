"""Looking: one status call, read by the dialect, unless it says what it said before."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bridge.core.task import Observation
from bridge.dialects.base import HttpResponse, Request
from bridge.errors import InvalidRequest, TaskNotFound, UpstreamError
from bridge.sources.upstream import Upstream

JSON = "application/json"

_MAX_CACHED_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """The newest answer to a status call, as the provider gave it.

    Args:
        body: None when it is larger than is kept.
        at: Monotonic seconds when the provider last gave it.
    """

    status: int
    content_type: str
    body: bytes | None
    at: float


@dataclass(slots=True)
class PollCache:
    """The last answer about one task, to know an unchanged one by its bytes; and how to ask again.

    Args:
        at: Monotonic seconds when it was last confirmed; None before the first.
    """

    request: Request | None = None
    body: bytes | None = None
    etag: str | None = None
    status: int = 200
    content_type: str = JSON
    at: float | None = None

    @property
    def shown(self) -> CachedResponse | None:
        """What is remembered; None before the first answer."""
        return None if self.at is None else CachedResponse(self.status, self.content_type, self.body, self.at)


async def poll(upstream: Upstream, task_id: str, memory: PollCache) -> Observation | None:
    """Look at a task once; None when the provider says exactly what it said before.

    Cancellation: `memory` is only changed after an answer was read whole.

    Raises:
        UpstreamError: The provider could not be asked, or its answer not read.
    """
    request = memory.request
    if request is None:
        request = memory.request = _question(upstream, task_id)
    if memory.etag is not None:
        request = replace(request, headers=dict(request.headers) | {"If-None-Match": memory.etag})
    try:
        answer = await upstream.ask("status", request, task_id=task_id)
        if _repeats(answer, memory):
            upstream.record_call("status", outcome="not_modified" if answer.status == 304 else "ok")
            memory.at = upstream.clock.monotonic()
            return None
        seen = await _read(upstream, answer, task_id)
    except UpstreamError as error:
        upstream.record_call("status", error)
        raise
    upstream.record_call("status")
    memory.body = answer.body if len(answer.body) <= _MAX_CACHED_BYTES else None
    memory.etag = answer.headers.get("etag")
    memory.status, memory.at = answer.status, upstream.clock.monotonic()
    content_type = answer.headers.get("content-type", JSON)
    memory.content_type = JSON if content_type == JSON else content_type  # one text for all of them
    return seen


async def find(upstream: Upstream, request: Request) -> Observation:
    """Look a task up by the client's own id.

    Raises:
        UpstreamError: The provider could not be asked, or its answer not read.
    """
    try:
        answer = await upstream.ask("alias", request)
        seen = upstream.dialect.read_status(answer).observation
        if seen.task_id is None:
            raise TaskNotFound("the upstream's answer names no task")
    except UpstreamError as error:
        upstream.record_call("alias", error)
        raise
    upstream.record_call("alias")
    return seen


def _question(upstream: Upstream, task_id: str) -> Request:
    try:
        return upstream.dialect.status_request(task_id)
    except InvalidRequest as error:
        raise TaskNotFound(str(error)) from error  # no id of this provider looks like that


async def _read(upstream: Upstream, answer: HttpResponse, task_id: str) -> Observation:
    found = upstream.dialect.read_status(answer, task_id)
    if found.follow is None:
        return found.observation
    followed = await upstream.ask("status", found.follow, task_id=task_id)
    return upstream.dialect.read_follow_up(found.observation, followed)


def _repeats(answer: HttpResponse, memory: PollCache) -> bool:
    if answer.status == 304:
        return memory.etag is not None
    return answer.status == 200 and memory.body is not None and answer.body == memory.body
