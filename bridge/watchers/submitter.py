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
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

from bridge.core.cursor import Cursor
from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.event import Event
from bridge.core.merge import unknown
from bridge.core.rate_limit import CallKind
from bridge.core.task import Observation, Source, Status, TaskKey, check_task_id
from bridge.dialects.base import HttpResponse, Request, Submission
from bridge.dialects.values import object_from
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
from bridge.spend.limits import SpendHold, SpendLimits
from bridge.telemetry.request_context import current_request
from bridge.watchers.pool import Pool

ANONYMOUS = "anonymous"  # in the log, where callers are not asked who they are
RESTARTING_SENTENCE = "the bridge is restarting; nothing was submitted"
RESTARTING_RETRY_SECONDS = 5.0
BACKGROUND_SECONDS = 1.0
"""How long `close` waits for what no client waits for."""

_MAX_READ_BODY = 64 * 1024

MAY_EXIST = "the task may have been created; check at the provider before you submit it again"

# After these errors of a submit call the task may exist. `UpstreamUnreachable`, a subclass, is the exception.
UNCERTAIN = (UpstreamTimeout, UpstreamUnavailable, UnreadablePayload)

ANOTHERS_SENTENCE = "the provider answered with an older task, which the credential does not cover"

Result = TypeVar("Result")
Covered = Callable[[TaskKey, TaskDetails], bool]
"""Whether a caller may read a task with these details."""


