"""Credentials that no template can express: named code makes them from the operator's key and the time."""

from __future__ import annotations

import hmac
import math
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import orjson

from bridge.dialects.dialect import Dialect
from bridge.errors import InvalidRequest

_LIFETIME_SECONDS = 1800
_CLOCK_SKEW_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Minted:
    """A credential that expires.

    Args:
        value: Used for `{api_key}` in the headers.
        expires_at: Unix seconds; infinite for one that does not expire.
    """

    value: str = field(repr=False)
    expires_at: float


Mint = Callable[[str, float], Minted]


def kling_jwt(api_key: str, now: float) -> Minted:
    """Kling's token, HS256 over the two halves of the key.

    Args:
        api_key: `access_key:secret_key`; without a colon the static key of a relay, which is the credential
            itself.
        now: Unix seconds.

    Raises:
        InvalidRequest: The key is empty, or one of its halves is.
    """
    access_key, colon, secret_key = api_key.partition(":")
    if access_key and not colon:
        return Minted(api_key, math.inf)
    if not access_key or not secret_key:
        raise InvalidRequest("the key must be access_key:secret_key, or a relay's key without a colon")
    expires_at = int(now) + _LIFETIME_SECONDS
    claims = {"iss": access_key, "exp": expires_at, "nbf": int(now) - _CLOCK_SKEW_SECONDS}
    signed = b".".join((_part({"alg": "HS256", "typ": "JWT"}), _part(claims)))
    signature = urlsafe_b64encode(hmac.digest(secret_key.encode(), signed, "sha256")).rstrip(b"=")
    return Minted(b".".join((signed, signature)).decode(), expires_at)


def _part(content: Mapping[str, object]) -> bytes:
    return urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=")


def check_key(dialect: Dialect, api_key: str) -> None:
    """Check a key before it is used.

    Raises:
        InvalidRequest: The key is not of this provider's form, or a header must not contain it.
    """
    hook = dialect.auth_hook
    dialect.auth_headers(api_key if hook is None else HOOKS[hook](api_key, 0.0).value)


HOOKS: Mapping[str, Mint] = {"kling-jwt": kling_jwt}
