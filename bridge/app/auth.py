"""Builds authentication from the settings."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from pydantic import SecretStr

from bridge.auth.authenticator import Authenticator
from bridge.auth.origins import Origins
from bridge.auth.ownership import OwnershipVerifier
from bridge.auth.provider_keys import ProviderKeys, key_headers
from bridge.auth.signing_keys import SigningKeySet
from bridge.auth.tickets import Tickets
from bridge.auth.tokens import Secrets, Tokens
from bridge.clock import Clock
from bridge.config.settings import Settings, dialect_of
from bridge.dialects.hosts import Hosts
from bridge.sources.accounts import AccountRegistry
from bridge.sources.jwks import fetch_keys
from bridge.sources.upstream import Upstream
from bridge.watchers.pool import Pool
from bridge.web.limits.limits import Limits


@dataclass(frozen=True, slots=True)
class AuthComponents:
    """What authenticates and authorizes callers.

    Args:
        operators: Authenticates requests for metrics and status; None where only the address protects them.
        tickets: None where the bridge issues none.
        keys: The keys of `token_jwks_url`; None where tokens are signed with the operator's own secrets.
        ownership: With `upstream-key`: verifies which key may read which task.
    """

    authenticator: Authenticator
    operators: Authenticator | None
    tickets: Tickets | None = None
    keys: SigningKeySet | None = None
    ownership: OwnershipVerifier | None = None


def make_accounts(
    settings: Settings, upstreams: Mapping[str, Upstream], clock: Clock
) -> AccountRegistry | None:
    """The registry of callers' API keys; None unless `auth` is `upstream-key`."""
    if settings.auth != "upstream-key":
        return None
    secret = _bytes(settings.account_secret) or secrets.token_bytes(32)
    return AccountRegistry(
        upstreams, clock, secret=secret, ownership_cache_seconds=settings.ownership_cache_seconds
    )


def build_auth(
    settings: Settings,
    origins: Origins,
    limits: Limits,
    clock: Clock,
    pool: Pool,
    accounts: AccountRegistry | None,
) -> AuthComponents:
    """The components that `auth` asks for."""
    by_token = _token_auth(settings, origins, clock)
    if accounts is None:
        return by_token
    # Callers show API keys of providers; tokens, where configured, only identify operators.
    secret = _bytes(settings.ticket_secret)
    tickets = Tickets([secret], clock) if secret else None
    ownership = OwnershipVerifier(
        pool,
        accounts,
        clock,
        seconds=settings.ownership_cache_seconds,
        wait_seconds=settings.first_state_timeout_seconds,
    )
    names = key_headers(dialect_of(name, upstream) for name, upstream in settings.upstreams.items())
    keys = ProviderKeys(accounts, names, limits.try_key)
    return replace(
        by_token,
        authenticator=Authenticator(origins, clock, tickets=tickets, keys=keys, ownership=ownership),
        operators=by_token.authenticator if settings.token_issuer else None,
        tickets=tickets,
        ownership=ownership,
    )


def _token_auth(settings: Settings, origins: Origins, clock: Clock) -> AuthComponents:
    """Tokens, from shared secrets or a key server; without `token_issuer` everyone is let in."""
    if not settings.token_issuer:
        anonymous = Authenticator(origins, clock)
        return AuthComponents(anonymous, anonymous)
    token_secrets = [secret.get_secret_value().encode() for secret in settings.token_secrets]
    # Without a secret of their own, tickets are signed like tokens; a key server's private keys are not ours.
    ticket_secret = _bytes(settings.ticket_secret)
    signing = [ticket_secret] if ticket_secret else token_secrets
    tickets = Tickets(signing, clock) if signing else None
    url, private_hosts = settings.token_jwks_url, Hosts(settings.private_hosts)
    keys = SigningKeySet(partial(fetch_keys, url, private_hosts), clock) if url else None
    tokens = Tokens(
        keys or Secrets(token_secrets),
        clock,
        issuer=settings.token_issuer,
        audience=settings.token_audience,
    )
    authenticator = Authenticator(origins, clock, tokens, tickets)
    return AuthComponents(authenticator, authenticator, tickets, keys)


def _bytes(secret: SecretStr | None) -> bytes | None:
    return secret.get_secret_value().encode() if secret is not None else None
