"""Looking: one status call, read by the dialect, unless it says what it said before."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bridge.core.task import Observation
from bridge.dialects.base import Answer, Request
from bridge.errors import InvalidRequest, TaskNotFound, UpstreamError
from bridge.sources.upstream import Upstream

JSON = "application/json"

_REMEMBERED_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Shown:
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
class Memory:
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
    def shown(self) -> Shown | None:
        """What is remembered; None before the first answer."""
        return None if self.at is None else Shown(self.status, self.content_type, self.body, self.at)


async def look(upstream: Upstream, task_id: str, memory: Memory) -> Observation | None:
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
            upstream.went("status", outcome="not_modified" if answer.status == 304 else "ok")
            memory.at = upstream.clock.now()
            return None
        seen = await _read(upstream, answer, task_id)
    except UpstreamError as error:
        upstream.went("status", error)
        raise
    upstream.went("status")
    memory.body = answer.body if len(answer.body) <= _REMEMBERED_BYTES else None
    memory.etag = answer.headers.get("etag")
    memory.status, memory.at = answer.status, upstream.clock.now()
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
        upstream.went("alias", error)
        raise
    upstream.went("alias")
    return seen


def _question(upstream: Upstream, task_id: str) -> Request:
    try:
        return upstream.dialect.status_request(task_id)
    except InvalidRequest as error:
        raise TaskNotFound(str(error)) from error  # no id of this provider looks like that


async def _read(upstream: Upstream, answer: Answer, task_id: str) -> Observation:
    found = upstream.dialect.read_status(answer, task_id)
    if found.follow is None:
        return found.observation
    followed = await upstream.ask("status", found.follow, task_id=task_id)
    return upstream.dialect.read_follow_up(found.observation, followed)


def _repeats(answer: Answer, memory: Memory) -> bool:
    if answer.status == 304:
        return memory.etag is not None
    return answer.status == 200 and memory.body is not None and answer.body == memory.body
