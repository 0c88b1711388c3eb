"""The routes that change something at a provider: submit and cancel."""

from __future__ import annotations

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from bridge.auth.caller import TokenScope, map_credential_errors
from bridge.auth.origins import Origins
from bridge.delivery.longpoll import etag
from bridge.dialects.base import Submission
from bridge.errors import Forbidden, InvalidRequest
from bridge.web import params
from bridge.web.services import Services
from bridge.web.tasks import HEADERS, StateDocuments, links
from bridge.wire.text import dumps

_INCLUDE = "include"


class SubmitRoutes:
    """Submitting and cancelling tasks."""

    def __init__(self, services: Services) -> None:
        self._settings = services.settings
        self._pool = services.pool
        self._submitter = services.submitter
        self._origins = services.origins
        self._limits = services.limits
        self._authenticator = services.authenticator
        self._documents = StateDocuments(services)

    async def submit(self, request: Request) -> Response:
        """`POST /v1/tasks/{upstream}`: the body is sent to the provider unchanged."""
        check_write_request(self._origins, request.headers)
        caller = await self._authenticator.authenticate(request)
        caller.authorize_upstream(TokenScope.SUBMIT, request.path_params["upstream"])
        upstream = self._pool.upstream(request.path_params["upstream"], caller.account)
        include = params.include(params.query(request))
        self._limits.open_submit(request, caller.name)
        submission = Submission(
            body=await self._limits.read_body(request, self._settings.max_submission_bytes),
            content_type=request.headers.get("content-type"),
            options=params.options(params.query(request), without=_INCLUDE),
        )
        with map_credential_errors(caller):
            key, event = await self._submitter.submit(upstream, submission)
        task_links = links(key, params.root_path(request))
        body = dumps({"state": orjson.Fragment(self._documents.write(event, include)), "links": task_links})
        headers = HEADERS | {"ETag": etag(event), "Location": task_links["self"]}
        return Response(body, status_code=201, headers=headers, media_type="application/json")

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
