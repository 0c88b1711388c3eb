"""Reads the ways in which providers write a time, as unix seconds."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

from bridge.dialects.values import number

MILLISECONDS_FROM = 1e11  # in seconds that is the year 5138, in milliseconds 1973
_TOO_LATE = 1e14
_OFFSET = re.compile(r"([+-])(\d{2}):(\d{2})")


def zone_named(name: str) -> timezone:
    """`UTC` or a fixed offset such as `+08:00`.

    Raises:
        ValueError: The name is neither.
    """
    if name.upper() == "UTC":
        return UTC
    match = _OFFSET.fullmatch(name)
    if not match or int(match[2]) > 14 or int(match[3]) > 59:
        raise ValueError(f"{name!r} is neither UTC nor an offset like +08:00")
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)


def moment(value: object, zone: timezone = UTC) -> float | None:
    """Unix seconds of a number (seconds or milliseconds, by size) or an ISO 8601 text.

    None for what is not a time, and for zero times (`0`, `0001-01-01T00:00:00Z`), which some send for "not
    yet".
    """
    seconds = number(value)
    if seconds is None:
        seconds = _written(value, zone) if isinstance(value, str) else None
    elif seconds >= MILLISECONDS_FROM:
        seconds = seconds / 1000 if seconds < _TOO_LATE else None
    return seconds if seconds is not None and seconds > 0 else None


def _written(text: str, zone: timezone) -> float | None:
    try:
        written = datetime.fromisoformat(text.strip())
        if written.tzinfo is None:
            written = written.replace(tzinfo=zone)
        return written.timestamp()
    except (ValueError, OverflowError):
        return None


def moments_in(zone: timezone) -> Callable[[object], float | None]:
    """`moment`, with times written without a zone read in this one."""
    return lambda value: moment(value, zone)
