"""Removes secrets from log lines of any origin.

Our own code logs no credential and no query. This is the second line of defence: for lines of libraries, for
messages of foreign exceptions, and for future programming errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

MASK = "[hidden]"
MIN_SECRET = 8  # a shorter one would match ordinary words

# Clients choose the text: every pattern runs in linear time, or a long line would block the log.
_QUOTE = r"(?:\\*[\"'])?"
_RULES = (
    # a header as text, as JSON, or as a Python tuple of str or bytes
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
    """Masks known secrets, and texts that look like one.

    Args:
        secrets: The secrets of the configuration.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._variants: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Mask these as well."""
        self._variants.update(variant for secret in secrets for variant in _variants(secret))
        longest_first = sorted(self._variants, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text with its secrets masked."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        if _SUSPICIOUS.search(text):
            for pattern, replacement in _RULES:
                text = pattern.sub(replacement, text)
        return text


def _variants(secret: str) -> set[str]:
    """A secret and the parts of a `user:password` pair, as they appear in text, in a URL and in a `repr`."""
    parts = {secret, *secret.split(":")}
    variants = {variant for part in parts for variant in (part, quote(part, safe=""), repr(part)[1:-1])}
    return {variant for variant in variants if len(variant) >= MIN_SECRET}
