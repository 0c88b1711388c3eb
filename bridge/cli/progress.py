"""Progress bars for tasks: redrawn in place on a terminal, one line per state elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bridge.client.eta import moment
from bridge.core.task import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, TextIO

    from bridge.client.state import TaskNotice, TaskState

_GAP = "  "
_BAR_CELLS = 20
_MIN_BAR = 4
_NAME_CELLS = 18  # enough for the upstream and the end of the id
_PERCENT_CELLS = 5
_STATUS_CELLS = 10
_TIMING_CELLS = 28  # time taken and left
_ERASE_DOWN = "\x1b[J"
_ERASE_LINE = "\x1b[K"
_LINE_SECONDS = 0.2
_RESET = "\x1b[0m"
_COLOURS = {
    Status.COMPLETED: "\x1b[32m",
    Status.FAILED: "\x1b[31m",
    Status.LOST: "\x1b[31m",
    Status.CANCELLED: "\x1b[33m",
    Status.PROCESSING: "\x1b[36m",
}
# Text of a provider is written to a terminal: control sequences and bidirectional overrides are an attack.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(slots=True)
class _Row:
    """One task: its newest state, and when it arrived."""

    ref: str
    state: TaskState | None
    updated_at: float
    started_at: float
    note: str = ""
    seen_open: bool = False

    @property
    def status(self) -> Status:
        return self.state.status if self.state is not None else Status.UNKNOWN


class _Columns(NamedTuple):
    """Widths of the columns of one drawing; a bar of 0 is left out."""

    name: int
    bar: int
    status: int


class ProgressBars:
    """One progress bar per task.

    Args:
        out: Output; ANSI escape sequences are used only for a terminal.
        refs: The tasks, in the order of their bars; other tasks are appended with their first state.
        now: Returns monotonic seconds.
        lines_above: Header lines; change the list and call `draw` to update them.
        size: Returns the size of the terminal, called at each drawing.
        ansi: Overrides the detection of a terminal.
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
        self._ellipsis = "…" if _can_encode(out, "…") else "~"
        self._full, self._empty = ("█", "░") if _can_encode(out, "█░") else ("#", "-")
        self._rows = {ref: _Row(ref, None, now(), now()) for ref in refs}
        self._drawn = 0
        self._printed_above = 0

    def show(self, state: TaskState) -> None:
        """Show the new state of a task."""
        row = self._row(state.task)
        row.state, row.updated_at, row.note = state, self._now(), ""
        row.seen_open = row.seen_open or not state.final
        if self._ansi:
            self.draw()
        else:
            self._print_above()
            self._print(self._sentence(row))

    def show_notice(self, notice: TaskNotice) -> None:
        """Show a notice beside its task, or beside every unfinished task when it concerns the connection."""
        text = "" if notice.code == "fresh" else safe(notice.code.replace("_", " "))
        rows = [self._row(notice.task)] if notice.task is not None else list(self._rows.values())
        for row in rows:
            if row.state is None or not row.state.final:
                row.note = text
        if self._ansi:
            self.draw()
        elif text:
            detail = safe(": ".join(part for part in (notice.reason, notice.message) if part))
            self._print_above()
            self._print(" ".join(part for part in (safe(notice.task or "--"), text, detail) if part))

    def forget(self, ref: str) -> None:
        """Remove the bar of a task."""
        self._rows.pop(ref, None)

    def draw(self) -> None:
        """Redraw everything; without a terminal, print header lines not printed yet."""
        if not self._ansi:
            self._print_above()
            return
        size = self._size()
        width, height = max(size.columns - 1, 20), max(size.lines - 1, 3)
        lines = [clip(safe(line), width) for line in self.lines_above]
        room = max(height - len(lines), 2)
        rows = list(self._rows.values())
        if len(rows) > room:  # a line that scrolled off the screen cannot be redrawn
            rows.sort(key=lambda row: row.state is not None and row.state.final)
            rows, hidden = rows[: room - 1], len(rows) - room + 1
        else:
            hidden = 0
        longest = max((cells(safe(row.ref)) for row in rows), default=0)
        status_cells = max((len(row.status.value) for row in rows), default=0)
        columns = _columns(longest, max(status_cells, _STATUS_CELLS), width)
        lines += [self._bar(row, columns, width) for row in rows]
        if hidden:
            lines.append(clip(f"... and {hidden} more", width))
        lines = lines[-height:]
        up = f"\x1b[{self._drawn}A\r" if self._drawn else ""
        self._out.write(up + _ERASE_DOWN + "".join(f"{line}\n" for line in lines))
        self._out.flush()
        self._drawn = len(lines)

    def close(self) -> None:
        """Keep the last drawing, and print the results below it uncut: a truncated link is useless."""
        self.draw()
        for row in self._rows.values():
            if self._ansi and row.state is not None and row.state.final:
                for line in self._results(row.state):
                    self._print(f"{safe(row.ref)}  {line}")
        self._drawn = 0

    def _row(self, ref: str) -> _Row:
        if ref not in self._rows:
            self._rows[ref] = _Row(ref, None, self._now(), self._now())
        return self._rows[ref]

    def _bar(self, row: _Row, columns: _Columns, width: int) -> str:
        state = row.state
        progress = state.progress if state is not None else None
        filled = 0 if progress is None else int(columns.bar * min(max(progress, 0), 100) / 100)
        bar = self._full * filled + self._empty * (columns.bar - filled)
        parts = [row.note, *self._timing(row), *(self._results(state)[:1] if state and state.error else [])]
        name = shorten(safe(row.ref), columns.name, self._ellipsis)
        name += " " * (columns.name - cells(name))
        status = f"{row.status.value:<{columns.status}}"
        line = clip(_GAP.join(filter(None, (name, bar, _percent(progress), status))), width)
        for part in filter(None, parts):
            # An error is worth its beginning; a time is shown whole or not at all.
            room = width - cells(line) - len(_GAP)
            if cells(part) <= room or (state is not None and state.final and room >= _STATUS_CELLS):
                line += _GAP + clip(part, room)
        line = line.rstrip()
        colour = _COLOURS.get(row.status) if self._colour else None
        return f"{colour}{line}{_RESET}" if colour else line

    def _sentence(self, row: _Row) -> str:
        state = row.state
        if state is None:
            return safe(row.ref)
        words = [safe(row.ref), state.status.value, _percent(state.progress).strip(), *self._timing(row)]
        return " ".join(words + (self._results(state) if state.final else []))

    def _timing(self, row: _Row) -> list[str]:
        """Elapsed and remaining time. Past times are the bridge's own: the local clock may be wrong."""
        state, now = row.state, self._now()
        if state is None:
            return [duration(now - row.started_at)]
        created = moment(state.document.get("created_at"))
        if state.final:
            ended = moment(state.document.get("completed_at"))
            if created is not None and ended is not None and ended >= created:
                return [f"in {duration(ended - created)}"]
            return [f"in {duration(row.updated_at - row.started_at)}"] if row.seen_open else []
        observed = moment(state.document.get("observed_at"))
        elapsed = (
            observed - created
            if created is not None and observed is not None
            else row.updated_at - row.started_at
        )
        words = [duration(max(elapsed, 0) + now - row.updated_at)]
        left = state.eta_text(now - row.updated_at)
        if left is not None:
            words.append(f"{left} left" if left.startswith("about") else left)
        return words

    def _results(self, state: TaskState) -> list[str]:
        if state.error is not None:
            parts = (state.error.get("code"), state.error.get("message"))
            return [safe(": ".join(str(part) for part in parts if part))]
        links = [_link(output) for output in state.outputs]
        return [safe(link) for link in links if link is not None]

    def _print_above(self) -> None:
        for line in self.lines_above[self._printed_above :]:
            self._print(safe(line))
        self._printed_above = len(self.lines_above)

    def _print(self, line: str) -> None:
        encoding = getattr(self._out, "encoding", None) or "utf-8"
        self._out.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        self._out.flush()


