"""Errors as problem documents (`application/problem+json`, RFC 9457), mapped to responses here only."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from bridge.core.task import climbs
from bridge.errors import (
    BridgeError,
    Conflict,
    InvalidRequest,
    MethodNotAllowed,
    SubmitInFlight,
    TooLarge,
    Unauthenticated,
    UnknownRoute,
    UpstreamError,
)
from bridge.telemetry.request_context import current_request
from bridge.web.limits.bodies import TOO_LARGE_SENTENCE
from bridge.web.middleware.request_id import route_of
from bridge.web.proxy.responses import error_response
from bridge.wire.text import dumps

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
PROXY = "/proxy"
MAX_SUGGESTED = 4096
_TASK_PATH = re.compile(
    r"(?P<route>/v1/(?:tasks|aliases)/[a-z0-9-]+/)(?P<id>[^/]+/.*?[^/])(?P<call>/events|/cancel|/outputs/[0-9]+)?"
)


def problem(error: BridgeError) -> Response:
    """The response for an error: what failed, and whether a retry can help."""
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
    context = current_request()
    if context is not None:
        fields["request_id"] = context.request_id
    headers = {"Cache-Control": "no-store"}
    if not error.retryable:
        # the OpenAI and Anthropic SDKs retry 408, 409, 429 and every 5xx unless this header forbids it
        headers["x-should-retry"] = "false"
    elif isinstance(error, SubmitInFlight):
        headers["x-should-retry"] = "true"
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retryable or error.retry_after is not None:
        wait = error.retry_after if error.retry_after is not None else 1.0
        headers["Retry-After"] = str(max(1, round(wait)))
    return Response(dumps(fields), status_code=error.status, headers=headers, media_type=MEDIA_TYPE)


def error_to(scope: Scope, error: BridgeError) -> Response:
    """The response for an error: below `/proxy` in the format of the providers, else a problem document."""
    path = str(scope.get("path", "")).removeprefix(str(scope.get("root_path", "")).rstrip("/"))
    return error_response(error) if path == PROXY or path.startswith(f"{PROXY}/") else problem(error)


async def on_bridge_error(request: Request, error: Exception) -> Response:
    """Handle an error raised by a route."""
    assert isinstance(error, BridgeError)
    return error_to(request.scope, error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Handle an error found by Starlette, as one of ours."""
    assert isinstance(error, HTTPException)
    errors: dict[int, BridgeError] = {
        404: UnknownRoute(f"no such route{_encoded_path(request.scope)}"),
        405: MethodNotAllowed("method not allowed"),
        413: TooLarge(TOO_LARGE_SENTENCE),
    }
    response = error_to(request.scope, errors.get(error.status_code) or InvalidRequest(str(error.detail)))
    response.headers.update(error.headers or {})
    return response


def _encoded_path(scope: Scope) -> str:
    """For the path of a task whose id has slashes: how to write it. Else nothing."""
    root = str(scope.get("root_path", "")).rstrip("/")
    path = str(scope.get("path", "")).removeprefix(root)
    match = _TASK_PATH.fullmatch(path) if len(path) <= MAX_SUGGESTED else None
    if match is None or climbs(match["id"]):
        return ""
    task_id = match["id"].replace("/", "%2F")
    whole = f"{root}{match['route']}{task_id}{match['call'] or ''}"
    return f"; the slashes of a task id are percent-encoded: {whole}"


async def on_unhandled_exception(request: Request, error: Exception) -> Response:
    """Handle every other exception: a 500 without details, and a traceback in the log."""
    logger.error("unhandled exception in request", exc_info=error, extra={"route": route_of(request.scope)})
    return error_to(request.scope, BridgeError("internal error; the log of the bridge has the details"))


HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    BridgeError: on_bridge_error,
    HTTPException: on_http_exception,
    Exception: on_unhandled_exception,
}
