"""CORS (cross-origin resource sharing) for every HTTP route: the `Access-Control-` headers and preflights."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

ALLOWED_HEADERS = (
    "Authorization",
    "Last-Event-ID",
    "Cache-Control",
    "Content-Type",
    "Prefer",
    "If-None-Match",
)
EXPOSED_HEADERS = (
    "ETag",
    "Preference-Applied",
    "Retry-After",
    "Content-Location",
    "Location",
    "X-Request-Id",
)
MAX_AGE_SECONDS = 600


def add_cors(app: ASGIApp, allowed_origins: Sequence[str], *, cookies: bool) -> ASGIApp:
    """The app behind CORS; the app itself where no origin is allowed.

    Args:
        cookies: Whether pages of the listed origins may send the cookie; `*` never allows that.
    """
    if not allowed_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=tuple(allowed_origins),
        allow_methods=("GET", "POST", "HEAD"),
        allow_headers=ALLOWED_HEADERS,
        expose_headers=EXPOSED_HEADERS,
        allow_credentials=cookies and "*" not in allowed_origins,
        max_age=MAX_AGE_SECONDS,
    )
