"""Which values of a provider's document are accepted, and within which bounds."""

from __future__ import annotations

import math
import re

import orjson

from bridge.core.task import check_id
from bridge.dialects.lenient import read_text
from bridge.errors import InvalidRequest

MAX_SENTENCE = 500
MAX_WORD = 200
_MAX_NUMBER = 1e15  # no value of a task is larger, and beyond it milliseconds lose their last digit
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_NUMBER = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,20})?")


def clean(text: str, limit: int = MAX_SENTENCE) -> str:
    """Provider text that is safe in logs and problem documents: bounded, no control characters."""
    if len(text) > limit:
        text = text[:limit]
    return (text if text.isprintable() else _CONTROL.sub(" ", text)).strip()


def word(value: object) -> str | None:
    """A short string; a whole number is spelled out."""
    if isinstance(value, str):
        return clean(value, MAX_WORD) or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def sentence(value: object) -> str | None:
    """A message for display."""
    return clean(value) or None if isinstance(value, str) else None


def identifier(value: object) -> str | None:
    """An id, always as a string: a 64-bit number breaks in JavaScript."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return check_id(str(value))
    except InvalidRequest:
        return None


def number(value: object) -> float | None:
    """A finite number of at most `_MAX_NUMBER`; digits in a string count."""
    if isinstance(value, str):
        value = value.strip()
        if not _NUMBER.fullmatch(value):
            return None
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and abs(value) <= _MAX_NUMBER else None


def positive(value: object) -> float | None:
    """A number that is not negative: a duration, a size, a price."""
    amount = number(value)
    return amount if amount is not None and amount >= 0 else None


def whole(value: object) -> int | None:
    """A count, from 0."""
    amount = positive(value)
    return int(amount) if amount is not None and amount == int(amount) else None


def pixels(value: object) -> int | None:
    """A side of an image; 0 means that the provider does not know."""
    return whole(value) or None


def object_from(data: bytes | str) -> dict[str, object] | None:
    """The JSON object in a caller's text, None for anything else, however deep or broken.

    Strict, unlike the reading of a provider's text: what a caller sends is passed on unchanged.
    """
    try:
        document = orjson.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def unfold(text: str) -> object:
    """The JSON object or array in a string, else the string itself."""
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return text
    document = read_text(text)
    return text if document is None else document


def unfold_at(document: dict[str, object], keys: tuple[str, ...]) -> None:
    """Replace the string at a path by the JSON in it; do nothing when the path has no string."""
    parent: object = document
    for key in keys[:-1]:
        parent = parent.get(key) if isinstance(parent, dict) else None
    if isinstance(parent, dict):
        value = parent.get(keys[-1])
        if isinstance(value, str):
            parent[keys[-1]] = unfold(value)
