"""Allowed host names (the `Host` header), against DNS rebinding of what is served without a credential.

A malicious page can let its own host name resolve to this machine. To the browser the bridge is then the
page's own server, and neither CORS nor `Origin` distinguishes the two. Only the name in `Host` does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.dialects.hosts import Hosts
from bridge.errors import Forbidden
from bridge.web.problems import error_to

OPERATIONS = ("/status", "/metrics", "/v1/webhooks")
MAX_LOGGED = 64  # names; a client can invent any number of them

_LOCAL = ".localhost"
_ADVICE = "add it to allowed_hosts if it is the bridge's own"
_SENTENCE = f"this host name is not allowed; {_ADVICE}"
_CLOSE_REASON = _SENTENCE[:120]
_MAX_NAME = 253

logger = logging.getLogger(__name__)


class AllowedHostsMiddleware:
    """Rejects requests unless their host name is local or allowed. A refused name is logged, once.

    IP addresses and names without a dot are always allowed: browsers do not resolve them in the public DNS.

    Args:
        allowed: Further names; `*.example.com` for all subdomains.
        paths: The beginnings of the paths to check; None for all.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str], *, paths: Sequence[str] | None = None) -> None:
        self._app = app
        self._allowed = Hosts(allowed)
        self._paths = None if paths is None else tuple(paths)
        self._logged: set[str] = set()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass on or reject. Not a coroutine itself: one less is suspended for as long as a stream lasts."""
        if scope["type"] != "lifespan" and (self._paths is None or _path(scope).startswith(self._paths)):
            host = next((bytes(value) for name, value in scope["headers"] if name == b"host"), b"")
            if _is_public_name(host) and not self._allowed.has(_name(host)):
                self._log(_name(host)[:_MAX_NAME])
                return _reject(scope, receive, send)
        return self._app(scope, receive, send)

    def _log(self, name: str) -> None:
        if name not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(name)
            logger.warning("host name refused", extra={"host": name, "advice": _ADVICE})


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(str(scope.get("root_path", "")).rstrip("/"))


def _name(host: bytes) -> str:
    """The name or address without port and brackets, in lower case."""
    text = host.decode("latin-1")
    name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
    return name.rstrip(".").lower()


@lru_cache(16)  # small: nearly all requests use the same few names, and a forged one may be 256 KiB long
def _is_public_name(host: bytes) -> bool:
    name = _name(host)
    if "." not in name or name.endswith(_LOCAL):
        return False
    try:
        ip_address(name)
    except ValueError:
        return True
    return False


async def _reject(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": _CLOSE_REASON})
        return
    await error_to(scope, Forbidden(_SENTENCE))(scope, receive, send)
