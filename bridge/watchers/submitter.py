"""Submits and cancels tasks at a provider: each call is sent once, its result recorded, and the task watched.

Rule 1: a submit is never retried automatically: the provider would bill a second task. The exception is a
        provider that finds tasks by the client's own id: if no response arrived, the task is looked up by
        that id, and submitted once more if it does not exist.
Rule 2: a submit runs to completion even if the client disconnects or the bridge gets SIGTERM; otherwise
        the provider would bill a task that was never recorded.
Rule 3: the response to a cancel is not trusted; the next poll decides whether the task was cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.merge import unknown
from bridge.core.rate_limit import CallKind
from bridge.core.task import Observation, Source, Status, TaskKey, check_task_id
from bridge.dialects.base import HttpResponse, Request, Submission
from bridge.errors import (
    BridgeError,
    Conflict,
    CredentialRefused,
    InvalidRequest,
    JournalError,
    Overloaded,
    TaskNotFound,
    UnreadablePayload,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnavailable,
    UpstreamUnreachable,
)
from bridge.journal.base import Journal
from bridge.sources.accounts import callback_secret
from bridge.sources.poll import PollCache, WithoutResult, find, poll
from bridge.sources.upstream import Upstream
from bridge.telemetry.request_context import current_request
from bridge.watchers.pool import Pool

ANONYMOUS = "anonymous"  # in the log, where callers are not asked who they are
RESTARTING_SENTENCE = "the bridge is restarting; nothing was submitted"
RESTARTING_RETRY_SECONDS = 5.0
MAY_EXIST = "the task may have been created; check at the provider before you submit it again"

# After these errors of a submit call the task may exist. `UpstreamUnreachable`, a subclass, is the exception.
UNCERTAIN = (UpstreamTimeout, UpstreamUnavailable, UnreadablePayload)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A provider's response to a submit or cancel call, and its result.

    Args:
        key: The submitted task; None for a cancel, or if the response was an error.
        event: Its newest state.
        error: The error the response was classified as, if any.
    """

    response: HttpResponse
    key: TaskKey | None = None
    event: Event | None = None
    error: BridgeError | None = None


@dataclass(frozen=True, slots=True)
class _SubmitCall:
    """One submit, as the client sent it and as the provider gets it.

    Args:
        called_back: Whether our callback address was added.
    """

    upstream: Upstream
    submission: Submission
    request: Request
    called_back: bool


