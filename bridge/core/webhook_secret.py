"""The secrets that deliveries to webhooks are signed with, as Standard Webhooks writes them."""

from __future__ import annotations

import base64
import binascii

SECRET_PREFIX = "whsec_"  # noqa: S105 - not a secret
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64


def key_of(secret: str) -> bytes:
    """The bytes that a secret signs with.

    Raises:
        ValueError: It is not `whsec_` and the base64 of 24 to 64 bytes.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(SECRET_PREFIX) or not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(
            f"a webhook secret is {SECRET_PREFIX} and the base64 of {MIN_SECRET_BYTES} to"
            f" {MAX_SECRET_BYTES} bytes"
        )
    return key
