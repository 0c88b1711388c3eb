"""A line that repeats itself is written a few times, then counted, so that trouble cannot bury its cause."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
WRITTEN = 5
KEPT = 256


_Kind = tuple[str, str, str | None]


@dataclass(slots=True)
class _Window:
    """One kind of line, for a minute."""

    since: float
    level: int
    seen: int = 0


class LogThrottle(logging.Filter):
    """Lets the first lines of a kind through each minute, from warnings on; says how many it held back.

    Lines are of one kind when logger, template and upstream are the same: not the task, which changes. What
    is said once a connection or a task is no warning, and what somebody debugs is not held back either.

    Ordering: each count is given once, after the lines it counts; `filter` and `counts` from any thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._windows: OrderedDict[_Kind, _Window] = OrderedDict()
        self._counts: list[logging.LogRecord] = []
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write it."""
        if record.levelno < logging.WARNING:
            return True
        kind = (record.name, str(record.msg), getattr(record, "upstream", None))
        with self._lock:
            window = self._windows.get(kind)
            if window is None or not 0 <= record.created - window.since < WINDOW_SECONDS:
                self._close(kind, record.created)
                window = self._windows[kind] = _Window(record.created, record.levelno)
                if len(self._windows) > KEPT:
                    self._close(next(iter(self._windows)), record.created)
            window.seen += 1
            return window.seen <= WRITTEN

    def counts(self, now: float, *, last: bool = False) -> Sequence[logging.LogRecord]:
        """What was held back, of each kind whose minute is over.

        Args:
            now: Unix seconds.
            last: Of every kind: nothing more will come.
        """
        with self._lock:
            for kind, window in list(self._windows.items()):
                if last or now - window.since >= WINDOW_SECONDS:
                    self._close(kind, min(now, window.since + WINDOW_SECONDS))
            told, self._counts = self._counts, []
        return told

    def _close(self, kind: _Kind, now: float) -> None:
        window = self._windows.pop(kind, None)
        if window is not None and window.seen > WRITTEN:
            self._counts.append(_count(kind, window, now))


def _count(kind: _Kind, window: _Window, now: float) -> logging.LogRecord:
    name, template, upstream = kind
    more, seconds = window.seen - WRITTEN, max(1, round(now - window.since))
    text = f"... {more} more like this in {seconds} s"
    record = logging.LogRecord(name, window.level, "", 0, text, None, None)
    record.created = now
    record.__dict__ |= {"like": template, "suppressed": more, "seconds": seconds}
    if upstream is not None:
        record.__dict__["upstream"] = upstream
    return record
