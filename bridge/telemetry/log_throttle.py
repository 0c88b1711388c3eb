"""Log throttling: of repeated log lines a few per minute are written, the rest are counted."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
BURST = 5  # lines of one kind written per window
CACHE_SIZE = 256  # kinds of lines remembered at the same time


_Kind = tuple[str, str, str | None]


@dataclass(slots=True)
class _Window:
    """The lines of one kind within one minute."""

    since: float
    level: int
    count: int = 0


class LogThrottle(logging.Filter):
    """Passes the first lines of each kind per minute, and reports how many it suppressed.

    Applies to warnings and above: an outage must not bury its cause under repetitions. Lines below are
    written once per connection or task, or are wanted for debugging. Lines are of one kind if logger,
    template and upstream are equal; the task is not part of it, because it differs in each line.

    Ordering: each count is returned once, after the lines it counts. Thread-safe.
    """

    def __init__(self) -> None:
        super().__init__()
        self._windows: OrderedDict[_Kind, _Window] = OrderedDict()
        self._counts: list[logging.LogRecord] = []
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write `record`."""
        if record.levelno < logging.WARNING:
            return True
        kind = (record.name, str(record.msg), getattr(record, "upstream", None))
        with self._lock:
            window = self._windows.get(kind)
            # A negative age means that the clock was set back; the window might then last for hours.
            if window is None or not 0 <= record.created - window.since < WINDOW_SECONDS:
                self._close(kind, record.created)
                window = self._windows[kind] = _Window(record.created, record.levelno)
                if len(self._windows) > CACHE_SIZE:
                    self._close(next(iter(self._windows)), record.created)
            window.count += 1
            return window.count <= BURST

    def take_counts(self, now: float, *, last: bool = False) -> Sequence[logging.LogRecord]:
        """Records that report the suppressed lines of each kind whose minute has passed.

        Args:
            now: Unix seconds.
            last: Report every kind, because the log is being closed.
        """
        with self._lock:
            for kind, window in list(self._windows.items()):
                if last or now - window.since >= WINDOW_SECONDS:
                    self._close(kind, min(now, window.since + WINDOW_SECONDS))
            counts, self._counts = self._counts, []
        return counts

    def _close(self, kind: _Kind, now: float) -> None:
        window = self._windows.pop(kind, None)
        if window is None or window.count <= BURST:
            return
        name, template, upstream = kind
        suppressed, seconds = window.count - BURST, max(1, round(now - window.since))
        text = f"... {suppressed} more like this in {seconds} s"
        # Of the same logger and level, so that a filter that shows the lines shows their count too.
        record = logging.LogRecord(name, window.level, "", 0, text, None, None)
        record.created = now
        record.__dict__ |= {"like": template, "suppressed": suppressed, "seconds": seconds}
        if upstream is not None:
            record.__dict__["upstream"] = upstream
        self._counts.append(record)
