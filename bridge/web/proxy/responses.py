"""Answers as a provider gives them: its own bytes, and errors in the shape its clients read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil

import orjson
from starlette.responses import Response

from bridge.dialects.base import HttpResponse
from bridge.errors import BridgeError, Conflict, Unauthenticated, UpstreamError

# A provider's page must not act as one of ours, whatever type it claims to be.
_HARMLESS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
_ABOUT_RETRYING = ("retry-after", "retry-after-ms", "x-should-retry")
_SAYS_WHEN = re.compile(
    r"\d{1,9}(\.\d{1,9})?|true|false|[A-Z][a-z]{2}, [\w: -]{20,26}"
)  # or what not, our key
_JSON = "application/json"
_BODILESS = 204


def state_response(
    status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
) -> Response:
    """The provider's own bytes."""
    if not 200 <= status <= 599 or status == 304:
        status = 502  # no answer to what was asked, and none that every server can send
    content_type = content_type if content_type.isascii() else "application/octet-stream"
    fields = {**_HARMLESS, "Content-Type": content_type, **(headers or {})}
    return Response(b"" if status == _BODILESS else body, status_code=status, headers=fields)


def passthrough(answer: HttpResponse, error: BridgeError | None = None) -> Response:
    """An answer as it came.

    Args:
        error: What it amounts to, where it is no success.
    """
    told = {
        name: answer.headers[name]
        for name in _ABOUT_RETRYING
        if _SAYS_WHEN.fullmatch(answer.headers.get(name, ""))
    }
    headers = {name: value for name, value in told.items() if value.isascii()}
    if error is not None and not error.retryable:
        headers["x-should-retry"] = "false"
    return state_response(answer.status, answer.headers.get("content-type", _JSON), answer.body, headers)


def error_response(error: BridgeError, *, repeatable: bool = True, wait: float | None = None) -> Response:
    """An error of the provider, or on the way to it, under the provider's own status.

    Args:
        repeatable: Whether the call may be made again at all.
        wait: Seconds before another try can help, where that is known better than the error knows it.
    """
    code: str | None = error.code
    status: int | None = None
    if isinstance(error, UpstreamError | Conflict):
        code, status = error.provider_code or error.code, error.provider_status
    headers = {"x-should-retry": "false"}
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if error.retryable and repeatable:
        seconds = error.retry_after if wait is None else wait
        headers = {"Retry-After": str(max(1, ceil(seconds if seconds is not None else 1.0)))}
    body = orjson.dumps({"error": {"message": str(error), "code": code}})
    return state_response(
        status if status is not None and status >= 400 else error.status, _JSON, body, headers
    )
