"""Tokens: signed by the operator's own secret or by a key server, and what they allow."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Protocol

import jwt

from bridge.clock import Clock
from bridge.errors import Unauthenticated
from bridge.sources.token_keys import SigningKey
from bridge.web.callers import Caller, TokenScope
from bridge.web.grants import read_grant
from bridge.web.signed import check_shape, claims_of, key_id, valid_until

SKEW_SECONDS = 60.0
ALGORITHM = "HS256"

_MAX_NAME = 256
_SCOPES = frozenset(scope.value for scope in TokenScope)


class Keys(Protocol):
    """Where the keys are that tokens are signed with."""

    async def named(self, kid: str | None) -> Sequence[SigningKey]:
        """The keys that may have signed a token which names `kid`."""


class Secrets:
    """Keys that the operator shares with whoever mints tokens: one, or two while one replaces the other."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keys = [SigningKey(ALGORITHM, secret) for secret in secrets]

    async def named(self, kid: str | None) -> Sequence[SigningKey]:
        """All of them; whatever a token calls its key."""
        del kid
        return self._keys


class Tokens:
    """Reads tokens.

    Args:
        issuer: What `iss` must be.
        audience: What `aud` must be or hold.
    """

    def __init__(self, keys: Keys, clock: Clock, *, issuer: str, audience: str) -> None:
        self._keys = keys
        self._clock = clock
        self._issuer = issuer
        self._audience = audience

    async def caller(self, token: str) -> Caller:
        """Who the token speaks for.

        Raises:
            Unauthenticated: It is worth nothing here; one sentence says why.
        """
        check_shape(token)
        keys = await self._keys.named(key_id(token))
        claims = claims_of(token, keys, issuer=self._issuer, audience=self._audience)
        return Caller(
            name=_name(claims.get("sub"), token),
            scopes=_scopes(claims.get("scope")),
            tasks=read_grant(claims.get("tasks")),
            expires_at=valid_until(claims, self._clock.wall(), skew=SKEW_SECONDS),
        )


def mint(secret: bytes, claims: dict[str, Any]) -> str:
    """A token with these claims, signed with a shared secret."""
    return jwt.encode(claims, secret, algorithm=ALGORITHM)


def _name(subject: object, token: str) -> str:
    """The subject; else something that tells this token from others and does not let anybody in."""
    if isinstance(subject, str) and subject:
        return subject[:_MAX_NAME]
    return f"token-{blake2b(token.encode(), digest_size=8).hexdigest()}"


def _scopes(claim: object) -> frozenset[TokenScope]:
    """The scopes we know; key servers add words of their own. Without the claim, none."""
    words = claim.split() if isinstance(claim, str) else claim
    if words is None:
        return frozenset()
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Unauthenticated("the `scope` claim of the token is a text or a list of words")
    return frozenset(TokenScope(word) for word in words if word in _SCOPES)
