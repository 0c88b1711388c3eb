"""Submit, sync and cancel under the provider's own paths: forwarded one by one, as are the responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.caller import Caller, TokenScope
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.task import TaskKey, check_task_id
from bridge.dialects.base import HttpResponse, ProxyMatch, Submission
from bridge.dialects.proxied import Target
from bridge.dialects.values import object_from
from bridge.errors import UpstreamError, UpstreamUnreachable
from bridge.sources.poll import JSON
from bridge.sources.upstream import Upstream
from bridge.watchers.submitter import UNCERTAIN, Forwarded, may_exist
from bridge.web import params
from bridge.web.idempotency import (
    REPLAYED,
    IdempotentSubmits,
    KeyedSubmit,
    Replayed,
    forbid_retry,
    idempotency_key,
    submit_key,
)
from bridge.web.kept_answers import MAY_HAVE_CREATED, KeptAnswer
from bridge.web.proxy.aliases import Aliases
from bridge.web.proxy.links import Answers
from bridge.web.proxy.reads import ProxyReads, recorded_response
from bridge.web.proxy.responses import passed_on, provider_response
from bridge.web.services import Services
from bridge.web.submit import check_write_request
from bridge.web.submit_details import SubmitDetails, webhook_headers
from bridge.web.tasks import links
from bridge.wire.text import dumps


@dataclass(frozen=True, slots=True)
class ProxyCall:
    """A request that matches one of the provider's calls.

    Args:
        target: Path and query as the provider would have got them.
    """

    request: Request
    caller: Caller
    upstream: Upstream
    match: ProxyMatch
    target: Target
    query: Mapping[str, str]
    body: bytes
    answers: Answers

    @property
    def key(self) -> TaskKey:
        """The task of the call.

        Raises:
            InvalidRequest: Its id is malformed.
        """
        return TaskKey(self.upstream.name, check_task_id(self.match.task_id or ""), self.upstream.account)


@dataclass(frozen=True, slots=True)
class _Submitted:
    """A submit that reached the provider, now or when it was first sent."""

    forwarded: Forwarded
    replayed: bool = False

    def marked(self, response: Response) -> Response:
        """The response, with the header that says that it is a repeat's."""
        if self.replayed:
            response.headers[REPLAYED] = "true"
        return response


