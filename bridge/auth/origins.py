"""Which web pages may use the bridge: those of its own host, and those of the configured origins.

The CSRF check of cookies, and the origin check of WebSockets and submits. CORS headers are in
`web/middleware/cors.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from starlette.datastructures import Headers

from bridge.net import same_host, same_origin

ANY = "*"
MAX_LOGGED = 64  # origins; a page can invent any number of them
MAX_ORIGIN = 512  # of a host name of 253 characters, with much to spare

logger = logging.getLogger(__name__)


class Origins:
    """Checks the `Origin` header of requests.

    Args:
        allowed: Origins as browsers send them; `*` allows every page, but never with a cookie.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self.any = ANY in allowed
        self._allowed = frozenset(same_origin(origin) for origin in allowed if origin != ANY)
        self._logged: set[str] = set()

    @property
    def none(self) -> bool:
        """Whether no page of another host may use the bridge."""
        return not self.any and not self._allowed

    def lists(self, origin: str) -> bool:
        """Whether it is one of the configured origins; `*` is none."""
        return len(origin) <= MAX_ORIGIN and same_origin(origin) in self._allowed

    def is_allowed(self, headers: Headers) -> bool:
        """Whether a page of this origin may open a WebSocket or submit; requests without `Origin` may.

        Browsers always send `Origin` with both, so a request without one is not made by a web page. A refused
        origin is logged, once.
        """
        origin = headers.get("origin")
        if origin is None or self.any or self.lists(origin) or _is_own_host(origin, headers):
            return True
        self._log_refused(origin)
        return False

    def passes_csrf_check(self, headers: Headers) -> bool:
        """Whether a request with a cookie comes from a page of the bridge's host or a listed origin.

        Stricter than `is_allowed`: browsers attach the cookie to requests of any page, so `*` does not count,
        and a request without `Origin` must say in `Sec-Fetch-Site` that no other site made it.
        """
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site") in {"same-origin", "none"}
        if self.lists(origin) or _is_own_host(origin, headers):
            return True
        self._log_refused(origin)
        return False

    def _log_refused(self, origin: str) -> None:
        origin = origin[:MAX_ORIGIN].lower()
        if origin not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(origin)
            logger.warning("origin refused", extra={"origin": origin, "advice": _advice(origin)})


def _advice(origin: str) -> str:
    if origin == "null":
        return f"a file, or a page in a sandbox; only {ANY!r} in allowed_origins allows those, of every site"
    return "add it to allowed_origins if its pages are yours"


def _is_own_host(origin: str, headers: Headers) -> bool:
    scheme, marks, host = origin.lower().partition("://")
    own = headers.get("host")
    return bool(marks and own) and same_host(host, scheme) == same_host(own or "", scheme)
