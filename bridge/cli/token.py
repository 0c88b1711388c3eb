"""The command `taskbridge token`: tokens for tests and for operators."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import click

from bridge.cli.configuration import config_option, read_settings

# Commands import late: the imports of a command take longer than `taskbridge --help` should.

YEAR_SECONDS = 366 * 86_400


@click.group()
def token() -> None:
    """Issue tokens, signed with the secret in the configuration."""


@token.command()
@config_option
@click.option(
    "--tasks",
    multiple=True,
    metavar="REF",
    help="Task the token authorizes: a ref, UPSTREAM/* or *; may be repeated.",
)
@click.option(
    "--scope", default="read", show_default=True, help="Space-separated scopes: read, submit, cancel, admin."
)
@click.option(
    "--seconds",
    type=click.IntRange(1, YEAR_SECONDS),
    default=3600,
    show_default=True,
    help="Time until the token expires.",
)
@click.option("--name", default="minted", show_default=True, help="Subject (claim `sub`).")
def mint(path: Path | None, tasks: tuple[str, ...], scope: str, seconds: int, name: str) -> None:
    """Print a token. It is valid until it expires and cannot be revoked."""
    from bridge.auth import tokens  # noqa: PLC0415 - see above
    from bridge.auth.caller import TokenScope  # noqa: PLC0415 - see above
    from bridge.auth.grants import read_grant  # noqa: PLC0415 - see above
    from bridge.clock import SystemClock  # noqa: PLC0415 - see above
    from bridge.errors import Unauthenticated  # noqa: PLC0415 - see above

    words = scope.replace(",", " ").split()
    unknown = [word for word in words if word not in set(TokenScope)]
    if unknown:
        raise click.BadParameter(f"unknown scope {unknown[0]!r}", param_hint="--scope")
    try:
        read_grant(list(tasks))
    except Unauthenticated:
        raise click.BadParameter("must be upstream/task_id, UPSTREAM/* or *", param_hint="--tasks") from None
    settings = read_settings(path, command="token mint")
    if not settings.token_secrets:
        raise click.ClickException("no token_secrets are configured, so this bridge cannot sign tokens")
    claims: dict[str, Any] = {
        "iss": settings.token_issuer,
        "aud": settings.token_audience,
        "sub": name,
        "jti": secrets.token_hex(16),
        "exp": int(SystemClock().time()) + seconds,
        "scope": " ".join(words),
        "tasks": list(tasks),
    }
    click.echo(tokens.mint(settings.token_secrets[0].get_secret_value().encode(), claims))
