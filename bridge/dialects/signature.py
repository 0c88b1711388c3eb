"""How a provider signs its callbacks, as data; `sources` verifies them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

TOLERANCE_SECONDS = 300.0


class Scheme(StrEnum):
    """The signature schemes we know.

    `header`: the secret itself is in a header. `hmac`: a keyed hash over `content`. `standard-webhooks` and
    `fal`: as those two publish it, including the headers.
    """

    HEADER = "header"
    HMAC = "hmac"
    STANDARD_WEBHOOKS = "standard-webhooks"
    FAL = "fal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """How one provider signs.

    Args:
        header: Holds the secret or the hash, lower-case; empty where the scheme defines it.
        algorithm: `sha1`, `sha256` or `sha512`.
        encoding: `hex` or `base64`.
        prefix: What precedes the hash in the header.
        content: What is hashed: text with `{body}`, `{timestamp}` and `{header:NAME}` in it.
        timestamp_header: Holds the unix second of `{timestamp}`, lower-case; None for none.
        tolerance_seconds: How far that second may be from our clock.
    """

    scheme: Scheme
    header: str = ""
    algorithm: str = "sha256"
    encoding: str = "hex"
    prefix: str = ""
    content: str = "{body}"
    timestamp_header: str | None = None
    tolerance_seconds: float = TOLERANCE_SECONDS
