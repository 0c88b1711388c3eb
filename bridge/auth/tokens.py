"""Tokens: signed by the operator's own secret or by a key server, and what they allow."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from math import isfinite
from typing import Any, Protocol

import jwt

from bridge.auth.authenticator import Caller, TokenScope
from bridge.auth.grants import read_grant
from bridge.auth.signing_keys import SigningKey
from bridge.clock import Clock
from bridge.errors import Unauthenticated

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
            expires_at=valid_until(claims, self._clock.time(), skew=SKEW_SECONDS),
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


MAX_CREDENTIAL = 8 * 1024

_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_OPTIONS: Any = {
    "require": ["iss", "aud", "exp"],
    "verify_exp": False,  # with our own clock, below
    "verify_nbf": False,
    "verify_iat": False,
    "enforce_minimum_key_length": True,
}
# What the library raises for hostile input, wrapped by it or not.
_UNREADABLE = (
    jwt.PyJWTError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    NotImplementedError,
)


def check_shape(credential: str) -> None:
    """Refuse what cannot be one before anything is parsed.

    Raises:
        Unauthenticated: It is longer than 8 KiB, or not three parts of base64url.
    """
    if len(credential) > MAX_CREDENTIAL:
        raise Unauthenticated("the credential is longer than 8 KiB")
    if not _SHAPE.fullmatch(credential):
        raise Unauthenticated("the credential is no signed token")


def key_id(credential: str) -> str | None:
    """Which key it says it was signed with; proves nothing.

    Raises:
        Unauthenticated: It cannot be read.
    """
    try:
        named = jwt.get_unverified_header(credential).get("kid")
    except _UNREADABLE:
        raise Unauthenticated("the credential is no signed token") from None
    return named if isinstance(named, str) else None


def claims_of(credential: str, keys: Iterable[SigningKey], *, issuer: str, audience: str) -> dict[str, Any]:
    """What a credential says that one of the keys has signed.

    Raises:
        Unauthenticated: None has, or it is from or for somebody else.
    """
    for key in keys:
        try:
            return jwt.decode(
                credential,
                key.key,
                algorithms=[key.algorithm],
                issuer=issuer,
                audience=audience,
                options=_OPTIONS,
            )
        except jwt.MissingRequiredClaimError:
            raise Unauthenticated("the credential lacks one of iss, aud and exp") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the credential is of another issuer") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the credential is for somebody else") from None
        except _UNREADABLE:
            continue
    raise Unauthenticated("the credential is signed by no key that counts here")


def valid_until(claims: dict[str, Any], now: float, *, skew: float) -> float:
    """When the credential ends, in Unix seconds.

    One that is used after its `exp`, within `skew`, ends when that is over: who opens a stream with it gets a
    short one, not one that ends at once, again and again.

    Args:
        skew: Seconds by which the issuer's clock may differ from ours.

    Raises:
        Unauthenticated: It has ended, or has not begun.
    """
    expires, begins = _seconds(claims["exp"]), _seconds(claims.get("nbf", 0))
    if now >= expires + skew:
        raise Unauthenticated("the credential has expired")
    if now < begins - skew:
        raise Unauthenticated("the credential is not valid yet")
    return expires if now < expires else expires + skew


def _seconds(value: object) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            return float(value)
    except OverflowError:  # an integer no float can hold
        pass
    raise Unauthenticated("the times in the credential are no numbers of seconds")
