"""Streams over HTTP (server-sent events, NDJSON): one response per client, the same bytes for all.

From sse-starlette comes the shape of the response: its headers, HEAD, the denial of a WebSocket.
Intentional: the body is produced here. The library starts four tasks per connection and encodes per
client; here the hub writes, and the one coroutine of a connection only waits for its end
(docs/decisions/2026-11-21-the-hub-writes.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from functools import cache
from typing import Any, Protocol

from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.core.event import Closing, Notice
from bridge.delivery.handoff import detach
from bridge.delivery.selected import FollowRequest
from bridge.delivery.subscriptions import SubscribeRequest, Subscriptions, denied_notice
from bridge.delivery.writers import AsgiWriter, TransportWriter, http_writer
from bridge.errors import JournalError, Overloaded
from bridge.hub.maintenance import retry_milliseconds
from bridge.hub.subscription import Subscription
from bridge.wire.frames import Format

# Otherwise the library patches `uvicorn.Server.handle_exit` and ends streams before the drain does.
AppStatus.enable_automatic_graceful_drain = False

STREAM_HEADERS = {
    "Cache-Control": "no-store, no-transform",
    "X-Content-Type-Options": "nosniff",
}


async def _nothing() -> AsyncIterator[bytes]:
    """Empty content for the library's response; the hub writes the body."""
    return
    yield b""


@cache
def _head(content_type: str) -> EventSourceResponse:
    # With the type among the headers, Starlette adds no charset to it.
    headers = STREAM_HEADERS | {"Content-Type": content_type}
    return EventSourceResponse(_nothing(), headers=headers, ping=0, sep="\n")


def head(kind: type[Format]) -> EventSourceResponse:
    """The response to `HEAD` on a stream; its headers are those of every stream."""
    return _head(kind.content_type)


class Pending(Protocol):
    """A subscription whose initial states have not been sent yet."""

    @property
    def subscription(self) -> Subscription:
        """The connection."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come, and the client that resumes has seen it all."""


class SubscriptionSource(Protocol):
    """Opens subscriptions: `Subscriptions` those to tasks, `Selections` those to a tag or a group."""

    async def open(
        self, subscription: Subscription, request: Any, *, wait_for_state: bool, scope: Scope | None = None
    ) -> Any:
        """Register first, read second; returns a `Pending` one."""

    async def begin(self, pending: Any) -> None:
        """Send the initial states; from then on the hub sends what comes."""


class EventStream(Response):
    """The events of some tasks, until all have finished or the client disconnects.

    Backpressure: in the connection's writer; its coroutine never sends.

    Args:
        request: What `source` opens.
        source: `subscriptions` unless it is another.
        fmt: Without the framing of HTTP.
        expires_at: Monotonic seconds at which the caller's credential expires; None for never.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        request: SubscribeRequest | FollowRequest,
        fmt: Format,
        *,
        source: SubscriptionSource | None = None,
        expires_at: float | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(head(type(fmt)).raw_headers)
        self._subscriptions = subscriptions
        self._source: SubscriptionSource = subscriptions if source is None else source
        self._request = request
        self._fmt = fmt
        self._expires_at = expires_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start the response, then detach the session that keeps the connection open.

        Raises:
            BridgeError: Nothing was sent yet; respond with a problem document.
        """
        subscription = self._subscriptions.reserve(self._fmt, expires_at=self._expires_at)
        detached = False
        try:
            if self._subscriptions.closed is not None:
                await self._reject(subscription, self._subscriptions.closed, send)
                return
            try:
                pending: Pending = await self._source.open(
                    subscription, self._request, wait_for_state=True, scope=scope
                )
            except (JournalError, Overloaded) as error:
                # The disk is full, the engine not reached yet, the key at another bridge: as overload is.
                await self._reject(subscription, Closing.OVER_CAPACITY, send, why=denied_notice(error))
                return
            if pending.ended:
                # 204 makes an EventSource stop reconnecting (WHATWG HTML, section 9.2.3).
                subscription.closing = Closing.FINISHED
                await Response(status_code=204, headers=STREAM_HEADERS)(scope, receive, send)
                return
            if subscription.closing is not None:  # closed while the first poll was awaited
                await self._reject(subscription, subscription.closing, send)
                return
            await self._start(send)
            detach(scope, _SseSession(self._subscriptions, self._source, pending, http_writer(scope)))
            detached = True
        finally:
            if not detached:
                self._subscriptions.leave(subscription)

    async def _reject(
        self, subscription: Subscription, closing: Closing, send: Send, *, why: Notice | None = None
    ) -> None:
        """Respond with 200, a closing notice, a longer `retry:` and a clean end.

        An EventSource treats any error status as final and never reconnects.

        Args:
            why: The reason, if `closing` does not say it.
        """
        await self._start(send)
        subscription.closing = closing
        notice = b"" if why is None else self._fmt.notice(None, why)
        body = self._fmt.preface + notice + self._subscriptions.final_frame(subscription, closing)
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


class OverloadedResponse(Response):
    """The response to a client that exceeds a limit: 200, a closing notice, a longer `retry:`, then the end.

    Client libraries retry aggressively, so this costs no subscription, no journal read and no request to a
    provider, and the connection stays usable for the next attempt.

    Args:
        why: The reason, if it is not that the bridge is at capacity.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        fmt: Format,
        *,
        why: Notice | None = None,
    ) -> None:
        retry = retry_milliseconds(subscriptions.random(), busy=why is None)
        body = fmt.closing(Closing.OVER_CAPACITY, retry=retry)
        if why is not None:
            body = fmt.notice(None, why) + body
        subscriptions.metrics.rejected(fmt.label)
        self.status_code = 200
        self.background = None
        self.body = fmt.preface + body
        self.raw_headers = [*head(type(fmt)).raw_headers, (b"content-length", b"%d" % len(self.body))]


class _SseSession:
    """A stream whose response has begun: everything that one open connection keeps in memory."""

    __slots__ = ("_pending", "_source", "_subscriptions", "_writer")

    def __init__(
        self,
        subscriptions: Subscriptions,
        source: SubscriptionSource,
        pending: Pending,
        writer: TransportWriter | AsgiWriter,
    ) -> None:
        self._subscriptions = subscriptions
        self._source = source
        self._pending: Pending | None = pending
        self._writer = writer

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Begin the subscription and wait until the connection ends; the hub does the writing."""
        assert self._pending is not None
        subscription = self._pending.subscription
        fmt = subscription.fmt.with_framing() if self._writer.framed else subscription.fmt
        try:
            self._writer.attach(send)
            if subscription.closing is not None:
                # A drain closed it between the response head and here, when it had no writer yet.
                final_frame = self._subscriptions.final_frame(subscription, subscription.closing)
                if not self._writer.gone:
                    self._writer.write(fmt.pack(final_frame))
                self._writer.finish(subscription.closing)
            else:
                subscription.begin(self._writer, fmt)
                await self._source.begin(self._pending)
                self._writer.begun()
                subscription.write = self._writer.write
            self._pending = None  # frees the events read from the journal while the stream is open
            if self._writer.ended is None:
                # Repeated here, because one more suspended coroutine costs each open stream 200 bytes.
                while (await receive())["type"] != "http.disconnect":
                    pass
            else:
                # Another server does not end `receive` when we end the response, so both are awaited.
                await _first_of(_disconnected(receive), self._writer.ended.wait())
        finally:
            self._subscriptions.leave(subscription)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first_of(*waits: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
