"""Every request has an id: in its answer, in its problem documents and in every line of the log."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.clock import Clock
from bridge.telemetry.request_context import REQUEST_ID, bind

_HEADS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})

logger = logging.getLogger(__name__)


class RequestIdMiddleware:
    """ASGI layer: says whose request this is, for as long as the request's asyncio task lasts.

    It stands inside `Outermost`, whose `send` streams write past; the id is in the head, which comes first.
    """

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and answer with the id."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, bind(scope["headers"]).request_id)
        began = self._clock.monotonic()
        try:
            await self._app(scope, receive, answer)
        finally:
            if logger.isEnabledFor(logging.DEBUG):
                _tell(scope, answer.status, self._clock.monotonic() - began)


class _Answer:
    """The server's `send`, with the id in the head."""

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
    """The template of the path: what stands in its place may be a secret, as in a callback's address."""
    return getattr(scope.get("route"), "path", None)


def _tell(scope: Scope, status: int | None, seconds: float) -> None:
    fields = {
        "method": scope.get("method", "GET"),
        "route": route_of(scope),
        "status": status,
        "seconds": round(seconds, 4),
    }
    logger.debug("request answered", extra=fields)
