"""Frames of every format as bytes; the frames of an event are encoded once and shared by all subscribers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.task import State, TaskKey
from bridge.wire import sse
from bridge.wire.document import PLAIN, Include, document, on_one_line

CLOSING_SENTENCES = {
    Closing.FINISHED: "all tasks have finished",
    Closing.GONE: "the client disconnected",
    Closing.DRAIN: "the bridge is restarting; please reconnect",
    Closing.AGE: "the connection reached its maximum age; please reconnect",
    Closing.SLOW: "the client did not read for too long",
    Closing.EXPIRED: "the credential of this connection expired",
    Closing.OVER_CAPACITY: "the bridge is at capacity; please reconnect later",
}


class Transport(StrEnum):
    """How events are sent; also the `delivery` label of metrics."""

    SSE = "sse"
    NDJSON = "ndjson"
    WEBSOCKET = "websocket"


class Variant(StrEnum):
    """The shape of the events on an SSE stream."""

    BRIDGE = "bridge"
    OPENAI = "openai"
    PROVIDER = "provider"


Rewrite = Callable[[State], bytes | None]


@dataclass(frozen=True, slots=True)
class Format:
    """Everything in which the bytes of two subscribers can differ.

    Args:
        include: What the documents contain besides the state.
        chunked: Whether HTTP chunk framing is added here, because the writer bypasses the server.
        framed: Whether the WebSocket frame header is added here, for the same reason.
        variant: `openai`: unnamed events, each an object with a `type`, and `[DONE]` at the end. `provider`:
            only the provider's own documents. SSE only.
        rewrite: Makes the document that the client of this connection gets of a state; only with `provider`.
    """

    transport: Transport
    include: Include = PLAIN
    chunked: bool = False
    framed: bool = False
    variant: Variant = Variant.BRIDGE
    rewrite: Rewrite | None = None


class Frames:
    """One event in every requested format, each encoded at the first request."""

    __slots__ = ("_confirmed", "_encoded", "event")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._encoded: list[tuple[Format, bytes]] = []  # rarely more than two: a scan is cheaper than a hash
        self._confirmed: tuple[Include, float | None, bytes] | None = None

    def bytes_for(self, fmt: Format) -> bytes:
        """The state, followed by `done` if it is final, with all framing."""
        for known, data in self._encoded:
            if (
                known is fmt or known == fmt
            ):  # identity first: formats are cached, and `==` compares five fields
                return data
        data = pack(fmt, state_frame(fmt, self.event))
        self._encoded.append((fmt, data))
        return data

    def first_for(self, fmt: Format, *, confirmed_at: float | None, retry: int | None) -> bytes:
        """The first frame of a new subscriber: with the newest confirmation and its own reconnect delay.

        Args:
            confirmed_at: Unix seconds at which the state was last seen; None for the recorded time.
            retry: Milliseconds; None for none.
        """
        # Many clients join between two polls. They share the document, which is most of the cost.
        cached = self._confirmed
        if cached is None or cached[0] != fmt.include or cached[1] != confirmed_at:
            text = document(self.event, include=fmt.include, observed_at=confirmed_at)
            cached = self._confirmed = (fmt.include, confirmed_at, text)
        return state_frame(fmt, self.event, text=cached[2], retry=retry)


def pack(fmt: Format, payload: bytes) -> bytes:
    """Add HTTP chunk framing if the format requires it."""
    if fmt.chunked and payload:  # an empty chunk would end the body
        return b"%x\r\n%b\r\n" % (len(payload), payload)
    return payload


def state_frame(
    fmt: Format,
    event: Event,
    *,
    text: bytes | None = None,
    with_cursor: bool = True,
    retry: int | None = None,
) -> bytes:
    """A state, followed by `done` if it is final.

    Args:
        text: Its document, if it is encoded already.
        with_cursor: False for a state whose cursor is not a position to resume from on this connection.
        retry: Milliseconds a browser should wait before it reconnects (SSE only).
    """
    if fmt.variant is Variant.PROVIDER:
        raw = event.state.raw if fmt.rewrite is None else fmt.rewrite(event.state)
        return b"" if raw is None else sse.encode(on_one_line(raw), retry=retry)
    text = text or document(event, include=fmt.include)
    cursor = str(event.cursor)
    if fmt.variant is Variant.OPENAI:
        payload = b'{"type":"state","cursor":"%b","task":%b}' % (cursor.encode(), text)
        return sse.encode(payload, id=cursor if with_cursor else None, retry=retry)
    if fmt.transport is Transport.SSE:
        frame = sse.encode(text, id=cursor if with_cursor else None, retry=retry)
    elif fmt.transport is Transport.NDJSON:
        frame = text + b"\n"
    else:
        frame = text_frame(fmt, b'{"type":"state","cursor":"%b","state":%b}' % (cursor.encode(), text))
    if not event.state.status.final:
        return frame
    fields = {"task": event.key.ref, "status": event.state.status.value}
    if fmt.transport is Transport.SSE:
        # With the same id as the state: a client cut off between the two has already seen the end.
        return frame + sse.encode(orjson.dumps(fields), id=cursor, event="done")
    return frame + _control(fmt, "done", fields | {"cursor": cursor})


def end_frame(fmt: Format, tasks: int) -> bytes:
    """All tasks have finished. A WebSocket gets none, because it stays open for the next subscribe."""
    if fmt.transport is Transport.WEBSOCKET:
        return b""
    if fmt.variant is Variant.OPENAI:
        return sse.encode(b"[DONE]")
    return _control(fmt, "end", {"tasks": tasks})


def reset_frame(fmt: Format, reason: str, *, retry: int | None = None) -> bytes:
    """The client's cursor is not usable; the current states follow."""
    return _control(fmt, "reset", {"reason": reason}, retry=retry)


