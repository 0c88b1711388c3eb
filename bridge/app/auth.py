"""How callers are known: put together from the settings."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from pydantic import SecretStr

from bridge.auth.authenticator import Callers
from bridge.auth.origins import Origins
from bridge.auth.ownership import Proofs
from bridge.auth.provider_keys import ProviderKeys, key_headers
from bridge.auth.signing_keys import TokenKeys
from bridge.auth.tickets import Tickets
from bridge.auth.tokens import Secrets, Tokens
from bridge.clock import Clock
from bridge.config.settings import Settings, dialect_of
from bridge.dialects.hosts import Hosts
from bridge.sources.accounts import Accounts
from bridge.sources.jwks import fetch_keys
from bridge.sources.upstream import Upstream
from bridge.watchers.pool import Pool
from bridge.web.limits.limits import Limits


@dataclass(frozen=True, slots=True)
class Access:
    """How callers are known.

    Args:
        operators: How those are known who ask for metrics; None for who reaches an address of their own.
        tickets: None where the bridge gives out none.
        keys: What a key server publishes; None where the operator's own secrets count.
        proofs: None where the bridge holds the keys of the providers.
    """

    callers: Callers
    operators: Callers | None
    tickets: Tickets | None = None
    keys: TokenKeys | None = None
    proofs: Proofs | None = None


def make_accounts(settings: Settings, upstreams: Mapping[str, Upstream], clock: Clock) -> Accounts | None:
    """Where callers' keys are kept; None where the bridge holds the keys of the providers."""
    if settings.auth != "upstream-key":
        return None
    secret = _octets(settings.account_secret) or secrets.token_bytes(32)
    return Accounts(upstreams, clock, secret=secret, proof_seconds=settings.proof_seconds)


def make_access(
    settings: Settings, origins: Origins, limits: Limits, clock: Clock, pool: Pool, accounts: Accounts | None
) -> Access:
    """How the operator wants callers to be known."""
    known = _by_token(settings, origins, clock)
    if accounts is None:
        return known
    signing = _octets(settings.ticket_secret)
    tickets = Tickets([signing], clock) if signing else None
    proofs = Proofs(
        pool, accounts, clock, seconds=settings.proof_seconds, wait_seconds=settings.cold_wait_seconds
    )
    names = key_headers(dialect_of(name, wishes) for name, wishes in settings.upstreams.items())
    keys = ProviderKeys(accounts, names, limits.try_key)
    callers = Callers(origins, clock, tickets=tickets, keys=keys, proofs=proofs)
    operators = known.callers if settings.token_issuer else None
    return replace(known, callers=callers, operators=operators, tickets=tickets, proofs=proofs)


def _by_token(settings: Settings, origins: Origins, clock: Clock) -> Access:
    if not settings.token_issuer:
        anybody = Callers(origins, clock)
        return Access(anybody, anybody)
    shared = [secret.get_secret_value().encode() for secret in settings.token_secrets]
    own = _octets(settings.ticket_secret)
    signing = [own] if own else shared
    tickets = Tickets(signing, clock) if signing else None
    url, private = settings.token_jwks_url, Hosts(settings.private_hosts)
    keys = TokenKeys(partial(fetch_keys, url, private), clock) if url else None
    tokens = Tokens(
        keys or Secrets(shared), clock, issuer=settings.token_issuer, audience=settings.token_audience
    )
    callers = Callers(origins, clock, tokens, tickets)
    return Access(callers, callers, tickets, keys)


def _octets(secret: SecretStr | None) -> bytes | None:
    return secret.get_secret_value().encode() if secret is not None else None
