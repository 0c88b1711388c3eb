"""Request ids: in every response, every problem document and every log line of a request."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.clock import Clock
from bridge.telemetry.request_context import REQUEST_ID, bind
from bridge.web.limits.client_address import ClientAddresses

_HEADS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})

logger = logging.getLogger(__name__)


class RequestIdMiddleware:
    """Binds the request context to the request's asyncio task, and adds `X-Request-Id` to the response.

    It is inside `ConnectionHandoff`, whose streams bypass its `send`; their head, which has the id, does not.
    """

    def __init__(self, app: ASGIApp, clock: Clock, addresses: ClientAddresses) -> None:
        self._app = app
        self._addresses = addresses
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and log the request at level debug."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request = bind(scope["headers"])
        if scope.get("client"):
            request.address = self._addresses.of(scope)
            request.shared = self._addresses.is_shared(scope)
        send_with_id = _SendWithId(send, request.request_id)
        started_at = self._clock.monotonic()
        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if logger.isEnabledFor(logging.DEBUG):
                fields = {
                    "method": scope.get("method", "GET"),
                    "route": route_of(scope),
                    "status": send_with_id.status,
                    "seconds": round(self._clock.monotonic() - started_at, 4),
                }
                logger.debug("request answered", extra=fields)


class _SendWithId:
    """The server's `send`, with the id added to the response head."""

    __slots__ = ("_header", "_send", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (REQUEST_ID, request_id.encode())
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] in _HEADS:
            self.status = message.get("status")
            message["headers"] = [*message.get("headers", ()), self._header]
        await self._send(message)


def route_of(scope: Scope) -> str | None:
    """The template of the path. The path itself is never logged: it may contain a callback's secret."""
    return getattr(scope.get("route"), "path", None)