def notice_frame(fmt: Format, key: TaskKey | None, notice: Notice) -> bytes:
    """An out-of-band message; `task` is null if it concerns the connection."""
    return _control(fmt, "notice", _notice(key, notice))


def closing_frame(fmt: Format, closing: Closing, *, retry: int | None) -> bytes:
    """Why the connection is closed, with the reconnect delay in milliseconds."""
    fields = _notice(None, Notice(NoticeCode.CLOSING, CLOSING_SENTENCES[closing])) | {"reason": closing.value}
    return _control(fmt, "notice", fields, retry=retry)


def keepalive(fmt: Format) -> bytes:
    """The shortest bytes that reset the idle timers of proxies and clients."""
    if fmt.transport is Transport.SSE:
        return pack(fmt, sse.KEEPALIVE)
    if fmt.transport is Transport.NDJSON:
        return pack(fmt, b"\n")
    return b""  # the server sends WebSocket pings


def text_frame(fmt: Format, payload: bytes) -> bytes:
    """A WebSocket text message: unmasked, uncompressed, final (RFC 6455 section 5.2).

    If the server adds the frame header, a line break separates messages that are joined into one write.
    """
    if not fmt.framed:
        return payload + b"\n"
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65_536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


def message(fmt: Format, fields: dict[str, Any]) -> bytes:
    """A control message on a WebSocket."""
    return text_frame(fmt, orjson.dumps(fields))


def _control(fmt: Format, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:
    if fmt.variant is Variant.PROVIDER:
        return b""  # the provider's own API has no such events
    if fmt.variant is Variant.OPENAI:
        return sse.encode(orjson.dumps({"type": name} | fields), retry=retry)
    if fmt.transport is Transport.SSE:
        return sse.encode(orjson.dumps(fields), event=name, retry=retry)
    if fmt.transport is Transport.NDJSON:
        return orjson.dumps({"event": name} | fields) + b"\n"
    return message(fmt, {"type": name} | fields)


def _notice(key: TaskKey | None, notice: Notice) -> dict[str, Any]:
    return {
        "code": notice.code.value,
        "task": key.ref if key is not None else None,
        "retriable": notice.retriable,
        "message": notice.message,
    }