class Submitter:
    """Submits and cancels: for the bridge's own routes, or forwarding the provider's response.

    Args:
        callback_url: The address at which providers reach this bridge, without a trailing slash; None if they
            cannot.
    """

    def __init__(self, pool: Pool, journal: Journal, *, callback_url: str | None = None) -> None:
        self._pool = pool
        self._journal = journal
        self._callback_url = callback_url
        self._running: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._stopped = asyncio.Event()
        self._last_seconds = 0.0

    async def submit(self, upstream: Upstream, submission: Submission) -> tuple[TaskKey, Event]:
        """Submit a task and watch it until its end.

        Cancellation: once the call was sent, its response is still read and recorded, and the task watched.

        Raises:
            Conflict: The provider has no submit call.
            InvalidRequest: An option is missing, malformed or unknown.
            Overloaded: The bridge is restarting; nothing was sent.
            UpstreamError: The provider created no task; or it may have, and then the message states it.
        """
        call = self._prepare(upstream, submission)
        return await self._run_to_completion(_logged("submit", upstream.name, self._submit(call)))

    async def forward_submit(self, upstream: Upstream, submission: Submission) -> Forwarded:
        """Submit a task and watch it until its end, without rule 1's recovery: the client sees the response.

        Cancellation: as `submit`.

        Raises:
            Conflict: The provider has no submit call.
            InvalidRequest: An option is missing, malformed or unknown.
            Overloaded: The bridge is restarting; nothing was sent.
            UpstreamUnavailable: The provider cannot be reached, or its response is incomplete.
            UpstreamTimeout: The provider did not respond in time.
            UnreadablePayload: Its response is too large.
        """
        call = self._prepare(upstream, submission)
        return await self._run_to_completion(_logged("submit", upstream.name, self._forward_submit(call)))

    async def cancel(self, key: TaskKey) -> Event:
        """Ask the provider to cancel a task; its newest state, which may not be `cancelled` yet.

        Nothing is sent for a task that has ended.

        Cancellation: as `submit`.

        Raises:
            Conflict: The provider cannot cancel tasks, or no longer this one; with its own message if any.
            UpstreamError: The call failed, or was rejected for another reason.
            JournalError: The journal cannot be read or written.
        """
        self._pool.upstream(key.upstream, key.account)
        (known,) = await self._journal.latest([key])
        if known is not None and known.state.status.final:
            return known
        return await self._run_to_completion(_logged("cancel", key.upstream, self._cancel(key), key))

    async def forward_cancel(self, key: TaskKey) -> Forwarded:
        """Ask the provider to cancel a task, and poll the task.

        Cancellation: as `submit`.

        Raises:
            Conflict: The provider cannot cancel tasks.
            TaskNotFound: The id is not one of this provider.
            UpstreamError: The call failed.
        """
        return await self._run_to_completion(_logged("cancel", key.upstream, self._forward_cancel(key), key))

    async def drain(self, seconds: float) -> None:
        """Accept no further submit, and wait for the running calls, at most `seconds`."""
        self._draining = True
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    def stop(self, last_seconds: float) -> None:
        """Send no submit that was not sent yet: its client has been answered.

        Args:
            last_seconds: How long `close` waits for the calls that still run.
        """
        self._draining = True
        self._last_seconds = last_seconds
        self._stopped.set()

    async def close(self) -> None:
        """Wait for the running calls, each of which has its timeout; after `stop` cancel them soon."""
        while self._running and not self._stopped.is_set():
            stopped = asyncio.ensure_future(self._stopped.wait())
            await asyncio.wait({*self._running, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=self._last_seconds)
            for call in late:
                call.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _run_to_completion(self, call: Coroutine[Any, Any, Result]) -> Result:
        """Run in a task of its own, which the client's disconnect does not cancel (rule 2)."""
        task = asyncio.ensure_future(call)
        # asyncio keeps weak references only: an unreferenced task could be collected while it runs
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    def _prepare(self, upstream: Upstream, submission: Submission) -> _SubmitCall:
        if self._draining:
            raise Overloaded(RESTARTING_SENTENCE, retry_after=RESTARTING_RETRY_SECONDS)
        sent = submission
        if self._callback_url is not None and upstream.callback_secret is not None:
            secret = quote(callback_secret(upstream.callback_secret, upstream.account), safe="")
            url = f"{self._callback_url}/v1/callbacks/{upstream.name}/{secret}"
            sent = upstream.dialect.with_callback(submission, url)
        request = upstream.dialect.submit_request(sent)
        if request is None:
            raise Conflict(f"the upstream {upstream.name!r} has no submit call")
        # the dialect keeps a callback address of the client's own: then ours is not called
        return _SubmitCall(upstream, submission, request, called_back=sent != submission)

    async def _submit(self, call: _SubmitCall) -> tuple[TaskKey, Event]:
        try:
            return await self._send_and_record(call)
        except UpstreamUnreachable:
            raise
        except UNCERTAIN as error:
            return await self._recover(call, error)

    async def _forward_submit(self, call: _SubmitCall) -> Forwarded:
        response: HttpResponse | None = None
        try:
            async with call.upstream.acquire(CallKind.CREATE):
                response = await self._send_submit(call)
                key, observation = _read_submitted(call, response)
        except UpstreamError as error:
            if response is None:
                raise
            return Forwarded(response, error=error)
        return Forwarded(response, key, await self._watch_submitted(call, key, observation))

    async def _send_submit(self, call: _SubmitCall) -> HttpResponse:
        if self._stopped.is_set():
            raise UpstreamUnreachable(RESTARTING_SENTENCE, retry_after=RESTARTING_RETRY_SECONDS)
        request = current_request()
        if request is not None:
            request.create_sent = True
        return await _send(call.upstream, "submit", call.request, call.upstream.submit_timeout_seconds)

    async def _send_and_record(self, call: _SubmitCall) -> tuple[TaskKey, Event]:
        async with call.upstream.acquire(CallKind.CREATE):
            key, observation = _read_submitted(call, await self._send_submit(call))
        return key, await self._watch_submitted(call, key, observation)

    async def _recover(self, call: _SubmitCall, error: UpstreamError) -> tuple[TaskKey, Event]:
        """Find the task by the client's own id (rule 1); without one it stays unknown whether it exists."""
        dialect = call.upstream.dialect
        alias = dialect.client_id(call.submission)
        try:
            request = dialect.alias_request(alias) if alias is not None else None
        except InvalidRequest:
            request = None  # it is harmless in a body only
        responded = error.provider_status is not None
        if request is None:
            raise error if responded and not _accepted(error) else _uncertain(error) from error
        try:
            async with call.upstream.acquire(CallKind.CONTROL):
                observation = await find(call.upstream, request)
                key = _submitted_key(call.upstream, observation)
        except TaskNotFound:
            if responded:
                raise error from None  # the provider reported a failure, and the task does not exist
            return await self._send_and_record(call)
        except UpstreamError:
            raise error from None
        return key, await self._watch_submitted(call, key, observation)

    async def _watch_submitted(self, call: _SubmitCall, key: TaskKey, observation: Observation) -> Event:
        """Record the task and watch it. It exists, and is watched even if the journal fails."""
        if observation.status is Status.COMPLETED and not observation.outputs:
            # recorded as completed it would end without a result; unknown, the next poll brings the result
            observation = replace(observation, status=Status.UNKNOWN)
        try:
            event = await self._pool.show(key, observation, Source.SUBMIT)
        except JournalError as error:
            logger.warning("submitted task not recorded yet", extra={"task": key.ref, "error": str(error)})
            event = None
        finally:
            self._pool.keep(key, called_back=call.called_back)
        return event or self._placeholder(key)

    async def _cancel(self, key: TaskKey) -> Event:
        forwarded = await self._forward_cancel(key)
        if forwarded.error is not None:
            raise forwarded.error
        assert forwarded.event is not None
        return forwarded.event

    async def _forward_cancel(self, key: TaskKey) -> Forwarded:
        upstream = self._pool.upstream(key.upstream, key.account)
        try:
            request = upstream.dialect.cancel_request(key.task_id)
        except InvalidRequest as error:
            raise TaskNotFound(str(error)) from error
        if request is None:
            raise Conflict(f"the upstream {upstream.name!r} cannot cancel tasks")
        response: HttpResponse | None = None
        observation: Observation | None = None
        try:
            async with upstream.acquire(CallKind.CONTROL, task_id=key.task_id, shown=True):
                response = await _send(upstream, "cancel", request)
                observation = _read_cancelled(upstream, key, response)
        except UpstreamError as error:
            if response is None:
                self._pool.poll_now(key)  # the call may have been carried out although no response arrived
                raise
            return Forwarded(response, error=await self._cancel_error(upstream, key, error))
        try:
            if observation is not None:
                event = await self._pool.show(key, observation, Source.POLL)
            else:
                event = await self._poll_once(upstream, key)
        except BridgeError as error:
            return Forwarded(response, error=error)
        return Forwarded(response, event=event or self._placeholder(key))

    async def _cancel_error(
        self, upstream: Upstream, key: TaskKey, error: UpstreamError
    ) -> Conflict | UpstreamError:
        """The client's error for a rejected cancel: a conflict if the task is past being cancelled."""
        too_late = error.provider_status == 409
        if not too_late and isinstance(error, CredentialRefused):
            return error
        if not too_late and not isinstance(error, UpstreamRefused):
            self._pool.poll_now(key)
            return error
        # providers answer 400 for a task that runs as well as for a malformed call: the state decides which
        event = await self._poll_once(upstream, key)
        if not too_late and (event is None or event.state.status in {Status.QUEUED, Status.UNKNOWN}):
            return error
        return Conflict(str(error), provider_status=error.provider_status, provider_code=error.provider_code)

    async def _poll_once(self, upstream: Upstream, key: TaskKey) -> Event | None:
        """Poll outside the schedule: the watch's next poll may be far away, or there is no watch."""
        try:
            async with upstream.acquire(CallKind.POLL, task_id=key.task_id, shown=True):
                observation = await poll(upstream, key.task_id, PollCache())
        except UpstreamError:
            self._pool.poll_now(key)
            (known,) = await self._journal.latest([key])
            return known
        if observation is None:
            return None
        if isinstance(observation, WithoutResult):
            # The watch knows how to wait for a result.
            self._pool.poll_now(key)
            (known,) = await self._journal.latest([key])
            return known
        event = await self._pool.show(key, observation, Source.POLL)
        watcher = self._pool.watcher(key)
        if watcher is not None and not watcher.over:
            # providers take a moment to cancel: the poll above may have come too early
            watcher.poll_now(upstream.clock.monotonic() + upstream.pace.min_seconds)
        return event

    def _placeholder(self, key: TaskKey) -> Event:
        clock = self._pool.upstream(key.upstream).clock
        return Event(key, Cursor(self._journal.epoch, 0), unknown(unix_time=clock.time()))


async def _logged(
    call: str, upstream: str, running: Coroutine[Any, Any, Result], key: TaskKey | None = None
) -> Result:
    """Log who submitted or cancelled what, and how it ended, even if the client does not wait for it."""
    request = current_request()
    fields: dict[str, object] = {
        "caller": (request.caller if request is not None else None) or ANONYMOUS,
        "upstream": upstream,
        "task": key.ref if key is not None else None,
        "outcome": "interrupted",
    }
    try:
        result = await running
    except BridgeError as error:
        fields["outcome"] = error.code
        raise
    else:
        fields |= _outcome(result)
        return result
    finally:
        if call == "submit":
            logger.info("submit answered", extra=fields)
        else:
            logger.info("cancel answered", extra=fields)


def _outcome(result: object) -> dict[str, object]:
    """The task and the status it has now, or the code of the error."""
    key: TaskKey | None = None
    if isinstance(result, Forwarded):
        if result.error is not None:
            return {"outcome": result.error.code}
        key, result = result.key, result.event
    elif isinstance(result, tuple) and not isinstance(result, Event):
        key, result = result
    fields: dict[str, object] = {"task": key.ref} if key is not None else {}
    return fields | ({"outcome": result.state.status.value} if isinstance(result, Event) else {})


async def _send(
    upstream: Upstream, call: str, request: Request, timeout_seconds: float | None = None
) -> HttpResponse:
    try:
        return await upstream.ask(call, request, timeout_seconds)
    except UpstreamError as error:
        upstream.record_call(call, error)
        raise


def _read_submitted(call: _SubmitCall, response: HttpResponse) -> tuple[TaskKey, Observation]:
    """The task that the response to a submit names.

    Raises:
        UpstreamError: The response is an error.
    """
    try:
        observation = call.upstream.dialect.read_submitted(response, call.submission)
        key = _submitted_key(call.upstream, observation)
    except UpstreamError as error:
        call.upstream.record_call("submit", error)
        raise
    call.upstream.record_call("submit")
    return key, observation


def _submitted_key(upstream: Upstream, observation: Observation) -> TaskKey:
    try:
        return TaskKey(upstream.name, check_task_id(observation.task_id or ""), upstream.account)
    except InvalidRequest as error:
        raise UnreadablePayload("the upstream's response contains no valid task id") from error


def _read_cancelled(upstream: Upstream, key: TaskKey, response: HttpResponse) -> Observation | None:
    """The end the response shows; None if the cancel was only accepted, and a poll decides (rule 3).

    Raises:
        UpstreamError: The provider rejected the call.
    """
    try:
        observation = upstream.dialect.read_status(response, key.task_id).observation
    except UnreadablePayload as error:
        if 200 <= response.status < 300:
            upstream.record_call("cancel")
            return None
        upstream.record_call("cancel", error)
        raise
    except UpstreamError as error:
        upstream.record_call("cancel", error)
        raise
    upstream.record_call("cancel")
    complete = observation.status is not Status.COMPLETED or bool(observation.outputs)
    return observation if observation.status.final and complete else None


def _accepted(error: UpstreamError) -> bool:
    """Whether the provider accepted the call with a response the dialect cannot read."""
    return isinstance(error, UnreadablePayload) and (error.provider_status or 500) < 300


def _uncertain(error: UpstreamError) -> UpstreamError:
    """The same error with a message that the task may exist; not retryable, so that no client repeats it."""
    uncertain = type(error)(
        f"{error}; {MAY_EXIST}",
        retry_after=error.retry_after,
        provider_status=error.provider_status,
        provider_code=error.provider_code,
    )
    uncertain.retryable = False
    return uncertain
