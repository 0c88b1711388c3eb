"""Server-sent events as bytes: the one encoder of our frames, and an incremental decoder for anybody's.

The decoder follows "Interpreting an event stream" of the WHATWG HTML standard, with these consequences:

- A block without a `data` line is not an event, yet its `id` counts: a silent bookmark. A block whose data
  line is empty (`data:`) is an event with empty data.
- The last event id is committed at the blank line, so a block cut in half never moves the cursor.
- Whatever the stream ends with before a blank line is dropped; there is nothing to flush.

Intentional: fields are told apart as bytes and only values are decoded. A line end is never part of a longer
UTF-8 sequence, so a character cut between two chunks needs no care at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bridge.errors import UnreadablePayload

OK_COMMENT = b": ok\n"
KEEPALIVE = b":\n"
MAX_EVENT_BYTES = 8 * 1024 * 1024

EVENT_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
EVENT_NAME = re.compile(r"[a-z_]+")

_BOM = b"\xef\xbb\xbf"
# More milliseconds than anybody waits; and int() refuses thousands of digits with an error of its own.
_RETRY_DIGITS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """One dispatched event.

    Args:
        data: The data lines, joined with LF.
        name: The event's name; None for a plain message.
        id: The last event id as of this event, whichever block brought it; None when there is none.
        retry: Milliseconds, when this very block carried a `retry` field.
    """

    data: str
    name: str | None = None
    id: str | None = None
    retry: int | None = None


class Decoder:
    """Turns chunks of bytes, cut anywhere, into events.

    Ordering: events come out in stream order, the same ones whatever the chunking.
    Backpressure: holds at most one unfinished event of `max_event_bytes`; every byte is copied a bounded
        number of times.

    Args:
        max_event_bytes: Bound of the data held for one event together with the line being read.
        last_event_id: The id to start from, kept from an earlier connection.

    Attributes:
        last_event_id: The id as of the last blank line.
        retry: The newest reconnection time the stream asked for, in milliseconds.
        comments: How many comment lines have come: a sign of life without news.
    """

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES, last_event_id: str | None = None) -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self.comments = 0
        self._max = max_event_bytes
        self._line = bytearray()
        self._data = bytearray()
        self._name = b""
        self._id = last_event_id
        self._block_retry: int | None = None
        self._first_line = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that end within `chunk`.

        Raises:
            UnreadablePayload: An event is larger than allowed. The decoder is of no use afterwards.
        """
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if not chunk:
            return []
        lines = chunk.splitlines()  # for bytes: CR, LF and CRLF only
        rest = lines.pop() if chunk[-1] not in b"\r\n" else b""
        self._after_cr = chunk[-1:] == b"\r"
        events: list[ServerSentEvent] = []
        for line in lines:
            event = self._take_line(self._whole(line))
            if event is not None:
                events.append(event)
        self._line += rest
        self._check(len(self._line))
        return events

    def _whole(self, end: bytes) -> bytes:
        """The line that ends with `end`, with what earlier chunks brought of it."""
        line = end
        if self._line:
            self._line += end
            line = bytes(self._line)
            self._line = bytearray()
        self._check(len(line))
        if self._first_line:
            self._first_line = False
            line = line.removeprefix(_BOM)
        return line

    def _check(self, line_bytes: int) -> None:
        if len(self._data) + line_bytes > self._max:
            raise UnreadablePayload(f"a server-sent event is larger than {self._max} bytes")

    def _take_line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data += value
            self._data += b"\n"
        elif not field:
            self.comments += 1
        else:
            self._take_field(field, value)
        return None

    def _take_field(self, field: bytes, value: bytes) -> None:
        if field == b"event":
            self._name = value
        elif field == b"id":
            if b"\x00" not in value:
                self._id = value.decode("utf-8", "replace") or None
        elif field == b"retry" and value.isdigit() and len(value) <= _RETRY_DIGITS:
            self.retry = self._block_retry = int(value)

    def _dispatch(self) -> ServerSentEvent | None:
        self.last_event_id = self._id
        data, name, retry = self._data, self._name, self._block_retry
        self._name, self._block_retry = b"", None
        if not data:
            return None
        self._data = bytearray()
        del data[-1]
        return ServerSentEvent(
            data=data.decode("utf-8", "replace"),
            name=name.decode("utf-8", "replace") or None,
            id=self._id,
            retry=retry,
        )


def encode(
    data: bytes,
    *,
    id: str | None = None,  # noqa: A002 - the field's own name
    event: str | None = None,
    retry: int | None = None,
) -> bytes:
    """One frame of ours: LF only, one data line.

    Raises:
        ValueError: A value would break the frame or leave what the contract allows.
    """
    head = ""
    if id is not None:
        if not EVENT_ID.fullmatch(id):
            raise ValueError(f"not an event id: {id[:140]!r}")
        head = f"id: {id}\n"
    if event is not None:
        if not EVENT_NAME.fullmatch(event):
            raise ValueError(f"not an event name: {event[:80]!r}")
        head += f"event: {event}\n"
    if retry is not None:
        if retry < 0:
            raise ValueError("a retry is a number of milliseconds, not negative")
        head += f"retry: {retry:d}\n"
    if b"\n" in data or b"\r" in data:
        raise ValueError("data holds a line end")
    return b"%bdata: %b\n\n" % (head.encode("ascii"), data)
