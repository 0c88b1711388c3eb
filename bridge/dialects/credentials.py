"""Credentials no template can say: minted from the operator's key and the time, by name."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import orjson

from bridge.dialects.dialect import Dialect
from bridge.errors import InvalidRequest

_LIFE_SECONDS = 1800
_CLOCKS_APART_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Minted:
    """A credential and its end.

    Args:
        value: Takes the place of `{api_key}` in the headers.
        expires_at: Unix seconds.
    """

    value: str = field(repr=False)
    expires_at: float


Mint = Callable[[str, float], Minted]


def kling_jwt(api_key: str, now: float) -> Minted:
    """Kling's token, HS256 over the two halves of the key.

    Args:
        api_key: `access_key:secret_key`.
        now: Unix seconds.

    Raises:
        InvalidRequest: The key has not two halves.
    """
    access_key, _, secret_key = api_key.partition(":")
    if not access_key or not secret_key:
        raise InvalidRequest("the key must be access_key:secret_key")
    expires_at = int(now) + _LIFE_SECONDS
    claims = {"iss": access_key, "exp": expires_at, "nbf": int(now) - _CLOCKS_APART_SECONDS}
    signed = b".".join((_part({"alg": "HS256", "typ": "JWT"}), _part(claims)))
    seal = urlsafe_b64encode(hmac.digest(secret_key.encode(), signed, "sha256")).rstrip(b"=")
    return Minted(b".".join((signed, seal)).decode(), expires_at)


def _part(content: Mapping[str, object]) -> bytes:
    return urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=")


def check_key(dialect: Dialect, api_key: str) -> None:
    """Let a key pass that this provider's credential can be made of.

    Raises:
        InvalidRequest: It is not of the form this provider's keys have, or no header can carry it.
    """
    hook = dialect.auth_hook
    dialect.auth_headers(api_key if hook is None else HOOKS[hook](api_key, 0.0).value)


HOOKS: Mapping[str, Mint] = {"kling-jwt": kling_jwt}
