"""Removes secrets from log lines of any origin.

Our own code logs no credential and no query. This is the second line of defence: for lines of libraries, for
messages of foreign exceptions, and for future programming errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bridge.core.secrets import SecretMask

MASK = "[hidden]"

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
        self._known = SecretMask(secrets, MASK.encode())

    def add(self, *secrets: str) -> None:
        """Mask these as well."""
        self._known.add(*secrets)

    def __call__(self, text: str) -> str:
        """The text with its secrets masked."""
        text = self._known.text(text)
        if _SUSPICIOUS.search(text):
            for pattern, replacement in _RULES:
                text = pattern.sub(replacement, text)
        return text
