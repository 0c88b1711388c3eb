"""Which web pages may use the bridge: those of its own host, and those of the configured origins.

The CSRF check of cookies, and the origin check of WebSockets and submits. CORS headers are in
`web/middleware/cors.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers


class Origins:
    """Checks the `Origin` header of requests that CORS does not protect.

    Args:
        allowed: Origins as browsers send them; `*` allows every page, but never with a cookie.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = tuple(allowed)

    def is_allowed(self, headers: Headers) -> bool:
        """Whether a page of this origin may open a WebSocket or submit; requests without `Origin` may.

        Browsers always send `Origin` with both, so a request without one is not made by a web page.
        """
        origin = headers.get("origin")
        if origin is None or "*" in self._allowed or origin in self._allowed:
            return True
        return _is_own_host(origin, headers)

    def passes_csrf_check(self, headers: Headers) -> bool:
        """Whether a request with a cookie comes from a page of the bridge's host or a listed origin.

        Stricter than `is_allowed`: browsers attach the cookie to requests of any page, so `*` does not count,
        and a request without `Origin` must say in `Sec-Fetch-Site` that no other site made it.
        """
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site") in {"same-origin", "none"}
        return (origin in self._allowed and origin != "*") or _is_own_host(origin, headers)


def _is_own_host(origin: str, headers: Headers) -> bool:
    try:
        return urlsplit(origin).netloc == headers.get("host")
    except ValueError:  # for example `https://[`
        return False
