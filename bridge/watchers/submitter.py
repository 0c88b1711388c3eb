"""Creating and cancelling tasks at a provider: each asked once, seen through, recorded, watched to its end.

Rule 1: a create is never repeated by itself. Only where the provider dedupes by the caller's own id, and
        no answer came, it is looked for by that id, and asked for once more when it is not there.
Rule 2: what began is finished, whoever has gone meanwhile: a task nobody knows of would be paid for nothing.
Rule 3: a cancel is an errand. Whether the task was cancelled, a look tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import quote

from bridge.core.cursor import Cursor
from bridge.core.event import Event
from bridge.core.merge import unknown
from bridge.core.task import Observation, Source, Status, TaskKey, check_task_id
from bridge.dialects.base import HttpResponse, Request, Submission
from bridge.errors import (
    Conflict,
    CredentialRefused,
    InvalidRequest,
    JournalError,
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
from bridge.sources.poll import PollCache, find, poll
from bridge.sources.upstream import Upstream
from bridge.watchers.pool import Pool

MAY_EXIST = "the task may have been created; look for it at the provider before you submit it again"

_UNCERTAIN = (UpstreamTimeout, UpstreamUnavailable, UnreadablePayload)

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Submitter:
    """Asks providers to create and to cancel tasks.

    Args:
        public_url: Where providers reach this bridge, without a slash at the end; None when they cannot.
    """

    def __init__(self, pool: Pool, journal: Journal, *, public_url: str | None = None) -> None:
        self._pool = pool
        self._journal = journal
        self._public_url = public_url
        self._running: set[asyncio.Task[Any]] = set()

    async def submit(self, upstream: Upstream, submission: Submission) -> tuple[TaskKey, Event]:
        """Create a task and watch it until its end.

        Cancellation: once the provider was asked, the answer is taken, recorded and watched all the same.

        Raises:
            Conflict: The provider takes no submissions.
            InvalidRequest: An option is missing, malformed or unknown.
            UpstreamError: No task, as the provider says; or nobody knows, and then the sentence says so.
        """
        return await self.through(self._submit(upstream, submission))

    async def ask(self, upstream: Upstream, submission: Submission) -> HttpResponse:
        """Make the submit call, once; what was answered is for `take`.

        Raises:
            Conflict: The provider takes no submissions.
            InvalidRequest: An option is missing, malformed or unknown.
            UpstreamUnavailable: The provider cannot be reached, or cut its answer short.
            UpstreamTimeout: It did not answer in time.
            UnreadablePayload: Its answer is too large.
        """
        request = upstream.dialect.submit_request(self._with_callback(upstream, submission))
        if request is None:
            raise Conflict(f"the upstream {upstream.name!r} has no submit call the bridge knows")
        return await _asked(upstream, "submit", request, upstream.submit_timeout_seconds)

    async def take(
        self, upstream: Upstream, submission: Submission, answer: HttpResponse
    ) -> tuple[TaskKey, Event]:
        """Take in what was answered to `ask`: record the task and watch it until its end.

        Raises:
            UpstreamError: What the provider answered instead of a task.
        """
        try:
            seen = upstream.dialect.read_submitted(answer, submission)
            key = _key(upstream, seen)
        except UpstreamError as error:
            upstream.record_call("submit", error)
            raise
        upstream.record_call("submit")
        return key, await self._adopt(upstream, key, seen, submission)

    async def cancel(self, key: TaskKey) -> Event:
        """Ask the provider to cancel a task; its newest state, which need not be `cancelled` yet.

        A task that has ended is answered as it is, and nobody is asked.

        Raises:
            Conflict: The provider cannot cancel, or not any more; with its own words where it said some.
            UpstreamError: The provider could not be asked, or refused for another reason.
            JournalError: The journal cannot be read or written.
        """
        self._pool.upstream(key.upstream, key.account)
        (known,) = await self._journal.latest([key])
        if known is not None and known.state.status.final:
            return known
        return await self.through(self._cancel(key))

    async def ask_cancel(self, key: TaskKey) -> HttpResponse:
        """Make the cancel call, once; what was answered is for `take_cancel`.

        Raises:
            Conflict: The provider has no such call.
            TaskNotFound: No task of this provider has such an id.
            UpstreamError: There is no answer.
        """
        upstream = self._pool.upstream(key.upstream, key.account)
        try:
            request = upstream.dialect.cancel_request(key.task_id)
        except InvalidRequest as error:
            raise TaskNotFound(str(error)) from error
        if request is None:
            raise Conflict(f"the upstream {upstream.name!r} cannot cancel a task")
        try:
            return await _asked(upstream, "cancel", request)
        except UpstreamError:
            self._pool.poll_now(key)  # it may have been cancelled all the same
            raise

    async def take_cancel(self, key: TaskKey, answer: HttpResponse) -> Event:
        """Take in what was answered to `ask_cancel`: the newest state of the task, looked at if need be.

        Raises:
            Conflict: The provider refused, because the task cannot be cancelled any more.
            UpstreamError: It refused for another reason.
            JournalError: The journal cannot be read or written.
        """
        upstream = self._pool.upstream(key.upstream, key.account)
        try:
            seen = _read_cancel(upstream, key, answer)
        except UpstreamError as error:
            upstream.record_call("cancel", error)
            raise await self._refusal(upstream, key, error) from error
        upstream.record_call("cancel")
        if seen is not None:
            event = await self._pool.show(key, seen, Source.POLL)
        else:
            event = await self._look(upstream, key)
        return event or self._placeholder(key)

    async def through(self, doing: Coroutine[Any, Any, Result]) -> Result:
        """See something through, even if whoever waits for it is gone meanwhile."""
        task = asyncio.ensure_future(doing)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what is under way; every call to a provider has its timeout."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _submit(self, upstream: Upstream, submission: Submission) -> tuple[TaskKey, Event]:
        try:
            return await self.take(upstream, submission, await self.ask(upstream, submission))
        except UpstreamUnreachable:
            raise
        except _UNCERTAIN as error:
            return await self._recover(upstream, submission, error)

    async def _recover(
        self, upstream: Upstream, submission: Submission, error: UpstreamError
    ) -> tuple[TaskKey, Event]:
        """Find the task by the caller's own id; where there is none, nobody knows whether it exists."""
        alias = upstream.dialect.client_id(submission)
        request = upstream.dialect.alias_request(alias) if alias is not None else None
        answered = error.provider_status is not None
        if request is None:
            raise error if answered and not _accepted(error) else _uncertain(error) from error
        try:
            seen = await find(upstream, request)
            key = _key(upstream, seen)
        except TaskNotFound:
            if answered:
                raise error from None  # the provider said that it failed, and there is no task
            return await self.take(upstream, submission, await self.ask(upstream, submission))
        except UpstreamError:
            raise error from None
        return key, await self._adopt(upstream, key, seen, submission)

    async def _adopt(
        self, upstream: Upstream, key: TaskKey, seen: Observation, submission: Submission
    ) -> Event:
        """Record a task and keep its watch. It exists, whatever our journal does."""
        if seen.status is Status.COMPLETED and not seen.outputs:
            seen = replace(
                seen, status=Status.UNKNOWN
            )  # an end without its result: that one a look must bring
        try:
            event = await self._pool.show(key, seen, Source.SUBMIT)
        except JournalError as error:
            logger.warning("a new task is not recorded yet", extra={"task": key.ref, "error": str(error)})
            event = None
        finally:
            called_back = self._with_callback(upstream, submission) != submission
            self._pool.keep(key, called_back=called_back)
        return event or self._placeholder(key)

    def _with_callback(self, upstream: Upstream, submission: Submission) -> Submission:
        if self._public_url is None or upstream.callback_secret is None:
            return submission
        secret = quote(callback_secret(upstream.callback_secret, upstream.account), safe="")
        url = f"{self._public_url}/v1/callbacks/{upstream.name}/{secret}"
        return upstream.dialect.with_callback(submission, url)

    async def _cancel(self, key: TaskKey) -> Event:
        return await self.take_cancel(key, await self.ask_cancel(key))

    async def _refusal(
        self, upstream: Upstream, key: TaskKey, error: UpstreamError
    ) -> Conflict | UpstreamError:
        """What a refused cancel is to the caller: a conflict, when the task is past being cancelled."""
        too_late = error.provider_status == 409
        if not too_late and isinstance(error, CredentialRefused):
            return error
        if not too_late and not isinstance(error, UpstreamRefused):
            self._pool.poll_now(key)
            return error
        event = await self._look(upstream, key)
        if not too_late and (event is None or event.state.status in {Status.QUEUED, Status.UNKNOWN}):
            return error
        return Conflict(str(error), provider_status=error.provider_status, provider_code=error.provider_code)

    async def _look(self, upstream: Upstream, key: TaskKey) -> Event | None:
        """One look out of turn: the watch's next one may be far away, or nobody watches."""
        try:
            seen = await poll(upstream, key.task_id, PollCache())
        except UpstreamError:
            self._pool.poll_now(key)
            (known,) = await self._journal.latest([key])
            return known
        if seen is None:
            return None
        event = await self._pool.show(key, seen, Source.POLL)
        watcher = self._pool.watcher(key)
        if watcher is not None and not watcher.over:  # providers take a moment to cancel
            watcher.poll_now(upstream.clock.monotonic() + upstream.pace.min_seconds)
        return event

    def _placeholder(self, key: TaskKey) -> Event:
        clock = self._pool.upstream(key.upstream).clock
        return Event(key, Cursor(self._journal.epoch, 0), unknown(unix_time=clock.time()))


