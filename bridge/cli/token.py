"""The command `bridge token`: credentials for trying things out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

BAD_CONFIGURATION = 2
YEAR_SECONDS = 366 * 86_400


@click.group()
def token() -> None:
    """Tokens for this bridge, signed with its own secret."""


@token.command()
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="BRIDGE_CONFIG",
    help="The TOML file of the bridge, for its secret, issuer and audience.",
)
@click.option(
    "--tasks",
    multiple=True,
    metavar="REF",
    help="Tasks it covers: a ref, UPSTREAM/* or *; may be repeated.",
)
@click.option(
    "--scope", default="read", show_default=True, help="Of read, submit, cancel, admin; a text of words."
)
@click.option("--seconds", type=click.IntRange(1, YEAR_SECONDS), default=3600, show_default=True)
@click.option("--name", default="minted", show_default=True, help="Whom it speaks for, the claim `sub`.")
def mint(path: Path | None, tasks: tuple[str, ...], scope: str, seconds: int, name: str) -> None:
    """Print a token. Whoever has it may do what it says until it expires: it cannot be called back."""
    from bridge.auth import tokens  # noqa: PLC0415 - for this command alone
    from bridge.auth.caller import TokenScope  # noqa: PLC0415 - for this command alone
    from bridge.auth.grants import read_grant  # noqa: PLC0415 - for this command alone
    from bridge.clock import SystemClock  # noqa: PLC0415 - commands import late so that --help is quick
    from bridge.config.settings import load  # noqa: PLC0415 - for this command alone
    from bridge.errors import ConfigError, Unauthenticated  # noqa: PLC0415 - for this command alone

    words = scope.replace(",", " ").split()
    unknown = [word for word in words if word not in set(TokenScope)]
    if unknown:
        raise click.BadParameter(f"there is no {unknown[0]!r}", param_hint="--scope")
    try:
        read_grant(list(tasks))
        settings = load(path)
    except Unauthenticated:
        raise click.BadParameter("a ref is upstream/task_id, UPSTREAM/* or *", param_hint="--tasks") from None
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise SystemExit(BAD_CONFIGURATION) from None
    if not settings.token_secrets:
        raise click.ClickException("this bridge has no token_secrets; its tokens come from elsewhere")
    claims: dict[str, Any] = {
        "iss": settings.token_issuer,
        "aud": settings.token_audience,
        "sub": name,
        "exp": int(SystemClock().time()) + seconds,
        "scope": " ".join(words),
        "tasks": list(tasks),
    }
    click.echo(tokens.mint(settings.token_secrets[0].get_secret_value().encode(), claims))
