"""Settings of the commands that take `--config`, and what they print when these do not let them start."""

from __future__ import annotations

import errno
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bridge.errors import ConfigError, JournalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bridge.config.settings import Settings

BAD_CONFIGURATION = 2
CANNOT_LISTEN = 1
# `uvx task-event-bridge` and `pipx run` put only this name on the path.
PROGRAM = "task-event-bridge" if Path(sys.argv[0]).name == "task-event-bridge" else "taskbridge"


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option `--config`, as the parameter `path`."""
    return click.option(
        "--config",
        "path",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="BRIDGE_CONFIG",
        show_envvar=True,
        help="TOML file; default: bridge.toml in the working directory, if there is one. Variables BRIDGE_*"
        " override it.",
    )(command)


def config_path(path: Path | None) -> tuple[Path | None, bool]:
    """The configuration file, and whether it was found without being named."""
    from bridge.config.load import in_working_directory  # noqa: PLC0415 - commands import late

    found = in_working_directory() if path is None else None
    return path or found, found is not None


def read_settings(path: Path | None, *, command: str, quiet: bool = False, **overrides: Any) -> Settings:
    """Load the settings; on an error print it with the next command, and exit with code 2.

    Args:
        command: The command that needs them, such as `serve`.
        quiet: Do not print that the file was found, only that with an error.
        overrides: Settings of the command line.
    """
    from bridge.config.load import load  # noqa: PLC0415 - commands import late

    path, found = config_path(path)
    if found and not quiet:
        click.echo(f"configuration: {path} in the working directory", err=True)
    try:
        return load(path, **overrides)
    except ConfigError as error:
        if found and quiet:
            click.echo(f"configuration: {path} in the working directory", err=True)
        click.echo(str(error), err=True)
        print_next(_after_bad_configuration(error, path, command))
        sys.exit(BAD_CONFIGURATION)


def print_next(command: str | None) -> None:
    """Print the command to run after a failed start, if there is one."""
    if command:
        click.echo(f"Next: {command}", err=True)


def fail_to_listen(error: OSError, path: Path | None, settings: Settings) -> NoReturn:
    """Print why an address cannot be listened on, with the command that uses another one, and exit."""
    _print_last(f"cannot listen on {error.filename}: {error.strerror}")
    host, _, text = str(error.filename).rpartition(":")
    port = int(text) if text.isdecimal() else settings.port
    is_admin = settings.admin_address == (host, port)
    if error.errno in (errno.EADDRINUSE, errno.EACCES):
        free = 8080 if error.errno == errno.EACCES else port + 1 if port < 65_535 else 0
        option, variable = f"--port {free}", f"BRIDGE_ADMIN_PORT={free}"
    else:
        option, variable = "--host 127.0.0.1", "BRIDGE_ADMIN_HOST=127.0.0.1"
    serve = with_config("serve", path)
    print_next(f"{variable} {serve}" if is_admin else f"{serve} {option}")
    sys.exit(CANNOT_LISTEN)


def explain_journal_failure(error: JournalError, path: Path | None, settings: Settings) -> None:
    """Print why the journal cannot be used, with the command that makes room for it or uses another one."""
    _print_last(str(error))
    journal = Path(settings.journal.partition(":")[2])
    serve = with_config("serve", path)
    if not journal.parent.exists():
        print_next(f"mkdir -p {shlex.quote(str(journal.parent))}")
    else:
        other = journal.with_name(f"{journal.stem}-2{journal.suffix}")
        print_next(f"BRIDGE_JOURNAL={shlex.quote(f'sqlite:{other}')} {serve}")


def _print_last(sentence: str) -> None:
    """Print an error below the log lines, which another thread writes."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    click.echo(f"Error: {sentence}", err=True)


def with_config(command: str, path: Path | None) -> str:
    """A command as the user would type it, with the file if it has to be named."""
    from bridge.config.load import FILE  # noqa: PLC0415 - commands import late

    named = f" --config {shlex.quote(str(path))}" if path not in (None, FILE) else ""
    return f"{PROGRAM} {command}{named}"


def _after_bad_configuration(error: ConfigError, path: Path | None, command: str) -> str | None:
    if any(sentence.startswith("upstreams: configure") for sentence in error.errors):
        if path is None:
            return f"{PROGRAM} init fal"
        if len(error.errors) == 1:
            return f"{PROGRAM} init fal --stdout >> {shlex.quote(str(path))}"
    if path is not None and error.unreadable and not path.exists():
        return f"{PROGRAM} init fal --output {shlex.quote(str(path))}"
    # It lists the errors itself: the file has to be edited first.
    return None if command == "check-config" else with_config("check-config", path)
