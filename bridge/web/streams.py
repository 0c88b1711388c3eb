"""The routes that stay open: events of one task or many, and the WebSocket."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.websockets import WebSocket

from bridge.core.task import TaskKey
from bridge.delivery.desk import Arrival, Desk
from bridge.delivery.sse import EventStream, head
from bridge.delivery.websocket import REFUSED, Socket
from bridge.errors import BridgeError
from bridge.web import parse
from bridge.web.origins import Origins
from bridge.wire.frames import Dress, Wire


class Streams:
    """Streams of events, in every delivery that stays open."""

    def __init__(self, desk: Desk, origins: Origins) -> None:
        self._desk = desk
        self._origins = origins

    async def of_task(self, request: Request) -> Response:
        """`GET /v1/tasks/{upstream}/{task_id}/events`."""
        return self._stream(request, [parse.path_key(self._desk.pool, request)])

    async def of_tasks(self, request: Request) -> Response:
        """`GET /v1/events?task=...`, or `POST` with `{"tasks": [...]}`."""
        refs = request.query_params.getlist("task")
        if request.method == "POST":
            body = await parse.json_object(request)
            refs = refs + parse.only_texts(body.get("tasks"), "tasks")
        return self._stream(request, parse.task_keys(self._desk.pool, refs))

    def _stream(self, request: Request, keys: Sequence[TaskKey]) -> Response:
        dress = parse.dress(request.query_params)
        wire = parse.wire(request.headers) if dress is Dress.BRIDGE else Wire.SSE
        if request.method == "HEAD":
            return head(wire)
        arrival = self._arrival(request, keys)
        return EventStream(self._desk, arrival, wire, parse.include(request.query_params), dress)

    @staticmethod
    def _arrival(request: HTTPConnection, keys: Sequence[TaskKey]) -> Arrival:
        return Arrival(keys, parse.resume_token(request), parse.flag(request.query_params, "history"))

    async def websocket(self, websocket: WebSocket) -> None:
        """`GET /v1/ws`."""
        scope, receive, send = websocket.scope, websocket._receive, websocket._send  # noqa: SLF001 - the ASGI callables
        if not self._origins.allow(websocket.headers):
            await _refuse(receive, send, "this origin may not connect")
            return
        try:
            socket = self._socket(websocket)
        except BridgeError as error:
            await _refuse(receive, send, str(error))
            return
        await socket(scope, receive, send)

    def _socket(self, websocket: WebSocket) -> Socket:
        refs = websocket.query_params.getlist("task")
        first = self._arrival(websocket, parse.task_keys(self._desk.pool, refs)) if refs else None
        return Socket(
            self._desk,
            resolve=lambda named: parse.task_keys(self._desk.pool, named),
            first=first,
            include=parse.include(websocket.query_params),
            max_tasks=parse.MAX_TASKS,
        )


async def _refuse(receive: Receive, send: Send, why: str) -> None:
    await receive()
    await send({"type": "websocket.close", "code": REFUSED, "reason": why[:120]})
