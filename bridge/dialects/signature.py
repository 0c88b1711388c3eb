"""How a provider signs its callbacks, as data; whoever takes the callback does the checking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

TOLERANCE_SECONDS = 300.0


class Scheme(StrEnum):
    """The ways of signing that are known.

    `header`: the secret itself stands in a header. `hmac`: a keyed hash over `content`. `standard-webhooks`
    and `fal`: as those two publish it, headers and all.
    """

    HEADER = "header"
    HMAC = "hmac"
    STANDARD_WEBHOOKS = "standard-webhooks"
    FAL = "fal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """How one provider signs.

    Args:
        header: Where the secret or the hash stands, lower-case; empty where the scheme itself says so.
        algorithm: `sha1`, `sha256` or `sha512`.
        encoding: `hex` or `base64`.
        prefix: What stands before the hash in the header.
        content: What is hashed: text with `{body}`, `{timestamp}` and `{header:NAME}` in it.
        timestamp_header: Where the unix second stands that `{timestamp}` means, lower-case; None for none.
        tolerance_seconds: How far that second may be from ours.
    """

    scheme: Scheme
    header: str = ""
    algorithm: str = "sha256"
    encoding: str = "hex"
    prefix: str = ""
    content: str = "{body}"
    timestamp_header: str | None = None
    tolerance_seconds: float = TOLERANCE_SECONDS
