"""WebSocket, subprotocol `bridge.v1.json`: subscribe to and unsubscribe from tasks on one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import orjson
from starlette.types import Receive, Scope, Send

from bridge.core.event import Closing
from bridge.core.task import TaskKey
from bridge.delivery.handoff import detach, server_of
from bridge.delivery.selected import FollowRequest
from bridge.delivery.selections import Selections
from bridge.delivery.subscriptions import SubscribeRequest, Subscriptions
from bridge.delivery.writers import AsgiWriter, WebSocketWriter, websocket_writer
from bridge.errors import BridgeError, InvalidRequest, LimitExceeded
from bridge.hub.subscription import Subscription
from bridge.wire.document import Include
from bridge.wire.formats import WebSocketFormat
from bridge.wire.frames import format_of

SUBPROTOCOL = "bridge.v1.json"
MAX_MESSAGE = 64 * 1024
MAX_QUEUED = 1000  # first polls of one connection that wait for their turn
SLOW_READ_SECONDS = 1.0
MAX_PAUSE_SECONDS = 5.0
MAX_SELECTIONS = 8
"""Tags and groups that one connection may follow."""

TOO_BIG = 1009
REFUSED = 1008

Resolve = Callable[[Sequence[str]], list[TaskKey]]
Follow = Callable[[Sequence[str], Sequence[str], str | None], FollowRequest]
Denied = Callable[[Sequence[TaskKey]], Awaitable[Mapping[TaskKey, BridgeError]]]


class TaskCounts(Protocol):
    """Counts the tasks of one connection."""

    def set_watch_count(self, tasks: int) -> None:
        """The connection is about to have this many; raises `LimitExceeded`."""

    def subscribe_wait(self, tasks: int) -> float:
        """It subscribes to this many; returns the seconds to wait before it may, else 0."""


@dataclass(frozen=True, slots=True)
class SubscribeChecks:
    """What the caller of one connection may subscribe to.

    Args:
        resolve: Parses task refs; raises `InvalidRequest` or `UnknownUpstream`.
        follow: Parses tags, groups and a cursor, where one tag or one group is named; raises `InvalidRequest`
            or `Forbidden`.
        denied: Returns the tasks the caller may not read, with the reason; raises `Unauthenticated`.
    """

    resolve: Resolve
    follow: Follow
    denied: Denied


class WebSocketSession:
    """One WebSocket, from its handshake on.

    Args:
        checks: What its caller may subscribe to.
        first: What is named in the URL, subscribed to immediately.
        max_tasks: Tasks one connection may subscribe to; 0 for no limit.
        slot: Counts its tasks.
        expires_at: Monotonic seconds at which the caller's credential expires; None for never.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        selections: Selections,
        *,
        checks: SubscribeChecks,
        first: SubscribeRequest | FollowRequest | None,
        include: Include,
        max_tasks: int,
        slot: TaskCounts,
        expires_at: float | None = None,
    ) -> None:
        self._subscriptions = subscriptions
        self._selections = selections
        self._checks = checks
        self._expires_at = expires_at
        self._first = first
        self._include = include
        self._max_tasks = max_tasks
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept the handshake, then detach the session that exchanges messages."""
        if self._subscriptions.closed is not None:
            await reject(self._subscriptions.closed, scope, receive, send)
            return
        await _accept(scope, receive, send)
        detach(scope, partial(self._converse, server_of(scope)))

    async def _converse(self, server: Any | None, receive: Receive, send: Send) -> None:
        writer = websocket_writer(server, send)
        fmt = format_of(WebSocketFormat, self._include, framed=writer.framed)
        subscription = self._subscriptions.reserve(fmt, expires_at=self._expires_at)
        subscription.begin(writer, fmt)
        subscription.subscribe_ids = {}
        conversation = _Conversation(
            self._subscriptions,
            self._selections,
            subscription,
            writer,
            self._checks,
            self._max_tasks,
            self._slot,
        )
        try:
            first, self._first = self._first, None  # frees the request while the connection is open
            if first is not None:
                await conversation.begin(first)
                first = None
            writer.begun()
            subscription.write = writer.write
            await conversation.run(receive, send)
        finally:
            self._subscriptions.leave(subscription)


class _Conversation:
    """Messages and replies: everything that one open connection keeps in memory."""

    __slots__ = (
        "_checks",
        "_max_tasks",
        "_selections",
        "_slot",
        "_subscription",
        "_subscriptions",
        "_writer",
    )

    def __init__(
        self,
        subscriptions: Subscriptions,
        selections: Selections,
        subscription: Subscription,
        writer: WebSocketWriter | AsgiWriter,
        checks: SubscribeChecks,
        max_tasks: int,
        slot: TaskCounts,
    ) -> None:
        self._subscriptions = subscriptions
        self._selections = selections
        self._subscription = subscription
        self._writer = writer
        self._checks = checks
        self._max_tasks = max_tasks
        self._slot = slot

    async def run(self, receive: Receive, send: Send) -> None:
        """Reply to messages until the connection ends."""
        ended = self._writer.ended
        while self._subscription.closing is None:
            event = await (receive() if ended is None else _first_of(receive(), ended))
            # None: the bridge closed the connection.
            if event is None or event["type"] == "websocket.disconnect":
                return
            text = event.get("text")
            raw = text.encode() if text is not None else event.get("bytes") or b""
            if len(raw) > MAX_MESSAGE:
                await send({"type": "websocket.close", "code": TOO_BIG, "reason": "message over 64 KiB"})
                return
            if self._writer.flow.write_paused:
                # Replies are not conflated: a client that sends without reading would fill our memory.
                writable = asyncio.Event()
                self._writer.when_writable(writable.set)
                await writable.wait()
            await self._reply(raw)

    async def begin(self, first: SubscribeRequest | FollowRequest) -> None:
        """Subscribe to what is named in the URL; an error is sent and the connection stays open."""
        try:
            if isinstance(first, FollowRequest):
                await self.follow(None, first)
                return
            for key, denied in first.unverified.items():
                self._send_error(None, denied, task=key.ref)
            if first.keys:
                await self.subscribe(None, first)
        except BridgeError as error:
            self._send_error(None, error)

    async def subscribe(self, number: Any, request: SubscribeRequest) -> None:
        """Send the newest states of some tasks and, from now on, their events.

        Raises:
            LimitExceeded: More tasks than one connection, or its caller, may subscribe to.
            JournalError: The journal cannot be read.
        """
        # A repeated subscribe starts over, so that the client receives the states once more.
        for key in request.keys:
            self._subscriptions.hub.unsubscribe(self._subscription, key)
        total = len(self._subscription.channels) + len(request.keys)
        if self._max_tasks and total > self._max_tasks:
            raise LimitExceeded(f"one connection may subscribe to at most {self._max_tasks} tasks")
        self._slot.set_watch_count(total + self._selections.followed_by(self._subscription))
        pending = await self._subscriptions.open(self._subscription, request, wait_for_state=False)
        assert self._subscription.subscribe_ids is not None
        # A 404 is the reply to this message, however late it comes.
        self._subscription.subscribe_ids |= dict.fromkeys(request.keys, number)
        # The reply comes first: the client knows its subscribe succeeded before it gets a state.
        self._send("subscribed", {"id": number, "tasks": [key.ref for key in request.keys]})
        await self._subscriptions.begin(pending)

    async def follow(self, number: Any, request: FollowRequest) -> None:
        """Send what a tag or a group has now, or what is above a cursor, and from now on what comes to it.

        Raises:
            LimitExceeded: More selections than one connection, or more tasks than its caller, may follow.
            Unauthenticated: The provider rejects the key of the account.
            JournalError: The journal cannot be read.
        """
        selection, subscription = request.selection, self._subscription
        # A repeated subscribe starts over.
        self._selections.unfollow(subscription, selection)
        if self._selections.followed_by(subscription) >= MAX_SELECTIONS:
            raise LimitExceeded(f"one connection may follow at most {MAX_SELECTIONS} tags and groups")
        self._count_watches(1)

        def reply(keys: Sequence[TaskKey]) -> None:
            fields = {"id": number, selection.kind.value: selection.name, "tasks": [key.ref for key in keys]}
            self._send("subscribed", fields)

        try:
            pending = await self._selections.open(subscription, request)
            if pending.ended:
                self._selections.unfollow(subscription, selection)
                self._count_watches()
                reply([])  # it has seen `group_done`, and nothing follows
                return
            await self._selections.begin(pending, reply=reply)
        except BridgeError:
            self._selections.unfollow(subscription, selection)
            self._count_watches()
            raise

    def _count_watches(self, more: int = 0) -> None:
        followed = self._selections.followed_by(self._subscription)
        self._slot.set_watch_count(len(self._subscription.channels) + followed + more)

    async def _reply(self, raw: bytes) -> None:
        # Not part of `run`: its variables would keep the parsed message while the connection waits.
        number: Any = None
        try:
            fields = _parsed(raw)
            number = fields.get("id")
            await self._handle(fields, number)
        except BridgeError as error:
            self._send_error(number, error)

    async def _handle(self, fields: dict[str, Any], number: Any) -> None:
        match fields.get("type"):
            case "subscribe" if _follows(fields):
                while (wait := self._slot.subscribe_wait(1)) > 0:
                    await self._subscriptions.clock.sleep(min(wait, MAX_PAUSE_SECONDS))
                await self.follow(number, self._checks.follow(*_names(fields), _token(fields)))
            case "subscribe":
                await self._subscribe(fields, number)
            case "unsubscribe" if _follows(fields):
                # One the client never followed is confirmed too: the result is the same.
                selection = self._checks.follow(*_names(fields), None).selection
                self._selections.unfollow(self._subscription, selection)
                self._count_watches()
                self._send("unsubscribed", {"id": number, selection.kind.value: selection.name})
            case "unsubscribe":
                keys = self._checks.resolve(_tasks(fields))
                # Tasks the client never subscribed to are confirmed too: the result is the same.
                for key in keys:
                    self._subscriptions.hub.unsubscribe(self._subscription, key)
                self._count_watches()
                self._send("unsubscribed", {"id": number, "tasks": [key.ref for key in keys]})
            case "ping":
                self._send("pong", {"id": number})
            case other:
                raise InvalidRequest(f"unknown message type {str(other)[:40]!r}")

    async def _subscribe(self, fields: dict[str, Any], number: Any) -> None:
        keys = self._checks.resolve(_tasks(fields))
        if self._subscriptions.pool.queued_by(self._subscription) > MAX_QUEUED:
            # Its first polls wait for their turn as it is: what it asks for beyond is read slowly.
            await self._subscriptions.clock.sleep(SLOW_READ_SECONDS)
        while (wait := self._slot.subscribe_wait(len(keys))) > 0:
            # More a second than its caller may subscribe to: it is not read on.
            await self._subscriptions.clock.sleep(min(wait, MAX_PAUSE_SECONDS))
        # Each denied task gets an error of its own; the others are subscribed to nevertheless.
        denied = await self._checks.denied(keys)
        for key, error in denied.items():
            self._send_error(number, error, task=key.ref)
        allowed = [key for key in keys if key not in denied]
        if allowed:
            await self.subscribe(number, SubscribeRequest(allowed, _token(fields), refused=len(denied)))

    def _send_error(self, number: Any, error: BridgeError, *, task: str | None = None) -> None:
        fmt = self._subscription.fmt
        assert isinstance(fmt, WebSocketFormat)
        frame = fmt.error(number, error.code, str(error), task=task)
        self._subscriptions.hub.write(self._subscription, frame)

    def _send(self, kind: str, fields: dict[str, Any]) -> None:
        frame = self._subscription.fmt.control(kind, fields)
        self._subscriptions.hub.write(self._subscription, frame)


async def reject(closing: Closing, scope: Scope, receive: Receive, send: Send) -> None:
    """Accept, then close with a code that says when to reconnect; browsers hide why a handshake failed."""
    await _accept(scope, receive, send)
    await send({"type": "websocket.close", "code": closing.websocket_code, "reason": closing.value})


async def _accept(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    # A client that offers other subprotocols only gets none, and decides itself whether to continue.
    subprotocol = SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", []) else None
    await send({"type": "websocket.accept", "subprotocol": subprotocol})


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise InvalidRequest("a message must be one JSON object") from None
    if not isinstance(fields, dict):
        raise InvalidRequest("a message must be one JSON object")
    number = fields.get("id")
    if isinstance(number, bool) or not isinstance(number, int | str | None):
        raise InvalidRequest("`id` must be a number or a string")
    return fields


def _token(fields: dict[str, Any]) -> str | None:
    after = fields.get("after")
    return after if isinstance(after, str) else None


def _follows(fields: dict[str, Any]) -> bool:
    """Whether a message names a tag or a group instead of tasks."""
    named = [name for name in ("tasks", "tag", "group") if name in fields]
    if len(named) > 1:
        raise InvalidRequest("a message names one of `tasks`, `tag` and `group`")
    return named != ["tasks"] and bool(named)


def _names(fields: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The tag or the group that a message names."""
    for name in ("tag", "group"):
        if not isinstance(fields.get(name, ""), str):
            raise InvalidRequest(f"`{name}` must be a string")
    return tuple([fields[name]] if name in fields else [] for name in ("tag", "group"))  # type: ignore[return-value]


def _tasks(fields: dict[str, Any]) -> list[str]:
    tasks = fields.get("tasks")
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in tasks):
        raise InvalidRequest("`tasks` must be a non-empty list of task refs")
    return tasks


async def _first_of(receiving: Awaitable[Any], ended: asyncio.Event) -> Any:
    """The next message, or None once `ended` is set.

    Under another server, `receive` does not return when the bridge closes the connection; under ours it does.
    """
    tasks = [asyncio.ensure_future(receiving), asyncio.ensure_future(ended.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task in tasks:
            task.cancel()
