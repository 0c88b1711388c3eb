"""JSON that is one line for every reader, by any definition of a line end."""

from __future__ import annotations

import re
from typing import Any

import orjson

# U+2028, U+2029 and U+0085: Python's `splitlines`, httpx and Java's line regexes end a line there.
_SEPARATORS = {b"\xe2\x80\xa8": rb"\u2028", b"\xe2\x80\xa9": rb"\u2029", b"\xc2\x85": rb"\u0085"}
_LEADS = (b"\xe2\x80", b"\xc2\x85")
_CONTROL = re.compile(rb"[\x00-\x1f]")
_TO_SPACES = bytes.maketrans(bytes(range(32)), b" " * 32)


def dumps(value: Any) -> bytes:
    """A value as JSON on one line."""
    return escaped(orjson.dumps(value))


def escaped(text: bytes) -> bytes:
    """JSON text with the line separators of Unicode as escapes; they occur only within its strings."""
    # Most documents are ASCII, seen eight bytes at a time. Of the others, two searches for bytes that
    # few of them hold, before three that copy.
    if not text.isascii() and (_LEADS[0] in text or _LEADS[1] in text):
        for separator, escape in _SEPARATORS.items():
            text = text.replace(separator, escape)
    return text


def on_one_line(raw: bytes) -> bytes:
    """JSON text as a provider wrote it, without anything that could end a line.

    Valid JSON has control characters between its tokens only. Parsed and written again, a number may lose
    digits, and a document nested deeper than 254 levels cannot be written.
    """
    return escaped(raw.translate(_TO_SPACES) if _CONTROL.search(raw) else raw)
