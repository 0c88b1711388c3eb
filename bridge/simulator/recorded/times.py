"""Replaces recorded times with the task's own, each in its recorded format."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from bridge.simulator.tasks import Task, TaskView

LINK_LIFETIME_SECONDS = 24 * 3600.0
MAX_TIME = 4e9
"""Unix time, 2096. A later end (a caller may request any) cannot be written in every format."""
# Numbers in this range are taken for a time: 2001 to 2096, in seconds or milliseconds.
_SECONDS = (1e9, 4e9)
_ISO = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)(?P<between>[T ])(?P<time>\d\d:\d\d:\d\d)"
    r"(?P<part>\.\d+)?(?P<zone>Z|[+-]\d\d:?\d\d)?"
)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTimes:
    """The times of one task at one moment, in Unix seconds."""

    created: float
    started: float
    changed: float
    ended: float

    def named(self, key: str) -> float | None:
        """Return the time that a key names; None for other keys."""
        folded = key.replace("_", "").replace("-", "").lower()
        for parts, moment in (
            (("expir",), self.ended + LINK_LIFETIME_SECONDS),
            (("creat", "submit", "queued"), self.created),
            (("start", "schedul"), self.started),
            (("complet", "finish", "end", "succe"), self.ended),
            (("updat", "modif", "chang", "time", "date", "last"), self.changed),
        ):
            if any(part in folded for part in parts):
                return moment
        return None


def times_of(task: Task, view: TaskView) -> TaskTimes:
    passed = [when for when, _ in task.transitions if when <= view.at]
    return TaskTimes(
        created=task.created_at,
        started=min(view.at, task.created_at + task.lifecycle.queue_seconds),
        changed=passed[-1] if passed else task.created_at,
        ended=min(task.ends_at, MAX_TIME),
    )


def retimed(key: str, value: object, times: TaskTimes, zone: tzinfo) -> object:
    """Return the value with the task's time; unchanged where it is not a time.

    Args:
        zone: time zone of recorded times without one.
    """
    moment = times.named(key)
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
    """Parse `UTC` or `+08:00`."""
    match = _OFFSET.fullmatch(text)
    if match is None:
        return UTC
    offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
    return timezone(-offset if match[1] == "-" else offset)


def _number(value: float, moment: float) -> float:
    factor = 1000 if value >= _SECONDS[0] * 1000 else 1
    if not _SECONDS[0] <= value / factor < _SECONDS[1]:
        return value
    return int(moment * factor) if isinstance(value, int) else moment * factor


def _text(value: str, moment: float, zone: tzinfo) -> str:
    match = _ISO.fullmatch(value)
    if match is None or match["date"] < "1971":  # the zero times of Go and of Unix mean "not set"
        return value
    written = match["zone"] or ""
    at = datetime.fromtimestamp(moment, zone_of(written) if written else zone)
    part = f".{at.microsecond:06d}000"[: len(match["part"])] if match["part"] else ""
    return f"{at:%Y-%m-%d}{match['between']}{at:%H:%M:%S}{part}{written}"
