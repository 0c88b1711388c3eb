"""JSON that a provider wrote into a string of its JSON, put back in its place."""

from __future__ import annotations

import orjson

MAX_UNFOLDED = 3


def unfold(text: str) -> object:
    """The JSON object or array a string holds, else the string itself."""
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return text
    try:
        return orjson.loads(text)
    except (ValueError, RecursionError):
        return text


def unfold_at(document: dict[str, object], keys: tuple[str, ...]) -> None:
    """Put what the string at the path holds in its place; do nothing when there is no such string."""
    parent: object = document
    for key in keys[:-1]:
        parent = parent.get(key) if isinstance(parent, dict) else None
    if isinstance(parent, dict):
        value = parent.get(keys[-1])
        if isinstance(value, str):
            parent[keys[-1]] = unfold(value)
