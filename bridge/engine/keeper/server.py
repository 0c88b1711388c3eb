"""The keeper: a `Store` and its clock in the parent process, for all workers of one service.

Rule 1: operations are carried out in the order in which they arrive, each at once. With a recorder no
        answer and no entry is sent before what it may show is on disk.
Rule 2: a worker whose connection ends is dead: its sessions end at that moment.
Rule 3: entries of the log are pushed. A worker that does not read costs no memory: it catches up later.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from bridge.engine.keeper.wire import (
    DEFECT,
    DONE,
    NUMBERS,
    OPERATIONS,
    PUSHED,
    READ,
    FrameSplitter,
    MalformedFrame,
    decode_arguments,
    decode_read,
    encode,
    encode_entries,
    frame,
)
from bridge.engine.store import Store

PUSH_SECONDS = 0.002  # between two pushes: bounds how often every worker wakes up
PUSHED_ENTRIES = 1000
MAX_UNSENT = 1024 * 1024  # bytes; a worker that has more to read is pushed nothing
MAX_UNREAD = 64 * 1024 * 1024  # bytes of answers: then its connection ends

_SESSION, _LEAVE = NUMBERS["session"], NUMBERS["leave"]

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """Makes what a store holds outlive the process.

    Attributes:
        durable: The position up to which everything is on disk.
        head: Offset up to which entries of the log may be read.
        error: Why nothing can be recorded at present; empty if it can.
    """

    durable: int
    head: int
    error: str

    @property
    def position(self) -> int:
        """Number of changes made to the store, with or without an entry in its log."""

    def changed(self, operation: str, arguments: tuple[Any, ...]) -> None:
        """An operation was carried out: record what it changed."""


class Keeper:
    """Serves the operations of `Engine` on one store.

    Args:
        now: Microseconds.
        recorder: None if what is held may end with the process.
    """

    def __init__(self, store: Store, now: Callable[[], int], *, recorder: Recorder | None = None) -> None:
        self._store = store
        self._now = now
        self._recorder = recorder
        self._connections: set[WorkerConnection] = set()
        self._opening: set[asyncio.Task[object]] = set()
        self._held: deque[tuple[int, WorkerConnection, bytes]] = (
            deque()
        )  # answers, by the position they may show
        self._pushed = self.head = store.log.head if recorder is None else recorder.head
        self._push: asyncio.TimerHandle | None = None
        self._pushed_at = 0.0
        self._calls = [getattr(store, operation.name) for operation in OPERATIONS]

    def connect(self) -> socket.socket:
        """Make a connection; returns the worker's end, to be inherited. It cannot be opened by name."""
        ours, its = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        opening = loop.create_task(loop.create_connection(lambda: WorkerConnection(self), sock=ours))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        return its

    def recorded(self) -> None:
        """The recorder has got further: send what had to wait for it."""
        self._advance()

    def close(self) -> None:
        """End all connections."""
        if self._push is not None:
            self._push.cancel()
        for connection in list(self._connections):
            connection.transport.abort()

    # Called by connections

    def opened(self, connection: WorkerConnection) -> None:
        """A worker is there."""
        self._connections.add(connection)

    def closed(self, connection: WorkerConnection) -> None:
        """A worker is gone, and all it owned is free."""
        self._connections.discard(connection)
        now = self._now()
        for session in connection.sessions:
            self._store.crash(session, now=now)
        if self._recorder is not None:
            self._recorder.changed("crash", ())
        self._advance()

    def perform(self, connection: WorkerConnection, number: int, what: int, body: memoryview) -> bytes:
        """Carry out a call; its answer as a frame, empty if it has been sent.

        Raises:
            MalformedFrame: It is not a call.
        """
        if what == READ:
            # Sent at once: it shows nothing that is not on disk.
            connection.cursor, limit = decode_read(body)
            connection.transport.write(self._read(connection, number, limit))
            return b""
        if what >= len(OPERATIONS):
            raise MalformedFrame(f"there is no operation {what}")
        operation = OPERATIONS[what]
        if self._recorder is not None and self._recorder.error:
            # As if it were away: the workers continue alone, and record what they have seen when it is back.
            return frame(number, DEFECT, encode(self._recorder.error))
        arguments = decode_arguments(operation, body)
        at, named = operation.positional, {}
        if at < len(arguments):
            named = dict(zip(operation.names[at:], arguments[at:], strict=True))
        if what == _SESSION:
            connection.sessions.add(arguments[0])
        elif what == _LEAVE:
            connection.sessions.discard(arguments[0])
        try:
            result = self._calls[what](*arguments[:at], **named, now=self._now())
            answer = frame(number, DONE, encode(result))
        except Exception as error:
            logger.exception("unhandled exception in engine", extra={"operation": operation.name})
            return frame(number, DEFECT, encode(f"{type(error).__name__}: {error}"))
        if self._recorder is not None:
            self._recorder.changed(operation.name, arguments)
        return answer

    def answered(self, connection: WorkerConnection, answers: list[bytes]) -> None:
        """Send the answers of calls carried out just now, as soon as rule 1 allows."""
        recorder = self._recorder
        if recorder is None or recorder.error or (recorder.durable >= recorder.position and not self._held):
            connection.transport.write(b"".join(answers))
        else:
            self._held.append((recorder.position, connection, b"".join(answers)))
        self._advance()

    def catch_up(self, connection: WorkerConnection) -> None:
        """Push what a worker has missed while it did not read."""
        while connection.behind and connection.accepts_more:
            entries = self._entries(connection.cursor, PUSHED_ENTRIES)
            if not entries:
                connection.behind = False
                return
            connection.cursor = entries[-1].offset
            connection.transport.write(frame(connection.reading, PUSHED, encode_entries(entries)))

    # The log

    def _read(self, connection: WorkerConnection, number: int, limit: int) -> bytes:
        """Answer a read; from then on the worker is pushed what follows."""
        entries = self._entries(connection.cursor, limit)
        connection.reading = number
        if entries:
            connection.cursor = entries[-1].offset
        # Who is not at the end of what is pushed to all catches up alone.
        connection.behind = connection.cursor < self._pushed or len(entries) == limit
        if not connection.behind:
            connection.cursor = max(connection.cursor, self._pushed)
        else:
            asyncio.get_running_loop().call_soon(self.catch_up, connection)
        return frame(number, DONE, encode_entries(entries))

    def _entries(self, after: int, limit: int) -> list[Any]:
        entries = self._store.log.after(after, limit)
        # What is not on disk yet comes last.
        while entries and entries[-1].offset > self.head:
            entries.pop()
        return entries

    def _advance(self) -> None:
        """Send answers and entries that may be sent."""
        recorder = self._recorder
        if recorder is not None:
            while self._held and self._held[0][0] <= recorder.durable:
                _, connection, answers = self._held.popleft()
                if not connection.transport.is_closing():
                    connection.transport.write(answers)
        self.head = head = self._store.log.head if recorder is None else recorder.head
        if head > self._pushed and self._push is None:
            loop = asyncio.get_running_loop()
            # The first entry after a pause leaves at once; under load they leave in groups.
            wait = max(self._pushed_at + PUSH_SECONDS - loop.time(), 0.0)
            self._push = loop.call_later(wait, self._push_all)

    def _push_all(self) -> None:
        self._push = None
        self._pushed_at = asyncio.get_running_loop().time()
        entries = self._entries(self._pushed, PUSHED_ENTRIES)
        before, self._pushed = self._pushed, entries[-1].offset if entries else self.head
        if entries:
            body = encode_entries(entries)  # once for all
            for connection in self._connections:
                if connection.reading and not connection.behind:
                    self._push_to(connection, before, body)
        if self._pushed < self.head:
            self._advance()

    def _push_to(self, connection: WorkerConnection, before: int, body: bytes) -> None:
        if connection.cursor != before or not connection.accepts_more:
            connection.behind = True
            self.catch_up(connection)
            return
        connection.cursor = self._pushed
        connection.transport.write(frame(connection.reading, PUSHED, body))


