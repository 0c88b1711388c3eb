"""What a format is, and the frames of an event: encoded once per format and shared by its subscribers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any, ClassVar

from bridge.core.cursor import Cursor, EventId
from bridge.core.event import Closing, Confirmation, Event, Notice, NoticeCode
from bridge.core.task import TaskKey
from bridge.wire.document import PLAIN, Include, encoded

CLOSING_SENTENCES = {
    Closing.FINISHED: "all tasks have finished",
    Closing.GONE: "the client disconnected",
    Closing.DRAIN: "the bridge is restarting; please reconnect",
    Closing.AGE: "the connection reached its maximum age; please reconnect",
    Closing.SLOW: "the client did not read for too long",
    Closing.EXPIRED: "the credential of this connection expired",
    Closing.OVER_CAPACITY: "the bridge is at capacity; please reconnect later",
}
LARGE_BYTES = 64 * 1024
STATE_BYTES = 2 * 1024  # of a document without its optional parts, roughly
SHARED_SECONDS = 1.0
"""How long the document of a state with a time left is shared by all who come: it counts down."""

RAW_OMITTED = Notice(NoticeCode.RAW_OMITTED, "the provider's own document cannot be written", retriable=False)


ANY_LIST = ""
"""In place of a mark: those of all lists."""

NO_IDS = "-"
"""In place of a mark: the events have no ids."""


class Format(ABC):
    """How everything on one connection is written: the one object in which two deliveries differ.

    Compared by identity; `format_of` gives all connections of one kind the same object, and they share bytes.

    Attributes:
        group: The format of all connections that differ from this one in their mark only.
        plain: The same without mark and framing.
        shared: Whether its bytes are worth keeping: other connections will want the same.

    Args:
        include: What the documents contain besides the state.
        mark: What the event ids carry besides the cursor (`bridge.core.cursor.mark_of`); None for nothing.
        framed: Whether the framing of the protocol below is added here, because the writer bypasses the
            server: HTTP chunks, or the headers of WebSocket frames.
    """

    __slots__ = ("framed", "group", "include", "mark", "plain", "shared")

    label: ClassVar[str]
    """The `delivery` label of its metrics."""

    content_type: ClassVar[str] = ""
    preface: ClassVar[bytes] = b""
    """Sent first, before any event."""

    marks_ids: ClassVar[bool] = False
    """Whether its events have an id that carries the mark."""

    stays_open: ClassVar[bool] = False
    """Whether a connection outlives its tasks, and may follow several tags and groups: the mark is theirs."""

    has_cursor: ClassVar[bool] = True
    """Whether a client has somewhere to read how far it is, so that `reset` says something to it."""

    def __init__(self, include: Include = PLAIN, mark: str | None = None, *, framed: bool = False) -> None:
        self.include = include
        self.mark = mark
        self.framed = framed
        self.shared = mark is None
        # Each list has a mark of its own, often for one connection. They are one group nevertheless.
        self.group: Format = self if not mark else format_of(type(self), include, ANY_LIST, framed=framed)
        self.plain: Format = self if mark is None else format_of(type(self), include)

    def with_framing(self) -> Format:
        """The same format for a writer that bypasses the server."""
        return format_of(type(self), self.include, self.mark, framed=True)

    def pack(self, payload: bytes) -> bytes:
        """Add HTTP chunk framing, if it is added here."""
        if self.framed and payload:  # an empty chunk would end the body
            return b"%x\r\n%b\r\n" % (len(payload), payload)
        return payload

    @property
    def without_ids(self) -> Format:
        """The same where an id would say too much, without framing."""
        return self if self.mark is None else format_of(type(self), self.include, NO_IDS)

    def with_mark(self, mark: str) -> Format:
        """The same with ids of a list, or of several."""
        return format_of(type(self), self.include, mark, framed=self.framed)

    @property
    def carries_raw(self) -> bool:
        """Whether the provider's own documents are written."""
        return self.include.raw

    def bytes_of(self, event: Event) -> int:
        """About how many bytes a state has in this format, without encoding it."""
        return STATE_BYTES + (len(event.state.raw or b"") if self.carries_raw else 0)

    def event_id(self, cursor: Cursor) -> str:
        """What a client sends back to resume after `cursor`."""
        return str(cursor) if self.mark is None else f"{cursor}.{self.mark}"

    def has_id(self, cursor: Cursor) -> bool:
        """Whether a state has an id.

        On a stream of many tasks, the id moves the client's position for all of them: the placeholder
        `unknown` has no place in the journal, nor has a state that is not recorded.
        """
        return self.mark is None or (self.mark != NO_IDS and cursor.offset > 0 and not cursor.shown)

    @abstractmethod
    def state(self, event: Event, text: bytes, *, retry: int | None = None) -> bytes:
        """A state, followed by `done` if it is final.

        Args:
            text: Its document.
            retry: Milliseconds a browser should wait before it reconnects.
        """

    def notice(self, key: TaskKey | None, notice: Notice) -> bytes:
        """An out-of-band message; `task` is null if it concerns the connection."""
        return self.control("notice", _fields(key, notice))

    def closing(self, closing: Closing, *, retry: int | None) -> bytes:
        """Why the connection is closed, with the reconnect delay in milliseconds."""
        fields = _fields(None, Notice(NoticeCode.CLOSING, CLOSING_SENTENCES[closing]))
        return self.control("notice", fields | {"reason": closing.value}, retry=retry)

    def reset(self, reason: str, *, retry: int | None = None) -> bytes:
        """The client's cursor is not usable; the current states follow."""
        return self.control("reset", {"reason": reason}, retry=retry)

    def end(self, tasks: int) -> bytes:
        """All tasks have finished."""
        return self.control("end", {"tasks": tasks})

    def group_done(self, group: str, counts: Mapping[str, int], event_id: EventId) -> bytes:
        """All tasks of a closed group have finished.

        Args:
            counts: How many ended with each status.
            event_id: What a client resumes with that has seen it.
        """
        fields = {"group": group, "counts": dict(counts), "cursor": str(event_id)}
        return self.control("group_done", fields)

    def keepalive(self) -> bytes:
        """The shortest bytes that reset the idle timers of proxies and clients."""
        return b""

    def answers_subscribe(self, notice: Notice) -> bool:  # noqa: ARG002 - most formats have no subscribe message
        """Whether this notice is the reply to a subscribe message: each connection gets its own bytes."""
        return False

    def reply(self, number: object, key: TaskKey, notice: Notice) -> bytes:
        """A notice as the reply to the subscribe message `number`."""
        raise NotImplementedError

    @abstractmethod
    def control(self, name: str, fields: dict[str, Any], *, retry: int | None = None) -> bytes:
        """A control event."""


