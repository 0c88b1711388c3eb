"""The routes that stay open: events of one task or many, and the WebSocket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.websockets import WebSocket

from bridge.auth.authenticator import Authenticator, Caller, TokenScope
from bridge.auth.origins import Origins
from bridge.core.event import Closing
from bridge.core.task import TaskKey
from bridge.delivery.sse import EventStream, OverloadedResponse, head
from bridge.delivery.subscriptions import SubscribeRequest, Subscriptions, denied_notice
from bridge.delivery.websocket import REFUSED, WebSocketSession, reject
from bridge.errors import BridgeError, LimitExceeded, Unauthenticated, UpstreamError
from bridge.web import params
from bridge.web.limits.limits import ConnectionSlot, Limits, log_rejected
from bridge.web.problems import problem
from bridge.wire.frames import Transport, Variant

_DENIAL = "websocket.http.response"

Named = Callable[[Request, Caller], Awaitable[list[TaskKey]]]


class StreamRoutes:
    """Streams of events, in every delivery that stays open."""

    def __init__(
        self, subscriptions: Subscriptions, origins: Origins, limits: Limits, authenticator: Authenticator
    ) -> None:
        self._subscriptions = subscriptions
        self._origins = origins
        self._limits = limits
        self._authenticator = authenticator

    async def of_task(self, request: Request) -> Response:
        """`GET /v1/tasks/{upstream}/{task_id}/events`."""
        return await self._answer(request, self._named_by_path)

    async def of_tasks(self, request: Request) -> Response:
        """`GET /v1/events?task=...`, or `POST` with `{"tasks": [...]}`."""
        return await self._answer(request, self._named_by_request)

    async def _answer(self, request: Request, named: Named) -> Response:
        """A stream, or a word that there is no room for one, before anything else is looked at."""
        query = params.query(request)
        variant = params.variant(query)
        transport = params.transport(request.headers) if variant is Variant.BRIDGE else Transport.SSE
        if request.method == "HEAD":
            caller = await self._authenticator.authenticate(request, ticket=True)
            await self._authenticator.authorize(caller, TokenScope.READ, await named(request, caller))
            return head(transport)
        try:
            place = self._limits.stream(request)
            caller = await self._authenticator.authenticate(request, ticket=True)
            place.assign_to_caller(caller.name)
            keys = await named(request, caller)
            place.follow(len(keys))
            unverified = await self._authenticator.authorize(caller, TokenScope.READ, keys)
        except LimitExceeded as error:
            log_rejected(transport.value, error)
            return OverloadedResponse(self._subscriptions, transport, variant)
        except UpstreamError as error:
            if not error.retryable:
                raise
            return OverloadedResponse(self._subscriptions, transport, variant, why=denied_notice(error))
        include = params.include(query)
        arrival, expires_at = (
            self._arrival(request, query, keys, unverified),
            self._authenticator.ends_at(caller),
        )
        return EventStream(self._subscriptions, arrival, transport, include, variant, expires_at=expires_at)

    async def _named_by_path(self, request: Request, caller: Caller) -> list[TaskKey]:
        return [params.path_key(self._subscriptions.pool, request, caller.account)]

    async def _named_by_request(self, request: Request, caller: Caller) -> list[TaskKey]:
        refs = params.query(request).getlist("task")
        if request.method == "POST":
            body = await params.json_object(request, self._subscriptions.settings.max_body_bytes)
            refs = refs + params.only_texts(body.get("tasks"), "tasks")
        return self._keys(caller, refs)

    def _keys(self, caller: Caller, refs: Sequence[str]) -> list[TaskKey]:
        most = self._subscriptions.settings.max_tasks_per_connection
        return params.task_keys(self._subscriptions.pool, refs, most, caller.account)

    @staticmethod
    def _arrival(
        request: HTTPConnection,
        query: QueryParams,
        keys: Sequence[TaskKey],
        unverified: Mapping[TaskKey, BridgeError],
    ) -> SubscribeRequest:
        history = params.flag(query, "history")
        shown = [key for key in keys if key not in unverified]
        return SubscribeRequest(shown, params.resume_token(request, query), history, unverified)

    async def websocket(self, websocket: WebSocket) -> None:
        """`GET /v1/ws`."""
        scope, receive, send = websocket.scope, websocket._receive, websocket._send  # noqa: SLF001 - the ASGI callables
        if not self._origins.allow(websocket.headers):
            await _refuse(receive, send, "this origin may not connect")
            return
        try:
            place = self._limits.stream(websocket)
            caller = await self._authenticator.authenticate(websocket, ticket=True)
            place.assign_to_caller(caller.name)
            socket = await self._socket(websocket, place, caller)
        except LimitExceeded as error:
            log_rejected(Transport.WEBSOCKET.value, error)
            self._subscriptions.metrics.rejected(Transport.WEBSOCKET.value)
            await reject(Closing.OVER_CAPACITY, scope, receive, send)
            return
        except Unauthenticated as error:
            await _deny(websocket, error)
            return
        except BridgeError as error:
            await _refuse(receive, send, str(error))
            return
        await socket(scope, receive, send)

    async def _socket(self, websocket: WebSocket, place: ConnectionSlot, caller: Caller) -> WebSocketSession:
        query = params.query(websocket)
        refs = query.getlist("task")
        keys = self._keys(caller, refs) if refs else []
        unverified = await self._authenticator.unverified(caller, TokenScope.READ, keys)
        return WebSocketSession(
            self._subscriptions,
            resolve=partial(self._keys, caller),
            first=self._arrival(websocket, query, keys, unverified) if refs else None,
            include=params.include(query),
            max_tasks=self._subscriptions.settings.max_tasks_per_connection,
            follow=place.follow,
            denied=partial(self._authenticator.denied, caller, TokenScope.READ),
            expires_at=self._authenticator.ends_at(caller),
        )


async def _deny(websocket: WebSocket, error: Unauthenticated) -> None:
    """401 where the server can say it, so that a client knows that it needs another credential."""
    if _DENIAL in websocket.scope.get("extensions", {}):
        await websocket._receive()  # noqa: SLF001 - the ASGI callable
        await problem(error)(websocket.scope, websocket._receive, websocket._send)  # noqa: SLF001 - the ASGI callables
        return
    await _refuse(websocket._receive, websocket._send, str(error))  # noqa: SLF001 - the ASGI callables


async def _refuse(receive: Receive, send: Send, why: str) -> None:
    await receive()
    await send({"type": "websocket.close", "code": REFUSED, "reason": why[:120]})
