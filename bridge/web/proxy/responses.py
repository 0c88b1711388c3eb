"""Responses in the provider's own format: its bytes, and errors as its clients expect them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import ceil

from starlette.responses import Response

from bridge.dialects.base import HttpResponse
from bridge.dialects.proxied import ProxyRules
from bridge.errors import BridgeError, Conflict, SubmitInFlight, Unauthenticated, UpstreamError
from bridge.wire.text import dumps

# A provider's document must not run as a page of the bridge's origin, regardless of the type it claims.
_SANDBOX_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
_RETRY_HEADERS = ("retry-after", "retry-after-ms", "x-should-retry")
# Numbers, booleans and HTTP dates only: a provider that echoes our key in a header must not leak it.
_RETRY_VALUE = re.compile(r"\d{1,9}(\.\d{1,9})?|true|false|[A-Z][a-z]{2}, [\w: -]{20,26}", re.ASCII)
# Not every server can send a header with control characters, and a client could read two headers out of one.
_CONTENT_TYPE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,254}")
_JSON = "application/json"
_NO_CONTENT = 204


def provider_response(
    status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
) -> Response:
    """A response with the provider's own bytes."""
    if not 200 <= status <= 599 or status == 304:
        status = 502  # the client sent no condition for a 304, and not every server can send 1xx or 6xx
    fields = {**_SANDBOX_HEADERS, "Content-Type": _safe_type(content_type), **(headers or {})}
    return Response(b"" if status == _NO_CONTENT else body, status_code=status, headers=fields)


def passthrough(response: HttpResponse, error: BridgeError | None = None) -> Response:
    """The provider's response, unchanged.

    Args:
        error: The error the response was classified as, if any.
    """
    headers = passed_on(response.headers)
    if error is not None and not error.retryable:
        headers["x-should-retry"] = "false"
    return provider_response(response.status, headers.pop("content-type"), response.body, headers)


def passed_on(headers: Mapping[str, str]) -> dict[str, str]:
    """What is passed on of a provider's headers: only what every server can send and every client read."""
    kept = {name: headers[name] for name in _RETRY_HEADERS if _RETRY_VALUE.fullmatch(headers.get(name, ""))}
    return {"content-type": _safe_type(headers.get("content-type", _JSON)), **kept}


def _safe_type(content_type: str) -> str:
    return content_type if _CONTENT_TYPE.fullmatch(content_type) else "application/octet-stream"


def error_response(
    error: BridgeError,
    *,
    repeatable: bool = True,
    wait: float | None = None,
    rules: ProxyRules | None = None,
) -> Response:
    """An error of the provider or of the way to it, with the provider's own status and code if known.

    Args:
        repeatable: Whether the client may retry; false where a retry could create a second task.
        wait: Seconds before a retry can help, if known better than by the error.
        rules: What the clients of the provider read, where it is known.
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
        if isinstance(error, SubmitInFlight):
            headers["x-should-retry"] = "true"
    further = rules.error_fields(str(error), code) if rules is not None else {}
    body = dumps({**further, "error": {"message": str(error), "code": code}})
    return provider_response(
        status if status is not None and status >= 400 else error.status, _JSON, body, headers
    )
