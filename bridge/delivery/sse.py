"""Server-sent events and NDJSON: one response, the same bytes for everybody.

From sse-starlette come the response's shape: its headers, HEAD, the denial of a WebSocket.
Intentional: how the body is produced is ours. The library starts four tasks a connection and
encodes per client; here the hub writes, and the one coroutine of a connection only waits for
its end (docs/decisions/2026-11-21-the-hub-writes.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from bridge.core.event import Closing
from bridge.delivery.desk import Arrival, Desk, Opened
from bridge.delivery.outlet import exposed, http_form, http_outlet
from bridge.hub.subscription import Subscription
from bridge.hub.sweep import CLOSING_SENTENCES
from bridge.wire import sse
from bridge.wire.document import Include
from bridge.wire.frames import Wire

AppStatus.enable_automatic_graceful_drain = False

STREAM_HEADERS = {
    "Cache-Control": "no-store, no-transform",
    "X-Content-Type-Options": "nosniff",
}
MEDIA_TYPES = {Wire.SSE: "text/event-stream", Wire.NDJSON: "application/x-ndjson"}


class EventStream(EventSourceResponse):
    """The events of some tasks, until they end or the client leaves.

    Backpressure: by the outlet; this coroutine never sends.
    """

    def __init__(self, desk: Desk, arrival: Arrival, wire: Wire, include: Include) -> None:
        # with the type among the headers, Starlette adds no charset to it
        headers = STREAM_HEADERS | {"Content-Type": MEDIA_TYPES[wire]}
        super().__init__(_nothing(), headers=headers, ping=0, sep="\n")
        self._desk = desk
        self._arrival = arrival
        self._wire = wire
        self._include = include

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, then stay until the end.

        Raises:
            BridgeError: Nothing was sent yet; answer with a problem document.
        """
        ended = asyncio.Event()
        form = http_form(scope, self._wire, self._include)
        outlet = http_outlet(scope, send, form, ended)
        subscription = self._desk.reserve(outlet, self._wire.value)
        try:
            if self._desk.closed is not None:
                await self._turn_away(subscription, self._desk.closed, send)
                return
            opened = await self._desk.open(subscription, self._arrival, patient=True)
            if opened.ended:
                subscription.closing = Closing.FINISHED
                await Response(status_code=204, headers=STREAM_HEADERS)(scope, receive, send)
                return
            await self._stream(opened, scope, receive, send, ended)
        finally:
            self._desk.leave(subscription)

    async def _stream(
        self, opened: Opened, scope: Scope, receive: Receive, send: Send, ended: asyncio.Event
    ) -> None:
        await self._start(send)
        await self._desk.begin(opened)
        if exposed(scope) is not None:
            await _disconnected(receive)
        else:
            await _either(_disconnected(receive), ended.wait())

    async def _turn_away(self, subscription: Subscription, closing: Closing, send: Send) -> None:
        """Overload and drain are 200, a word, a longer `retry:` and a clean end."""
        await self._start(send)
        subscription.closing = closing
        body = self._desk.farewell(subscription, closing, CLOSING_SENTENCES[closing])
        if self._wire is Wire.SSE:
            body = sse.OK_COMMENT + body
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


class StreamHead(Response):
    """What `HEAD` on a stream answers: the headers, at once."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(headers=STREAM_HEADERS | {"X-Accel-Buffering": "no"}, media_type=MEDIA_TYPES[wire])


async def _nothing() -> AsyncIterator[bytes]:
    """The library wants content; ours comes from the hub."""
    return
    yield b""


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _either(*waits: object) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]  # type: ignore[call-overload]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
