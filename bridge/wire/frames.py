"""What leaves on a connection, as bytes: each frame made once and shared by everybody it goes to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from bridge.core.event import Closing, Event, Notice, NoticeCode
from bridge.core.task import TaskKey
from bridge.wire import sse
from bridge.wire.document import PLAIN, Include, document


class Transport(StrEnum):
    """The formats a subscription can leave in."""

    SSE = "sse"
    NDJSON = "ndjson"
    WEBSOCKET = "websocket"


class Variant(StrEnum):
    """What the events on an SSE stream look like."""

    BRIDGE = "bridge"
    OPENAI = "openai"
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True)
class Format:
    """Everything that makes two subscribers' bytes differ.

    Args:
        dress: `openai`: unnamed events, each an object with a `type`, `[DONE]` at the end. `provider`: the
            provider's own documents and nothing else. Only with SSE.
        chunked: Whether the HTTP chunk framing is ours, because we write past the server.
        framed: Whether the WebSocket frame header is ours, for the same reason.
    """

    transport: Transport
    include: Include = PLAIN
    chunked: bool = False
    framed: bool = False
    variant: Variant = Variant.BRIDGE


class Frames:
    """One event in every form somebody asked for, each made at the first asking."""

    __slots__ = ("_confirmed", "_made", "event")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._made: list[tuple[Format, bytes]] = []  # rarely more than two: to look is cheaper than to hash
        self._confirmed: tuple[Include, float | None, bytes] | None = None

    def bytes_for(self, fmt: Format) -> bytes:
        """The state, and `done` after it when it is final, ready for the socket."""
        for known, made in self._made:
            if known is fmt or known == fmt:
                return made
        made = pack(fmt, state_frame(fmt, self.event))
        self._made.append((fmt, made))
        return made

    def first_for(self, fmt: Format, *, confirmed_at: float | None, retry: int | None) -> bytes:
        """The same for a newcomer: with the newest confirmation, and its own wait before it comes back.

        Many come between two looks; they share the document.
        """
        kept = self._confirmed
        if kept is None or kept[0] != fmt.include or kept[1] != confirmed_at:
            text = document(self.event, include=fmt.include, observed_at=confirmed_at)
            kept = self._confirmed = (fmt.include, confirmed_at, text)
        return state_frame(fmt, self.event, text=kept[2], retry=retry)


def pack(fmt: Format, payload: bytes) -> bytes:
    """Put the framing of HTTP around a payload where that is ours to do."""
    if fmt.chunked and payload:
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
    """A state; followed by `done` when it is final.

    Args:
        text: Its document, where that is made already.
        with_cursor: False for a state that is no place in the journal on this connection.
        retry: Milliseconds a browser should wait before it comes back (SSE only).
    """
    if fmt.variant is Variant.PROVIDER:
        return _own_frame(event, retry)
    text = text or document(event, include=fmt.include)
    cursor = str(event.cursor)
    if fmt.variant is Variant.OPENAI:
        dressed = b'{"type":"state","cursor":"%b","task":%b}' % (cursor.encode(), text)
        return sse.encode(dressed, id=cursor if with_cursor else None, retry=retry)
    if fmt.transport is Transport.SSE:
        frame = sse.encode(text, id=cursor if with_cursor else None, retry=retry)
    elif fmt.transport is Transport.NDJSON:
        frame = text + b"\n"
    else:
        frame = text_frame(fmt, b'{"type":"state","cursor":"%b","state":%b}' % (cursor.encode(), text))
    return frame + _done_frame(fmt, event) if event.state.status.final else frame


def end_frame(fmt: Format, tasks: int) -> bytes:
    """Nothing more will come. A WebSocket has none: it stays open for the next subscribe."""
    if fmt.transport is Transport.WEBSOCKET:
        return b""
    if fmt.variant is Variant.OPENAI:
        return sse.encode(b"[DONE]")
    return _control(fmt, "end", {"tasks": tasks})


def reset_frame(fmt: Format, reason: str, *, retry: int | None = None) -> bytes:
    """The cursor a client came with cannot be honoured; current states follow."""
    return _control(fmt, "reset", {"reason": reason}, retry=retry)


def notice_frame(fmt: Format, key: TaskKey | None, notice: Notice) -> bytes:
    """Something a viewer should know; `task` is null when it is about the connection."""
    return _control(fmt, "notice", _notice(key, notice))


def closing_frame(fmt: Format, closing: Closing, message: str, *, retry: int | None) -> bytes:
    """Why the connection ends now, with the wait before coming back (milliseconds)."""
    fields = _notice(None, Notice(NoticeCode.CLOSING, message)) | {"reason": closing.value}
    return _control(fmt, "notice", fields, retry=retry)


def keepalive(fmt: Format) -> bytes:
    """The shortest thing that keeps middleboxes and watchdogs content."""
    if fmt.transport is Transport.SSE:
        return pack(fmt, sse.KEEPALIVE)
    if fmt.transport is Transport.NDJSON:
        return pack(fmt, b"\n")
    return b""  # the WebSocket library pings


def text_frame(fmt: Format, payload: bytes) -> bytes:
    """A WebSocket text message: unmasked, uncompressed, final (RFC 6455 section 5.2).

    Where the server frames, messages joined into one write are told apart by a line break.
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
    """A control message of the WebSocket protocol."""
    return text_frame(fmt, orjson.dumps(fields))


def _done_frame(fmt: Format, event: Event) -> bytes:
    fields = {"task": event.key.ref, "status": event.state.status.value}
    cursor = str(event.cursor)
    if fmt.transport is Transport.SSE:
        return sse.encode(orjson.dumps(fields), id=cursor, event="done")
    return _control(fmt, "done", fields | {"cursor": cursor})


def _own_frame(event: Event, retry: int | None) -> bytes:
    """The provider's own document, where it sent one: on one line, which its line breaks would end."""
    raw = event.state.raw
    return b"" if raw is None else sse.encode(orjson.dumps(orjson.loads(raw)), retry=retry)


def _control(fmt: Format, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:
    if fmt.variant is Variant.PROVIDER:
        return b""  # no provider says such things
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
