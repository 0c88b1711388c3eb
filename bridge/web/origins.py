"""Which web pages may talk to the bridge: its own, and those the operator names."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
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
EXPOSED_HEADERS = ("ETag", "Preference-Applied", "Retry-After", "Content-Location", "Location")


class Origins:
    """An explicit list; `*` lets every page in, without credentials."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = tuple(allowed)

    def allow(self, headers: Headers) -> bool:
        """Whether a WebSocket from this page may open. Browsers always say their origin."""
        origin = headers.get("origin")
        if origin is None or "*" in self._allowed or origin in self._allowed:
            return True
        return urlsplit(origin).netloc == headers.get("host")

    def guard(self, app: ASGIApp) -> ASGIApp:
        """The same list for everything else, by CORS; nothing at all when it is empty."""
        if not self._allowed:
            return app
        return CORSMiddleware(
            app,
            allow_origins=self._allowed,
            allow_methods=("GET", "POST", "HEAD"),
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
            max_age=600,
        )
