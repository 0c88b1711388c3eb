"""Routing by the undecoded path, so that an encoded slash in a task id stays one, and its prefix."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from bridge.core.task import climbs
from bridge.web.limits.client_address import ClientAddresses

MAX_PREFIX = 256

_FORWARDED_PREFIX = b"x-forwarded-prefix"
# Nothing that means something in HTML, JSON or a header, and no host: `//evil.example`.
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")


class RawPathMiddleware:
    """Replaces the decoded path by the raw one; `params.EncodedConvertor` decodes after routing.

    A proxy that leaves out a prefix of the path names it in `X-Forwarded-Prefix`, or the operator does, in
    `public_url`. It becomes a part of `root_path`, with which all links begin.

    Args:
        public_url: The address at which clients reach the bridge; empty if unknown.
        addresses: Which peers are proxies that may name a prefix.
    """

    def __init__(self, app: ASGIApp, *, public_url: str, addresses: ClientAddresses) -> None:
        self._app = app
        self._public = urlsplit(public_url).path.rstrip("/")
        self._addresses = addresses

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass on with the path still encoded. Not a coroutine itself: one less for each request."""
        raw = scope.get("raw_path")
        if raw is not None and scope["type"] in {"http", "websocket"}:
            scope["path"] = raw.decode("latin-1")
            if self._public or self._addresses.trusts_peer(scope):
                self._set_prefix(scope)
        return self._app(scope, receive, send)

    def _set_prefix(self, scope: Scope) -> None:
        root = str(scope.get("root_path", "")).rstrip("/")
        prefix = self._public or _joined(self._forwarded(scope), root)
        if prefix == root or not scope["path"].startswith(f"{root}/"):
            return
        scope["path"] = prefix + scope["path"].removeprefix(root)
        scope["root_path"] = prefix

    def _forwarded(self, scope: Scope) -> str:
        """The prefix that trusted proxies left out, in their order; empty for none or a hostile one."""
        values = [value for name, value in scope["headers"] if name == _FORWARDED_PREFIX]
        parts = [part.strip().rstrip("/") for part in b",".join(values).decode("latin-1").split(",")]
        prefix = "".join(parts)
        sane = len(prefix) <= MAX_PREFIX and all(not part or _PREFIX.fullmatch(part) for part in parts)
        return prefix if sane and not climbs(prefix) else ""


def _joined(prefix: str, root: str) -> str:
    """Both, unless the mount already contains the prefix."""
    return root if root == prefix or root.startswith(f"{prefix}/") else prefix + root