def _link(output: Mapping[str, Any]) -> str | None:
    """Where a result can be opened: the copy, which does not expire, if its address is whole."""
    stored, url = output.get("stored_url"), output.get("url")
    if isinstance(stored, str) and stored.startswith(("https://", "http://")):
        return stored
    return url if isinstance(url, str) and not url.startswith("data:") else None


class DownloadLine:
    """How much of a file has arrived, on one line of a terminal; nothing elsewhere.

    Args:
        out: Where to; only drawn on if it is a terminal.
        now: Returns monotonic seconds.
    """

    def __init__(self, out: TextIO, *, now: Callable[[], float]) -> None:
        self._out = out
        self._now = now
        self._drawn_at: float | None = None
        self._shown = out.isatty()

    def show(self, came: int, size: int | None) -> None:
        """Redraw the line, at most five times per second.

        Args:
            came: Bytes so far.
            size: All of them; None if that is not known.
        """
        if not self._shown:
            return
        now = self._now()
        if self._drawn_at is not None and now - self._drawn_at < _LINE_SECONDS and came != size:
            return
        self._drawn_at = now
        whole = f" of {_megabytes(size)} {_percent(100 * came / size)}" if size else ""
        self._out.write(f"\r{_megabytes(came)}{whole}{_ERASE_LINE}")
        self._out.flush()

    def close(self) -> None:
        """End the line."""
        if self._drawn_at is not None:
            self._out.write("\n")
            self._out.flush()


