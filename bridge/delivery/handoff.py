"""The outermost ASGI layer: keeps the server's own `send`, and holds connections that stay open.

A framework's layers cost each open connection a dozen suspended coroutines, twice the memory of
everything else. A stream passes through them once, to be checked and answered; then it is handed
over to this layer, and they are gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

SERVER = "bridge.server"
SESSION = "bridge.stay"
ON_CLOSE = "bridge.at_end"

StreamSession = Callable[[Receive, Send], Awaitable[None]]
CloseCallback = Callable[[], None]


class ConnectionHandoff:
    """Passes on, and then runs what was handed over."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or one connection for as long as it lasts."""
        extensions = scope.setdefault("extensions", {})
        server = getattr(send, "__self__", None)
        transport = getattr(server, "transport", None)
        if hasattr(transport, "get_write_buffer_size"):  # by what it can: uvloop's is no asyncio.Transport
            extensions[SERVER] = server
        try:
            try:
                await self._app(scope, receive, send)
            finally:
                extensions.pop(
                    SERVER, None
                )  # it holds the scope: a circle that only a full collection would free
            stay: StreamSession | None = extensions.pop(SESSION, None)
            if stay is not None:
                if server is not None:
                    _forget_request(scope, server)
                await stay(receive, send)
        finally:
            for end in extensions.pop(ON_CLOSE, ()):
                end()


def _forget_request(scope: Scope, server: Any) -> None:
    """Under our own server nobody reads the request again: 3 KB less for as long as the stream lasts."""
    scope["headers"].clear()
    if scope["type"] == "websocket":
        server.request = server.response = None
        scope.clear()


def server_of(scope: Scope) -> Any | None:
    """The server's object for this request, where it shows its transport."""
    return scope["extensions"].get(SERVER)


def detach(scope: Scope, stay: StreamSession) -> None:
    """Run `stay` once the framework has returned; the response has begun."""
    scope["extensions"][SESSION] = stay


def on_close(scope: Scope, end: CloseCallback) -> None:
    """Call `end` once the request is over, or the connection that came of it, whatever ends them."""
    scope["extensions"].setdefault(ON_CLOSE, []).append(end)