async def _asked(
    upstream: Upstream, call: str, request: Request, within: float | None = None
) -> HttpResponse:
    try:
        return await upstream.ask(call, request, within)
    except UpstreamError as error:
        upstream.record_call(call, error)
        raise


def _key(upstream: Upstream, seen: Observation) -> TaskKey:
    try:
        return TaskKey(upstream.name, check_task_id(seen.task_id or ""), upstream.account)
    except InvalidRequest as error:
        raise UnreadablePayload("the upstream's answer names no task") from error


def _read_cancel(upstream: Upstream, key: TaskKey, answer: HttpResponse) -> Observation | None:
    """The end the answer shows; None when it was only accepted, and a look must tell."""
    try:
        seen = upstream.dialect.read_status(answer, key.task_id).observation
    except UnreadablePayload:
        if 200 <= answer.status < 300:
            return None
        raise
    whole = seen.status is not Status.COMPLETED or bool(seen.outputs)
    return seen if seen.status.final and whole else None


def _accepted(error: UpstreamError) -> bool:
    """Whether the provider took the call, though we could not read what it said."""
    return isinstance(error, UnreadablePayload) and (error.provider_status or 500) < 300


def _uncertain(error: UpstreamError) -> UpstreamError:
    """The same error, saying that the task may exist; a program must not repeat it by itself."""
    told = type(error)(
        f"{error}; {MAY_EXIST}",
        retry_after=error.retry_after,
        provider_status=error.provider_status,
        provider_code=error.provider_code,
    )
    told.retryable = False
    return told