class ProxyWrites:
    """Submits and cancels tasks for clients of the provider's own API."""

    def __init__(
        self, services: Services, aliases: Aliases, reads: ProxyReads, once: IdempotentSubmits
    ) -> None:
        self._clock = services.clock
        self._journal = services.journal
        self._longpolls = services.longpolls
        self._authenticator = services.authenticator
        self._submitter = services.submitter
        self._origins = services.origins
        self._limits = services.limits
        self._subscriptions = services.subscriptions
        self._aliases = aliases
        self._reads = reads
        self._once = once
        self._details = SubmitDetails(services)

    async def submit(self, call: ProxyCall) -> Response:
        """Submit; the response is the provider's, and the task is watched until its end.

        Raises:
            BridgeError: The request is not allowed, or was not sent.
        """
        submitted = await self._submit(call)
        if isinstance(submitted, Response):
            return submitted
        return submitted.marked(_forwarded_response(call, submitted.forwarded))

    async def sync(self, call: ProxyCall, *, seconds: float) -> Response:
        """Submit and wait: the finished task, or after `seconds` the path where it can be polled.

        A repeat with the same `Idempotency-Key` waits for the task of the first request.

        Raises:
            BridgeError: The request is not allowed, or was not sent.
        """
        submitted = await self._submit(call)
        if isinstance(submitted, Response):
            return submitted
        return submitted.marked(await self._finished(call, submitted.forwarded, seconds))

    async def _finished(self, call: ProxyCall, submitted: Forwarded, seconds: float) -> Response:
        key, event = submitted.key, submitted.event
        if key is None or event is None:
            return _forwarded_response(call, submitted)
        until = self._clock.monotonic() + seconds
        newer: Event | None = event
        while newer is not None and not event.state.status.final:
            left = until - self._clock.monotonic()
            newer = await self._longpolls.changed(event, left, call.request)
            (latest,) = await self._journal.latest([key])
            event = latest or event
        word = call.upstream.dialect.proxy.wait_word
        if event.state.status.final:
            response = recorded_response(event, call.answers)
        elif word is not None:
            # Its clients take any other word for the end.
            return _forwarded_response(call, _with_word(submitted, word))
        else:
            response = _unfinished_response(call, key, event)
        response.headers.update(webhook_headers(submitted.details, call.caller))
        return response

    async def cancel(self, call: ProxyCall, key: TaskKey) -> Response:
        """Cancel; the response is the provider's, and the task is polled.

        Raises:
            BridgeError: The request is not allowed, or was not sent.
        """
        check_write_request(self._origins, call.request.headers)
        cancelled = await self._submitter.forward_cancel(key)
        return _forwarded_response(call, cancelled)

    async def _submit(self, call: ProxyCall) -> _Submitted | Response:
        check_write_request(self._origins, call.request.headers)
        key = idempotency_key(call.request.headers)
        sent = call.request.headers
        passed_on = call.upstream.dialect.proxy.submit_headers
        submission = Submission(
            body=call.body,
            content_type=sent.get("content-type"),
            options=call.match.options,
            headers={name: sent[name] for name in passed_on if name in sent},
        )
        submission, details = self._details.requested(
            sent, call.caller, call.upstream, submission, own_route=False
        )
        try:
            if key is None:
                self._limits.open_submit(call.request, call.caller.name)
                return _Submitted(await self._send(call, submission, details))
            done = await self._once.run(await self._keyed(call, key, submission, details))
        except UNCERTAIN as error:
            # the client's SDK must not retry: the task may exist, and a second one would be billed
            return call.answers.error(error, repeatable=isinstance(error, UpstreamUnreachable))
        if not isinstance(done, Replayed):
            return _Submitted(done)
        return await self._replayed(call, done.task, done.answer, details)

    async def _send(self, call: ProxyCall, submission: Submission, details: TaskDetails) -> Forwarded:
        await self._details.check_open(details, call.upstream.account)
        covered = call.caller.covered_at(call.upstream.name)
        submitted = await self._submitter.forward_submit(
            call.upstream, submission, details, covered, call.caller.name
        )
        alias = call.upstream.dialect.client_id(submission)
        if alias is not None and submitted.key is not None:
            self._aliases.remember(alias, submitted.key)
        return submitted

    async def _keyed(
        self, call: ProxyCall, key: str, submission: Submission, details: TaskDetails
    ) -> KeyedSubmit[Forwarded]:
        async def find() -> TaskKey | None:
            self._limits.check_provider_call(call.request, call.caller.name)
            covered = call.caller.covered_at(call.upstream.name)
            return await self._submitter.find_submitted(call.upstream, submission, details, covered)

        return KeyedSubmit(
            await submit_key(
                call.caller,
                key,
                method=call.request.method,
                path=f"/proxy/{call.upstream.name}{call.target.path}",
                query=call.target.query.encode("utf-8", "surrogatepass"),
                body=call.body,
                content_type=submission.content_type,
            ),
            call.upstream,
            admit=lambda: self._limits.open_submit(call.request, call.caller.name),
            carry_out=lambda: self._send(call, submission, details),
            answer_of=_answer_of,
            find=find,
        )

    async def _replayed(
        self, call: ProxyCall, task: TaskKey, answer: KeptAnswer, details: TaskDetails
    ) -> _Submitted | Response:
        """The first response again; where only the task is known, the document of the status call."""
        # a tag that opened the task to this caller may have been taken away since
        await self._authenticator.check(call.caller, TokenScope.SUBMIT, [task])
        body, headers, status = answer.body, answer.headers, answer.status
        if body is None:
            document = await self._reads.status(task, call.answers)
            if document.status_code >= 400:
                return document
            body, headers = bytes(document.body), {"content-type": document.headers["content-type"]}
            status = status or document.status_code
        (event,) = await self._journal.latest([task])
        event = event or self._subscriptions.placeholder(task)
        forwarded = Forwarded(HttpResponse(status, headers, body), task, event, details=details)
        return _Submitted(forwarded, replayed=True)


def _answer_of(forwarded: Forwarded) -> KeptAnswer | None:
    """What a repeat of a submit is answered with; None if it created nothing."""
    response, error = forwarded.response, forwarded.error
    if isinstance(error, UpstreamError) and may_exist(error):
        forbid_retry(error)
        return MAY_HAVE_CREATED
    if error is not None:
        return None
    headers = passed_on(response.headers)
    return KeptAnswer(status=response.status, headers=headers, body=response.body, task=forwarded.key)


def _forwarded_response(call: ProxyCall, forwarded: Forwarded) -> Response:
    outputs = forwarded.event.state.outputs if forwarded.event is not None else ()
    response = call.answers.passthrough(forwarded.response, forwarded.error, outputs)
    if forwarded.key is not None:
        response.headers.update(call.upstream.dialect.answer_headers(forwarded.key.task_id))
        response.headers.update(webhook_headers(forwarded.details, call.caller))
    return response


def _with_word(forwarded: Forwarded, word: str) -> Forwarded:
    """The response to a submit with another status word."""
    document = object_from(forwarded.response.body)
    if document is None or "status" not in document:
        return forwarded
    body = json.dumps(document | {"status": word}, ensure_ascii=False, separators=(",", ":")).encode()
    return replace(forwarded, response=replace(forwarded.response, body=body))


def _unfinished_response(call: ProxyCall, key: TaskKey, event: Event) -> Response:
    """What a sync call returns if the task has not ended in time."""
    upstream, root_path = call.upstream, params.root_path(call.request)
    request = upstream.dialect.status_request(key.task_id)
    if request.method == "GET" and request.base_url is None:
        poll_url = f"{root_path}/proxy/{upstream.name}{upstream.dialect.documented(request.path)}"
    else:  # the provider's own status call is not a plain GET: the client polls the bridge's route
        poll_url = links(key, root_path)["self"]
    progress = event.state.progress
    fields = {
        "task_id": key.task_id,
        "status": event.state.upstream_status or event.state.status.value,
        "progress": int(progress) if progress is not None and progress == int(progress) else progress,
        "poll_url": poll_url,
    }
    return provider_response(200, JSON, dumps(fields))
