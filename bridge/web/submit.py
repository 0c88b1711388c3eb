"""The routes that change something at a provider: submit and cancel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.caller import Caller, TokenScope, map_credential_errors
from bridge.auth.origins import Origins
from bridge.core.details import TaskDetails
from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.delivery.longpoll import etag
from bridge.dialects.base import Submission
from bridge.errors import Forbidden, InvalidRequest
from bridge.sources.upstream import Upstream
from bridge.web import params
from bridge.web.idempotency import (
    REPLAYED,
    IdempotentSubmits,
    KeyedSubmit,
    Replayed,
    idempotency_key,
    submit_key,
)
from bridge.web.kept_answers import KeptAnswer
from bridge.web.services import Services
from bridge.web.submit_details import SubmitDetails, webhook_answer
from bridge.web.tasks import HEADERS, StateDocuments, links
from bridge.wire.document import Include
from bridge.wire.text import dumps

_INCLUDE = "include"


@dataclass(frozen=True, slots=True)
class _SubmitRequest:
    """A submit by the bridge's own route.

    Args:
        include: The optional parts of the document in its answer.
    """

    request: Request
    caller: Caller
    upstream: Upstream
    submission: Submission
    details: TaskDetails
    include: Include


class SubmitRoutes:
    """Submitting and cancelling tasks."""

    def __init__(self, services: Services, once: IdempotentSubmits) -> None:
        self._once = once
        self._settings = services.settings
        self._journal = services.journal
        self._subscriptions = services.subscriptions
        self._pool = services.pool
        self._submitter = services.submitter
        self._origins = services.origins
        self._limits = services.limits
        self._authenticator = services.authenticator
        self._documents = StateDocuments(services)
        self._details = SubmitDetails(services)

    async def submit(self, request: Request) -> Response:
        """`POST /v1/tasks/{upstream}`: the body is sent to the provider unchanged."""
        check_write_request(self._origins, request.headers)
        caller = await self._authenticator.authenticate(request)
        caller.authorize_submit(request.path_params["upstream"])
        upstream = self._pool.upstream(request.path_params["upstream"], caller.account)
        include = params.include(params.query(request))
        key = idempotency_key(request.headers)
        if key is None:
            self._limits.open_submit(request, caller.name)
        submission = Submission(
            body=await self._limits.read_body(request, self._settings.max_submission_bytes),
            content_type=request.headers.get("content-type"),
            options=params.options(params.query(request), without=_INCLUDE),
        )
        submission, details = self._details.requested(
            request.headers, caller, upstream, submission, own_route=True
        )
        call = _SubmitRequest(request, caller, upstream, submission, details, include)
        if key is None:
            return _response(await self._send(call))
        done = await self._once.run(await self._keyed(call, key))
        if not isinstance(done, Replayed):
            return _response(done)
        # a tag that opened the task to this caller may have been taken away since
        await self._authenticator.check(caller, TokenScope.SUBMIT, [done.task])
        answer = done.answer
        if answer.body is None:
            answer = self._created(call, done.task, await self._newest(done.task))
        return _response(answer, {REPLAYED: "true"})

    async def _send(self, call: _SubmitRequest) -> KeptAnswer:
        # Here, not before: a repeat of a submit into a group that was closed since gets the first answer.
        await self._details.check_open(call.details, call.upstream.account)
        with map_credential_errors(call.caller):
            task, event = await self._submitter.submit(
                call.upstream,
                call.submission,
                call.details,
                call.caller.covered_at(call.upstream.name),
                call.caller.name,
            )
        return self._created(call, task, event)

    async def _keyed(self, call: _SubmitRequest, key: str) -> KeyedSubmit[KeptAnswer]:
        async def find() -> TaskKey | None:
            self._limits.check_provider_call(call.request, call.caller.name)
            return await self._submitter.find_submitted(
                call.upstream, call.submission, call.details, call.caller.covered_at(call.upstream.name)
            )

        return KeyedSubmit(
            await submit_key(
                call.caller,
                key,
                method=call.request.method,
                path=f"/v1/tasks/{call.upstream.name}",
                query=call.request.scope["query_string"],
                body=call.submission.body,
                content_type=call.submission.content_type,
            ),
            call.upstream,
            admit=lambda: self._limits.open_submit(call.request, call.caller.name),
            carry_out=lambda: self._send(call),
            answer_of=lambda answer: answer,
            find=find,
        )

    def _created(self, call: _SubmitRequest, task: TaskKey, event: Event) -> KeptAnswer:
        task_links = links(task, params.root_path(call.request))
        state = orjson.Fragment(self._documents.write(event, call.include))
        fields = {"state": state, "links": task_links, **webhook_answer(call.details, call.caller)}
        headers = {"etag": etag(event), "location": task_links["self"]}
        return KeptAnswer(status=201, headers=headers, body=dumps(fields), task=task)

    async def _newest(self, task: TaskKey) -> Event:
        (event,) = await self._journal.latest([task])
        return event or self._subscriptions.placeholder(task)

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/tasks/{upstream}/{task_id}/cancel`: responds with the resulting state."""
        check_write_request(self._origins, request.headers)
        caller = await self._authenticator.authenticate(request)
        key = params.path_key(self._pool, request, caller.account)
        await self._authenticator.authorize(caller, TokenScope.CANCEL, [key])
        include = params.include(params.query(request))
        self._limits.check_provider_call(request, caller.name)
        await self._limits.read_body(request, self._settings.max_body_bytes)
        with map_credential_errors(caller):
            event = await self._submitter.cancel(key)
        return self._documents.response(event, include, HEADERS | {"ETag": etag(event)})


def _response(answer: KeptAnswer, further: Mapping[str, str] | None = None) -> Response:
    fields = {**HEADERS, **answer.headers, **(further or {})}
    return Response(answer.body, status_code=answer.status, headers=fields, media_type="application/json")


def check_write_request(origins: Origins, headers: Headers) -> None:
    """Check the headers of a request that changes something at a provider.

    CORS alone does not protect these routes: a browser sends a simple POST of any page without a preflight,
    and without authentication it would spend the operator's money.

    Raises:
        Forbidden: A page of another origin sent it.
        InvalidRequest: Its body is compressed; the provider would get bytes it cannot read.
    """
    if not origins.is_allowed(headers):
        raise Forbidden("pages of this origin may neither submit nor cancel")
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise InvalidRequest("`Content-Encoding` is not supported; send the body uncompressed")
