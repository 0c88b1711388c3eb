"""One status call, read by the dialect unless the response is the same as the last one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bridge.core.rate_limit import ABOUT_ONE_TASK
from bridge.core.task import Observation, Status
from bridge.dialects.base import HttpResponse, Request
from bridge.errors import (
    CredentialRefused,
    InvalidRequest,
    ResultNotReady,
    ResultUnavailable,
    TaskNotFound,
    UnreadablePayload,
    UpstreamError,
    UpstreamRefused,
)
from bridge.sources.upstream import Upstream

JSON = "application/json"

_OF_WHOLE = frozenset({"content-type", "content-length", "content-encoding", "etag"})
"""Headers of a response about many tasks that say nothing about each."""

_MAX_CACHED_BYTES = 256 * 1024
# Sent back as it is. Anything else would break our request, or mean something else in it, as `*` does.
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{1,512}"')


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """The newest response to a status call, verbatim.

    Args:
        body: None when it is larger than 256 KiB.
        at: Monotonic seconds when the provider last returned it.
    """

    status: int
    content_type: str
    body: bytes | None
    at: float


@dataclass(frozen=True, slots=True)
class WithoutResult:
    """A status call that shows a completed task, and a call for the result that brought none."""

    observation: Observation
    failure: ResultUnavailable


@dataclass(slots=True)
class PollCache:
    """The status request of one task and its last response, to recognise an unchanged one by its bytes.

    Args:
        at: Monotonic seconds when it was last confirmed; None before the first response.
        whole: Whether everything the response leads to was read: the result of a completed task too.
        details: Whether a client needs what the provider leaves out by default.
    """

    request: Request | None = None
    body: bytes | None = None
    etag: str | None = None
    status: int = 200
    content_type: str = JSON
    at: float | None = None
    whole: bool = True
    details: bool = False

    def ask_for_details(self) -> None:
        """From the next poll on, ask also for what the provider leaves out unless asked."""
        if not self.details:
            self.request, self.etag, self.details = None, None, True

    @property
    def shown(self) -> CachedResponse | None:
        """The last response; None before the first."""
        return None if self.at is None else CachedResponse(self.status, self.content_type, self.body, self.at)


async def poll(upstream: Upstream, task_id: str, cache: PollCache) -> Observation | WithoutResult | None:
    """Poll a task once; None when the response is the same as the last one.

    The status call's word is the truth: a call for the result that fails is never raised as an error.

    Cancellation: `cache` is only changed after a response was read completely.

    Raises:
        UpstreamError: The provider could not be reached, or its response not read.
    """
    request = cache.request
    if request is None:
        try:
            # The keyword only where it is needed: dialects of other authors may not take it.
            details = {"details": True} if cache.details else {}
            request = cache.request = upstream.dialect.status_request(task_id, **details)
        except InvalidRequest as error:
            # No id of this provider looks like that: no request is needed to know that there is no such task.
            raise TaskNotFound(str(error)) from error
    if cache.etag is not None:
        request = replace(request, headers=dict(request.headers) | {"If-None-Match": cache.etag})
    try:
        answer = await upstream.ask("status", request, task_id=task_id, known=cache.body)
        if _is_unchanged(answer, cache):
            upstream.record_call("status", outcome="not_modified" if answer.status == 304 else "ok")
            cache.at = upstream.clock.monotonic()
            return None
        reading = upstream.dialect.read_status(answer, task_id)
    except UpstreamError as error:
        upstream.record_call("status", error)
        raise
    upstream.record_call("status")
    failure: ResultUnavailable | None = None
    observation = reading.observation
    if reading.follow is not None:
        try:
            observation = await _with_result(upstream, reading.follow, observation, task_id)
        except UpstreamError as error:
            failure = ResultUnavailable(error)
            if observation.status is not Status.COMPLETED:
                # Nothing is complete yet, so the status call alone says all there is.
                failure = None
    _remember(upstream, answer, cache, whole=failure is None)
    return observation if failure is None else WithoutResult(observation, failure)


async def _with_result(
    upstream: Upstream, request: Request, observation: Observation, task_id: str
) -> Observation:
    """Make the second call, which some providers need for the result of a completed task.

    Raises:
        UpstreamError: It brought no result.
    """
    # Sent at once, since the capacity of the poll is still held; the calls after it wait for that.
    upstream.limiter.take_rate(upstream.clock.monotonic())
    try:
        answer = await upstream.ask("status", request, task_id=task_id)
        observation = upstream.dialect.read_follow_up(observation, answer)
    except UpstreamError as error:
        upstream.record_call("status", error)
        raise
    upstream.record_call("status")
    return observation


def _remember(upstream: Upstream, answer: HttpResponse, cache: PollCache, *, whole: bool) -> None:
    # Larger ones are not kept: thousands of watches with a few megabytes each would not fit in memory.
    cache.body = answer.body if len(answer.body) <= _MAX_CACHED_BYTES else None
    # An answer whose result is missing must be read again, though it does not change.
    etag = answer.headers.get("etag", "") if whole else ""
    cache.whole, cache.etag = whole, etag if _ETAG.fullmatch(etag) else None
    cache.status, cache.at = answer.status, upstream.clock.monotonic()
    content_type = answer.headers.get("content-type", JSON)
    # The constant instead of an equal string per watch.
    cache.content_type = JSON if content_type == JSON else content_type


@dataclass(frozen=True, slots=True)
class ManyAnswers:
    """What one call showed of many tasks.

    Args:
        documents: By task id, JSON text in the form of the answer to a call about one task.
        at: Monotonic seconds when it came.
    """

    answer: HttpResponse
    documents: Mapping[str, bytes]
    at: float


async def poll_many(upstream: Upstream, task_ids: Sequence[str], *, may_be_empty: bool) -> ManyAnswers:
    """Ask for many tasks at once; those that the answer does not show are left out.

    Args:
        may_be_empty: Whether a response without any of the tasks is believed.

    Raises:
        UpstreamError: The provider could not be reached, or its response shows none of the tasks.
    """
    call = upstream.dialect.status_many
    assert call is not None
    try:
        answer = await upstream.ask("status_many", call.request(task_ids))
        documents = upstream.dialect.read_status_many(answer, task_ids)
        if not documents and not may_be_empty:
            raise UnreadablePayload("the response shows none of the tasks", provider_status=answer.status)
    except UpstreamError as error:
        upstream.record_call("status_many", error)
        about_one = error.provider_status in ABOUT_ONE_TASK
        if isinstance(error, CredentialRefused) and about_one and not error.names_key:
            # One of the tasks, or this kind of call, is refused: nothing is learned about the key.
            raise UpstreamRefused(str(error), provider_status=error.provider_status) from error
        raise
    upstream.record_call("status_many")
    return ManyAnswers(answer, documents, upstream.clock.monotonic())


def read_one(upstream: Upstream, answers: ManyAnswers, task_id: str, cache: PollCache) -> Observation | None:
    """What a call about many tasks showed of one; None when that is the same as its last response.

    Raises:
        UpstreamError: Only a call about this task alone decides: it is not shown, what is shown is an error
            or cannot be read, or its result needs a further call.
    """
    body = answers.documents.get(task_id)
    if body is None:
        raise TaskNotFound("not in the response about many tasks")
    if cache.whole and cache.body == body:
        cache.at = answers.at
        return None
    answer = answers.answer
    headers = {name: value for name, value in answer.headers.items() if name not in _OF_WHOLE}
    alone = HttpResponse(200, headers, body, answer.url)
    reading = upstream.dialect.read_status(alone, task_id)
    if reading.follow is not None:
        raise ResultNotReady("the result needs a further call")
    _remember(upstream, alone, cache, whole=True)
    return reading.observation


async def find(upstream: Upstream, request: Request) -> Observation:
    """Find a task by the client's own id.

    Raises:
        UpstreamError: The provider could not be reached, or its response not read.
    """
    try:
        answer = await upstream.ask("alias", request)
        observation = upstream.dialect.read_status(answer).observation
        if observation.task_id is None:
            raise TaskNotFound("the upstream's response names no task")
    except UpstreamError as error:
        upstream.record_call("alias", error)
        raise
    upstream.record_call("alias")
    return observation


def _is_unchanged(answer: HttpResponse, cache: PollCache) -> bool:
    if answer.status == 304:
        return cache.etag is not None
    return answer.status == 200 and cache.whole and cache.body is not None and answer.body == cache.body
