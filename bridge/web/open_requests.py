"""The open requests: if the server cancels one, the bridge still responds to it, and not the server.

A server that stops cancels what is left after a while and responds with a plain 500, which does not say
whether a retry is safe. The SDKs of OpenAI and Anthropic repeat such a request, and a create is paid twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bridge.delivery.handoff import server_of
from bridge.delivery.sse import OverloadedResponse
from bridge.delivery.subscriptions import Subscriptions
from bridge.errors import Overloaded
from bridge.telemetry.request_context import current_request
from bridge.watchers.submitter import MAY_EXIST, RESTARTING_RETRY_SECONDS
from bridge.web.problems import error_to
from bridge.wire.formats import SseFormat

STREAM_TYPE = b"text/event-stream"
INTERRUPTED_SENTENCE = "the bridge is restarting; the request was not completed"


class OpenRequests:
    """All requests whose response is not complete; a stream leaves once it has begun."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self._subscriptions = subscriptions
        self._open: dict[asyncio.Task[object], tuple[Scope, Answer]] = {}

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """The app, with its requests among these."""

        def serve(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            # Not a coroutine itself: one less for each request.
            if scope["type"] == "http":
                return self._serve(app, scope, receive, send)
            return app(scope, receive, send)

        return serve

    async def wait(self, seconds: float) -> None:
        """Wait for the requests that are open now, at most `seconds`."""
        if self._open:
            await asyncio.wait(list(self._open), timeout=seconds)

    def interrupt(self) -> None:
        """Answer all that are open, at once; a response that has begun is cut off."""
        for task, (scope, answer) in self._open.items():
            if not answer.begun:
                task.cancel()
            elif (server := server_of(scope)) is not None:
                server.transport.abort()

    async def _serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        answer = Answer(send, scope, self._is_draining)
        self._open[task] = scope, answer
        try:
            await app(scope, receive, answer)
        except asyncio.CancelledError:
            if answer.begun:
                raise
            await self._interrupted(scope)(scope, receive, answer)
        finally:
            del self._open[task]

    def _is_draining(self) -> bool:
        return self._subscriptions.closed is not None

    def _interrupted(self, scope: Scope) -> Response:
        """The answer to a request that cannot be completed."""
        request = current_request()
        if request is not None and request.create_sent:
            error = Overloaded(f"{INTERRUPTED_SENTENCE}; {MAY_EXIST}")
            error.retryable = False
            return error_to(scope, error)
        if any(name == b"accept" and STREAM_TYPE in value.lower() for name, value in scope["headers"]):
            # On any other status than 200 an EventSource never reconnects.
            return OverloadedResponse(self._subscriptions, SseFormat())
        return error_to(scope, Overloaded(INTERRUPTED_SENTENCE, retry_after=RESTARTING_RETRY_SECONDS))


class Answer:
    """The server's `send`: knows whether the response has begun, and ends the connection during a drain."""

    __slots__ = ("_is_draining", "_scope", "_send", "begun")

    def __init__(self, send: Send, scope: Scope, is_draining: Callable[[], bool]) -> None:
        self._send = send
        self._scope = scope
        self._is_draining = is_draining
        self.begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            # HTTP/2 has no such header: its servers announce the end themselves.
            if self._is_draining() and self._scope["http_version"].startswith("1"):
                headers = [(name, value) for name, value in message["headers"] if name != b"connection"]
                message["headers"] = [*headers, (b"connection", b"close")]
        await self._send(message)
