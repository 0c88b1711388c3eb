"""The `watch` and `submit` commands: show tasks, and report by an exit code how they ended."""

from __future__ import annotations

import asyncio
import re
import sys
from json import dumps
from typing import TYPE_CHECKING

from bridge.cli.progress import ProgressBars, safe
from bridge.client.bridge import Bridge
from bridge.core.task import Status
from bridge.errors import BridgeError, RequestError, UnknownTask, UpstreamRefused

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any, TextIO

    from bridge.client.state import TaskNotice, TaskState

COMPLETED = 0
NOT_COMPLETED = 1
BAD_USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130

_REDRAW_SECONDS = 1.0


async def watch(  # noqa: PLR0913 - one for each option of the command
    url: str,
    refs: list[str],
    *,
    json: bool,
    out: TextIO,
    token: str | None,
    give_up: float,
    ca_file: Path | None = None,
    bars: ProgressBars | None = None,
    err: TextIO | None = None,
) -> int:
    """Follow tasks on a terminal until each is final.

    Args:
        json: Print each state document as one line of JSON and nothing else.
        ca_file: The certificates to trust, instead of the system's.
        give_up: Seconds without a response from the bridge after which to stop.
        bars: The view to use, if something else prints header lines above it.
        err: Output for errors; standard error by default.

    Returns:
        0 when every task completed, 1 when one did not, 2 for invalid usage or a task that does not exist,
        3 when the bridge could not be reached.
    """
    view = _Json(out) if json else bars or ProgressBars(out, refs, now=asyncio.get_running_loop().time)
    outcome = _Outcome(refs, view)
    async with asyncio.TaskGroup() as group:
        ticker = group.create_task(_redraw(view))
        try:
            code = await _follow(url, refs, outcome, token=token, ca_file=ca_file, give_up=give_up)
            view.close()
        except BrokenPipeError:  # the reader closed the pipe, as in `taskbridge watch ... | head`
            code = NOT_COMPLETED
        except BridgeError as error:
            only = refs[0] if isinstance(error, UnknownTask) and len(refs) == 1 else None
            code = _report("watch", error, err, ref=only)
        finally:
            ticker.cancel()
    return code


async def submit(  # noqa: PLR0913 - one for each option of the command
    url: str,
    upstream: str,
    body: dict[str, Any],
    *,
    json: bool,
    out: TextIO,
    token: str | None,
    ca_file: Path | None = None,
    err: TextIO | None = None,
    options: Mapping[str, str] | None = None,
) -> tuple[int, str | None]:
    """Create a task; return the exit code and the ref of the task."""
    try:
        async with Bridge(url, token, ca_file=ca_file) as bridge:
            state = await bridge.submit(upstream, body, options=options)
    except BridgeError as error:
        code = _report("submit", error, err, as_option=True)
        return (BAD_USAGE if isinstance(error, UpstreamRefused) else code), None
    out.write(_line(state) if json else safe(state.task) + "\n")
    out.flush()
    return COMPLETED, state.task


def _report(
    command: str, error: BridgeError, err: TextIO | None, *, as_option: bool = False, ref: str | None = None
) -> int:
    sentence = safe(f"{ref}: {error}" if ref else str(error))
    if as_option:  # a parameter of the query is an option here
        sentence = re.sub(r"\?(\w+=\.\.\.)$", r"--option \1", sentence)
    print(f"taskbridge {command}: {sentence}", file=err or sys.stderr)
    return BAD_USAGE if isinstance(error, RequestError) else UNREACHABLE


def _line(state: TaskState) -> str:
    """Format the document as one line; ASCII, so that text of a provider cannot control the terminal."""
    return dumps(state.document, separators=(",", ":")) + "\n"


async def _follow(
    url: str, refs: list[str], outcome: _Outcome, *, token: str | None, ca_file: Path | None, give_up: float
) -> int:
    async with Bridge(url, token, ca_file=ca_file) as bridge:
        outcome.view.draw()
        async for state in bridge.watch(*refs, on_notice=outcome.notice, unreachable_after=give_up):
            outcome.state(state)
    return outcome.code


async def _redraw(view: ProgressBars | _Json) -> None:
    """Redraw once a second: elapsed times change between states."""
    while True:
        await asyncio.sleep(_REDRAW_SECONDS)
        try:
            view.draw()
        except BrokenPipeError:
            return  # the next state fails likewise, which ends the watch


class _Outcome:
    """Shows states and notices, and records how each task ended."""

    def __init__(self, refs: list[str], view: ProgressBars | _Json) -> None:
        self.view = view
        self._last: dict[str, Status | None] = dict.fromkeys(refs)
        self._missing: set[str] = set()

    def state(self, state: TaskState) -> None:
        self._last[state.task] = state.status
        self.view.show(state)

    def notice(self, notice: TaskNotice) -> None:
        if notice.code == "task_not_found" and notice.task is not None and not notice.retriable:
            self._missing.add(notice.task)
        self.view.show_notice(notice)

    @property
    def code(self) -> int:
        if self._missing:
            return BAD_USAGE
        completed = all(status is Status.COMPLETED for status in self._last.values())
        return COMPLETED if completed else NOT_COMPLETED


class _Json:
    """One state document per line, for programs."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, state: TaskState) -> None:
        self._out.write(_line(state))
        self._out.flush()

    def show_notice(self, notice: TaskNotice) -> None:
        """Notices are not printed: each line is a state."""

    def draw(self) -> None:
        """Nothing is redrawn."""

    def close(self) -> None:
        """Every line has been written already."""
