"""Puts a task's own times where a recording has times, each in the form that was recorded."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from bridge.simulator.tasks import Task, View

LIFE_OF_LINKS = 24 * 3600.0
LATEST = 4e9
"""An end later than this (a caller may wish for any) cannot be written in every form."""
# Between these a number can be a time: 2001 to 2096, in seconds or in milliseconds.
_SECONDS = (1e9, 4e9)
_ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)(?P<between>[T ])(?P<time>\d\d:\d\d:\d\d)"
    r"(?P<part>\.\d+)?(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """The times of one task at one moment, in Unix seconds."""

    created: float
    started: float
    changed: float
    ended: float

    def named(self, key: str) -> float | None:
        """The time that a key speaks of; None for keys that speak of none."""
        folded = key.replace("_", "").replace("-", "").lower()
        for parts, moment in (
            (("expir",), self.ended + LIFE_OF_LINKS),
            (("creat", "submit", "queued"), self.created),
            (("start", "schedul"), self.started),
            (("complet", "finish", "end", "succe"), self.ended),
            (("updat", "modif", "chang", "time", "date", "last"), self.changed),
        ):
            if any(part in folded for part in parts):
                return moment
        return None


def moments_of(task: Task, view: View) -> Moments:
    passed = [when for when, _ in task.transitions if when <= view.at]
    return Moments(
        created=task.created_at,
        started=min(view.at, task.created_at + task.life.queue_seconds),
        changed=passed[-1] if passed else task.created_at,
        ended=min(task.ends_at, LATEST),
    )


def retimed(key: str, value: object, moments: Moments, zone: tzinfo) -> object:
    """The value with the task's time in it; unchanged where it is no time.

    Args:
        zone: of recorded times that are written without one.
    """
    moment = moments.named(key)
    if moment is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return _number(value, moment)
    if not isinstance(value, str):
        return value
    if value.isdecimal():
        return str(_number(int(value), moment))
    return _text(value, moment, zone)


def zone_of(text: str) -> tzinfo:
    """The zone that `UTC` or `+08:00` means."""
    found = _OFFSET.fullmatch(text)
    if found is None:
        return UTC
    offset = timedelta(hours=int(found[2]), minutes=int(found[3]))
    return timezone(-offset if found[1] == "-" else offset)


def _number(value: float, moment: float) -> float:
    factor = 1000 if value >= _SECONDS[0] * 1000 else 1
    if not _SECONDS[0] <= value / factor < _SECONDS[1]:
        return value
    return int(moment * factor) if isinstance(value, int) else moment * factor


def _text(value: str, moment: float, zone: tzinfo) -> str:
    found = _ISO.fullmatch(value)
    if found is None or found["date"] < "1971":  # the zero times of Go and of Unix mean that there is none
        return value
    written = found["zone"] or ""
    at = datetime.fromtimestamp(moment, zone_of(written) if written else zone)
    part = f".{at.microsecond:06d}000"[: len(found["part"])] if found["part"] else ""
    return f"{at:%Y-%m-%d}{found['between']}{at:%H:%M:%S}{part}{written}"