def format_of(
    kind: type[Format], include: Include = PLAIN, mark: str | None = None, *, framed: bool = False
) -> Format:
    """The format of this kind that all its connections share."""
    if mark and kind.marks_ids:
        return _with_mark(kind, include, mark, framed=framed)
    return _without_mark(kind, include, mark if kind.marks_ids else None, framed=framed)


@cache
def _without_mark(kind: type[Format], include: Include, mark: str | None, *, framed: bool) -> Format:
    return kind(include, mark, framed=framed)


@lru_cache(1024)  # apart: any number of lists leaves the few others alone
def _with_mark(kind: type[Format], include: Include, mark: str, *, framed: bool) -> Format:
    return kind(include, mark, framed=framed)


class Frames:
    """One event in every requested format, each encoded at the first request.

    Attributes:
        large: Whether its bytes are too many to be kept for as long as the event is the newest.
    """

    __slots__ = ("_documents", "_encoded", "event", "large")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.large = False
        self._encoded: dict[Format, bytes] = {}
        # Each with whether something was left out, when it was written (Unix seconds), and its confirmation.
        self._documents: dict[Include, tuple[bytes, bool, float, Confirmation | None]] = {}

    def bytes_for(self, fmt: Format, *, now: float) -> bytes:
        """The state, followed by `done` if it is final, with all framing: as it was at the first request.

        Args:
            now: Unix seconds.
        """
        data = self._encoded.get(fmt)
        if data is None:
            data = fmt.pack(self.payload_for(fmt, now=now))
            if fmt.shared:
                self._encoded[fmt] = data
        return data

    def amend(self, event: Event) -> None:
        """The same event says more from now on (`bridge.journal.base.Journal.amend`)."""
        self.event = event
        self.release()

    def release(self) -> None:
        """Drop its bytes; they are encoded again when they are needed."""
        self.large = False
        self._encoded.clear()
        self._documents.clear()

    def marked_bytes(self, fmt: Format, data: bytes) -> bytes:
        """The same for a format with a mark.

        Args:
            data: The bytes of `fmt.plain`.
        """
        # Only a line of ours can begin so: data has one line.
        line = b"\nid: %b" % str(self.event.cursor).encode()
        marked = b"%b.%b\n" % (line, str(fmt.mark).encode())
        return fmt.pack(data.replace(line + b"\n", marked))

    def payload_for(
        self,
        fmt: Format,
        *,
        now: float,
        confirmation: Confirmation | None = None,
        retry: int | None = None,
        reused: bool = True,
    ) -> bytes:
        """The same without framing, for one subscriber: as it is now.

        Args:
            now: Unix seconds.
            confirmation: The newest one of the state; None for what is recorded with it.
            retry: Milliseconds; None for none.
            reused: Whether other subscribers may soon need its document.
        """
        # The document is most of the cost. Clients that join within a second share it, in every format.
        written = self._documents.get(fmt.include)
        if written is None or not self._is_current(written[2], written[3], confirmation, now):
            text, omitted = encoded(self.event, fmt.include, now, confirmation)
            if reused:
                # A copy: what orjson returns takes kilobytes more than it holds.
                self._documents[fmt.include] = bytes(memoryview(text)), omitted, now, confirmation
                self.large = self.large or len(text) > LARGE_BYTES
        else:
            text, omitted, _, _ = written
        frame = fmt.state(self.event, text, retry=retry)
        return frame + fmt.notice(self.event.key, RAW_OMITTED) if omitted else frame

    def _is_current(
        self, at: float, of: Confirmation | None, confirmation: Confirmation | None, now: float
    ) -> bool:
        """Whether a document written at `at` may be sent now: for a second, until the next confirmation."""
        if confirmation is not of:
            return False
        eta_at = self.event.state.eta_at if confirmation is None else confirmation.eta_at
        return eta_at is None or at <= now < at + SHARED_SECONDS


def _fields(key: TaskKey | None, notice: Notice) -> dict[str, Any]:
    return {
        "code": notice.code.value,
        "task": key.ref if key is not None else None,
        "retriable": notice.retriable,
        "message": notice.message,
    }
