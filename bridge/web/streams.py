"""The routes that stay open: events of one task or many, and the WebSocket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.websockets import WebSocket

from bridge.auth.authenticator import Caller, Callers, TokenScope
from bridge.auth.origins import Origins
from bridge.core.event import Closing
from bridge.core.task import TaskKey
from bridge.delivery.sse import EventStream, TurnedAway, head
from bridge.delivery.subscriptions import Arrival, Desk, withheld
from bridge.delivery.websocket import REFUSED, Socket, turn_away
from bridge.errors import BridgeError, LimitExceeded, Unauthenticated, UpstreamError
from bridge.web import params
from bridge.web.limits.limits import Limits, Place, tell_turned_away
from bridge.web.problems import problem
from bridge.wire.frames import Dress, Wire

_DENIAL = "websocket.http.response"

Named = Callable[[Request, Caller], Awaitable[list[TaskKey]]]


class Streams:
    """Streams of events, in every delivery that stays open."""

    def __init__(self, desk: Desk, origins: Origins, limits: Limits, callers: Callers) -> None:
        self._desk = desk
        self._origins = origins
        self._limits = limits
        self._callers = callers

    async def of_task(self, request: Request) -> Response:
        """`GET /v1/tasks/{upstream}/{task_id}/events`."""
        return await self._answer(request, self._named_by_path)

    async def of_tasks(self, request: Request) -> Response:
        """`GET /v1/events?task=...`, or `POST` with `{"tasks": [...]}`."""
        return await self._answer(request, self._named_by_request)

    async def _answer(self, request: Request, named: Named) -> Response:
        """A stream, or a word that there is no room for one, before anything else is looked at."""
        query = params.query(request)
        dress = params.dress(query)
        wire = params.wire(request.headers) if dress is Dress.BRIDGE else Wire.SSE
        if request.method == "HEAD":
            caller = await self._callers.who(request, ticket=True)
            await self._callers.permit(caller, TokenScope.READ, await named(request, caller))
            return head(wire)
        try:
            place = self._limits.stream(request)
            caller = await self._callers.who(request, ticket=True)
            place.belong(caller.name)
            keys = await named(request, caller)
            place.follow(len(keys))
            doubts = await self._callers.permit(caller, TokenScope.READ, keys)
        except LimitExceeded as error:
            tell_turned_away(wire.value, error)
            return TurnedAway(self._desk, wire, dress)
        except UpstreamError as error:
            if not error.retryable:
                raise
            return TurnedAway(self._desk, wire, dress, why=withheld(error))
        include = params.include(query)
        arrival, expires_at = self._arrival(request, query, keys, doubts), self._callers.ends_at(caller)
        return EventStream(self._desk, arrival, wire, include, dress, expires_at=expires_at)

    async def _named_by_path(self, request: Request, caller: Caller) -> list[TaskKey]:
        return [params.path_key(self._desk.pool, request, caller.account)]

    async def _named_by_request(self, request: Request, caller: Caller) -> list[TaskKey]:
        refs = params.query(request).getlist("task")
        if request.method == "POST":
            body = await params.json_object(request, self._desk.settings.max_body_bytes)
            refs = refs + params.only_texts(body.get("tasks"), "tasks")
        return self._keys(caller, refs)

    def _keys(self, caller: Caller, refs: Sequence[str]) -> list[TaskKey]:
        most = self._desk.settings.max_tasks_per_connection
        return params.task_keys(self._desk.pool, refs, most, caller.account)

    @staticmethod
    def _arrival(
        request: HTTPConnection,
        query: QueryParams,
        keys: Sequence[TaskKey],
        doubts: Mapping[TaskKey, BridgeError],
    ) -> Arrival:
        history = params.flag(query, "history")
        shown = [key for key in keys if key not in doubts]
        return Arrival(shown, params.resume_token(request, query), history, doubts)

    async def websocket(self, websocket: WebSocket) -> None:
        """`GET /v1/ws`."""
        scope, receive, send = websocket.scope, websocket._receive, websocket._send  # noqa: SLF001 - the ASGI callables
        if not self._origins.allow(websocket.headers):
            await _refuse(receive, send, "this origin may not connect")
            return
        try:
            place = self._limits.stream(websocket)
            caller = await self._callers.who(websocket, ticket=True)
            place.belong(caller.name)
            socket = await self._socket(websocket, place, caller)
        except LimitExceeded as error:
            tell_turned_away(Wire.WEBSOCKET.value, error)
            self._desk.metrics.turned_away(Wire.WEBSOCKET.value)
            await turn_away(Closing.OVER_CAPACITY, scope, receive, send)
            return
        except Unauthenticated as error:
            await _deny(websocket, error)
            return
        except BridgeError as error:
            await _refuse(receive, send, str(error))
            return
        await socket(scope, receive, send)

    async def _socket(self, websocket: WebSocket, place: Place, caller: Caller) -> Socket:
        query = params.query(websocket)
        refs = query.getlist("task")
        keys = self._keys(caller, refs) if refs else []
        doubts = await self._callers.doubts(caller, TokenScope.READ, keys)
        return Socket(
            self._desk,
            resolve=partial(self._keys, caller),
            first=self._arrival(websocket, query, keys, doubts) if refs else None,
            include=params.include(query),
            max_tasks=self._desk.settings.max_tasks_per_connection,
            follow=place.follow,
            refusals=partial(self._callers.refusals, caller, TokenScope.READ),
            expires_at=self._callers.ends_at(caller),
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
