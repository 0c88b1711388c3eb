"""Progress bars for tasks: drawn over themselves on a terminal, told line by line anywhere else."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from bridge.core.task import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TextIO

    from bridge.client.state import TaskNotice, TaskState

_BAR_CELLS = 20
_MIN_NAME = 12
_TAIL_CELLS = 44  # percent, status, time taken and left
_ERASE_DOWN = "\x1b[J"
_RESET = "\x1b[0m"
_COLOURS = {
    Status.COMPLETED: "\x1b[32m",
    Status.FAILED: "\x1b[31m",
    Status.LOST: "\x1b[31m",
    Status.CANCELLED: "\x1b[33m",
    Status.PROCESSING: "\x1b[36m",
}
# A provider's words go to a terminal here: what would move its cursor or turn the text around must not.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(slots=True)
class _Row:
    """One task: its newest state, and when that came."""

    ref: str
    state: TaskState | None
    came: float
    since: float
    note: str = ""


class ProgressBars:
    """One bar a task.

    Args:
        out: Where to draw; ANSI movements only when it is a terminal.
        refs: The tasks, in the order of their bars; others join at the end when their state comes.
        now: Monotonic seconds.
        lines_above: Header lines; change the list and draw again to change them.
        size: The size of the terminal, asked at each drawing.
        ansi: Says it instead of asking `out`.
    """

    def __init__(
        self,
        out: TextIO,
        refs: Iterable[str] = (),
        *,
        now: Callable[[], float],
        lines_above: Iterable[str] = (),
        size: Callable[[], os.terminal_size] = shutil.get_terminal_size,
        ansi: bool | None = None,
    ) -> None:
        self.lines_above = list(lines_above)
        self._out = out
        self._now = now
        self._size = size
        self._ansi = out.isatty() if ansi is None else ansi
        self._colour = self._ansi and not os.environ.get("NO_COLOR")
        self._full, self._empty = ("█", "░") if _can_say(out, "█░") else ("#", "-")
        self._rows = {ref: _Row(ref, None, now(), now()) for ref in refs}
        self._drawn = 0
        self._told_above = 0

    def show(self, state: TaskState) -> None:
        """A task has a new state."""
        row = self._row(state.task)
        row.state, row.came, row.note = state, self._now(), ""
        if self._ansi:
            self.draw()
        else:
            self._tell_above()
            self._tell(self._sentence(row))

    def say(self, notice: TaskNotice) -> None:
        """Show a notice beside its task, or beside every open one when it is about the connection."""
        text = "" if notice.code == "fresh" else safe(notice.code.replace("_", " "))
        rows = [self._row(notice.task)] if notice.task is not None else list(self._rows.values())
        for row in rows:
            if row.state is None or not row.state.final:
                row.note = text
        if self._ansi:
            self.draw()
        elif text:
            detail = safe(": ".join(part for part in (notice.reason, notice.message) if part))
            self._tell_above()
            self._tell(" ".join(part for part in (safe(notice.task or "--"), text, detail) if part))

    def draw(self) -> None:
        """Draw everything again; without a terminal, only header lines not yet told."""
        if not self._ansi:
            self._tell_above()
            return
        size = self._size()
        width, height = max(size.columns - 1, 20), max(size.lines - 1, 3)
        lines = [clip(safe(line), width) for line in self.lines_above]
        room = max(height - len(lines), 2)
        rows = list(self._rows.values())
        if len(rows) > room:  # a line that left the screen cannot be drawn over
            rows.sort(key=lambda row: row.state is not None and row.state.final)
            rows, hidden = rows[: room - 1], len(rows) - room + 1
        else:
            hidden = 0
        longest = max((cells(safe(row.ref)) for row in rows), default=0)
        column = min(longest, max(_MIN_NAME, width - _BAR_CELLS - _TAIL_CELLS))
        lines += [self._bar(row, column, width) for row in rows]
        if hidden:
            lines.append(clip(f"... and {hidden} more", width))
        lines = lines[-height:]
        up = f"\x1b[{self._drawn}A\r" if self._drawn else ""
        self._out.write(up + _ERASE_DOWN + "".join(f"{line}\n" for line in lines))
        self._out.flush()
        self._drawn = len(lines)

    def close(self) -> None:
        """Leave the last drawing, and name the results under it, whole: a link cut off is of no use."""
        self.draw()
        for row in self._rows.values():
            if self._ansi and row.state is not None and row.state.final:
                for line in self._results(row.state):
                    self._tell(f"{safe(row.ref)}  {line}")
        self._drawn = 0

    def _row(self, ref: str) -> _Row:
        if ref not in self._rows:
            self._rows[ref] = _Row(ref, None, self._now(), self._now())
        return self._rows[ref]

    def _bar(self, row: _Row, column: int, width: int) -> str:
        state = row.state
        status = state.status if state is not None else Status.UNKNOWN
        progress = state.progress if state is not None else None
        filled = 0 if progress is None else int(_BAR_CELLS * min(max(progress, 0), 100) / 100)
        bar = self._full * filled + self._empty * (_BAR_CELLS - filled)
        words = [row.note, *self._timing(row), *(self._results(state)[:1] if state and state.error else [])]
        tail = f"  {_percent(progress)}  {status.value:<10}  " + "  ".join(word for word in words if word)
        name = clip(safe(row.ref), column)
        head = name + " " * (column - cells(name)) + "  "
        line = clip(head + bar + tail, width)
        colour = _COLOURS.get(status) if self._colour else None
        return f"{colour}{line}{_RESET}" if colour else line

    def _sentence(self, row: _Row) -> str:
        state = row.state
        if state is None:
            return safe(row.ref)
        words = [safe(row.ref), state.status.value, _percent(state.progress).strip(), *self._timing(row)]
        return " ".join(words + (self._results(state) if state.final else []))

    def _timing(self, row: _Row) -> list[str]:
        """Time left and time taken. Past times are the bridge's own: this machine's clock may be wrong."""
        state, now = row.state, self._now()
        if state is None:
            return [duration(now - row.since)]
        created = _moment(state.document.get("created_at"))
        if state.final:
            ended = _moment(state.document.get("completed_at"))
            if created is not None and ended is not None and ended >= created:
                return [f"in {duration(ended - created)}"]
            return [f"in {duration(row.came - row.since)}"]
        seen = _moment(state.document.get("observed_at"))
        before = seen - created if created is not None and seen is not None else row.came - row.since
        words = [duration(max(before, 0) + now - row.came)]
        if state.eta_seconds is not None:
            words.append(f"about {duration(max(state.eta_seconds - (now - row.came), 0))} left")
        return words

    def _results(self, state: TaskState) -> list[str]:
        if state.error is not None:
            parts = (state.error.get("code"), state.error.get("message"))
            return [safe(": ".join(str(part) for part in parts if part))]
        urls = [output.get("url") for output in state.outputs]
        return [safe(url) for url in urls if isinstance(url, str) and not url.startswith("data:")]

    def _tell_above(self) -> None:
        for line in self.lines_above[self._told_above :]:
            self._tell(safe(line))
        self._told_above = len(self.lines_above)

    def _tell(self, line: str) -> None:
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._out.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        self._out.flush()


def safe(text: str) -> str:
    """The text without what a terminal would obey."""
    return _UNSAFE.sub("?", text)


def cells(text: str) -> int:
    """How many columns a text takes on a terminal."""
    return sum(_cells(character) for character in text)


def clip(text: str, width: int) -> str:
    """The text in at most `width` columns."""
    if cells(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += _cells(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + "~"


def duration(seconds: float) -> str:
    """A duration as people say it: `7s`, `2m05s`, `1h03m`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _percent(progress: float | None) -> str:
    return "  --%" if progress is None else f"{int(progress):4}%"


def _moment(text: object) -> float | None:
    if not isinstance(text, str):
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _can_say(out: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(out, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
