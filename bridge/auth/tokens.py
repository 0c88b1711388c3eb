"""Tokens (JWT, RFC 7519), signed with a shared secret or a published key; the claims say what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import blake2b
from math import isfinite
from typing import Any

import jwt

from bridge.auth.caller import Caller, TokenScope
from bridge.auth.grants import read_grant, read_tags
from bridge.auth.signing_keys import SHARED_KEY_ALGORITHM, KeySource, SigningKey
from bridge.clock import Clock
from bridge.errors import Unauthenticated
from bridge.sources.revoked_tokens import RevokedTokens

SKEW_SECONDS = 60.0
MAX_CREDENTIAL = 8 * 1024

_MAX_NAME = 256
_SCOPES = frozenset(scope.value for scope in TokenScope)
_SHAPE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_OPTIONS: Any = {
    "require": ["iss", "aud", "exp"],
    "verify_exp": False,  # the times are checked with our own clock, in `valid_until`
    "verify_nbf": False,
    "verify_iat": False,
    "enforce_minimum_key_length": True,
}
# What PyJWT raises for hostile input: its own errors, and others it does not wrap.
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


class Tokens:
    """Verifies tokens.

    Args:
        issuer: The required `iss`.
        audience: The required `aud`, or one of its entries.
        revoked: The tokens that were revoked; None where none can be.
    """

    def __init__(
        self,
        keys: KeySource,
        clock: Clock,
        *,
        issuer: str,
        audience: str,
        revoked: RevokedTokens | None = None,
    ) -> None:
        self._keys = keys
        self._revoked = revoked
        self._clock = clock
        self._issuer = issuer
        self._audience = audience

    async def caller(self, token: str) -> Caller:
        """The caller a token was issued to.

        Raises:
            Unauthenticated: The token is not valid here; the message says why and never quotes the token.
        """
        check_shape(token)
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except _UNREADABLE:
            raise Unauthenticated("malformed token: not a JWT") from None
        keys = await self._keys.candidates(kid if isinstance(kid, str) else None)
        claims = verified_claims(token, keys, issuer=self._issuer, audience=self._audience)
        token_id = check_revoked(claims.get("jti"), self._revoked)
        subject = claims.get("sub")
        if isinstance(subject, str) and subject:
            name = _short(subject)
        else:
            # a hash distinguishes tokens without a subject in limits, and is useless to a reader of the log
            name = f"token-{blake2b(token.encode(), digest_size=8).hexdigest()}"
        tags = read_tags(claims.get("tags"))
        return Caller(
            name=name,
            scopes=_read_scopes(claims.get("scope")),
            tasks=read_grant(claims.get("tasks"), tags),
            expires_at=valid_until(claims, self._clock.time(), skew=SKEW_SECONDS),
            token_id=token_id,
            own_tags=tags,
        )


def mint(secret: bytes, claims: dict[str, Any]) -> str:
    """A token with these claims, signed with a shared secret."""
    return jwt.encode(claims, secret, algorithm=SHARED_KEY_ALGORITHM)


def _short(subject: str) -> str:
    """A subject as the name of its caller: what is cut off still distinguishes two of them."""
    if len(subject) <= _MAX_NAME:
        return subject
    rest = blake2b(subject.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{subject[: _MAX_NAME - len(rest) - 1]}-{rest}"


def check_shape(credential: str) -> None:
    """Reject what cannot be a token before anything parses it.

    Raises:
        Unauthenticated: It is longer than 8 KiB, or not three parts of base64url.
    """
    if len(credential) > MAX_CREDENTIAL:
        raise Unauthenticated("malformed token: longer than 8 KiB")
    if not _SHAPE.fullmatch(credential):
        raise Unauthenticated("malformed token: not a JWT")


def verified_claims(
    credential: str, keys: Iterable[SigningKey], *, issuer: str, audience: str
) -> dict[str, Any]:
    """The claims of a credential that one of the keys has signed.

    Raises:
        Unauthenticated: None of the keys signed it, or its issuer or audience is another.
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
            raise Unauthenticated("the token lacks one of the claims iss, aud and exp") from None
        except jwt.InvalidIssuerError:
            raise Unauthenticated("the token has the wrong issuer") from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("the token has the wrong audience") from None
        except _UNREADABLE:
            continue
    raise Unauthenticated("invalid token signature")


def check_revoked(claim: object, revoked: RevokedTokens | None) -> str | None:
    """The id of a token, from the claim that carries it; None where there is none.

    Raises:
        Unauthenticated: The token was revoked.
    """
    if not isinstance(claim, str):
        return None
    if revoked is not None and claim.strip() in revoked.ids:
        raise Unauthenticated("the token was revoked")
    return claim


def valid_until(claims: dict[str, Any], now: float, *, skew: float) -> float:
    """When the credential expires, in Unix seconds.

    A token used after its `exp` but within `skew` expires at the end of the skew: its stream is short. If it
    expired at `exp`, each stream would end at once and the client would reconnect in a loop.

    Args:
        skew: Seconds by which the issuer's clock may differ from ours.

    Raises:
        Unauthenticated: It has expired, or is not valid yet.
    """
    expires, not_before = _seconds(claims["exp"]), _seconds(claims.get("nbf", 0))
    if now >= expires + skew:
        raise Unauthenticated("the token has expired")
    if now < not_before - skew:
        raise Unauthenticated("the token is not valid yet")
    return expires if now < expires else expires + skew


def _read_scopes(claim: object) -> frozenset[TokenScope]:
    """The known scopes of a `scope` claim; identity providers add others. A missing claim grants none."""
    words = claim.split() if isinstance(claim, str) else claim
    if words is None:
        return frozenset()
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Unauthenticated("the `scope` claim of the token must be a string or a list of strings")
    return frozenset(TokenScope(word) for word in words if word in _SCOPES)


def _seconds(value: object) -> float:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
            return float(value)
    except OverflowError:  # an integer too large for a float
        pass
    raise Unauthenticated("the `exp` and `nbf` claims of the token must be numbers of seconds")
