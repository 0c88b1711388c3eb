"""Credentials, good and bad, as an issuer or an attacker makes them."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import jwt
import orjson

from bridge.clock import SystemClock

SECRET = "a secret that is shared with the backend 1"
OTHER_SECRET = "a secret that is shared with the backend 2"
ISSUER = "backend.example"
AUDIENCE = "task-event-bridge"
DAY = 86_400.0  # tokens are made when a module is imported: longer than the slowest run of all tests
TOKEN_SETTINGS: dict[str, Any] = {"auth": "token", "token_secrets": [SECRET], "token_issuer": ISSUER}


def claims(
    *tasks: str, scope: Any = "read", seconds: float = DAY, now: float | None = None, **more: Any
) -> dict:
    """What a good token says; a claim given as None is left out."""
    expires = (SystemClock().time() if now is None else now) + seconds
    said = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "exp": expires,
        "scope": scope,
        "tasks": list(tasks),
    }
    return {name: value for name, value in (said | more).items() if value is not None}


def token(
    *tasks: str, secret: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **more: Any
) -> str:
    """A token of our backend's."""
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode(claims(*tasks, **more), secret, algorithm=algorithm, headers=headers)


def bearer(*tasks: str, **more: Any) -> dict[str, str]:
    """The same as a request header."""
    return {"Authorization": f"Bearer {token(*tasks, **more)}"}


def part(value: Any) -> str:
    """One part of a token, as it is."""
    octets = value if isinstance(value, bytes) else orjson.dumps(value)
    return urlsafe_b64encode(octets).rstrip(b"=").decode()
