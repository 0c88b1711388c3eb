"""Writes log lines from a thread, so that the event loop never waits for a terminal or a pipe.

Rule 1: the logging call only creates the record. Rendering and writing happen in the thread.
Rule 2: the queue is bounded. Lines over the limit are dropped, counted, and reported once there is room.
Rule 3: a stream that is closed, full or blocked costs lines, never a request and never the exit.
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
IDLE_SECONDS = 1.0  # without lines, how often the counts of the throttle are written
BATCH_SECONDS = 0.05
FLUSH_TIMEOUT_SECONDS = 1.0
MAX_BATCH = 16  # lines rendered before the thread releases the interpreter lock: less than a millisecond

Write = Callable[[bytes], None]


class LogWriter(logging.Handler):
    """Accepts records from any thread and writes them from its own.

    Args:
        write: Writes whole lines; may block; raises OSError if they are lost.
        throttle: Filters repeated records and reports how many it suppressed.
        limit: Records that may wait in the queue.
    """

    def __init__(
        self, write: Write, throttle: LogThrottle, clock: Clock, *, limit: int = QUEUE_LIMIT
    ) -> None:
        super().__init__()
        self._write = write
        self._throttle = throttle
        self._clock = clock
        self._limit = limit
        self._queue: queue.SimpleQueue[logging.LogRecord | threading.Event | None] = queue.SimpleQueue()
        self._dropped = 0
        self._flushing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, unless it is throttled or the queue is full."""
        if not self._throttle.filter(record):
            return
        if self._queue.qsize() >= self._limit:
            self._dropped += 1
            return
        try:
            # Formatted here, because the arguments may change before the thread reads them.
            record.msg, record.args = record.getMessage(), None
        except Exception as error:  # noqa: BLE001 - a wrong format string must not fail the caller
            record = _unrenderable(record, error)
        self._queue.put(record)

    def flush(self) -> None:
        """Wait until everything queued is written, up to a second."""
        if self._thread.is_alive():
            written = threading.Event()
            self._queue.put(written)
            self._flushing.set()
            written.wait(FLUSH_TIMEOUT_SECONDS)

    def close(self) -> None:
        """Write what is queued, then end the thread; a blocked stream is abandoned after a second."""
        self._queue.put(None)
        self._flushing.set()
        self._thread.join(FLUSH_TIMEOUT_SECONDS)
        super().close()

    def _run(self) -> None:
        while self._turn():
            pass

    def _turn(self) -> bool:
        """Write one batch, or if nothing comes, the counts of the throttle; False once closed."""
        items = self._gather()
        ended = None in items
        records = [item for item in items if isinstance(item, logging.LogRecord)]
        records += self._throttle.take_counts(self._clock.time(), last=ended)
        for start in range(0, len(records), MAX_BATCH):
            self._write_records(records[start : start + MAX_BATCH])
        # Half empty, so that the report does not compete for room while lines are still being dropped.
        if self._dropped and (ended or self._queue.qsize() <= self._limit // 2):
            dropped = self._dropped
            report = logging.LogRecord(__name__, logging.WARNING, "", 0, "log lines dropped", None, None)
            report.__dict__["dropped"] = dropped
            written = self._write_records([report])
            # If the report itself is lost, its own line must not be counted as dropped.
            self._count_dropped(-dropped if written else -1)
        for item in items:
            if isinstance(item, threading.Event):
                self._flushing.clear()
                item.set()
        return not ended

    def _gather(self) -> list[logging.LogRecord | threading.Event | None]:
        """Wait for a record, then a moment for others: waking up for each costs more than writing it."""
        items: list[logging.LogRecord | threading.Event | None] = []
        try:
            items.append(self._queue.get(timeout=IDLE_SECONDS))
            self._flushing.wait(BATCH_SECONDS)
            while len(items) < self._limit:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return items

    def _write_records(self, records: Sequence[logging.LogRecord]) -> bool:
        try:
            self._write(b"".join(map(self._rendered, records)))
        except OSError:
            self._count_dropped(len(records))
            return False
        return True

    def _rendered(self, record: logging.LogRecord) -> bytes:
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - a line that cannot be rendered must not end the thread
            text = self.format(_unrenderable(record, error))
        return f"{text}\n".encode(errors="backslashreplace")

    def _count_dropped(self, lines: int) -> None:
        self.acquire()  # `emit` runs under the handler's lock and counts too
        self._dropped += lines
        self.release()


def _unrenderable(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    """A record that reports that `record` could not be rendered."""
    text = "log record could not be rendered"
    report = logging.LogRecord(record.name, logging.ERROR, "", 0, text, None, None)
    report.__dict__ |= {"template": str(record.msg)[:200], "error": type(error).__name__}
    return report


def _piece(data: memoryview) -> int:
    """How much to write at once: whole lines, as many as the kernel writes in one piece into a pipe.

    Several processes may write to it, and no line of one may end up inside a line of another.
    """
    if len(data) <= select.PIPE_BUF:
        return len(data)
    end = bytes(data[: select.PIPE_BUF]).rfind(b"\n")
    if end < 0:  # a line longer than that: nothing better than all of it at once
        end = bytes(data).find(b"\n")
    return end + 1 or len(data)


def to_descriptor(descriptor: int) -> Write:
    """A `Write` that bypasses Python's file objects: a blocked thread would hold their locks at exit."""

    def write(data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest[: _piece(rest)]) :]
            except BlockingIOError:  # another process made the stream non-blocking; this thread may wait
                select.select([], [descriptor], [])

    return write
