"""The commands: arguments in, exit codes out, and how logs look."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from bridge import __version__
from bridge.errors import ConfigError

if TYPE_CHECKING:
    from bridge.config.settings import Settings

BAD_CONFIGURATION = 2

_config = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BRIDGE_CONFIG",
    help="The TOML file. Without one, BRIDGE_ variables say everything.",
)


class Commands(click.Group):
    """Imports a command of another room when it is asked for: `bridge health` runs every few seconds."""

    elsewhere: ClassVar = {
        "dialect": "bridge.cli.dialect",
        "simulate": "bridge.simulator.command",
        "submit": "bridge.cli.watch",
        "token": "bridge.cli.token",
        "watch": "bridge.cli.watch",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All of them."""
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them; None where there is none of that name."""
        module = self.elsewhere.get(cmd_name)
        if module is None:
            return super().get_command(ctx, cmd_name)
        command = getattr(import_module(module), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bridge")
def main() -> None:
    """Look once per task on behalf of everybody who waits."""


@main.command()
@_config
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on; 0 takes a free one.")
@click.option(
    "--insecure", is_flag=True, default=None, help="Serve a public address without asking who calls."
)
def serve(path: Path | None, host: str | None, port: int | None, *, insecure: bool | None) -> None:
    """Serve until SIGTERM; then drain and exit 0."""
    settings = _settings(path, host=host, port=port, insecure=insecure)
    from bridge.app import Bridge
    from bridge.config.settings import secrets_of
    from bridge.net import is_loopback
    from bridge.server.server import serve as run
    from bridge.telemetry.logs import configure

    configure(settings.log_level, settings.log_format, secrets=secrets_of(settings))
    if not is_loopback(settings.host) and settings.auth == "none":
        logging.getLogger("bridge").warning("serving %s without asking who calls", settings.host)
    try:
        code = run(Bridge(settings))
    except OSError as error:
        raise click.ClickException(f"cannot listen on {error.filename}: {error.strerror}") from None
    sys.exit(code)


@main.command("check-config")
@_config
def check_config(path: Path | None) -> None:
    """Print the effective settings without secrets; exit 2 when something is wrong."""
    import orjson

    from bridge.config.settings import effective

    settings = _settings(path)
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    text = orjson.dumps(effective(settings), option=orjson.OPT_INDENT_2)
    click.echo(text.decode())


@main.command()
@click.option("--url", envvar="BRIDGE_URL", default="http://127.0.0.1:8080", show_default=True)
@click.option("--timeout", default=3.0, show_default=True, help="Seconds.")
def health(url: str, timeout: float) -> None:
    """Exit 0 when the bridge takes traffic, 1 when it does not. For container health checks."""
    import urllib.error
    import urllib.request
    from urllib.parse import urlsplit

    if not url.startswith(("http://", "https://")):
        raise click.UsageError("--url begins with http:// or https://")
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/readyz", timeout=timeout) as answer:  # noqa: S310 - checked above
            click.echo(answer.read().decode())
    except urllib.error.HTTPError as error:
        click.echo(error.read().decode(), err=True)
        sys.exit(1)
    except OSError as error:
        where = urlsplit(url).netloc.rpartition("@")[2]  # what checks our health may keep what we say
        click.echo(f"no answer from {where}: {getattr(error, 'reason', error)}", err=True)
        sys.exit(1)


@main.command()
@click.argument("journal", type=click.Path(path_type=Path))
@click.argument("copy", type=click.Path(path_type=Path))
def backup(journal: Path, copy: Path) -> None:
    """Copy the file JOURNAL to a new file COPY, also while a bridge writes it."""
    from bridge.errors import JournalError
    from bridge.journal.sqlite.backup import back_up

    try:
        states = back_up(journal, copy)
    except JournalError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"states copied: {states}")


@main.command()
@click.option(
    "--port", default=8080, show_default=True, help="Of the bridge; another is taken when it is in use."
)
@click.option("--speed", default=1.0, show_default=True, help="How much faster than real renders.")
def demo(port: int, speed: float) -> None:
    """Run simulated providers and the bridge, and show tasks going through."""
    from bridge.cli.demo import run

    sys.exit(run(port=port, speed=speed))


def _settings(path: Path | None, **overrides: Any) -> Settings:
    from bridge.config.settings import load

    try:
        return load(path, **overrides)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(BAD_CONFIGURATION)
