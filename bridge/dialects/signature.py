"""How a provider signs its callbacks, as data; whoever takes the callback does the checking."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bridge.dialects.document import Table

_PLACE = re.compile(r"\{([^{}]*)\}")
_HEADER = re.compile(r"header:[A-Za-z0-9-]+")
_ALGORITHMS = {name: name for name in ("sha1", "sha256", "sha512")}
_ENCODINGS = {name: name for name in ("hex", "base64")}
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


_SCHEMES: Mapping[str, Scheme] = {scheme.value: scheme for scheme in Scheme}


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


def read_signature(table: Table) -> Signature | None:
    """What `[callback.signature]` states; None for a scheme nobody knows, which is then noted."""
    scheme = table.choice("scheme", _SCHEMES, None)
    if scheme is None:
        if "scheme" not in table:
            table.mistake("scheme", "missing")
        table.names()
        return None
    needs_header = scheme in (Scheme.HEADER, Scheme.HMAC)
    header = table.text("header", required=True) if needs_header else ""
    tolerance = TOLERANCE_SECONDS if scheme is Scheme.HEADER else _tolerance(table)
    if scheme is not Scheme.HMAC:
        return Signature(scheme=scheme, header=header.lower(), tolerance_seconds=tolerance)
    timestamp_header = table.text("timestamp_header").lower() or None
    content = table.text("content", "{body}")
    _check(table, content, timestamp_header)
    return Signature(
        scheme=scheme,
        header=header.lower(),
        algorithm=table.choice("algorithm", _ALGORITHMS, "sha256"),
        encoding=table.choice("encoding", _ENCODINGS, "hex"),
        prefix=table.text("prefix"),
        content=content,
        timestamp_header=timestamp_header,
        tolerance_seconds=tolerance,
    )


def _tolerance(table: Table) -> float:
    return table.number("tolerance_seconds", TOLERANCE_SECONDS)


def _check(table: Table, content: str, timestamp_header: str | None) -> None:
    for place in _PLACE.findall(content):
        if place not in ("body", "timestamp") and not _HEADER.fullmatch(place):
            table.mistake(
                "content", f"{{{place}}} is not known here ({{body}}, {{timestamp}}, {{header:NAME}})"
            )
    if "{timestamp}" in content and timestamp_header is None:
        table.mistake("content", "{timestamp} needs a timestamp_header")
