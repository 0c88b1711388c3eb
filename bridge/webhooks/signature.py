"""The headers and the signature of a delivery, as Standard Webhooks has them (standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

from bridge.core.webhook_secret import SECRET_PREFIX, key_of

SECRET_BYTES = 32


def new_secret() -> str:
    """A random secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(delivery: str, timestamp: int, body: bytes, signing: Iterable[str]) -> dict[str, str]:
    """The headers of one attempt.

    Args:
        delivery: Its id, the same for every attempt.
        timestamp: Unix seconds of this attempt.
        signing: Secrets, each of which signs.
    """
    content = f"{delivery}.{timestamp}.".encode() + body
    signatures = [
        "v1," + base64.b64encode(hmac.new(key_of(secret), content, hashlib.sha256).digest()).decode()
        for secret in signing
    ]
    return {
        "webhook-id": delivery,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
