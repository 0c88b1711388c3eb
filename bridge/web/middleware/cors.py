"""CORS (cross-origin resource sharing) for every HTTP route: the `Access-Control-` headers and preflights."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Sequence

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.auth.origins import Origins

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
ALLOWED_HEADERS = (
    "Authorization",
    "Last-Event-ID",
    "If-None-Match",
    "Prefer",
    "Cache-Control",
    "Content-Type",
    "Idempotency-Key",
    "Range",
    "If-Range",
    "X-Webhook-URL",
    "X-Task-Tags",
    "X-Task-Group",
    "X-Request-Id",
    "traceparent",
    "tracestate",
    "baggage",
)
"""What every preflight is answered with; the headers that it asks for besides are allowed too."""
EXPOSED_HEADERS = (
    "ETag",
    "Preference-Applied",
    "Retry-After",
    "Content-Location",
    "Location",
    "Content-Range",
    "Accept-Ranges",
    "Content-Disposition",
    "Age",
    "X-Request-Id",
    "X-Webhook-Kept",
    "X-Task-Kept",
    "x-should-retry",
    "Idempotent-Replayed",
)
MAX_AGE_SECONDS = 600

_FIELD_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z, \t-]{0,4096}")


def add_cors(app: ASGIApp, origins: Origins, *, cookies: bool, exposed: Sequence[str] = ()) -> ASGIApp:
    """The app behind CORS; where no origin is allowed, behind a check that only logs refused ones.

    Args:
        cookies: Whether pages of the listed origins may send the cookie; `*` never allows that.
        exposed: Further headers of responses that pages may read.
    """
    inner = app if origins.none else _Cors(app, origins, cookies=cookies, exposed=exposed)
    return _LoggedOrigins(inner, origins)


class _Cors(CORSMiddleware):
    """Starlette's, with our comparison of origins.

    The origin decides, never the header: a page's tracing, its error reports and its SDKs each add some
    (`traceparent`, `baggage`, `sentry-trace`, `x-stainless-os`), and a preflight that lacks one breaks it.
    """

    def __init__(self, app: ASGIApp, origins: Origins, *, cookies: bool, exposed: Sequence[str]) -> None:
        super().__init__(
            app,
            allow_origins=("*",) if origins.any else (),
            allow_methods=METHODS,
            allow_headers=("*",),
            expose_headers=(*EXPOSED_HEADERS, *exposed),
            allow_credentials=cookies and not origins.any,
            allow_private_network=True,
            max_age=MAX_AGE_SECONDS,
        )
        self._origins = origins

    def is_allowed_origin(self, origin: str) -> bool:
        """Whether `Access-Control-Allow-Origin` names this origin."""
        return self._origins.any or self._origins.lists(origin)

    def preflight_response(self, request_headers: Headers) -> Response:
        """The response to a preflight; the headers it asks for are repeated only if they are field names."""
        wanted = request_headers.get("access-control-request-headers", "")
        if not _FIELD_NAMES.fullmatch(wanted):
            return Response("Disallowed CORS headers", status_code=400, media_type="text/plain")
        response = super().preflight_response(request_headers)
        names = {name.strip().lower(): name.strip() for name in (*ALLOWED_HEADERS, *wanted.split(","))}
        response.headers["Access-Control-Allow-Headers"] = ", ".join(filter(None, names.values()))
        return response


class _LoggedOrigins:
    """Logs the origins whose pages cannot read the responses."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass on. Not a coroutine itself: one less is suspended for as long as a stream lasts."""
        if scope["type"] == "http" and b"origin" in [name for name, _ in scope["headers"]]:
            self._origins.is_allowed(Headers(scope=scope))
        return self._app(scope, receive, send)
