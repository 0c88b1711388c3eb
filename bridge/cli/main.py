"""The command `taskbridge` and its subcommands: options in, exit codes out."""

from __future__ import annotations

import errno
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from bridge import __version__
from bridge.cli.configuration import (
    BAD_CONFIGURATION,
    CANNOT_LISTEN,
    PROGRAM,
    config_option,
    config_path,
    explain_journal_failure,
    fail_to_listen,
    print_next,
    read_settings,
)
from bridge.core.suggestion import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.config.settings import Settings


__all__ = ["BAD_CONFIGURATION", "main"]

MAX_ANSWER_BYTES = 4096
LINE = 100  # characters, of sentences that are printed
OK = 200
CANNOT_USE_JOURNAL = 3


class Commands(click.Group):
    """Imports a command's module when the command is used: `taskbridge health` runs every few seconds."""

    elsewhere: ClassVar = {
        "close-group": "bridge.cli.tasks:close_group",
        "dialect": "bridge.cli.dialect",
        "download": "bridge.cli.tasks",
        "forget": "bridge.cli.tasks",
        "init": "bridge.cli.init",
        "journal": "bridge.cli.journal",
        "learned": "bridge.cli.learned",
        "list": "bridge.cli.tasks:list_command",
        "register": "bridge.cli.tasks",
        "simulate": "bridge.simulator.command",
        "submit": "bridge.cli.watch",
        "token": "bridge.cli.token",
        "watch": "bridge.cli.watch",
        "webhooks": "bridge.cli.webhooks",
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Include the commands of other modules."""
        return sorted([*super().list_commands(ctx), *self.elsewhere])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; the error about an unknown one names the closest."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            advice = did_you_mean(args[0], self.list_commands(ctx))
            raise click.UsageError(f"no such command {args[0][:80]!r}{advice}", ctx) from None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None for an unknown name."""
        path = self.elsewhere.get(cmd_name)
        if path is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = path.partition(":")
        command = getattr(import_module(module), attribute or cmd_name)
        assert isinstance(command, click.Command)
        return command


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that override settings, with `--config`."""
    for option in (
        click.option(
            "--insecure",
            is_flag=True,
            default=None,
            help="Allow a non-loopback address without authentication.",
        ),
        click.option("--workers", type=int, help="Processes that serve on one port."),
        click.option("--port", type=click.IntRange(0, 65_535), help="Port to listen on; 0 picks a free one."),
        click.option("--host", help="Address to listen on."),
        config_option,
    ):
        command = option(command)
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="taskbridge")
def main() -> None:
    """Poll provider tasks once, stream updates to many clients."""


@main.command()
@_settings_options
def serve(path: Path | None, **overrides: Any) -> None:
    """Run the bridge until SIGTERM; then drain connections and exit 0.

    Exit code: 0 after a stop, 1 if it cannot listen or failed while running, 2 for errors in the
    configuration, 3 if the journal cannot be used. A failed start ends with the command to run next.
    """
    settings = read_settings(path, command="serve", quiet=True, **overrides)
    path, found = config_path(path)
    from bridge.config.settings import secrets_of
    from bridge.errors import ConfigError, EngineUnavailable, JournalError
    from bridge.net import is_loopback
    from bridge.telemetry.logs import configure

    configure(settings.log_level, settings.log_format, secrets=secrets_of(settings))
    logger = logging.getLogger("bridge")
    if found:
        logger.info("configuration found in the working directory", extra={"path": str(path)})
    if not is_loopback(settings.host) and settings.auth == "none":
        logger.warning("serving without authentication", extra={"host": settings.host})
    try:
        if settings.has_shared_engine:
            from bridge.app.engine_check import check_engine

            try:
                for warning in check_engine(settings).warnings:
                    logger.warning("engine set up poorly", extra={"warning": warning})
            except EngineUnavailable as error:
                logger.warning("engine not reachable yet", extra={"error": str(error)})
        if settings.workers > 1:
            from bridge.server.workers.serve import serve_workers

            code = serve_workers(settings, path, overrides)
        else:
            code = _serve_alone(settings)
    except ConfigError as error:
        click.echo(str(error), err=True)
        code = BAD_CONFIGURATION
    except JournalError as error:
        explain_journal_failure(error, path, settings)
        code = CANNOT_USE_JOURNAL
    except OSError as error:
        fail_to_listen(error, path, settings)
    sys.exit(code)


def _serve_alone(settings: Settings) -> int:
    """Serve in this process; the exit code.

    Raises:
        JournalError: The journal cannot be used.
    """
    from bridge.app import Bridge
    from bridge.server.server import serve as run

    bridge = Bridge(settings)
    try:
        return run(bridge)
    except SystemExit:
        if bridge.journal_error is not None:
            raise bridge.journal_error from None
        raise


@main.command("check-config")
@_settings_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON: {name: {value, source}}.")
@click.option(
    "--connect",
    is_flag=True,
    help="Connect to the shared engine and the store of outputs, and check them.",
)
def check_config(path: Path | None, *, as_json: bool, connect: bool, **overrides: Any) -> None:
    """Print the effective configuration and where each value comes from, without secrets.

    Below it the grace period that a stop needs. Exit code: 0 if the configuration is valid, 2 if not; then
    all errors are printed. Warnings, such as the old name of a setting, go to standard error. With
    `--connect` also 2 if the shared engine cannot be used as it is, and 1 if it cannot be reached or copies
    cannot be stored.
    """
    import textwrap

    import orjson

    from bridge.clock import SystemClock
    from bridge.config.certificate import certificate_warnings
    from bridge.config.effective import effective, learned_sentence, limits_sentence, stop_sentence, table
    from bridge.config.engine_memory import retention_warning
    from bridge.config.keys import missing_keys

    settings = read_settings(path, command="check-config", **overrides)
    for warning in settings.warnings:
        click.echo(f"warning: {warning}", err=True)
    for sentence in certificate_warnings(settings, SystemClock().time()):
        click.echo(f"warning: {sentence}", err=True)
    for name, sentence in missing_keys(settings).items():
        click.echo(f"warning: upstreams.{name}: {sentence}", err=True)
    if not connect and (large := retention_warning(settings)) is not None:
        click.echo(f"warning: {large}", err=True)
    shown = effective(settings)
    if as_json:
        document = {name: setting._asdict() for name, setting in shown.items()}
        click.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    else:
        sentences = [stop_sentence(settings), limits_sentence(settings), learned_sentence(settings)]
        lines = [textwrap.fill(one, LINE, break_on_hyphens=False) for one in filter(None, sentences)]
        click.echo("\n\n".join((table(shown), *lines)))
    if connect and settings.has_shared_engine:
        _connect(settings)
    if connect and settings.outputs.store is not None:
        _check_store(settings)


def _connect(settings: Settings) -> None:
    """Print what the engine is; exit with 2 if it cannot be used, with 1 if it cannot be reached."""
    from bridge.app.engine_check import check_engine
    from bridge.errors import ConfigError, EngineUnavailable

    try:
        report = check_engine(settings)
        for warning in report.warnings:
            click.echo(f"warning: {warning}", err=True)
        click.echo(report.sentence, err=True)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(BAD_CONFIGURATION)
    except EngineUnavailable as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


def _check_store(settings: Settings) -> None:
    """Write, read and delete a small file where copies are kept; exit with 1 if that fails."""
    import asyncio

    from bridge.clock import SystemClock
    from bridge.outputs.configured import open_store
    from bridge.outputs.store import StoreError

    async def check() -> None:
        store = open_store(settings.outputs, SystemClock())
        if store is not None:
            await store.check()
            await store.close()

    try:
        asyncio.run(check())
    except StoreError as error:
        click.echo(f"Error: outputs.store: {error}", err=True)
        sys.exit(1)
    click.echo("outputs: copies can be written and read", err=True)


@main.command()
@click.option(
    "--url",
    envvar="BRIDGE_URL",
    default="http://127.0.0.1:8080",
    show_default=True,
    show_envvar=True,
    help="Base URL of the bridge.",
)
@click.option(
    "--ca-file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BRIDGE_CA_FILE",
    show_envvar=True,
    help="PEM file with the certificates to trust for https://, instead of the system's.",
)
@click.option("--timeout", default=3.0, show_default=True, metavar="SECONDS", help="Timeout of the request.")
def health(url: str, ca_file: Path | None, timeout: float) -> None:
    """Exit 0 if the bridge is ready, 1 if not. For container health checks."""
    import ssl
    import urllib.error
    import urllib.request
    from urllib.parse import urlsplit

    if not url.startswith(("http://", "https://")):
        raise click.UsageError("--url must begin with http:// or https://")
    # Container runtimes store this output: it must not contain the user info of the URL.
    netloc = urlsplit(url).netloc.rpartition("@")[2]
    trust = None
    if url.startswith("https://") and ca_file is not None:
        from bridge.net import trusting

        try:
            trust = trusting(ca_file)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--ca-file") from None
    try:
        with urllib.request.urlopen(  # noqa: S310 - checked above
            f"{url.rstrip('/')}/readyz", timeout=timeout, context=trust
        ) as response:
            answer, status = response.read(MAX_ANSWER_BYTES), response.status
    except urllib.error.HTTPError as error:
        answer, status = error.read(MAX_ANSWER_BYTES), error.code
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            from bridge.net import unverified

            click.echo(unverified(netloc, reason), err=True)
        else:
            click.echo(f"no response from {netloc}: {reason}", err=True)
        sys.exit(1)
    if not answer.startswith(b"{"):
        # another server's page would fill the screen, and a container runtime's log
        click.echo(f"{netloc} answers with HTTP {status}, but not as a bridge does", err=True)
        sys.exit(1)
    click.echo(answer.decode(errors="replace"), err=status != OK)
    sys.exit(0 if status == OK else 1)


@main.command()
@click.argument("journal", type=click.Path(path_type=Path))
@click.argument("copy", type=click.Path(path_type=Path))
def backup(journal: Path, copy: Path) -> None:
    """Copy the journal file JOURNAL to the new file COPY; safe while the bridge is running."""
    from bridge.errors import JournalError
    from bridge.journal.sqlite.backup import back_up

    if ":/" in str(journal):
        # The address may hold a password: it is not repeated.
        raise click.ClickException(
            "that is the address of an engine, which has backups of its own: its append-only file, or BGSAVE;"
            " `taskbridge journal export` writes the newest states to a file"
        )
    try:
        states = back_up(journal, copy)
    except JournalError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"states copied: {states}")


@main.command()
@click.option(
    "--host",
    envvar="BRIDGE_HOST",
    default="127.0.0.1",
    show_default=True,
    show_envvar=True,
    help="Address to listen on.",
)
@click.option(
    "--port",
    envvar="BRIDGE_PORT",
    type=click.IntRange(0, 65_535),
    show_envvar=True,
    help="Port to listen on; default: 8080, or a free one if it is taken; 0 picks a free one.",
)
@click.option(
    "--public-url",
    envvar="BRIDGE_PUBLIC_URL",
    default="",
    show_envvar=True,
    help="Base URL under which browsers reach the demo, if it is another, as behind a container's port.",
)
@click.option(
    "--speed",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Speed factor of the simulated tasks.",
)
@click.option("--once", is_flag=True, help="Submit each sample task once, and end when all have ended.")
def demo(host: str, port: int | None, public_url: str, *, speed: float, once: bool) -> None:
    """Run simulated providers, the bridge, and tasks that keep coming, until it is stopped.

    It prints a link to the page that shows them. Nothing is written to disk and no key is needed.

    Exit code: 0 when stopped by Ctrl-C or a signal, or with --once when all tasks have ended; 1 if it cannot
    listen, or with --once a task did not end; 2 for bad usage.
    """
    from bridge.cli.demo import run
    from bridge.errors import ConfigError

    try:
        code = run(host=host, port=port, speed=speed, once=once, public_url=public_url)
    except OSError as error:
        if error.filename is None:
            raise
        click.echo(f"Error: cannot listen on {error.filename}: {error.strerror}", err=True)
        taken = error.errno == errno.EADDRINUSE
        option = f"--port {(port or 0) % 65_535 + 1}" if taken else "--host 127.0.0.1"
        print_next(f"{PROGRAM} demo {option}")
        sys.exit(CANNOT_LISTEN)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(BAD_CONFIGURATION)
    sys.exit(code)
