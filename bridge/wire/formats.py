"""Every format of a delivery: SSE in three shapes, NDJSON, WebSocket messages, the document of a long-poll.

A new delivery is a class here or in a file of its own, and a place in `FORMATS`. A stream over HTTP needs
only one in `STREAMS` besides: clients ask for its `content_type`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bridge.core.cursor import EventId
from bridge.core.event import Event, Notice, NoticeCode
from bridge.core.task import State, Status, TaskKey
from bridge.wire import sse
from bridge.wire.frames import Format
from bridge.wire.text import dumps, on_one_line

Rewrite = Callable[[State], bytes | None]

END_RETRY = 86_400_000
"""Milliseconds; for clients that reconnect after `end` and 204 alike: a day."""


class SseFormat(Format):
    """Server-sent events (docs/endpoints.md)."""

    __slots__ = ()

    label = "sse"
    content_type = "text/event-stream; charset=utf-8"
    preface = sse.OK_COMMENT
    marks_ids = True

    def state(self, event: Event, text: bytes, *, retry: int | None = None) -> bytes:
        """An unnamed event, then `done` with the same id: who is cut off between the two has seen the end."""
        event_id = self.event_id(event.cursor) if self.has_id(event.cursor) else None
        frame = sse.encode(text, id=event_id, retry=retry)
        if event.state.status.final:
            frame += sse.encode(dumps(_done(event)), id=event_id, event="done")
        return frame

    def end(self, tasks: int) -> bytes:
        """`end`, with a day's `retry:`."""
        return self.control("end", {"tasks": tasks}, retry=END_RETRY)

    def group_done(self, group: str, counts: Mapping[str, int], event_id: EventId) -> bytes:
        """A named event with an id."""
        payload = dumps({"group": group, "counts": dict(counts)})
        return sse.encode(payload, id=str(event_id), event="group_done")

    def keepalive(self) -> bytes:
        """A comment."""
        return self.pack(sse.KEEPALIVE)

    def control(self, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:
        """A named event."""
        return sse.encode(dumps(fields), event=name, retry=retry)


class OpenAiFormat(SseFormat):
    """`format=openai`: unnamed events, each an object with a `type`, and `[DONE]` at the end."""

    __slots__ = ()

    def state(self, event: Event, text: bytes, *, retry: int | None = None) -> bytes:
        """The document below `task`."""
        event_id = self.event_id(event.cursor) if self.has_id(event.cursor) else None
        payload = b'{"type":"state","cursor":"%b","task":%b}' % (str(event.cursor).encode(), text)
        return sse.encode(payload, id=event_id, retry=retry)

    def group_done(self, group: str, counts: Mapping[str, int], event_id: EventId) -> bytes:
        """An unnamed event with a type and an id."""
        fields = {"type": "group_done", "group": group, "counts": dict(counts)}
        return sse.encode(dumps(fields), id=str(event_id))

    def end(self, tasks: int) -> bytes:  # noqa: ARG002 - the word is the same for any number
        """The word those libraries wait for."""
        return sse.encode(b"[DONE]", retry=END_RETRY)

    def control(self, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:
        """An unnamed event with a type."""
        return sse.encode(dumps({"type": name} | fields), retry=retry)


@dataclass(frozen=True, slots=True)
class EventShape:
    """How a provider names and numbers the events of its streams.

    Args:
        name: Also the `type` in the data; `{status}` is the provider's word.
        wrapper: The key of the document.
        number: The key of the number.
        after: The query parameter with the last number that a client saw.
    """

    name: str
    wrapper: str
    number: str
    after: str


class ProviderFormat(SseFormat):
    """The provider's own documents and nothing else, below `/proxy`.

    Args:
        rewrite: Makes the document that the client of this connection gets of a state.
    """

    __slots__ = ("_rewrite",)

    has_cursor = False

    def __init__(self, rewrite: Rewrite, *, framed: bool = False) -> None:
        super().__init__(framed=framed)
        self._rewrite = rewrite
        self.shared = False  # made for one client

    @property
    def carries_raw(self) -> bool:
        """Always: there is nothing else."""
        return True

    def with_framing(self) -> Format:
        """The same with HTTP chunks."""
        return ProviderFormat(self._rewrite, framed=True)

    def state(self, event: Event, text: bytes, *, retry: int | None = None) -> bytes:  # noqa: ARG002 - not our document
        """The provider's document; nothing where none was recorded."""
        try:
            raw = self._rewrite(event.state)
        except Exception:  # noqa: BLE001 - as it came, its links would lead past the bridge
            raw = None
        return b"" if raw is None else sse.encode(on_one_line(raw), retry=retry)

    def group_done(self, group: str, counts: Mapping[str, int], event_id: EventId) -> bytes:  # noqa: ARG002
        """Nothing: there are no groups below `/proxy`."""
        return b""

    def end(self, tasks: int) -> bytes:  # noqa: ARG002 - said by closing
        """Nothing: the provider only closes."""
        return b""

    def control(self, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:  # noqa: ARG002 - SSE only
        """Nothing: the provider's own API has no such events."""
        return b""


class ProviderEventsFormat(ProviderFormat):
    """The provider's own documents in events with a name and a number, as OpenAI streams its Responses.

    The number belongs to the state: a client that reconnects with the last one it saw gets what is newer.

    Args:
        shape: The form of the events.
        after: Events up to this number are left out.
    """

    __slots__ = ("_after", "_shape")

    def __init__(
        self, rewrite: Rewrite, *, shape: EventShape, after: int | None = None, framed: bool = False
    ) -> None:
        super().__init__(rewrite, framed=framed)
        self._shape = shape
        self._after = -1 if after is None else after

    def with_framing(self) -> Format:
        """The same with HTTP chunks."""
        return ProviderEventsFormat(self._rewrite, shape=self._shape, after=self._after, framed=True)

    def state(self, event: Event, text: bytes, *, retry: int | None = None) -> bytes:  # noqa: ARG002 - not our document
        """The event of a state; nothing where the client has it or no document was recorded."""
        status, shape = event.state.status, self._shape
        number = 2 if status.final else 0 if status is Status.QUEUED else 1
        try:
            raw = self._rewrite(event.state) if number > self._after else None
        except Exception:  # noqa: BLE001 - as it came, its links would lead past the bridge
            raw = None
        if raw is None:
            return b""
        word = event.state.upstream_status or ""
        name = shape.name.replace("{status}", word if sse.EVENT_NAME.fullmatch(word) else status.value)
        head = dumps({"type": name, shape.number: number})
        return sse.encode(head[:-1] + b',"%b":%b}' % (shape.wrapper.encode(), on_one_line(raw)), event=name)


class NdjsonFormat(Format):
    """One JSON object a line."""

    __slots__ = ()

    label = "ndjson"
    content_type = "application/x-ndjson"

    def state(self, event: Event, text: bytes, *, retry: int | None = None) -> bytes:  # noqa: ARG002 - SSE only
        """The document, then `done`."""
        frame = text + b"\n"
        if event.state.status.final:
            frame += self.control("done", _done(event) | {"cursor": str(event.cursor)})
        return frame

    def keepalive(self) -> bytes:
        """An empty line."""
        return self.pack(b"\n")

    def control(self, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:  # noqa: ARG002 - SSE only
        """An object with the event's name."""
        return dumps({"event": name} | fields) + b"\n"


class WebSocketFormat(Format):
    """Messages of the subprotocol `bridge.v1.json`: unmasked, uncompressed, final (RFC 6455 section 5.2).

    If the server adds the frame headers, a line break separates messages that are joined into one write.
    """

    __slots__ = ()

    label = "websocket"
    marks_ids = True
    stays_open = True

    def pack(self, payload: bytes) -> bytes:
        """Nothing to add: each message has its own frame."""
        return payload

    def state(self, event: Event, text: bytes, *, retry: int | None = None) -> bytes:  # noqa: ARG002 - SSE only
        """`state`, then `done`; `cursor` resumes the tags and groups that the connection follows."""
        marked = self.mark is not None and self.has_id(event.cursor)
        cursor = self.event_id(event.cursor) if marked else str(event.cursor)
        frame = self._frame(b'{"type":"state","cursor":"%b","state":%b}' % (cursor.encode(), text))
        if event.state.status.final:
            frame += self.control("done", _done(event) | {"cursor": cursor})
        return frame

    def end(self, tasks: int) -> bytes:  # noqa: ARG002 - it stays open for the next subscribe
        """Nothing."""
        return b""

    def answers_subscribe(self, notice: Notice) -> bool:
        """The 404 is the reply to the subscribe message that named the task."""
        return notice.code is NoticeCode.TASK_NOT_FOUND

    def reply(self, number: object, key: TaskKey, notice: Notice) -> bytes:
        """An `error` with the id of that message."""
        return self.error(number, notice.code.value, notice.message, task=key.ref)

    def error(self, number: object, code: str, message: str, *, task: str | None = None) -> bytes:
        """Why a message of the client, or one task in it, is refused."""
        fields = {"id": number, "code": code, "task": task, "message": message}
        return self.control("error", fields)

    def control(self, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:  # noqa: ARG002 - SSE only
        """Any other message."""
        return self._frame(dumps({"type": name} | fields))

    def _frame(self, payload: bytes) -> bytes:
        if not self.framed:
            return payload + b"\n"
        size = len(payload)
        if size < 126:
            return bytes((0x81, size)) + payload
        if size < 65_536:
            return b"\x81\x7e" + size.to_bytes(2, "big") + payload
        return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class JsonFormat(Format):
    """The document alone: what a long-poll is answered with."""

    __slots__ = ()

    label = "longpoll"
    content_type = "application/json"

    def state(self, event: Event, text: bytes, *, retry: int | None = None) -> bytes:  # noqa: ARG002 - the whole body
        """The document."""
        return text

    def control(self, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:  # noqa: ARG002 - SSE only
        """Nothing: status and headers say it."""
        return b""


FORMATS: list[type[Format]] = [SseFormat, WebSocketFormat, JsonFormat, NdjsonFormat]
"""All of them but the other shapes of SSE, which are counted as `sse`."""

STREAMS: list[type[Format]] = [SseFormat, NdjsonFormat]
"""What `Accept` may ask for on a stream's route; the first unless another is asked for."""


def _done(event: Event) -> dict[str, Any]:
    return {"task": event.key.ref, "status": event.state.status.value}
