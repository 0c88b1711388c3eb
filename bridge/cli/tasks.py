"""The commands `taskbridge list`, `register`, `download`, `forget` and `close-group`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.columns import columns
from bridge.cli.connection import (
    ca_file_option,
    exit_with,
    give_up_option,
    group_option,
    json_option,
    tags_option,
    token_option,
    url_option,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bridge.client.bridge import Bridge
    from bridge.client.state import TaskState

# Commands import late: the import of aiohttp alone takes longer than `taskbridge --help` should.

DONE = 0
NOT_WRITTEN = 1
_STATUSES = (
    "open",
    "final",
    "queued",
    "processing",
    "input_required",
    "unknown",
    "completed",
    "failed",
    "cancelled",
    "lost",
)
_MAX_LISTED = 10_000


def _connected(command: Callable[..., None]) -> Callable[..., None]:
    for option in (ca_file_option, token_option, url_option):
        command = option(command)
    return command


@click.command("list")
@click.option("--upstream", metavar="NAME", help="Only of this upstream.")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(_STATUSES),
    metavar="STATUS",
    help="Only with this status, or `open`, or `final`; may be repeated.",
)
@click.option("--tag", metavar="TAG", help="Only with this tag.")
@click.option("--group", metavar="GROUP", help="Only of this group.")
@click.option(
    "--limit",
    type=click.IntRange(1, _MAX_LISTED),
    default=50,
    show_default=True,
    help="How many at most.",
)
@json_option
@_connected
def list_command(
    *,
    upstream: str | None,
    statuses: tuple[str, ...],
    tag: str | None,
    group: str | None,
    limit: int,
    as_json: bool,
    **where: Any,
) -> None:
    """Print the tasks that the token may see, the newest first.

    Exit code: 0 if they were listed, 2 for bad usage or a rejected request, 3 if the bridge cannot be
    reached.
    """

    async def call(bridge: Bridge) -> int:
        from bridge.cli.terminal import json_line  # noqa: PLC0415 - see above

        # One more than is shown, to know whether there are more.
        names: dict[str, Any] = {"upstream": upstream, "status": statuses or None, "tag": tag, "group": group}
        found = [state async for state in bridge.list(**names, limit=limit + 1)]
        if as_json:
            click.echo("".join(map(json_line, found[:limit])), nl=False)
        elif found:
            click.echo(_table(found[:limit]))
        else:
            click.echo("no tasks", err=True)
        if len(found) > limit:
            click.echo(f"only the newest {limit} are shown; --limit shows more", err=True)
        return DONE

    _run(call, "list", **where)


@click.command()
@click.argument("ref")
@tags_option
@group_option
@click.option(
    "--deadline",
    "deadline_seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="After this time the task is lost if it has not ended; default: as the upstream is configured.",
)
@click.option(
    "--webhook",
    metavar="URL",
    help="Where the end of the task is delivered; its host must be in the bridge's webhook_hosts.",
)
@click.option("--watch", "follow", is_flag=True, help="Watch the task until it is finished.")
@json_option
@give_up_option
@_connected
def register(
    ref: str,
    *,
    tags: tuple[str, ...],
    group: str | None,
    deadline_seconds: float | None,
    webhook: str | None,
    follow: bool,
    as_json: bool,
    give_up: float,
    **where: Any,
) -> None:
    """Have the bridge watch a task that was submitted elsewhere, and print its ref. REF is upstream/task_id.

    The bridge watches it to its end, without a viewer. Registered again, it has the tags and the group of
    this call, also if these are none.

    Exit code: 0 if it is registered (with --watch: if it completed), 1 with --watch if it failed, was
    cancelled or lost, 2 for bad usage, an unknown task or a closed group, 3 if the bridge cannot be reached.
    """

    async def call(bridge: Bridge) -> int:
        from bridge.cli import terminal  # noqa: PLC0415 - see above

        state = await bridge.register(
            ref, tags=tags, group=group, deadline_seconds=deadline_seconds, webhook=webhook
        )
        terminal.print_task(state, json=as_json, out=sys.stdout)
        if not follow:
            return DONE
        options: dict[str, Any] = {"json": as_json, "out": sys.stdout, "give_up": give_up}
        token, ca_file = where["token"] or None, where["ca_file"]
        return await terminal.watch(where["url"], [state.task], token=token, ca_file=ca_file, **options)

    _run(call, "register", **where)


@click.command()
@click.argument("ref")
@click.argument("n", type=click.IntRange(0, 9999), default=0)
@click.option(
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Where to, or a directory; - is standard output. Default: here, named after the task.",
)
@_connected
def download(ref: str, n: int, *, output: Path | None, **where: Any) -> None:
    """Download result N of a task, the first by default, and print its path. REF is upstream/task_id.

    The bridge brings the file with the provider's key, or from its own copy. It has its name once it is
    whole, and replaces a file of that name. A lost connection is continued where it stopped.

    Exit code: 0 if it is there, 1 if it cannot be written, 2 for bad usage, an unknown or unfinished task, a
    task without result N or a rejected request, 3 if the bridge cannot be reached or cannot get the file.
    """

    async def call(bridge: Bridge) -> int:
        from bridge.cli.progress import DownloadLine, safe  # noqa: PLC0415 - see above
        from bridge.clock import SystemClock  # noqa: PLC0415 - see above

        try:
            if output == Path("-"):
                async for part in bridge.download(ref, n):
                    sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
                return DONE
            line = DownloadLine(sys.stderr, now=SystemClock().monotonic)
            try:
                path = await bridge.download(ref, n, to=output or Path(), on_progress=line.show)
            finally:
                line.close()
        except BrokenPipeError:
            return DONE  # the reader has enough, such as `head`
        except OSError as error:
            reason = safe(f"{error.filename or output}: {error.strerror}")
            click.echo(f"taskbridge download: cannot write {reason}", err=True)
            return NOT_WRITTEN
        click.echo(safe(str(path)))
        return DONE

    _run(call, "download", **where)


@click.command()
@click.argument("ref")
@_connected
def forget(ref: str, **where: Any) -> None:
    """Delete a finished task from the bridge, not from the provider. REF is upstream/task_id.

    Exit code: 0 if it was deleted, 2 for an unknown or unfinished task or a rejected request, 3 if the bridge
    cannot be reached.
    """

    async def call(bridge: Bridge) -> int:
        await bridge.forget(ref)
        return DONE

    _run(call, "forget", **where)


@click.command("close-group")
@click.argument("group")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@_connected
def close_group(group: str, *, as_json: bool, **where: Any) -> None:
    """Close GROUP: no more tasks can be added, and it is done when all of its tasks are finished.

    Exit code: 0 if it is closed, also if it was closed before, 2 for bad usage or a rejected request, 3 if
    the bridge cannot be reached.
    """

    async def call(bridge: Bridge) -> int:
        import json  # noqa: PLC0415 - see above

        from bridge.cli.terminal import count_words  # noqa: PLC0415 - see above

        closed = await bridge.group(group).close()
        if as_json:
            fields = {"group": closed.group, "closed": True, "counts": closed.counts, "open": closed.open}
            click.echo(json.dumps(fields, separators=(",", ":")))
        else:
            ended = f"; ended: {count_words(closed.counts)}" if closed.counts else ""
            click.echo(f"group {group} closed; unfinished: {closed.open}{ended}")
        return DONE

    _run(call, "close-group", **where)


def _run(
    call: Callable[[Bridge], Awaitable[int]],
    command: str,
    *,
    url: str,
    token: str | None,
    ca_file: Path | None,
) -> None:
    from bridge.cli.terminal import report  # noqa: PLC0415 - see above
    from bridge.client.bridge import Bridge  # noqa: PLC0415 - see above
    from bridge.errors import BridgeError  # noqa: PLC0415 - see above

    async def main() -> int:
        try:
            async with Bridge(url, token or None, ca_file=ca_file) as bridge:
                return await call(bridge)
        except BridgeError as error:
            return report(command, error)

    exit_with(main)


def _table(states: list[TaskState]) -> str:
    from bridge.cli.progress import safe  # noqa: PLC0415 - see above

    lines = [("TASK", "STATUS", "PROGRESS", "SINCE", "TIME LEFT")]
    for state in states:
        progress = "-" if state.progress is None else f"{int(state.progress)}%"
        since = str(state.document.get("changed_at") or "-")
        lines.append((safe(state.task), state.status, progress, safe(since), state.eta_text() or "-"))
    return columns(lines)
