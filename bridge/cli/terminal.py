"""What the commands for tasks do: show them, and report by an exit code how they ended."""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from json import dumps
from shlex import quote
from typing import TYPE_CHECKING

from bridge.cli.progress import ProgressBars, safe
from bridge.client.bridge import Bridge
from bridge.core.task import Status
from bridge.errors import BridgeError, RequestError, UnknownTask, UpstreamRefused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path
    from typing import Any, TextIO

    from bridge.client.state import TaskNotice, TaskState

COMPLETED = 0
NOT_COMPLETED = 1
BAD_USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130

_REDRAW_SECONDS = 1.0
_MAX_ENDED = 200  # of a tag that is watched for days


async def watch(  # noqa: PLR0913 - one for each option of the command
    url: str,
    refs: list[str],
    *,
    tag: str | None = None,
    group: str | None = None,
    json: bool,
    out: TextIO,
    token: str | None,
    give_up: float,
    ca_file: Path | None = None,
    bars: ProgressBars | None = None,
    err: TextIO | None = None,
) -> int:
    """Follow tasks on a terminal until each is final, or a tag or group.

    Args:
        tag: Instead of `refs`.
        group: Instead of `refs`.
        json: Print each state document as one line of JSON and nothing else.
        ca_file: The certificates to trust, instead of the system's.
        give_up: Seconds without a response from the bridge after which to stop.
        bars: The view to use, if something else prints header lines above it.
        err: Output for errors; standard error by default.

    Returns:
        0 when every task completed, 1 when one did not, 2 for invalid usage or a task that does not exist,
        3 when the bridge could not be reached.
    """
    view: ProgressBars | _Json
    if json:
        view = _Json(out)
    else:
        # On a terminal only: elsewhere each line is a state.
        title = [f"tag {tag}"] if tag else [f"group {group}"] if group else []
        above = title if out.isatty() else ()
        view = bars or ProgressBars(out, refs, now=asyncio.get_running_loop().time, lines_above=above)
    outcome = _Outcome(refs, view, endless=tag is not None)
    async with asyncio.TaskGroup() as running:
        ticker = running.create_task(_redraw(view))
        try:
            async with Bridge(url, token, ca_file=ca_file) as bridge:
                view.draw()
                states = bridge.watch(
                    *refs, tag=tag, group=group, on_notice=outcome.notice, unreachable_after=give_up
                )
                async for state in states:
                    outcome.state(state)
            code = outcome.code
            view.close()
            if not json and outcome.counts is not None:
                out.write(safe(f"group {group} done: {count_words(outcome.counts)}") + "\n")
        except BrokenPipeError:  # the reader closed the pipe, as in `taskbridge watch ... | head`
            code = NOT_COMPLETED
        except BridgeError as error:
            only = refs[0] if isinstance(error, UnknownTask) and len(refs) == 1 else None
            code = report("watch", error, err, ref=only)
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
    idempotency_key: str | None = None,
    webhook: str | None = None,
    tags: Iterable[str] = (),
    group: str | None = None,
    retry_seconds: float = 0.0,
) -> tuple[int, str | None]:
    """Create a task; return the exit code and the ref of the task."""
    if idempotency_key is None and retry_seconds > 0:
        idempotency_key = str(uuid.uuid4())  # chosen here, so that a failure can name it
    try:
        async with Bridge(url, token, ca_file=ca_file) as bridge:
            state = await bridge.submit(
                upstream,
                body,
                options=options,
                idempotency_key=idempotency_key,
                webhook=webhook,
                tags=tags,
                group=group,
                retry_seconds=retry_seconds,
            )
    except BridgeError as error:
        code = report("submit", error, err, as_option=True)
        if idempotency_key is not None and error.retryable:
            again = f"to continue this submit, repeat it with --idempotency-key {quote(idempotency_key)}"
            print(safe(again), file=err or sys.stderr)
        return (BAD_USAGE if isinstance(error, UpstreamRefused) else code), None
    print_task(state, json=json, out=out)
    return COMPLETED, state.task


def print_task(state: TaskState, *, json: bool, out: TextIO) -> None:
    """Print the ref of a task, or its state document."""
    out.write(json_line(state) if json else safe(state.task) + "\n")
    out.flush()


def report(
    command: str,
    error: BridgeError,
    err: TextIO | None = None,
    *,
    as_option: bool = False,
    ref: str | None = None,
) -> int:
    """Print the error of a call; return the exit code."""
    sentence = safe(f"{ref}: {error}" if ref else str(error))
    if as_option:  # a parameter of the query is an option here
        sentence = re.sub(r"\?(\w+=\.\.\.)$", r"--option \1", sentence)
    print(f"taskbridge {command}: {sentence}", file=err or sys.stderr)
    return BAD_USAGE if isinstance(error, RequestError) else UNREACHABLE


def count_words(counts: Mapping[str, int]) -> str:
    """`2 completed, 1 failed`; in the order of the status words."""
    words = [f"{counts[status]} {status}" for status in map(str, Status) if counts.get(status)]
    return ", ".join(words) or "no tasks"


def json_line(state: TaskState) -> str:
    """Format the document as one line; ASCII, so that text of a provider cannot control the terminal."""
    return dumps(state.document, separators=(",", ":")) + "\n"


async def _redraw(view: ProgressBars | _Json) -> None:
    """Redraw once a second: elapsed times change between states."""
    while True:
        await asyncio.sleep(_REDRAW_SECONDS)
        try:
            view.draw()
        except BrokenPipeError:
            return  # the next state fails likewise, which ends the watch


class _Outcome:
    """Shows states and notices, and records how each task ended.

    Args:
        endless: Whether tasks keep coming: then only the newest that ended are shown.
    """

    def __init__(self, refs: list[str], view: ProgressBars | _Json, *, endless: bool = False) -> None:
        self.counts: Mapping[str, int] | None = None
        self._view = view
        self._last: dict[str, Status | None] = dict.fromkeys(refs)
        self._missing: set[str] = set()
        self._endless = endless
        self._shown: dict[str, None] = {}

    def state(self, state: TaskState) -> None:
        if self._endless:
            self._keep_newest(state)
        else:
            self._last[state.task] = state.status
        self._view.show(state)

    def _keep_newest(self, state: TaskState) -> None:
        self._shown.pop(state.task, None)
        if state.final:
            self._shown[state.task] = None
        if len(self._shown) > _MAX_ENDED:
            oldest = next(iter(self._shown))
            del self._shown[oldest]
            self._view.forget(oldest)

    def notice(self, notice: TaskNotice) -> None:
        if notice.code == "group_done":
            self.counts = notice.counts
            return
        if notice.code == "task_not_found" and notice.task is not None and not notice.retriable:
            self._missing.add(notice.task)
        self._view.show_notice(notice)

    @property
    def code(self) -> int:
        if self._missing:
            return BAD_USAGE
        if self.counts:  # of all its tasks, while a watch begins with the newest
            return COMPLETED if self.counts.keys() <= {Status.COMPLETED} else NOT_COMPLETED
        completed = all(status is Status.COMPLETED for status in self._last.values())
        return COMPLETED if completed else NOT_COMPLETED


class _Json:
    """One state document per line, for programs."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, state: TaskState) -> None:
        self._out.write(json_line(state))
        self._out.flush()

    def show_notice(self, notice: TaskNotice) -> None:
        """Notices are not printed: each line is a state."""

    def forget(self, ref: str) -> None:
        """Nothing is shown that could be removed."""

    def draw(self) -> None:
        """Nothing is redrawn."""

    def close(self) -> None:
        """Every line has been written already."""