class WorkerConnection(asyncio.Protocol):
    """The connection of one worker.

    Attributes:
        sessions: Those it has opened.
        reading: Number of its read; 0 before the first. What is pushed has the same.
        cursor: Up to which entries were sent to it.
        behind: Whether it has to catch up before it is pushed anything.
    """

    transport: asyncio.Transport

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._frames = FrameSplitter()
        self.sessions: set[str] = set()
        self.reading = 0
        self.cursor = 0
        self.behind = False

    @property
    def accepts_more(self) -> bool:
        """Whether it reads fast enough to be pushed more."""
        return self.transport.get_write_buffer_size() < MAX_UNSENT and not self.transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The worker is there."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(MAX_UNSENT)
        self._keeper.opened(self)

    def data_received(self, data: bytes) -> None:
        """Carry out what has arrived."""
        answers = []
        try:
            for number, what, body in self._frames.split(data):
                answers.append(self._keeper.perform(self, number, what, body))
        except MalformedFrame as error:
            logger.error("worker sent a malformed call", extra={"error": str(error)})  # noqa: TRY400
            self.transport.abort()
            return
        if answers:
            self._keeper.answered(self, answers)
        if self.transport.get_write_buffer_size() > MAX_UNREAD:
            logger.error("worker reads no answers")
            self.transport.abort()

    def resume_writing(self) -> None:
        """It reads again."""
        self._keeper.catch_up(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The worker has ended."""
        del exc
        self._keeper.closed(self)
