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
EXPOSED_HEADERS = (
    "ETag",
    "Preference-Applied",
    "Retry-After",
    "Content-Location",
    "Location",
    "X-Request-Id",
)


class Origins:
    """An explicit list; `*` lets every page in, without credentials.

    Args:
        cookies: Whether pages of the origins that are named may send the cookie of this bridge.
    """

    def __init__(self, allowed: Sequence[str], *, cookies: bool = False) -> None:
        self._allowed = tuple(allowed)
        self._cookies = cookies

    def allow(self, headers: Headers) -> bool:
        """Whether a WebSocket from this page may open. Browsers always say their origin."""
        origin = headers.get("origin")
        if origin is None or "*" in self._allowed or origin in self._allowed:
            return True
        return _is_host(origin, headers)

    def own(self, headers: Headers) -> bool:
        """Whether a browser says that a page of ours asks: of this host, or listed by name.

        For requests that carry a cookie, which a browser sends for whatever page asks. `*` is no name.
        """
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site") in {"same-origin", "none"}
        return (origin in self._allowed and origin != "*") or _is_host(origin, headers)

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
            allow_credentials=self._cookies and "*" not in self._allowed,
            max_age=600,
        )


def _is_host(origin: str, headers: Headers) -> bool:
    """Whether the page comes from where the request went to."""
    try:
        return urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # no address at all
        return False
