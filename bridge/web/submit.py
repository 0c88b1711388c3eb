"""The routes that change something at a provider: submit and cancel."""

from __future__ import annotations

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.authenticator import Authenticator, TokenScope, map_credential_errors
from bridge.auth.origins import Origins
from bridge.delivery.longpoll import etag
from bridge.delivery.subscriptions import Subscriptions
from bridge.dialects.base import Submission
from bridge.errors import Forbidden, InvalidRequest, Overloaded
from bridge.watchers.submitter import Submitter
from bridge.web import params
from bridge.web.limits.limits import Limits
from bridge.web.tasks import HEADERS, links, state_response
from bridge.wire.document import document

_INCLUDE = "include"


class SubmitRoutes:
    """Creating and cancelling tasks.

    A page of a stranger must not spend the operator's money: browsers send simple POSTs without asking, so
    the origin is checked here, and not by CORS alone.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        submitter: Submitter,
        origins: Origins,
        limits: Limits,
        authenticator: Authenticator,
    ) -> None:
        self._subscriptions = subscriptions
        self._submitter = submitter
        self._origins = origins
        self._limits = limits
        self._authenticator = authenticator

    async def submit(self, request: Request) -> Response:
        """`POST /v1/tasks/{upstream}`: the body goes to the provider as it is."""
        admit(self._origins, request.headers)
        caller = await self._authenticator.authenticate(request)
        caller.authorize_upstream(TokenScope.SUBMIT, request.path_params["upstream"])
        upstream = self._subscriptions.pool.upstream(request.path_params["upstream"], caller.account)
        include = params.include(params.query(request))
        if self._subscriptions.closed is not None:
            raise Overloaded("this bridge is being restarted; nothing was submitted")
        self._limits.submit(caller.name)
        submission = Submission(
            body=await params.body(request, self._subscriptions.settings.max_submission_bytes),
            content_type=request.headers.get("content-type"),
            options=params.options(params.query(request), without=_INCLUDE),
        )
        with map_credential_errors(caller):
            key, event = await self._submitter.submit(upstream, submission)
        where = links(key, params.mounted_at(request))
        body = orjson.dumps({"state": orjson.Fragment(document(event, include=include)), "links": where})
        headers = HEADERS | {"ETag": etag(event), "Location": where["self"]}
        return Response(body, status_code=201, headers=headers, media_type="application/json")

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/tasks/{upstream}/{task_id}/cancel`: the state that results."""
        admit(self._origins, request.headers)
        caller = await self._authenticator.authenticate(request)
        key = params.path_key(self._subscriptions.pool, request, caller.account)
        await self._authenticator.authorize(caller, TokenScope.CANCEL, [key])
        include = params.include(params.query(request))
        await params.body(request, self._subscriptions.settings.max_body_bytes)
        with map_credential_errors(caller):
            event = await self._submitter.cancel(key)
        return state_response(event, include, HEADERS | {"ETag": etag(event)}, None)


def admit(origins: Origins, headers: Headers) -> None:
    """Let a request in that changes something at a provider.

    Raises:
        Forbidden: It comes from a page of a stranger.
        InvalidRequest: Its body does not come as it is.
    """
    if not origins.allow(headers):
        raise Forbidden("pages of this origin may neither submit nor cancel")
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise InvalidRequest("send the body as it is, without a content-encoding")