def may_exist(error: UpstreamError) -> bool:
    """Whether a submit that ended so may have created a task.

    A 4xx, a 503 that names when to try again, and a code that the dialect knows as a refusal: surely not.
    """
    if error.may_exist:
        return True
    if isinstance(error, UpstreamUnreachable) or not isinstance(error, UNCERTAIN):
        return False
    return not 400 <= (error.provider_status or 500) < 500


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A provider's response to a submit or cancel call, and its result.

    Args:
        key: The submitted task; None for a cancel, or if the response was an error.
        event: Its newest state.
        error: The error the response was classified as, if any.
        details: What is kept with the task.
    """

    response: HttpResponse
    key: TaskKey | None = None
    event: Event | None = None
    error: BridgeError | None = None
    details: TaskDetails = NO_DETAILS


@dataclass(frozen=True, slots=True)
class _SubmitCall:
    """One submit, as the client sent it and as the provider gets it.

    Args:
        called_back: Whether our callback address was added.
        details: What the client said about the task.
        covered: Which tasks the client may read that exist already; None for all.
        head: The newest offset before it was sent: what was recorded until then is not a task of this submit.
        spender: The caller whose spend counts; None where it is not counted.
    """

    upstream: Upstream
    submission: Submission
    request: Request
    called_back: bool
    details: TaskDetails
    covered: Covered | None
    head: int
    spender: str | None = None


class Submitter:
    """Submits and cancels: for the bridge's own routes, or forwarding the provider's response.

    Args:
        callback_url: The address at which providers reach this bridge, without a trailing slash; None if they
            cannot.
        spend: What callers may spend; None where nothing is counted.

    Attributes:
        ended_before: Called with the end of a task that may have been recorded before its details were known.
    """

    def __init__(
        self,
        pool: Pool,
        journal: Journal,
        *,
        callback_url: str | None = None,
        spend: SpendLimits | None = None,
    ) -> None:
        self._pool = pool
        self._spend = spend
        self._journal = journal
        self._callback_url = callback_url
        self.ended_before: Callable[[Event, TaskDetails], Awaitable[None]] = _ignore
        self._running: set[asyncio.Task[Any]] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._stopped = asyncio.Event()
        self._last_seconds = 0.0

    def has_callback(self, upstream: Upstream) -> bool:
        """Whether the bridge asks this upstream to call it back."""
        return self._callback_url is not None and upstream.callback_secret is not None

    async def submit(
        self,
        upstream: Upstream,
        submission: Submission,
        details: TaskDetails = NO_DETAILS,
        covered: Covered | None = None,
        spender: str | None = None,
    ) -> tuple[TaskKey, Event]:
        """Submit a task and watch it until its end.

        Args:
            details: Kept with the task. A callback address of the client that is also `details.webhook` is
                replaced by ours, if the bridge has one: its receiver gets our deliveries.
            covered: Which tasks the caller may read; None for all of the upstream. By the client's own id a
                provider can answer with another caller's task, which this caller must not get.
            spender: The caller whose spend counts.
            spender: The caller whose spend counts.

        Cancellation: once the call was sent, its response is still read and recorded, and the task watched.

        Raises:
            Conflict: The provider has no submit call, or answered with a task that is not covered.
            InvalidRequest: An option is missing, malformed or unknown.
            Overloaded: The bridge is restarting; nothing was sent.
            SpendLimitExceeded: The caller has spent what it may today; nothing was sent.
            UpstreamError: The provider created no task; or it may have, and then the message states it.
        """
        call = self._prepare(upstream, submission, details, covered, spender)
        return await self._run_to_completion(_logged("submit", upstream.name, self._submit(call)))

    async def forward_submit(
        self,
        upstream: Upstream,
        submission: Submission,
        details: TaskDetails = NO_DETAILS,
        covered: Covered | None = None,
        spender: str | None = None,
    ) -> Forwarded:
        """Submit a task and watch it until its end, without rule 1's recovery: the client sees the response.

        Args:
            details: As for `submit`.
            covered: As for `submit`.
            spender: As for `submit`.

        Cancellation: as `submit`.

        Raises:
            Conflict: The provider has no submit call, or answered with a task that is not covered.
            InvalidRequest: An option is missing, malformed or unknown.
            Overloaded: The bridge is restarting; nothing was sent.
            SpendLimitExceeded: The caller has spent what it may today; nothing was sent.
            UpstreamUnavailable: The provider cannot be reached, or its response is incomplete.
            UpstreamTimeout: The provider did not respond in time.
            UnreadablePayload: Its response is too large.
        """
        call = self._prepare(upstream, submission, details, covered, spender)
        return await self._run_to_completion(_logged("submit", upstream.name, self._forward_submit(call)))

    async def find_submitted(
        self,
        upstream: Upstream,
        submission: Submission,
        details: TaskDetails,
        covered: Covered | None = None,
    ) -> TaskKey | None:
        """The task of a submit whose outcome is unknown, by the client's own id; it is watched from now on.

        None where the provider shows none, or does not respond; and where the client gave the task no id by
        which this provider finds it.

        Raises:
            Conflict: It finds a recorded task that is not covered.
        """
        request = _own_id_request(upstream, submission)
        if request is None:
            return None
        try:
            async with upstream.acquire(CallKind.CONTROL):
                observation = await find(upstream, request)
                key = _submitted_key(upstream, observation)
        except UpstreamError:
            return None
        head = self._journal.head
        call = _SubmitCall(upstream, submission, request, False, details, covered, head)
        await self._watch_submitted(call, key, observation)
        return key

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
        if self._background:
            _, late = await asyncio.wait(
                self._background, timeout=min(self._last_seconds, BACKGROUND_SECONDS)
            )
            for call in late:
                call.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def start(self, call: Coroutine[Any, Any, Result], *, drained: bool = True) -> asyncio.Task[Result]:
        """Run in a task of its own, which the client's disconnect does not cancel (rule 2).

        Args:
            drained: Whether a drain waits for it; else `close` cancels it.
        """
        task = asyncio.ensure_future(call)
        # asyncio keeps weak references only: an unreferenced task could be collected while it runs
        tasks = self._running if drained else self._background
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    async def _run_to_completion(self, call: Coroutine[Any, Any, Result]) -> Result:
        return await asyncio.shield(self.start(call))

    def _prepare(
        self,
        upstream: Upstream,
        submission: Submission,
        details: TaskDetails,
        covered: Covered | None,
        spender: str | None,
    ) -> _SubmitCall:
        if self._draining:
            raise Overloaded(RESTARTING_SENTENCE, retry_after=RESTARTING_RETRY_SECONDS)
        sent, instead = submission, False
        if self._callback_url is not None and upstream.callback_secret is not None:
            secret = quote(callback_secret(upstream.callback_secret, upstream.account), safe="")
            url = f"{self._callback_url}/v1/callbacks/{upstream.name}/{secret}"
            own = None if details.webhook is None else upstream.dialect.callback_in(submission)
            instead = own is not None and own == details.webhook
            sent = upstream.dialect.with_callback(submission, url, instead=instead)
        request = upstream.dialect.submit_request(sent)
        if request is None:
            raise Conflict(f"the upstream {upstream.name!r} has no submit call")
        # The dialect keeps a callback address of the client's own: then ours is not called. Where ours
        # replaces it, options of the client beside it (which events, signed with what) may still keep calls
        # from us.
        called_back = sent != submission and not instead
        head = self._journal.head
        return _SubmitCall(upstream, submission, request, called_back, details, covered, head, spender)

    async def _submit(self, call: _SubmitCall) -> tuple[TaskKey, Event]:
        call, hold = await self._hold_cost(call)
        try:
            key, event = await self._recovered(call)
        except BridgeError as error:
            await self._release_unless_created(hold, error)
            raise
        await self._count_cost(call, hold, key, event)
        return key, event

    async def _hold_cost(self, call: _SubmitCall) -> tuple[_SubmitCall, SpendHold | None]:
        """The submit with what it holds of its caller's daily spend.

        Raises:
            SpendLimitExceeded: Nothing is left of it.
            JournalError: It cannot be read what is left; nothing was sent.
        """
        if self._spend is None or call.spender is None or call.upstream.name not in self._spend.limits:
            return call, None
        hold = await self._spend.hold(call.upstream.name, call.spender, _model_of(call.submission))
        if hold is None:
            return call, None
        return replace(call, details=call.details._replace(spend=hold.name)), hold

    async def _release_unless_created(self, hold: SpendHold | None, error: BridgeError) -> None:
        if self._spend is None or hold is None or (isinstance(error, UpstreamError) and may_exist(error)):
            return
        await self._spend.release(hold)

    async def _count_cost(
        self, call: _SubmitCall, hold: SpendHold | None, key: TaskKey, event: Event
    ) -> None:
        """Hold what the answer says that the task costs, as long as it runs."""
        if self._spend is None or hold is None:
            return
        if event.cursor.offset:
            try:
                (details,) = await self._journal.details_of([key])
            except JournalError:
                return  # the end settles it
            if details.spend != hold.name:
                await self._spend.release(hold)  # the provider answered with a task that another submit pays
                return
        if not event.state.status.final:
            await self._spend.estimated(hold, event.state, _model_of(call.submission))
            try:
                (latest,) = await self._journal.latest([key])
            except JournalError:
                return
            event = latest or event
        if event.state.status.final:
            # It may have ended before it was known whose it is, and then no job settles it; or while the
            # estimate was written, perhaps over its final cost.
            await self._spend.ended(hold, event.state)

    async def _recovered(self, call: _SubmitCall) -> tuple[TaskKey, Event]:
        try:
            return await self._send_and_record(call)
        except UpstreamUnreachable:
            raise
        except UNCERTAIN as error:
            try:
                return await self._recover(call, error)
            except UpstreamError as last:
                last.may_exist = may_exist(error)  # what was sent first is not undone by how this ended
                raise

    async def _forward_submit(self, call: _SubmitCall) -> Forwarded:
        call, hold = await self._hold_cost(call)
        try:
            forwarded = await self._forwarded(call)
        except BridgeError as error:
            await self._release_unless_created(hold, error)
            raise
        if forwarded.error is not None:
            await self._release_unless_created(hold, forwarded.error)
        elif forwarded.key is not None and forwarded.event is not None:
            await self._count_cost(call, hold, forwarded.key, forwarded.event)
        return forwarded

    async def _forwarded(self, call: _SubmitCall) -> Forwarded:
        response: HttpResponse | None = None
        try:
            async with call.upstream.acquire(CallKind.CREATE):
                response = await self._send_submit(call)
                key, observation = _read_submitted(call, response)
        except UpstreamError as error:
            if response is None:
                raise
            return Forwarded(response, error=error)
        event = await self._watch_submitted(call, key, observation)
        return Forwarded(response, key, event, details=call.details)

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
        request = _own_id_request(call.upstream, call.submission)
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
        if observation.status is Status.UNKNOWN and observation.upstream_status is None:
            # It was accepted. As unknown it would look like a registered task that no source has shown
            # (`core.merge.is_unseen`), and two 404s of a provider that lists tasks late would delete it.
            observation = replace(observation, status=Status.QUEUED)
        if call.covered is not None and await self._is_anothers(key, call.covered, call.head):
            raise Conflict(ANOTHERS_SENTENCE)
        try:
            if call.details == NO_DETAILS:
                event = await self._pool.show(key, observation, Source.SUBMIT)
            else:
                event = await self._show_described(key, observation, call.details)
        except JournalError as error:
            logger.warning("submitted task not recorded yet", extra={"task": key.ref, "error": str(error)})
            event = None
        finally:
            self._pool.keep(key, called_back=call.called_back)
        return event or self._placeholder(key)

    async def _is_anothers(self, key: TaskKey, covered: Covered, head: int) -> bool:
        """Whether a task was recorded before its submit was sent, and is none that the caller may read.

        A callback may record a new task before the answer to its submit was read: that one is the caller's.
        """
        try:
            recorded = await self._journal.history([key], 0)
            if not recorded or recorded[0].offset > head:
                return False
            (details,) = await self._journal.details_of([key])
        except JournalError:
            return False  # the task exists and was paid for; what is not at hand cannot be shown either
        return not covered(key, details)

    async def _show_described(
        self, key: TaskKey, observation: Observation, details: TaskDetails
    ) -> Event | None:
        """Record the task with its details; a callback or another submit may have recorded its end before."""
        try:
            (known,) = await self._journal.latest([key])
        except JournalError:
            self._describe(key, details)  # for the state that is recorded once the journal is back
            raise
        ended_before = known is not None and known.state.status.final
        if known is not None:
            # Not with its next state: there may be none, or none soon.
            await self._register(key, details)
        else:
            self._describe(key, details)
        event = await self._pool.show(key, observation, Source.SUBMIT)
        if known is None and event is not None and event.state.source is not Source.SUBMIT:
            await self._register(key, details)  # a callback was faster: recorded without them
        if event is None or not event.state.status.final:
            return event
        by_another = not observation.status.final or event.state.source is not Source.SUBMIT
        if ended_before or by_another:
            # Perhaps it was recorded without them. If not, the receiver gets the same delivery again.
            await self.ended_before(event, details)
        return event

    async def _register(self, key: TaskKey, details: TaskDetails) -> None:
        """Add what this submit says to what a recorded task is known by."""
        (before,) = await self._journal.details_of([key])
        joined = before.joined(details)
        if joined != before._replace(since=0):
            await self._journal.register(key, joined)

    def _describe(self, key: TaskKey, details: TaskDetails) -> None:
        # A provider may answer with a task that another submit has created: both receivers get its end.
        self._journal.describe(key, self._journal.details(key).joined(details))

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


def _model_of(submission: Submission) -> str | None:
    """The model that a submit names in its body or options, as nearly all providers call it."""
    model: object = submission.options.get("model")
    if model is None and len(submission.body) <= _MAX_READ_BODY:
        model = (object_from(submission.body) or {}).get("model")
    return model if isinstance(model, str) else None


def _own_id_request(upstream: Upstream, submission: Submission) -> Request | None:
    """The call that finds the task by the client's own id; None without an id or such a call."""
    alias = upstream.dialect.client_id(submission)
    try:
        return upstream.dialect.alias_request(alias) if alias is not None else None
    except InvalidRequest:
        return None  # it is harmless in a body only


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


async def _ignore(event: Event, details: TaskDetails) -> None:
    """Nothing is delivered."""
