"""The routes whose connections stay open: event streams of one or many tasks, and the WebSocket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from starlette.datastructures import QueryParams
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.websockets import WebSocket

from bridge.auth.caller import Caller, TokenScope
from bridge.core.event import Closing
from bridge.core.selection import Selection
from bridge.core.task import TaskKey
from bridge.delivery.selected import FollowRequest
from bridge.delivery.sse import EventStream, OverloadedResponse, head
from bridge.delivery.subscriptions import SubscribeRequest, denied_notice
from bridge.delivery.websocket import REFUSED, SubscribeChecks, WebSocketSession, reject
from bridge.errors import (
    BridgeError,
    Forbidden,
    InvalidRequest,
    JournalError,
    LimitExceeded,
    Overloaded,
    Unauthenticated,
    UpstreamError,
)
from bridge.web import params
from bridge.web.limits.limits import ConnectionSlot, log_rejected
from bridge.web.problems import problem
from bridge.web.services import Services
from bridge.wire.document import Include
from bridge.wire.formats import WebSocketFormat
from bridge.wire.frames import Format, format_of

MAX_CLOSE_REASON = 120  # RFC 6455 section 5.5 allows 123 bytes

_DENIAL = "websocket.http.response"

_NAMES = frozenset({"tag", "group"})

KeysOf = Callable[[Request, Caller], Awaitable[list[TaskKey]]]
Admit = Callable[[ConnectionSlot, Caller], Awaitable[EventStream]]


class StreamRoutes:
    """Subscriptions over SSE, NDJSON and WebSocket."""

    def __init__(self, services: Services) -> None:
        self._settings = services.settings
        self._pool = services.pool
        self._metrics = services.metrics
        self._subscriptions = services.subscriptions
        self._selections = services.selections
        self._origins = services.origins
        self._limits = services.limits
        self._authenticator = services.authenticator

    async def one_task(self, request: Request) -> Response:
        """`GET /v1/tasks/{upstream}/{task_id}/events`."""
        return await self._stream(request, self._keys_of_path)

    async def many_tasks(self, request: Request) -> Response:
        """`GET /v1/events?task=...`, `?tag=...` or `?group=...`, or `POST` with `{"tasks": [...]}`."""
        query = params.query(request)
        if query and not query.keys().isdisjoint(_NAMES):
            return await self._follow(request, query)
        return await self._stream(request, self._keys_of_request)

    async def _stream(self, request: Request, keys_of: KeysOf) -> Response:
        query = params.query(request)
        kind = params.stream_format(request.headers, query)
        if request.method == "HEAD":
            caller = await self._authenticator.authenticate(request, ticket=True)
            await self._authenticator.authorize(caller, TokenScope.READ, await keys_of(request, caller))
            return head(kind)

        async def admit(slot: ConnectionSlot, caller: Caller) -> EventStream:
            keys = await keys_of(request, caller)
            slot.subscribe(len(keys))
            unverified = await self._authenticator.authorize(caller, TokenScope.READ, keys)
            include = params.include(query)
            subscribe = _subscribe_request(request, slot, query, keys, unverified)
            expires_at = self._authenticator.ends_at(caller)
            fmt = format_of(kind, include, subscribe.mark)
            return EventStream(self._subscriptions, subscribe, fmt, expires_at=expires_at)

        return await self._admitted(request, kind, admit)

    async def _follow(self, request: Request, query: QueryParams) -> Response:
        kind = params.stream_format(request.headers, query)
        if request.method == "POST":
            raise InvalidRequest("a tag or a group is followed with GET")
        if "task" in query:
            raise InvalidRequest(params.ONE_SELECTION_SENTENCE)
        if params.flag(query, "history"):
            raise InvalidRequest("`history` is not kept for a tag or a group: ask for it task by task")
        include = params.include(query)
        if request.method == "HEAD":
            caller = await self._authenticator.authenticate(request, ticket=True)
            self._follow_request(caller, params.selection(*_named(query), caller.account))
            return head(kind)

        async def admit(slot: ConnectionSlot, caller: Caller) -> EventStream:
            follow = self._follow_request(
                caller,
                params.selection(*_named(query), caller.account),
                params.resume_token(request, query),
                slot.has_room_to_write,
            )
            # Its open members are watched already, mostly: they were submitted or registered here.
            slot.subscribe(1)
            expires_at = self._authenticator.ends_at(caller)
            fmt = format_of(kind, include, follow.mark)
            return EventStream(
                self._subscriptions, follow, fmt, source=self._selections, expires_at=expires_at
            )

        return await self._admitted(request, kind, admit)

    def _follow_request(
        self,
        caller: Caller,
        selection: Selection,
        token: str | None = None,
        has_room: Callable[[int], bool] = lambda _: True,
    ) -> FollowRequest:
        """What a caller asks for that follows a selection.

        Raises:
            Forbidden: The credential does not allow it.
        """
        caller.authorize(TokenScope.READ)
        if not caller.may_follow(selection):
            raise Forbidden(f"the credential does not allow to follow this {selection.kind.value}")
        return FollowRequest(selection, caller.rights, token, has_room)

    async def _admitted(self, request: Request, kind: type[Format], admit: Admit) -> Response:
        """The stream of a connection that no limit rejects."""
        try:
            # limits first: a rejected connection must not cost a signature check or a call to a provider
            slot = self._limits.open_stream(request)
            caller = await self._authenticator.authenticate(request, ticket=True)
            slot.assign_to_caller(caller.name)
            return await admit(slot, caller)
        except LimitExceeded as error:
            # 200 with a closing event and a longer `retry:`: on any other status EventSource never reconnects
            log_rejected(kind.label, error)
            return OverloadedResponse(self._subscriptions, format_of(kind))
        except (UpstreamError, JournalError, Overloaded) as error:
            if not error.retryable:
                raise
            return OverloadedResponse(self._subscriptions, format_of(kind), why=denied_notice(error))

    async def _keys_of_path(self, request: Request, caller: Caller) -> list[TaskKey]:
        return [params.path_key(self._pool, request, caller.account)]

    async def _keys_of_request(self, request: Request, caller: Caller) -> list[TaskKey]:
        refs = params.query(request).getlist("task")
        if request.method == "POST":
            body = params.json_object(await self._limits.read_body(request, self._settings.max_body_bytes))
            refs = refs + params.only_texts(body.get("tasks"), "tasks")
        elif not refs:
            raise InvalidRequest(params.NO_SELECTION_SENTENCE)
        return self._keys(caller, refs)

    def _keys(self, caller: Caller, refs: Sequence[str]) -> list[TaskKey]:
        return params.task_keys(self._pool, refs, self._settings.max_tasks_per_connection, caller.account)

    async def websocket(self, websocket: WebSocket) -> None:
        """`GET /v1/ws`."""
        scope, receive, send = websocket.scope, websocket._receive, websocket._send  # noqa: SLF001 - the ASGI callables
        # CORS does not apply to WebSockets: without this check any page could open one
        if not self._origins.is_allowed(websocket.headers):
            await _refuse(receive, send, "this origin is not allowed")
            return
        try:
            slot = self._limits.open_stream(websocket)
            caller = await self._authenticator.authenticate(websocket, ticket=True)
            slot.assign_to_caller(caller.name)
            session = await self._session(websocket, slot, caller)
        except LimitExceeded as error:
            log_rejected(WebSocketFormat.label, error)
            self._metrics.rejected(WebSocketFormat.label)
            await reject(Closing.OVER_CAPACITY, scope, receive, send)
        except Unauthenticated as error:
            # 401 if the server supports it, so that the client learns that it needs another credential
            if _DENIAL in scope.get("extensions", {}):
                await receive()
                await problem(error)(scope, receive, send)
            else:
                await _refuse(receive, send, str(error))
        except BridgeError as error:
            await _refuse(receive, send, str(error))
        else:
            await session(scope, receive, send)

    async def _session(self, websocket: WebSocket, slot: ConnectionSlot, caller: Caller) -> WebSocketSession:
        query = params.query(websocket)
        refs, (tags, groups) = query.getlist("task"), _named(query)
        if tags or groups:
            if refs:
                raise InvalidRequest(params.ONE_SELECTION_SENTENCE)
            slot.check_subscribes(1)
            followed = params.selection(tags, groups, caller.account)
            token = params.resume_token(websocket, query)
            first = self._follow_request(caller, followed, token, slot.has_room_to_write)
            return self._conversation(caller, slot, params.include(query), first)
        keys = self._keys(caller, refs) if refs else []
        slot.check_subscribes(len(keys))
        # not `authorize`: a socket stays open without visible tasks, as it can subscribe to others
        unverified = await self._authenticator.unverified(caller, TokenScope.READ, keys)
        subscribe = _subscribe_request(websocket, slot, query, keys, unverified) if refs else None
        return self._conversation(caller, slot, params.include(query), subscribe)

    def _conversation(
        self,
        caller: Caller,
        slot: ConnectionSlot,
        include: Include,
        first: SubscribeRequest | FollowRequest | None,
    ) -> WebSocketSession:
        def follow(tags: Sequence[str], groups: Sequence[str], token: str | None) -> FollowRequest:
            selection = params.selection(tags, groups, caller.account)
            return self._follow_request(caller, selection, token, slot.has_room_to_write)

        return WebSocketSession(
            self._subscriptions,
            self._selections,
            checks=SubscribeChecks(
                resolve=partial(self._keys, caller),
                follow=follow,
                denied=partial(self._authenticator.denied, caller, TokenScope.READ),
            ),
            first=first,
            include=include,
            max_tasks=self._settings.max_tasks_per_connection,
            slot=slot,
            expires_at=self._authenticator.ends_at(caller),
        )


def _subscribe_request(
    connection: HTTPConnection,
    slot: ConnectionSlot,
    query: QueryParams,
    keys: Sequence[TaskKey],
    unverified: Mapping[TaskKey, BridgeError],
) -> SubscribeRequest:
    history = params.flag(query, "history")
    visible = [key for key in keys if key not in unverified]
    return SubscribeRequest(
        visible,
        params.resume_token(connection, query),
        history,
        unverified,
        pace=slot.history_wait,
        has_room=slot.has_room_to_write,
    )


def _named(query: QueryParams) -> tuple[list[str], list[str]]:
    """The tags and groups that a request names."""
    return query.getlist("tag"), query.getlist("group")


async def _refuse(receive: Receive, send: Send, reason: str) -> None:
    await receive()
    await send({"type": "websocket.close", "code": REFUSED, "reason": reason[:MAX_CLOSE_REASON]})
