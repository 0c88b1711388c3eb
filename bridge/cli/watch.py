"""The commands `taskbridge watch` and `taskbridge submit`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.configuration import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

# Commands import late: the import of aiohttp alone takes longer than `taskbridge --help` should.

_INTERRUPTED = 130

_url = click.option(
    "--url",
    envvar="BRIDGE_URL",
    default="http://127.0.0.1:8080",
    show_default=True,
    show_envvar=True,
    help="Base URL of the bridge.",
)
_token = click.option(
    "--token",
    envvar="BRIDGE_TOKEN",
    show_envvar=True,
    help="Bearer token; prefer the variable, which other users of the machine cannot see.",
)
_ca_file = click.option(
    "--ca-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BRIDGE_CA_FILE",
    show_envvar=True,
    help="PEM file with the certificates to trust for https://, instead of the system's.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print each state document as one line of JSON.")
_give_up = click.option(
    "--give-up",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Exit after this time without a response from the bridge.",
)


@click.command()
@click.argument("refs", nargs=-1, required=True, metavar="REF...")
@_url
@_json
@_token
@_ca_file
@_give_up
def watch(
    refs: tuple[str, ...],
    url: str,
    *,
    as_json: bool,
    token: str | None,
    ca_file: Path | None,
    give_up: float,
) -> None:
    """Show the progress of tasks until all are finished. A REF is upstream/task_id.

    Exit code: 0 if all completed, 1 if one failed, was cancelled or lost, 2 for bad usage or an unknown task,
    3 if the bridge cannot be reached.
    """
    from bridge.cli import terminal  # noqa: PLC0415 - see above

    _exit_with(
        lambda: terminal.watch(
            url,
            list(refs),
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
@_url
@_json
@_token
@_ca_file
@_give_up
def submit(  # noqa: PLR0913 - one for each option
    upstream: str,
    body: str,
    url: str,
    *,
    option_texts: tuple[str, ...],
    follow: bool,
    as_json: bool,
    token: str | None,
    ca_file: Path | None,
    give_up: float,
) -> None:
    """Create a task at UPSTREAM and print its ref.

    BODY is the provider's own JSON: as text, @FILE, or - for standard input (the default). Submits are
    never retried automatically.

    Exit code: 0 if the task was created (with --watch: if it completed), 1 with --watch if it failed, was
    cancelled or lost, 2 for bad usage or a rejected request, 3 if the bridge cannot be reached.
    """
    provider_options = _read_options(option_texts)
    try:
        document = _read_body(body, upstream)
    except KeyboardInterrupt:  # click would print "Aborted!" and exit with 1
        sys.exit(_INTERRUPTED)

    async def run() -> int:
        from bridge.cli import terminal  # noqa: PLC0415 - see above

        options: dict[str, Any] = {
            "json": as_json,
            "out": sys.stdout,
            "token": token or None,
            "ca_file": ca_file,
        }
        code, ref = await terminal.submit(url, upstream, document, options=provider_options, **options)
        if ref is None or not follow:
            return code
        return await terminal.watch(url, [ref], give_up=give_up, **options)

    _exit_with(run)


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


def _exit_with(main: Callable[[], Coroutine[Any, Any, int]]) -> None:
    import asyncio  # noqa: PLC0415 - see above

    try:
        code = asyncio.run(main())
    except KeyboardInterrupt:  # click would print "Aborted!" and exit with 1
        code = _INTERRUPTED
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # else the interpreter reports the error once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
