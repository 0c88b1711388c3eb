"""Options of the commands that call a bridge over HTTP: its address and the credential; and how they exit."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

INTERRUPTED = 130

url_option = click.option(
    "--url",
    envvar="BRIDGE_URL",
    default="http://127.0.0.1:8080",
    show_default=True,
    show_envvar=True,
    help="Base URL of the bridge.",
)
token_option = click.option(
    "--token",
    envvar="BRIDGE_TOKEN",
    show_envvar=True,
    help="Bearer token; prefer the variable, which other users of the machine cannot see.",
)
ca_file_option = click.option(
    "--ca-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BRIDGE_CA_FILE",
    show_envvar=True,
    help="PEM file with the certificates to trust for https://, instead of the system's.",
)
tags_option = click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="TAG",
    help="Word to find the task by, such as user:7; up to 16, the option repeated.",
)
group_option = click.option(
    "--group", metavar="GROUP", help="Name that it shares with others, such as those of one batch."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print each state document as one line of JSON."
)
give_up_option = click.option(
    "--give-up",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="Exit after this time without a response from the bridge.",
)


def exit_with(main: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run `main` and exit with the code it returns."""
    import asyncio  # noqa: PLC0415 - commands import late

    try:
        code = asyncio.run(main())
    except KeyboardInterrupt:  # click would print "Aborted!" and exit with 1
        code = INTERRUPTED
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # else the interpreter reports the error once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