def safe(text: str) -> str:
    """Replace control characters, which a terminal would execute."""
    return _UNSAFE.sub("?", text)


def cells(text: str) -> int:
    """Return the width of a text on a terminal, in columns."""
    return sum(_cells(character) for character in text)


def clip(text: str, width: int) -> str:
    """Truncate a text to `width` columns."""
    if cells(text) <= width:
        return text
    shown, used = [], 1
    for character in text:
        used += _cells(character)
        if used > width:
            break
        shown.append(character)
    return "".join(shown) + "~"


def shorten(text: str, width: int, ellipsis: str = "~") -> str:
    """Truncate a ref to `width` columns in its middle: ids of one provider differ at their end."""
    if cells(text) <= width:
        return text
    upstream = text.partition("/")[0] + "/"
    head = _fitting(upstream, width * 3 // 5)
    tail = _fitting(text[len(head) :][::-1], width - 1 - cells(head))[::-1]
    return head + ellipsis + tail


def duration(seconds: float) -> str:
    """Format a duration: `7s`, `2m05s`, `1h03m`."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def _columns(longest: int, status: int, width: int) -> _Columns:
    """The widths of the columns: percent and status always have room, times if there is more.

    Args:
        longest: The width of the longest name.
        status: The width of the longest status.
    """
    room = width - _PERCENT_CELLS - status - 2 * len(_GAP)
    spare = room - _BAR_CELLS - _TIMING_CELLS - len(_GAP)
    name = min(longest, max(_NAME_CELLS, spare), max(room, _MIN_BAR))
    left = room - name - len(_GAP)
    with_times = left - _TIMING_CELLS
    bar = min(with_times if with_times >= _MIN_BAR else left, _BAR_CELLS)
    return _Columns(name, bar if bar >= _MIN_BAR else 0, status)


def _fitting(text: str, width: int) -> str:
    """The beginning of a text that takes at most `width` columns."""
    used = 0
    for index, character in enumerate(text):
        used += _cells(character)
        if used > width:
            return text[:index]
    return text


def _cells(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _percent(progress: float | None) -> str:
    return "  --%" if progress is None else f"{int(progress):4}%"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _can_encode(out: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(out, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
