"""The routes of streams, found and served without the layers that every other route needs."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from bridge.errors import BridgeError
from bridge.web.open_requests import Answer
from bridge.web.problems import on_bridge_error, on_http_exception, on_unhandled_exception


class DirectStreams:
    """Serves a new stream as Starlette would, without its stack: that was a sixth of what a new stream costs.

    Everything else is passed on: other methods, other paths, and a bridge below a prefix.

    Args:
        app: The application with all routes.
        streams: Those of its routes whose connections stay open.
    """

    def __init__(self, app: ASGIApp, streams: Sequence[Route | WebSocketRoute]) -> None:
        self._app = app
        self._routes = [route for route in streams if isinstance(route, Route)]
        self._sockets = {route.path: route for route in streams if isinstance(route, WebSocketRoute)}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve or pass on. Not a coroutine itself: one less for each request."""
        path = scope["path"]
        if scope.get("root_path"):
            pass
        elif scope["type"] == "websocket":
            socket = self._sockets.get(path)
            if socket is not None:
                scope.update(route=socket, endpoint=socket.endpoint, path_params={})
                return self._converse(socket, scope, receive, send)
        elif path.endswith("/events") and scope["method"] == "GET":
            for route in self._routes:
                found = route.path_regex.match(path)
                if found is not None:
                    params = _converted(route, found.groupdict())
                    scope.update(route=route, endpoint=route.endpoint, path_params=params)
                    return self._serve(route, scope, receive, send)
        return self._app(scope, receive, send)

    def _converse(self, route: WebSocketRoute, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        served: Awaitable[None] = route.endpoint(WebSocket(scope, receive, send))
        return served

    async def _serve(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            response = await route.endpoint(request)
            await response(scope, receive, send)
        except Exception as error:  # noqa: BLE001 - every one is answered, and what is a bug raised again
            assert isinstance(send, Answer)
            await _fail(request, error, send)


def _converted(route: Route, found: dict[str, str]) -> dict[str, str]:
    return {name: route.param_convertors[name].convert(value) for name, value in found.items()}


async def _fail(request: Request, error: Exception, send: Answer) -> None:
    """Answer with the document of an error, if nothing was sent; log and raise one that is a bug."""
    scope, receive = request.scope, request.receive
    expected = isinstance(error, BridgeError | HTTPException)
    if expected and not send.begun:
        handler = on_bridge_error if isinstance(error, BridgeError) else on_http_exception
        await (await handler(request, error))(scope, receive, send)
        error.__traceback__ = None  # one instance may be raised often, and would collect them
        return
    response = await on_unhandled_exception(request, error)
    if not send.begun:
        await response(scope, receive, send)
    raise error
