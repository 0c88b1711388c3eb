"""Signed credentials (JWT): which are believed, and what they say.

Rule 1: the algorithm comes with the key, from the configuration; never from the credential.
Rule 2: whatever bytes come in, the answer is claims or Unauthenticated, and its sentence holds none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import isfinite
from typing import Any

import jwt

from bridge.errors import Unauthenticated
from bridge.sources.token_keys import SigningKey

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
