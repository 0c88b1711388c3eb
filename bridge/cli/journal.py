"""The command `taskbridge journal`: tasks to a file, and from a file into another journal or engine."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import NoReturn

import click

from bridge.cli.configuration import config_option, read_settings
from bridge.errors import JournalError

CANNOT_USE_JOURNAL = 3
_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def journal() -> None:
    """Move tasks from a SQLite file to an engine, or back."""


@journal.command("export")
@config_option
@_FILE
def export_command(path: Path | None, file: Path) -> None:
    """Write the newest state of every task to the new file FILE, and what was learned of run times.

    The webhooks that were added while a bridge ran are in it too, with their secrets; deliveries that wait
    are not. From the journal or engine of the configuration. Bridges may be running; what they record
    afterwards is not in the file.
    """
    from bridge.app.transfer import export_tasks  # noqa: PLC0415 - commands import late
    from bridge.clock import SystemClock  # noqa: PLC0415 - commands import late

    settings = read_settings(path, command="journal export")
    try:
        done = asyncio.run(export_tasks(settings, SystemClock(), file))
    except JournalError as error:
        _fail(error)
    click.echo(f"tasks exported: {done.tasks}, of them open: {done.open}")
    if done.webhooks:
        click.echo(f"webhooks exported, with their secrets: {done.webhooks}")
    if done.unreadable:
        click.echo(f"left out, because they cannot be read: {done.unreadable}", err=True)


@journal.command("import")
@config_option
@_FILE
def import_command(path: Path | None, file: Path) -> None:
    """Record the tasks of FILE in the journal or engine of the configuration.

    Each open one is watched until its end. Tasks that are known there stay as they are, and webhooks
    likewise. No webhook is sent what is imported, only what changes from then on. With a journal in a file
    the bridge must be stopped; with an engine bridges may be running.
    """
    from bridge.app.transfer import import_tasks  # noqa: PLC0415 - commands import late
    from bridge.clock import SystemClock  # noqa: PLC0415 - commands import late

    settings = read_settings(path, command="journal import")
    try:
        done = asyncio.run(import_tasks(settings, SystemClock(), file))
    except JournalError as error:
        _fail(error)
    click.echo(f"tasks imported: {done.tasks}, of them open: {done.open}; known already: {done.known}")
    if done.webhooks:
        click.echo(f"webhooks imported: {done.webhooks}")


def _fail(error: Exception) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    sys.exit(CANNOT_USE_JOURNAL)
