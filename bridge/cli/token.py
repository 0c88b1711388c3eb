"""The command `taskbridge token`: tokens for tests and for operators, and what a token allows."""

from __future__ import annotations

import asyncio
import secrets
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridge.cli.columns import columns
from bridge.cli.configuration import config_option, read_settings

if TYPE_CHECKING:
    from bridge.auth.caller import Caller
    from bridge.auth.signing_keys import KeySource
    from bridge.config.settings import Settings

# Commands import late: the imports of a command take longer than `taskbridge --help` should.

YEAR_SECONDS = 366 * 86_400


@click.group()
def token() -> None:
    """Issue tokens, signed with the secret in the configuration, and inspect them."""


@token.command()
@config_option
@click.option(
    "--tasks",
    multiple=True,
    metavar="REF",
    help="Task the token authorizes: a ref, UPSTREAM/* or *; may be repeated.",
)
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="TAG",
    help="The token authorizes every task that has this tag, and its submits get it; may be repeated.",
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
def mint(
    path: Path | None, tasks: tuple[str, ...], tags: tuple[str, ...], scope: str, seconds: int, name: str
) -> None:
    """Print a token. It is valid until it expires and cannot be revoked."""
    from bridge.auth import tokens  # noqa: PLC0415 - see above
    from bridge.auth.caller import TokenScope  # noqa: PLC0415 - see above
    from bridge.auth.grants import read_grant, read_tags  # noqa: PLC0415 - see above
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
    try:
        tags = read_tags(list(tags))
    except Unauthenticated as error:
        raise click.BadParameter(str(error), param_hint="--tag") from None
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
    if tags:
        claims["tags"] = list(tags)
    click.echo(tokens.mint(settings.token_secrets[0].get_secret_value().encode(), claims))


@token.command()
@config_option
@click.argument("text", metavar="[TOKEN]", required=False, envvar="BRIDGE_TOKEN")
def inspect(path: Path | None, text: str | None) -> None:
    """Print what a token allows at a bridge with this configuration; exit with 1 if it is not valid there.

    Without TOKEN it is read from BRIDGE_TOKEN, else from the standard input: what is typed on a command line
    stays in the history of the shell. Tokens revoked by `revoked_tokens_file` are not valid.
    """
    from bridge.auth.tokens import Tokens  # noqa: PLC0415 - see above
    from bridge.clock import SystemClock  # noqa: PLC0415 - see above
    from bridge.errors import BridgeError  # noqa: PLC0415 - see above
    from bridge.sources.revoked_tokens import RevokedTokens  # noqa: PLC0415 - see above

    settings = read_settings(path, command="token inspect")
    if not settings.token_issuer:
        raise click.ClickException("no token_issuer is configured, so this bridge accepts no tokens")
    revoked = RevokedTokens(settings.revoked_tokens_file) if settings.revoked_tokens_file else None
    if revoked is not None:
        revoked.read()
    tokens = Tokens(
        _keys(settings),
        SystemClock(),
        issuer=settings.token_issuer,
        audience=settings.token_audience,
        revoked=revoked,
    )
    try:
        caller = asyncio.run(tokens.caller((text or sys.stdin.read()).strip()))
    except BridgeError as error:
        raise click.ClickException(str(error)) from None
    click.echo(columns(_described(caller, tuple(settings.upstreams))))


def _keys(settings: Settings) -> KeySource:
    """What the bridge verifies tokens with."""
    from bridge.auth.signing_keys import SharedSecrets, SigningKeySet  # noqa: PLC0415 - see above
    from bridge.clock import SystemClock  # noqa: PLC0415 - see above
    from bridge.sources.guard import private_hosts_of  # noqa: PLC0415 - see above
    from bridge.sources.jwks import fetch_keys  # noqa: PLC0415 - see above

    if settings.token_jwks_url:
        private_hosts = private_hosts_of(settings.private_hosts)
        return SigningKeySet(partial(fetch_keys, settings.token_jwks_url, private_hosts), SystemClock())
    return SharedSecrets([secret.get_secret_value().encode() for secret in settings.token_secrets])


def _described(caller: Caller, upstreams: tuple[str, ...]) -> list[tuple[str, str]]:
    """What a caller may do, in two columns."""
    from bridge.auth.caller import TokenScope  # noqa: PLC0415 - see above

    expires_at = "never"
    if caller.expires_at is not None:
        expires_at = datetime.fromtimestamp(caller.expires_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    grant = caller.tasks
    if grant is None:
        covered = ["all tasks"]
    else:
        covered = [f"all tasks of {name}" for name in sorted(grant.upstreams)]
        covered += [f"the task {ref}" for ref in sorted(grant.refs)]
        covered += [f"tasks with the tag {tag}" for tag in sorted(grant.tags)]
    submits = [name for name in upstreams if caller.may_submit(name)]
    tagged = f", with the tags {' '.join(caller.own_tags)}" if caller.own_tags else ""
    scopes = caller.scopes
    return [
        ("caller", caller.name),
        ("id", caller.token_id or "none: it cannot be revoked alone"),
        ("expires", expires_at),
        ("scopes", " ".join(sorted(scopes)) or "none"),
        ("covers", "; ".join(covered) or "no task"),
        ("reads", "what it covers" if TokenScope.READ in scopes else "nothing"),
        ("submits", f"to {' '.join(submits)}{tagged}" if submits else "nothing"),
        ("cancels", "what it covers" if TokenScope.CANCEL in scopes else "nothing"),
        ("operates", "metrics, status and webhooks" if TokenScope.ADMIN in scopes else "nothing"),
    ]
