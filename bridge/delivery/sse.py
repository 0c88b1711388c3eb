"""Server-sent events and NDJSON: one response, the same bytes for everybody.

From sse-starlette come the response's shape: its headers, HEAD, the denial of a WebSocket.
Intentional: how the body is produced is ours. The library starts four tasks a connection and
encodes per client; here the hub writes, and the one coroutine of a connection only waits for
its end (docs/decisions/2026-11-21-the-hub-writes.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable

from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.core.event import Closing, Notice
from bridge.delivery.handoff import detach
from bridge.delivery.subscriptions import PendingSubscription, SubscribeRequest, Subscriptions
from bridge.delivery.writers import AsgiWriter, TransportWriter, UnopenedWriter, http_format, http_writer
from bridge.hub.maintenance import CLOSING_SENTENCES, retry_milliseconds
from bridge.hub.subscription import Subscription
from bridge.wire import sse
from bridge.wire.document import PLAIN, Include
from bridge.wire.frames import Format, Transport, Variant, closing_frame, notice_frame, pack

AppStatus.enable_automatic_graceful_drain = False

STREAM_HEADERS = {
    "Cache-Control": "no-store, no-transform",
    "X-Content-Type-Options": "nosniff",
}
MEDIA_TYPES = {Transport.SSE: "text/event-stream", Transport.NDJSON: "application/x-ndjson"}


async def _nothing() -> AsyncIterator[bytes]:
    """The library wants content; ours comes from the hub."""
    return
    yield b""


def head(transport: Transport) -> EventSourceResponse:
    """What `HEAD` on a stream answers, and the headers of every stream."""
    # with the type among the headers, Starlette adds no charset to it
    headers = STREAM_HEADERS | {"Content-Type": MEDIA_TYPES[transport]}
    return EventSourceResponse(_nothing(), headers=headers, ping=0, sep="\n")


_HEADERS = {transport: head(transport).raw_headers for transport in MEDIA_TYPES}


class EventStream(Response):
    """The events of some tasks, until they end or the client leaves.

    Backpressure: by the outlet; the connection's coroutine never sends.

    Args:
        expires_at: Monotonic seconds when the caller's credential ends; None for never.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        arrival: SubscribeRequest,
        transport: Transport,
        include: Include,
        variant: Variant = Variant.BRIDGE,
        *,
        expires_at: float | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(_HEADERS[transport])
        self._subscriptions = subscriptions
        self._arrival = arrival
        self._wire = transport
        self._include = include
        self._dress = variant
        self._expires_at = expires_at

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; what stays open is handed to the outermost layer.

        Raises:
            BridgeError: Nothing was sent yet; answer with a problem document.
        """
        fmt = http_format(scope, self._wire, self._include, self._dress)
        subscription = self._subscriptions.reserve(
            UnopenedWriter(fmt), self._wire.value, expires_at=self._expires_at
        )
        handed_over = False
        try:
            if self._subscriptions.closed is not None:
                await self._reject(subscription, self._subscriptions.closed, send)
                return
            opened = await self._subscriptions.open(subscription, self._arrival, patient=True)
            if opened.ended:
                subscription.closing = Closing.FINISHED
                await Response(status_code=204, headers=STREAM_HEADERS)(scope, receive, send)
                return
            if subscription.closing is not None:  # while the first look was waited for
                await self._reject(subscription, subscription.closing, send)
                return
            await self._start(send)
            detach(scope, _SseSession(self._subscriptions, opened, http_writer(scope, fmt)))
            handed_over = True
        finally:
            if not handed_over:
                self._subscriptions.leave(subscription)

    async def _reject(self, subscription: Subscription, closing: Closing, send: Send) -> None:
        """Overload and drain are 200, a word, a longer `retry:` and a clean end."""
        await self._start(send)
        subscription.closing = closing
        body = self._subscriptions.farewell(subscription, closing, CLOSING_SENTENCES[closing])
        if self._wire is Transport.SSE:
            body = sse.OK_COMMENT + body
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


class OverloadedResponse(Response):
    """What a newcomer gets who finds no place: 200, a word, a longer `retry:` and the end.

    Libraries hammer: nothing is reserved, read or asked for it, and the connection may carry the next try.

    Args:
        why: What is in the way, where that is not that the bridge is full.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        transport: Transport,
        variant: Variant = Variant.BRIDGE,
        *,
        why: Notice | None = None,
    ) -> None:
        retry = retry_milliseconds(subscriptions.random(), busy=why is None)
        sentence, fmt = CLOSING_SENTENCES[Closing.OVER_CAPACITY], Format(transport, PLAIN, variant=variant)
        body = closing_frame(fmt, Closing.OVER_CAPACITY, sentence, retry=retry)
        if why is not None:
            body = notice_frame(fmt, None, why) + body
        subscriptions.metrics.rejected(transport.value)
        self.status_code = 200
        self.background = None
        self.body = sse.OK_COMMENT + body if transport is Transport.SSE else body
        self.raw_headers = [*_HEADERS[transport], (b"content-length", b"%d" % len(self.body))]


class _SseSession:
    """The rest of a stream, once its response has begun: all that one open connection holds."""

    __slots__ = ("_opened", "_outlet", "_subscriptions")

    def __init__(
        self, subscriptions: Subscriptions, opened: PendingSubscription, outlet: TransportWriter | AsgiWriter
    ) -> None:
        self._subscriptions = subscriptions
        self._opened: PendingSubscription | None = opened
        self._outlet = outlet

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Let the hub write until the connection is over."""
        assert self._opened is not None
        subscription = self._opened.subscription
        try:
            self._outlet.attach(send)
            if subscription.closing is not None:  # between the head and here
                farewell = self._subscriptions.farewell(
                    subscription, subscription.closing, CLOSING_SENTENCES[subscription.closing]
                )
                if not self._outlet.gone:
                    self._outlet.write(pack(subscription.fmt, farewell))
                self._outlet.finish(subscription.closing)
            subscription.use(self._outlet)
            await self._subscriptions.begin(self._opened)
            self._opened = None  # what was read to begin is not kept for as long as the stream lasts
            if self._outlet.ended is None:
                while (await receive())["type"] != "http.disconnect":
                    pass
            else:
                await _either(_disconnected(receive), self._outlet.ended.wait())
        finally:
            self._subscriptions.leave(subscription)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _either(*waits: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
