"""Reads and replaces values at plain dotted paths (`data.task_id`) of a JSON document."""

import re
from collections.abc import Iterable

_PLAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def plain_paths(raw: object) -> tuple[str, ...]:
    """Return the plain paths in a string or list; other JMESPath expressions cannot be written to.

    Of `data.state && data.progress` only the last part counts: the others are conditions.
    """
    expressions = raw if isinstance(raw, list) else [raw]
    last = [text.rpartition("&&")[2].strip() for text in expressions if isinstance(text, str)]
    return tuple(path for path in last if _PLAIN.fullmatch(path))


def find(document: object, paths: Iterable[str]) -> object | None:
    """Return the value at the first path that has one."""
    return next((value for path in paths if (value := _at(document, path)) is not None), None)


def replace(document: object, paths: Iterable[str], value: object) -> None:
    """Replace the value at the first path that has one; nothing is added."""
    for path in paths:
        above, _, key = path.rpartition(".")
        holder = _at(document, above) if above else document
        if isinstance(holder, dict) and holder.get(key) is not None:
            holder[key] = value
            return


def _at(document: object, path: str) -> object | None:
    value = document
    for key in path.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
