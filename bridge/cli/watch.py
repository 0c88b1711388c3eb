"""The commands `taskbridge watch` and `taskbridge submit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from bridge.cli.configuration import PROGRAM
from bridge.cli.connection import (
    INTERRUPTED,
    ca_file_option,
    exit_with,
    give_up_option,
    group_option,
    json_option,
    tags_option,
    token_option,
    url_option,
)

# Commands import late: the import of aiohttp alone takes longer than `taskbridge --help` should.


@click.command()
@click.argument("refs", nargs=-1, metavar="[REF...]")
@click.option("--tag", metavar="TAG", help="Instead of REFs: all tasks with this tag, until Ctrl-C.")
@click.option("--group", metavar="GROUP", help="Instead of REFs: all tasks of this group, until it is done.")
@url_option
@json_option
@token_option
@ca_file_option
@give_up_option
def watch(
    refs: tuple[str, ...],
    url: str,
    *,
    tag: str | None,
    group: str | None,
    as_json: bool,
    token: str | None,
    ca_file: Path | None,
    give_up: float,
) -> None:
    """Show the progress of tasks until all are finished. A REF is upstream/task_id.

    With --tag or --group, of the newest 1,000 and of those that come later. A group is done when it is closed
    and all of its tasks are finished.

    Exit code: 0 if all completed, 1 if one failed, was cancelled or lost, 2 for bad usage or an unknown task,
    3 if the bridge cannot be reached.
    """
    if bool(refs) + (tag is not None) + (group is not None) != 1:
        raise click.UsageError("give REFs, or --tag, or --group")
    from bridge.cli import terminal  # noqa: PLC0415 - see above

    exit_with(
        lambda: terminal.watch(
            url,
            list(refs),
            tag=tag,
            group=group,
            json=as_json,
            out=sys.stdout,
            token=token or None,
            ca_file=ca_file,
            give_up=give_up,
        )
    )


@click.command()
@click.argument("upstream")
@click.argument("body", default="-")
@click.option("--watch", "follow", is_flag=True, help="Watch the new task until it is finished.")
@click.option(
    "--option",
    "option_texts",
    multiple=True,
    metavar="NAME=VALUE",
    help="Further parameter of the provider's call, such as endpoint=fal-ai/flux; may be repeated.",
)
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="Names this submit for 24 h: repeated with the same key, it prints the same task.",
)
@click.option(
    "--webhook",
    metavar="URL",
    help="Where the end of the task is delivered; its host must be in the bridge's webhook_hosts.",
)
@tags_option
@group_option
@click.option(
    "--retry",
    "retry_seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="For how long to repeat a submit that failed but may succeed, all attempts with one key.",
)
@url_option
@json_option
@token_option
@ca_file_option
@give_up_option
def submit(  # noqa: PLR0913 - one for each option
    upstream: str,
    body: str,
    url: str,
    *,
    option_texts: tuple[str, ...],
    idempotency_key: str | None,
    webhook: str | None,
    tags: tuple[str, ...],
    group: str | None,
    retry_seconds: float,
    follow: bool,
    as_json: bool,
    token: str | None,
    ca_file: Path | None,
    give_up: float,
) -> None:
    """Create a task at UPSTREAM and print its ref.

    BODY is the provider's own JSON: as text, @FILE, or - for standard input (the default). There is one
    attempt, unless --retry allows more.

    Exit code: 0 if the task was created (with --watch: if it completed), 1 with --watch if it failed, was
    cancelled or lost, 2 for bad usage or a rejected request, 3 if the bridge or the provider cannot be
    reached, or if the task may exist: then only a repeat with the same --idempotency-key is safe.
    """
    provider_options = _read_options(option_texts)
    try:
        document = _read_body(body, upstream)
    except KeyboardInterrupt:  # click would print "Aborted!" and exit with 1
        sys.exit(INTERRUPTED)

    async def run() -> int:
        from bridge.cli import terminal  # noqa: PLC0415 - see above

        options: dict[str, Any] = {
            "json": as_json,
            "out": sys.stdout,
            "token": token or None,
            "ca_file": ca_file,
        }
        code, ref = await terminal.submit(
            url,
            upstream,
            document,
            options=provider_options,
            idempotency_key=idempotency_key,
            webhook=webhook,
            tags=tags,
            group=group,
            retry_seconds=retry_seconds,
            **options,
        )
        if ref is None or not follow:
            return code
        return await terminal.watch(url, [ref], give_up=give_up, **options)

    exit_with(run)


def _read_body(body: str, upstream: str) -> dict[str, Any]:
    import orjson  # noqa: PLC0415 - see above

    try:
        if body == "-":
            text = _read_standard_input(upstream)
        elif body.startswith("@"):
            text = Path(body[1:]).read_bytes()
        else:
            text = body.encode("utf-8", "surrogateescape")
        document = orjson.loads(text)
    except OSError as error:
        raise click.BadParameter(f"cannot read {body[1:]}: {error.strerror}", param_hint="BODY") from None
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="BODY") from None
    if not isinstance(document, dict):
        raise click.BadParameter("must be a JSON object", param_hint="BODY")
    return document


def _read_standard_input(upstream: str) -> bytes:
    if sys.stdin is None:
        raise click.BadParameter("standard input is closed", param_hint="BODY")
    if sys.stdin.isatty():
        click.echo(
            "Waiting for the JSON of the task on standard input; Ctrl-D ends it.\n"
            f"Or pass it: {PROGRAM} submit {upstream} '{{...}}', or @FILE",
            err=True,
        )
    text = sys.stdin.buffer.read()
    if not text.strip():
        raise click.BadParameter("nothing on standard input; pass the JSON, or @FILE", param_hint="BODY")
    return text


def _read_options(option_texts: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in option_texts]
    if any(not name or not equals for name, equals, _ in pairs):
        raise click.BadParameter("must be NAME=VALUE", param_hint="--option")
    return {name: value for name, _, value in pairs}
