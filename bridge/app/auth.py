"""Builds the authenticators the settings ask for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pydantic import SecretStr

from bridge.auth.authenticator import Authenticator, KnownDetails, NoAuth, TokenAuth
from bridge.auth.origins import Origins
from bridge.auth.ownership import OwnershipVerifier
from bridge.auth.provider_keys import ProviderKeyAuth, key_headers
from bridge.auth.signing_keys import SharedSecrets, SigningKeySet
from bridge.auth.tickets import Tickets
from bridge.auth.tokens import Tokens
from bridge.clock import Clock
from bridge.config.settings import Settings, dialect_of
from bridge.sources.accounts import AccountRegistry
from bridge.sources.guard import private_hosts_of
from bridge.sources.jwks import fetch_keys
from bridge.sources.revoked_tokens import RevokedTokens
from bridge.sources.upstream import Upstream
from bridge.watchers.pool import Pool
from bridge.web.limits.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthComponents:
    """What authentication consists of.

    Args:
        operators: Authenticates operators, for metrics and status; None where callers bring provider keys and
            no tokens are configured: then metrics and status are served only on the admin address.
        tickets: None where the bridge issues no tickets.
        keys: The keys of a JWKS endpoint, to be refreshed; None where shared secrets are configured.
        ownership: None unless callers bring provider keys.
        revoked: The tokens that were revoked; None without a file of them.
    """

    authenticator: Authenticator
    operators: Authenticator | None
    tickets: Tickets | None = None
    keys: SigningKeySet | None = None
    ownership: OwnershipVerifier | None = None
    revoked: RevokedTokens | None = None


def make_accounts(
    settings: Settings, upstreams: Mapping[str, Upstream], clock: Clock
) -> AccountRegistry | None:
    """The registry of callers' provider keys; None unless `auth = "upstream-key"`."""
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
    details: KnownDetails,
) -> AuthComponents:
    """The authenticators of `settings.auth`; tokens are accepted wherever `token_issuer` is set."""
    own_secret = _bytes(settings.ticket_secret)
    keys: SigningKeySet | None = None
    tickets: Tickets | None = None
    by_token: TokenAuth | None = None
    revoked = RevokedTokens(settings.revoked_tokens_file) if settings.revoked_tokens_file else None
    if revoked is not None:
        revoked.read()
    if settings.token_issuer:
        shared = [secret.get_secret_value().encode() for secret in settings.token_secrets]
        if settings.token_jwks_url:
            fetch = partial(fetch_keys, settings.token_jwks_url, private_hosts_of(settings.private_hosts))
            keys = SigningKeySet(fetch, clock)
        tokens = Tokens(
            keys or SharedSecrets(shared),
            clock,
            issuer=settings.token_issuer,
            audience=settings.token_audience,
            revoked=revoked,
        )
        # without a secret of their own tickets are signed like tokens; we do not have a JWKS endpoint's keys
        signing = [own_secret] if own_secret else shared
        tickets = Tickets(signing, clock, revoked) if signing else None
        by_token = TokenAuth(origins, clock, tokens, tickets, details)
    if accounts is None:
        authenticator = by_token or NoAuth(clock)
        return AuthComponents(
            authenticator=authenticator,
            operators=authenticator,
            tickets=tickets,
            keys=keys,
            revoked=revoked,
        )
    # beside provider keys, tokens are for operators alone: tickets are signed with their own secret only
    tickets = Tickets([own_secret], clock) if own_secret else None
    ownership = OwnershipVerifier(
        pool,
        accounts,
        clock,
        seconds=settings.ownership_cache_seconds,
        wait_seconds=settings.first_state_timeout_seconds,
    )
    by_key = ProviderKeyAuth(
        origins,
        clock,
        accounts,
        ownership,
        header_names=key_headers(dialect_of(name, config) for name, config in settings.upstreams.items()),
        limit_unverified=limits.check_unverified_key,
        tickets=tickets,
        details=details,
    )
    return AuthComponents(
        authenticator=by_key,
        operators=by_token,
        tickets=tickets,
        keys=keys,
        ownership=ownership,
        revoked=revoked,
    )


def _bytes(secret: SecretStr | None) -> bytes | None:
    return secret.get_secret_value().encode() if secret is not None else None
