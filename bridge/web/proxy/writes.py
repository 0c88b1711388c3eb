"""Submit, sync and cancel under the provider's own paths: forwarded one by one, as are the responses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.caller import Caller
from bridge.core.event import Event
from bridge.core.task import TaskKey, check_task_id
from bridge.dialects.base import ProxyMatch, Submission
from bridge.dialects.values import object_from
from bridge.errors import UpstreamUnreachable
from bridge.sources.poll import JSON
from bridge.sources.upstream import Upstream
from bridge.watchers.submitter import UNCERTAIN, Forwarded
from bridge.web import params
from bridge.web.proxy.aliases import Aliases
from bridge.web.proxy.links import Answers
from bridge.web.proxy.reads import recorded_response
from bridge.web.proxy.responses import provider_response
from bridge.web.services import Services
from bridge.web.submit import check_write_request
from bridge.web.tasks import links
from bridge.wire.text import dumps


@dataclass(frozen=True, slots=True)
class ProxyCall:
    """A request that matches one of the provider's calls."""

    request: Request
    caller: Caller
    upstream: Upstream
    match: ProxyMatch
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


class ProxyWrites:
    """Submits and cancels tasks for clients of the provider's own API."""

    def __init__(self, services: Services, aliases: Aliases) -> None:
        self._clock = services.clock
        self._journal = services.journal
        self._longpolls = services.longpolls
        self._submitter = services.submitter
        self._origins = services.origins
        self._limits = services.limits
        self._aliases = aliases

    async def submit(self, call: ProxyCall) -> Response:
        """Submit; the response is the provider's, and the task is watched until its end.

        Raises:
            BridgeError: The request is not allowed, or was not sent.
        """
        submitted = await self._submit(call)
        if isinstance(submitted, Response):
            return submitted
        return _forwarded_response(call, submitted)

    async def sync(self, call: ProxyCall, *, seconds: float) -> Response:
        """Submit and wait: the finished task, or after `seconds` the path where it can be polled.

        Raises:
            BridgeError: The request is not allowed, or was not sent.
        """
        submitted = await self._submit(call)
        if isinstance(submitted, Response):
            return submitted
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
        if event.state.status.final:
            return recorded_response(event, call.answers)
        word = call.upstream.dialect.proxy.wait_word
        if word is not None:
            # Its clients take any other word for the end.
            return _forwarded_response(call, _with_word(submitted, word))
        return _unfinished_response(call, key, event)

    async def cancel(self, call: ProxyCall, key: TaskKey) -> Response:
        """Cancel; the response is the provider's, and the task is polled.

        Raises:
            BridgeError: The request is not allowed, or was not sent.
        """
        check_write_request(self._origins, call.request.headers)
        cancelled = await self._submitter.forward_cancel(key)
        return _forwarded_response(call, cancelled)

    async def _submit(self, call: ProxyCall) -> Forwarded | Response:
        check_write_request(self._origins, call.request.headers)
        self._limits.open_submit(call.request, call.caller.name)
        sent = call.request.headers
        passed_on = call.upstream.dialect.proxy.submit_headers
        submission = Submission(
            body=call.body,
            content_type=sent.get("content-type"),
            options=call.match.options,
            headers={name: sent[name] for name in passed_on if name in sent},
        )
        try:
            submitted = await self._submitter.forward_submit(call.upstream, submission)
        except UNCERTAIN as error:
            # the client's SDK must not retry: the task may exist, and a second one would be billed
            return call.answers.error(error, repeatable=isinstance(error, UpstreamUnreachable))
        alias = call.upstream.dialect.client_id(submission)
        if alias is not None and submitted.key is not None:
            self._aliases.remember(alias, submitted.key)
        return submitted


def _forwarded_response(call: ProxyCall, forwarded: Forwarded) -> Response:
    outputs = forwarded.event.state.outputs if forwarded.event is not None else ()
    response = call.answers.passthrough(forwarded.response, forwarded.error, outputs)
    if forwarded.key is not None:
        response.headers.update(call.upstream.dialect.answer_headers(forwarded.key.task_id))
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
