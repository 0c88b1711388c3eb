"""What never leaves in a line of the log, whoever wrote it.

Our own code logs no credential and no query. This is the net below it: for what a library says, for the
sentence of a foreign exception, and for the mistake we make tomorrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "[hidden]"
SHORTEST_SECRET = 8  # a shorter one would be found in ordinary words

# none of these looks twice at the same text: what they read is chosen by strangers
_QUOTE = r"(?:\\*[\"'])?"
_RULES = (
    # a header as text, as JSON, or as a pair of Python texts or bytes
    (
        re.compile(
            rf"((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|api[_-]?key|x-key)({_QUOTE}\s*[:=,]\s*b?)({_QUOTE})"
            r"[^\"'\r\n]+",
            re.IGNORECASE,
        ),
        rf"\1\2\3{MASK}",
    ),
    (re.compile(r"\b(bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{6,}\.[\w-]+\.[\w-]*"), MASK),
    (re.compile(r"(\b(?:https?|wss?)://)[^\s/@\"']+@", re.IGNORECASE), rf"\1{MASK}@"),
    (
        re.compile(r"(\b(?:https?|wss?)://(?:[^\s?#\"'<>/]|/(?!/))+[?#])[^\s\"'<>]+", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    (
        re.compile(r"([?&](?:ticket|[\w-]*(?:token|secret|key|sig|signature))=)[^\s&\"'<>]+", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    (re.compile(r"(/v1/callbacks/[^\s/\"']+/)[^\s?\"'<>{][^\s?\"'<>]*"), rf"\1{MASK}"),
)
_SUSPICIOUS = re.compile(r"[?=@]|://|eyJ|/callbacks/|bearer|auth|cookie|key", re.IGNORECASE)


class Redaction:
    """Takes out secrets: those that are known, and what looks like one.

    Args:
        secrets: What the configuration calls secret.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = {fmt for secret in secrets for fmt in _forms(secret)}
        longest_first = sorted(known, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if known else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        if _SUSPICIOUS.search(text):
            for pattern, replacement in _RULES:
                text = pattern.sub(replacement, text)
        return text


def _forms(secret: str) -> set[str]:
    """A secret, the parts of a pair, and what they look like in an address or a `repr`."""
    parts = {secret, *secret.split(":")}
    shapes = {shape for part in parts for shape in (part, quote(part, safe=""), repr(part)[1:-1])}
    return {shape for shape in shapes if len(shape) >= SHORTEST_SECRET}
