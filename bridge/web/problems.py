"""Errors as `application/problem+json` (RFC 9457), translated here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from bridge.errors import (
    BridgeError,
    Conflict,
    InvalidRequest,
    MethodNotAllowed,
    TooLarge,
    Unauthenticated,
    UnknownRoute,
    UpstreamError,
)
from bridge.telemetry.request_context import current_request
from bridge.web.middleware.request_id import route_of

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


def problem(error: BridgeError) -> Response:
    """The answer that says what went wrong, and whether trying again can help."""
    fields: dict[str, Any] = {
        "type": "about:blank",
        "title": error.code.replace("_", " "),
        "status": error.status,
        "code": error.code,
        "detail": str(error),
        "retriable": error.retryable,
    }
    if isinstance(error, UpstreamError | Conflict) and (error.provider_status or error.provider_code):
        fields["provider"] = {"status": error.provider_status, "code": error.provider_code}
    visit = current_request()
    if visit is not None:
        fields["request_id"] = visit.request_id
    headers = {"Cache-Control": "no-store"}
    if not error.retryable:
        headers["x-should-retry"] = "false"
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retryable or error.retry_after is not None:
        wait = error.retry_after if error.retry_after is not None else 1.0
        headers["Retry-After"] = str(max(1, round(wait)))
    return Response(orjson.dumps(fields), status_code=error.status, headers=headers, media_type=MEDIA_TYPE)


async def on_bridge_error(_request: Request, error: Exception) -> Response:
    """Answer with what we can name."""
    assert isinstance(error, BridgeError)
    return problem(error)


async def on_http_exception(_request: Request, error: Exception) -> Response:
    """Answer what the framework found wrong, in our words."""
    assert isinstance(error, HTTPException)
    named: dict[int, BridgeError] = {
        404: UnknownRoute("nothing lives at this path"),
        405: MethodNotAllowed("this path does not take that method"),
        413: TooLarge("the body is larger than this route reads"),
    }
    answer = problem(named.get(error.status_code) or InvalidRequest(str(error.detail)))
    answer.headers.update(error.headers or {})
    return answer


async def on_unhandled_exception(request: Request, error: Exception) -> Response:
    """Answer that it was us; the log has the rest."""
    logger.error("a bug answered a request", exc_info=error, extra={"route": route_of(request.scope)})
    return problem(BridgeError("the bridge made a mistake; its log says which"))


HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    BridgeError: on_bridge_error,
    HTTPException: on_http_exception,
    Exception: on_unhandled_exception,
}
