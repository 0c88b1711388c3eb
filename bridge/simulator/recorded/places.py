"""Finds and sets values at plain dotted places (`data.task_id`) of a JSON document."""

import re
from collections.abc import Iterable

_PLAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")


def plain_places(raw: object) -> tuple[str, ...]:
    """The plain ones among a text or a list of texts; no other JMESPath expression can be written to.

    Of `data.state && data.progress` that is the last part: the others only say when it counts.
    """
    given = raw if isinstance(raw, list) else [raw]
    last = [each.rpartition("&&")[2].strip() for each in given if isinstance(each, str)]
    return tuple(place for place in last if _PLAIN.fullmatch(place))


def find(document: object, places: Iterable[str]) -> object | None:
    """The value at the first of the places that has one."""
    return next((value for place in places if (value := _at(document, place)) is not None), None)


def put(document: object, places: Iterable[str], value: object) -> None:
    """Sets the value at the first of the places that has one already; nothing is added."""
    for place in places:
        above, _, key = place.rpartition(".")
        holder = _at(document, above) if above else document
        if isinstance(holder, dict) and holder.get(key) is not None:
            holder[key] = value
            return


def _at(document: object, place: str) -> object | None:
    value = document
    for key in place.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
