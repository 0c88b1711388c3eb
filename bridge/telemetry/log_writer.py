"""The way of a line out of the process: a thread writes, so that the event loop waits for no terminal.

Rule 1: whoever logs pays for the record alone. Rendering and writing happen in the thread.
Rule 2: what waits is bounded. Lines beyond that are lost, counted, and told of once there is room.
Rule 3: a stream that is closed, full or stuck costs lines, never a request and never the end of the process.
"""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
from collections.abc import Callable, Sequence

from bridge.clock import Clock
from bridge.telemetry.log_throttle import LogThrottle

QUEUE_LIMIT = 10_000
TURN_SECONDS = 1.0
GATHER_SECONDS = 0.05
FLUSH_TIMEOUT_SECONDS = 1.0
MAX_BATCH = 16  # lines rendered before the event loop may have its turn: less than a millisecond

Write = Callable[[bytes], None]


class LogWriter(logging.Handler):
    """Takes records from any thread and writes them from one of its own.

    Args:
        write: Writes whole lines; may block; raises OSError when they are lost.
        repeats: Asked before a record is taken, and for what it held back.
    """

    def __init__(self, write: Write, repeats: LogThrottle, clock: Clock, *, room: int = QUEUE_LIMIT) -> None:
        super().__init__()
        self._write = write
        self._repeats = repeats
        self._clock = clock
        self._room = room
        self._queue: queue.SimpleQueue[logging.LogRecord | threading.Event | None] = queue.SimpleQueue()
        self._lost = 0
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take in a record, unless it repeats itself or too many wait."""
        if not self._repeats.filter(record):
            return
        if self._queue.qsize() >= self._room:
            self._lost += 1
            return
        try:
            # what it was given may change before the thread reads it
            record.msg, record.args = record.getMessage(), None
        except Exception as error:  # noqa: BLE001 - arguments that do not fit must not end who logs
            record = _unrenderable(record, error)
        self._queue.put(record)

    def flush(self) -> None:
        """Wait until what was taken in is written; not for long."""
        if self._thread.is_alive():
            written = threading.Event()
            self._queue.put(written)
            self._hurry.set()
            written.wait(FLUSH_TIMEOUT_SECONDS)

    def close(self) -> None:
        """Write what waits, then end; a stream that takes nothing is left behind."""
        self._queue.put(None)
        self._hurry.set()
        self._thread.join(FLUSH_TIMEOUT_SECONDS)
        super().close()

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Write what has come, or, when nothing comes, what there is to tell; False once closed."""
        items = self._gather()
        ended = None in items
        lines = [item for item in items if isinstance(item, logging.LogRecord)]
        lines += self._repeats.counts(self._clock.time(), last=ended)
        for place in range(0, len(lines), MAX_BATCH):
            self._out(lines[place : place + MAX_BATCH])
        if self._lost and (ended or self._queue.qsize() <= self._room // 2):
            self._tell_lost()
        for item in items:
            if isinstance(item, threading.Event):
                self._hurry.clear()
                item.set()
        return not ended

    def _gather(self) -> list[logging.LogRecord | threading.Event | None]:
        """Wait for a record, and a moment for others: to wake for each would cost more than to write it."""
        items: list[logging.LogRecord | threading.Event | None] = []
        try:
            items.append(self._queue.get(timeout=TURN_SECONDS))
            self._hurry.wait(GATHER_SECONDS)
            while len(items) < self._room:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return items

    def _out(self, records: Sequence[logging.LogRecord]) -> bool:
        try:
            self._write(b"".join(map(self._rendered, records)))
        except OSError:
            self._lose(len(records))
            return False
        return True

    def _rendered(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - one line that cannot be rendered must not end them all
            text = self.format(_unrenderable(record, error))
        return f"{text}\n".encode(errors="backslashreplace")

    def _lose(self, lines: int) -> None:
        self.acquire()  # whoever logs counts too
        self._lost += lines
        self.release()

    def _tell_lost(self) -> None:
        lost = self._lost
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, "log lines were lost", None, None)
        record.__dict__["lost"] = lost
        told = self._out([record])
        self._lose(-lost if told else -1)  # the line that tells of them is none of them


def _unrenderable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    text = "a line of the log could not be rendered"
    told = logging.LogRecord(record.name, logging.ERROR, "", 0, text, None, None)
    told.__dict__ |= {"template": str(record.msg)[:200], "error": type(error).__name__}
    return told


def to_descriptor(descriptor: int) -> Write:
    """Writes past Python's own buffers, whose locks a thread that is stuck would hold at the exit."""

    def write(data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:  # somebody made it so; we may wait
                select.select([], [descriptor], [])

    return write
