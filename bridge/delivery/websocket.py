"""WebSocket, subprotocol `bridge.v1.json`: subscribe and unsubscribe on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
from starlette.types import Receive, Scope, Send

from bridge.core.event import Closing
from bridge.core.task import TaskKey
from bridge.delivery.handoff import detach, server_of
from bridge.delivery.subscriptions import SubscribeRequest, Subscriptions
from bridge.delivery.writers import AsgiWriter, WebSocketWriter, websocket_writer
from bridge.errors import BridgeError, InvalidRequest, LimitExceeded, TaskNotFound
from bridge.hub.subscription import Subscription
from bridge.wire.document import Include
from bridge.wire.frames import Transport, message

SUBPROTOCOL = "bridge.v1.json"
MAX_MESSAGE = 64 * 1024
TOO_BIG = 1009
REFUSED = 1008

Resolve = Callable[[Sequence[str]], list[TaskKey]]
Follow = Callable[[int], None]
Refusals = Callable[[Sequence[TaskKey]], Awaitable[Mapping[TaskKey, BridgeError]]]


class WebSocketSession:
    """One WebSocket that asks to be accepted.

    Args:
        resolve: Reads task refs; raises what is wrong with them.
        first: Tasks named on the URL, subscribed at once.
        max_tasks: How many tasks one connection may ask for; 0 for as many as it likes.
        follow: Told how many tasks the connection is about to follow; raises `LimitExceeded`.
        refusals: Which tasks the caller may not read, and why; raises `Unauthenticated`.
        expires_at: Monotonic seconds when the caller's credential ends; None for never.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        *,
        resolve: Resolve,
        first: SubscribeRequest | None,
        include: Include,
        max_tasks: int,
        follow: Follow,
        denied: Refusals,
        expires_at: float | None = None,
    ) -> None:
        self._subscriptions = subscriptions
        self._resolve = resolve
        self._refusals = denied
        self._expires_at = expires_at
        self._first = first
        self._include = include
        self._max_tasks = max_tasks
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept; the conversation is handed to the outermost layer."""
        if self._subscriptions.closed is not None:
            await reject(self._subscriptions.closed, scope, receive, send)
            return
        await _accept(scope, receive, send)
        detach(scope, partial(self._converse, server_of(scope)))

    async def _converse(self, server: Any | None, receive: Receive, send: Send) -> None:
        outlet = websocket_writer(server, send, self._include)
        subscription = self._subscriptions.reserve(
            outlet, Transport.WEBSOCKET.value, stays_open=True, expires_at=self._expires_at
        )
        serving = _Conversation(
            self._subscriptions,
            subscription,
            outlet,
            self._resolve,
            self._refusals,
            self._max_tasks,
            self._follow,
        )
        try:
            first, self._first = self._first, None  # not kept for as long as the connection lasts
            if first is not None:
                await serving.begin(first)
                first = None
            await serving.run(receive, send)
        finally:
            serving.over()
            self._subscriptions.leave(subscription)


class _Conversation:
    """What a client says and what it is answered: all that one open connection holds."""

    __slots__ = (
        "_first_looks",
        "_follow",
        "_max_tasks",
        "_outlet",
        "_refusals",
        "_resolve",
        "_subscription",
        "_subscriptions",
    )

    def __init__(
        self,
        subscriptions: Subscriptions,
        subscription: Subscription,
        outlet: WebSocketWriter | AsgiWriter,
        resolve: Resolve,
        denied: Refusals,
        max_tasks: int,
        follow: Follow,
    ) -> None:
        self._subscriptions = subscriptions
        self._subscription = subscription
        self._outlet = outlet
        self._resolve = resolve
        self._refusals = denied
        self._max_tasks = max_tasks
        self._follow = follow
        self._first_looks: list[asyncio.Future[None]] = []

    async def run(self, receive: Receive, send: Send) -> None:
        """Answer messages until the connection is over."""
        ended = self._outlet.ended
        while self._subscription.closing is None:
            event = await (receive() if ended is None else _first_of(receive(), ended))
            if event is None or event["type"] == "websocket.disconnect":
                return
            text = event.get("text")
            raw = text.encode() if text is not None else event.get("bytes") or b""
            if len(raw) > MAX_MESSAGE:
                await send({"type": "websocket.close", "code": TOO_BIG, "reason": "message over 64 KiB"})
                return
            if self._outlet.gate.write_paused:
                await self._writable()  # whoever does not read is not listened to either
            await self._answer(raw)

    async def _writable(self) -> None:
        writable = asyncio.Event()
        self._outlet.when_writable(writable.set)
        await writable.wait()

    async def begin(self, first: SubscribeRequest) -> None:
        """Subscribe to what the URL names; what is wrong with that ends no connection."""
        for key, error in first.unverified.items():
            self._complain(None, error, task=key.ref)
        try:
            if first.keys:
                await self.subscribe(None, first)
        except BridgeError as error:
            self._complain(None, error)

    async def subscribe(self, number: Any, arrival: SubscribeRequest) -> None:
        """Send what is known of some tasks and everything that follows.

        Raises:
            LimitExceeded: More tasks than one connection, or its caller, may follow.
            JournalError: What is known cannot be read.
        """
        for key in arrival.keys:
            self._subscriptions.hub.part(self._subscription, key)
        wished = len(self._subscription.channels) + len(arrival.keys)
        if self._max_tasks and wished > self._max_tasks:
            raise LimitExceeded(f"one connection follows at most {self._max_tasks} tasks")
        self._follow(wished)
        opened = await self._subscriptions.open(self._subscription, arrival, patient=False)
        self._say({"type": "subscribed", "id": number, "tasks": [key.ref for key in arrival.keys]})
        await self._subscriptions.begin(opened)
        for key, event in zip(arrival.keys, opened.latest, strict=True):
            if event is None:
                look = asyncio.ensure_future(self._first_look(number, key))
                self._first_looks.append(look)
                look.add_done_callback(self._first_looks.remove)

    async def _first_look(self, number: Any, key: TaskKey) -> None:
        """Only a task nobody has seen costs this: its 404 answers the subscribe."""
        error = await self._subscriptions.pool.wait_polled(key)
        if isinstance(error, TaskNotFound):
            self._subscriptions.hub.part(self._subscription, key)
            self._follow(len(self._subscription.channels))
            self._complain(number, error, task=key.ref)

    def over(self) -> None:
        """Forget what was still waited for."""
        for look in self._first_looks.copy():
            look.cancel()

    async def _answer(self, raw: bytes) -> None:
        number: Any = None
        try:
            asked = _parsed(raw)
            number = asked.get("id")
            await self._act(asked, number)
        except BridgeError as error:
            self._complain(number, error)

    async def _act(self, asked: dict[str, Any], number: Any) -> None:
        match asked.get("type"):
            case "subscribe":
                after = asked.get("after")
                token = after if isinstance(after, str) else None
                keys = await self._allowed(number, self._resolve(_tasks(asked)))
                if keys:
                    await self.subscribe(number, SubscribeRequest(keys, token))
            case "unsubscribe":
                keys = self._resolve(_tasks(asked))
                for key in keys:
                    self._subscriptions.hub.part(self._subscription, key)
                self._follow(len(self._subscription.channels))
                self._say({"type": "unsubscribed", "id": number, "tasks": [key.ref for key in keys]})
            case "ping":
                self._say({"type": "pong", "id": number})
            case other:
                raise InvalidRequest(f"unknown message type {str(other)[:40]!r}")

    async def _allowed(self, number: Any, keys: Sequence[TaskKey]) -> list[TaskKey]:
        """Those the caller may read; the others are complained about one by one.

        Raises:
            Unauthenticated: The provider does not take the caller's key.
        """
        denied = await self._refusals(keys)
        for key, error in denied.items():
            self._complain(number, error, task=key.ref)
        return [key for key in keys if key not in denied]

    def _complain(self, number: Any, error: BridgeError, *, task: str | None = None) -> None:
        fields = {"type": "error", "id": number, "code": error.code, "task": task, "message": str(error)}
        self._say(fields)

    def _say(self, fields: dict[str, Any]) -> None:
        if self._subscription.closing is None:
            self._subscriptions.hub.write(self._subscription, message(self._subscription.fmt, fields))


async def reject(closing: Closing, scope: Scope, receive: Receive, send: Send) -> None:
    """Accept and close with the code that says when to come back: a refused handshake would say nothing."""
    await _accept(scope, receive, send)
    await send({"type": "websocket.close", "code": closing.websocket_code, "reason": closing.value})


async def _accept(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    await send({"type": "websocket.accept", "subprotocol": _offered(scope)})


def _offered(scope: Scope) -> str | None:
    return SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", []) else None


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        asked = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise InvalidRequest("a message is one JSON object") from None
    if not isinstance(asked, dict):
        raise InvalidRequest("a message is one JSON object")
    number = asked.get("id")
    if isinstance(number, bool) or not isinstance(number, int | str | None):
        raise InvalidRequest("`id` is a number or a string")
    return asked


def _tasks(asked: dict[str, Any]) -> list[str]:
    tasks = asked.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(one, str) for one in tasks):
        raise InvalidRequest("`tasks` is a list of task refs")
    return tasks


async def _first_of(receiving: Awaitable[Any], ended: asyncio.Event) -> Any:
    """Under a foreign server our own ending must wake us; under ours, `receive` does."""
    tasks = [asyncio.ensure_future(receiving), asyncio.ensure_future(ended.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
