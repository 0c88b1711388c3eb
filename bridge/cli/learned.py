"""The command `taskbridge learned`: what ended tasks taught about run times, listed and forgotten."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from bridge.cli.columns import columns
from bridge.cli.configuration import config_option, read_settings
from bridge.core.suggestion import did_you_mean
from bridge.errors import JournalError

if TYPE_CHECKING:
    from bridge.app.learned import LearnedRow

CANNOT_USE_JOURNAL = 3
NOTHING_STORED = "nothing was stored of that; taskbridge learned list shows what is"
_MAX_SHOWN = 60  # characters of a model: clients choose it


@click.group()
def learned() -> None:
    """List or forget what ended tasks taught about the run times of tasks like them."""


@learned.command("list")
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object a kind.")
def list_command(path: Path | None, *, as_json: bool) -> None:
    """Print each kind of tasks (model and action) that something is known of.

    From the journal or engine of the configuration. Bridges may be running; what they learned in the last
    seconds is not listed yet.
    """
    from bridge.app.learned import list_learned  # noqa: PLC0415 - commands import late
    from bridge.clock import SystemClock  # noqa: PLC0415 - commands import late

    settings = read_settings(path, command="learned list")
    try:
        rows = asyncio.run(list_learned(settings, SystemClock()))
    except JournalError as error:
        _fail(error)
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
    elif rows:
        click.echo(_table(rows))
    else:
        click.echo("nothing is known yet")


@learned.command("forget")
@config_option
@click.argument("upstream")
@click.option("--model", help="Only of this model.")
@click.option("--action", help="Only of this action.")
@click.option("--all", "everything", is_flag=True, help="Of all models and actions.")
def forget_command(
    path: Path | None, upstream: str, model: str | None, action: str | None, *, everything: bool
) -> None:
    """Forget what tasks of UPSTREAM taught, after a provider has made a model faster or slower.

    In the journal or engine of the configuration. Bridges that are running forget it too, and what they have
    learned until then: within 6 seconds, with workers or a shared engine within 12.
    """
    from bridge.app.learned import forget_learned  # noqa: PLC0415 - commands import late
    from bridge.clock import SystemClock  # noqa: PLC0415 - commands import late
    from bridge.journal.learned import Choice  # noqa: PLC0415 - commands import late

    if everything == (model is not None or action is not None):
        raise click.UsageError("name a --model or an --action, or say --all")
    settings = read_settings(path, command="learned forget")
    if upstream not in settings.upstreams:
        advice = did_you_mean(upstream, settings.upstreams)
        raise click.UsageError(f"no upstream {upstream[:40]!r} is configured{advice}")
    try:
        kinds = asyncio.run(forget_learned(settings, SystemClock(), Choice(upstream, model, action)))
    except JournalError as error:
        _fail(error)
    click.echo(f"kinds forgotten: {kinds}" if kinds else NOTHING_STORED)


def _table(rows: Sequence[LearnedRow]) -> str:
    lines = [("UPSTREAM", "MODEL", "ACTION", "SAMPLES", "P50", "P90")]
    for row in rows:
        p50, p90 = (_seconds(value) for value in (row.p50_seconds, row.p90_seconds))
        lines.append((row.upstream, _name(row.model), _name(row.action), str(row.samples), p50, p90))
    return columns(lines)


def _name(name: str | None) -> str:
    if name is None:
        return "-"
    # A terminal obeys escape sequences, and clients choose the names of models.
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[: _MAX_SHOWN - 1]}\N{HORIZONTAL ELLIPSIS}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


def _fail(error: Exception) -> NoReturn:
    click.echo(f"Error: {error}", err=True)
    sys.exit(CANNOT_USE_JOURNAL)
