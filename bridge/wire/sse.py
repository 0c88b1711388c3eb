"""Server-sent events as bytes: the encoder of our frames, and an incremental decoder for any stream.

The decoder follows "Interpreting an event stream" of the WHATWG HTML standard, with these consequences:

- A block without a `data` line is not an event, yet its `id` counts: a silent bookmark. A block whose data
  line is empty (`data:`) is an event with empty data.
- The last event id is committed at the blank line, so a block cut in half never moves the cursor.
- Data after the last blank line of the stream is dropped; there is nothing to flush.

Intentional: lines are split as bytes and only values are decoded. A line end is never part of a longer UTF-8
sequence, so a character cut between two chunks needs no special case.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bridge.errors import UnreadablePayload

OK_COMMENT = b": ok\n"
KEEPALIVE = b":\n"
MAX_EVENT_BYTES = 8 * 1024 * 1024

EVENT_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
EVENT_NAME = re.compile(r"[a-z_]+(?:\.[a-z_]+)*")

_BOM = b"\xef\xbb\xbf"
_LF, _CR = b"\n\r"  # numbers: to find bytes in bytes takes twice as long
# More milliseconds than any client waits; int() raises an error of its own for thousands of digits.
_RETRY_DIGITS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSentEvent:
    """One dispatched event.

    Args:
        data: The data lines, joined with LF.
        name: The event's name; None for a plain message.
        id: The last event id as of this event, from this block or an earlier one; None if there was none.
        retry: Milliseconds, if this block has a `retry` field.
    """

    data: str
    name: str | None = None
    id: str | None = None
    retry: int | None = None


class Decoder:
    """Turns chunks of bytes, cut anywhere, into events.

    Ordering: events are returned in stream order; chunking has no influence on them.
    Backpressure: holds at most one unfinished event of `max_event_bytes`; every byte is copied a bounded
        number of times.

    Args:
        max_event_bytes: Limit for the data of one event together with the line being read.
        last_event_id: The id to start from, kept from an earlier connection.

    Attributes:
        last_event_id: The id as of the last blank line.
        retry: The newest reconnection time the stream sent, in milliseconds.
        comments: How many comment lines were read: a keepalive without an event.
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

    @property
    def held(self) -> int:
        """Bytes of the unfinished event."""
        return len(self._data) + len(self._line)

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that end within `chunk`.

        Raises:
            UnreadablePayload: An event is larger than allowed. The decoder is unusable afterwards.
        """
        if self._after_cr and chunk:
            # The chunk before ended with CR: a LF here belongs to the same line end.
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
        """The complete line that ends with `end`; its start may be in earlier chunks."""
        line = end
        if self._line:
            self._line += end
            line = bytes(self._line)
            self._line = bytearray()
        self._check(len(line))
        if self._first_line:
            # One byte order mark may precede the stream; the standard ignores it.
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
            # The standard ignores an id with a NULL; in a `Last-Event-ID` header it would be an attack.
            if b"\x00" not in value:
                self._id = value.decode("utf-8", "replace") or None
        elif field == b"retry" and value.isdigit() and len(value) <= _RETRY_DIGITS:
            self.retry = self._block_retry = int(value)

    def _dispatch(self) -> ServerSentEvent | None:
        # Committed even without data: a block with only an `id` moves the cursor.
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
    """One of our frames: LF only, one data line, the id last.

    Raises:
        ValueError: A value would break the frame, or is not allowed by the contract.
    """
    # Values are checked, because a line break in one would let a provider inject fields into the stream.
    head = tail = b""
    if retry is not None:
        if retry < 0:
            raise ValueError(f"not a number of milliseconds: {retry}")
        head = b"retry: %d\n" % retry
    if event is not None:
        if not EVENT_NAME.fullmatch(event):
            raise ValueError(f"not an event name: {event[:80]!r}")
        head += b"event: %b\n" % event.encode("ascii")
    if id is not None:
        if not EVENT_ID.fullmatch(id):
            raise ValueError(f"not an event id: {id[:140]!r}")
        # Last: some clients take an id as seen once its line is read. Cut off before it, they ask again.
        tail = b"id: %b\n" % id.encode("ascii")
    if _LF in data or _CR in data:
        raise ValueError("data contains a line end")
    return b"".join((head, b"data: ", data, b"\n", tail, b"\n"))
