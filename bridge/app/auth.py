"""How callers are known: put together from the settings."""

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
    """How callers are known.

    Args:
        operators: How those are known who ask for metrics; None for who reaches an address of their own.
        tickets: None where the bridge gives out none.
        keys: What a key server publishes; None where the operator's own secrets count.
        proofs: None where the bridge holds the keys of the providers.
    """

    authenticator: Authenticator
    operators: Authenticator | None
    tickets: Tickets | None = None
    keys: SigningKeySet | None = None
    ownership: OwnershipVerifier | None = None


def make_accounts(
    settings: Settings, upstreams: Mapping[str, Upstream], clock: Clock
) -> AccountRegistry | None:
    """Where callers' keys are kept; None where the bridge holds the keys of the providers."""
    if settings.auth != "upstream-key":
        return None
    secret = _octets(settings.account_secret) or secrets.token_bytes(32)
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
    """How the operator wants callers to be known."""
    known = _by_token(settings, origins, clock)
    if accounts is None:
        return known
    signing = _octets(settings.ticket_secret)
    tickets = Tickets([signing], clock) if signing else None
    ownership = OwnershipVerifier(
        pool,
        accounts,
        clock,
        seconds=settings.ownership_cache_seconds,
        wait_seconds=settings.first_state_timeout_seconds,
    )
    names = key_headers(dialect_of(name, config) for name, config in settings.upstreams.items())
    keys = ProviderKeys(accounts, names, limits.try_key)
    authenticator = Authenticator(origins, clock, tickets=tickets, keys=keys, ownership=ownership)
    operators = known.authenticator if settings.token_issuer else None
    return replace(
        known, authenticator=authenticator, operators=operators, tickets=tickets, ownership=ownership
    )


def _by_token(settings: Settings, origins: Origins, clock: Clock) -> AuthComponents:
    if not settings.token_issuer:
        anybody = Authenticator(origins, clock)
        return AuthComponents(anybody, anybody)
    shared = [secret.get_secret_value().encode() for secret in settings.token_secrets]
    own = _octets(settings.ticket_secret)
    signing = [own] if own else shared
    tickets = Tickets(signing, clock) if signing else None
    url, private = settings.token_jwks_url, Hosts(settings.private_hosts)
    keys = SigningKeySet(partial(fetch_keys, url, private), clock) if url else None
    tokens = Tokens(
        keys or Secrets(shared), clock, issuer=settings.token_issuer, audience=settings.token_audience
    )
    authenticator = Authenticator(origins, clock, tokens, tickets)
    return AuthComponents(authenticator, authenticator, tickets, keys)


def _octets(secret: SecretStr | None) -> bytes | None:
    return secret.get_secret_value().encode() if secret is not None else None
