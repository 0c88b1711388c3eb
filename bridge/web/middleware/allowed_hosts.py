"""Under which names the bridge is reached, where nobody is asked who they are.

A stranger's page may let its own name point at this machine (DNS rebinding); to the browser the bridge is
then the page's own server, and no origin gives it away. Only the name in `Host` does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import lru_cache
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.dialects.hosts import Hosts
from bridge.errors import Forbidden
from bridge.web.problems import problem

_LOCAL = ".localhost"
_SENTENCE = "this bridge is not reached under that name; if it should be, name it in allowed_hosts"


class AllowedHostsMiddleware:
    """Lets requests in that name this machine, or a name the operator allows.

    Addresses and names without a dot cannot be a stranger's, whose name a browser finds in the public DNS.

    Args:
        allowed: Further names; `*.example.com` for all below.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = Hosts(allowed)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass on, or refuse; no coroutine of ours stays for as long as a stream does."""
        if scope["type"] != "lifespan" and not self._lets_in(_host(scope)):
            return _refuse(scope, receive, send)
        return self._app(scope, receive, send)

    def _lets_in(self, host: bytes) -> bool:
        return not _may_be_strange(host) or self._allowed.has(_name(host))


def _host(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"host":
            return bytes(value)
    return b""


def _name(field: bytes) -> str:
    """What stands before the port, folded."""
    host = field.decode("latin-1")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.rstrip(".").lower()


@lru_cache(16)  # nearly everybody comes by the same few names; a name may be as long as a head
def _may_be_strange(host: bytes) -> bool:
    name = _name(host)
    if "." not in name or name.endswith(_LOCAL):
        return False
    try:
        ip_address(name)
    except ValueError:
        return True
    return False


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": _SENTENCE[:120]})
        return
    await problem(Forbidden(_SENTENCE))(scope, receive, send)
