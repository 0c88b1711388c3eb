"""The first ASGI middleware: keeps the server's own `send` and runs long-lived connections.

A dozen suspended coroutines, one per framework layer, would cost each open connection twice the memory of
everything else. So the layers only check a stream and start its response; then its session is detached and
runs here, and the layers are freed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

SERVER = "bridge.server"
SESSION = "bridge.session"
ON_CLOSE = "bridge.on_close"

# A client that has closed its half may still read: a provider that responds fast can be waited for.
LEFT_SECONDS = 0.5

StreamSession = Callable[[Receive, Send], Awaitable[None]]
CloseCallback = Callable[[], None]


class ConnectionHandoff:
    """Passes each request on, then runs the session that was detached from it, if any."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or one connection for its whole life."""
        # Optional in ASGI, and some servers send None.
        extensions = scope["extensions"] = scope.get("extensions") or {}
        server = _known_server(send)
        if server is not None:
            extensions[SERVER] = server
        try:
            try:
                await self._app(scope, receive, send)
            finally:
                # The server object holds the scope: a reference cycle that only a full collection would free.
                extensions.pop(SERVER, None)
            session: StreamSession | None = extensions.pop(SESSION, None)
            if session is not None:
                if server is not None:
                    # This server does not read the request again: 3 KB less per open stream.
                    scope["headers"].clear()
                    server.detached = True  # from here on `receive` reports a half-closed connection as ended
                    if scope["type"] == "websocket":
                        server.request = server.response = None
                        scope.clear()
                await session(receive, send)
        finally:
            for callback in extensions.pop(ON_CLOSE, ()):
                callback()


def _known_server(send: Send) -> Any | None:
    """The protocol object behind `send`, if it is uvicorn's or like it: one that shows its transport."""
    server = getattr(send, "__self__", None)
    transport = getattr(server, "transport", None)
    # Tested by method, not by type: uvloop's transports are not `asyncio.Transport`s.
    return server if hasattr(transport, "get_write_buffer_size") else None


def server_of(scope: Scope) -> Any | None:
    """The server's protocol object for this request; None if it does not expose its transport."""
    return scope.get("extensions", {}).get(SERVER)


def detach(scope: Scope, session: StreamSession) -> None:
    """Run `session` once the framework has returned. The response must have begun."""
    scope["extensions"][SESSION] = session


def on_leave(scope: Scope, callback: CloseCallback | None) -> None:
    """Call `callback` once the client has closed the connection, or its half of it.

    At once if it has. Only one callback is kept; None removes it. Under another server: never.
    """
    server = server_of(scope)
    if server is not None and hasattr(server, "on_leave"):
        server.on_leave(callback)


@asynccontextmanager
async def timeout_of_client(seconds: float, scope: Scope | None) -> AsyncIterator[None]:
    """`asyncio.timeout`, which ends within `LEFT_SECONDS` once the client has closed its half.

    Args:
        scope: The HTTP request; None for a plain timeout.

    Raises:
        TimeoutError: The time is up.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds) as limit:
        if scope is None:
            yield
            return
        ends_at = loop.time() + seconds

        def left() -> None:
            if not limit.expired():  # it may have, and the task has not noticed yet
                limit.reschedule(min(ends_at, loop.time() + LEFT_SECONDS))

        on_leave(scope, left)
        try:
            yield
        finally:
            on_leave(scope, None)


def on_close(scope: Scope, callback: CloseCallback) -> None:
    """Call `callback` when the request, or the connection it became, has ended for any reason."""
    scope["extensions"].setdefault(ON_CLOSE, []).append(callback)
