"""What the journal distributes: events, which are recorded, and notices, which are not."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from bridge.core.cursor import Cursor
from bridge.core.task import State, TaskKey

_LAST_SECOND = 253_402_300_799
"""Of the year 9999: the calendar of a timestamp ends there."""


class Event(NamedTuple):
    """A recorded state.

    Args:
        observed_at: Monotonic seconds when this process observed it; 0 when it was read from the journal.
    """

    key: TaskKey
    cursor: Cursor
    state: State
    observed_at: float = 0.0


class Confirmation(NamedTuple):
    """The newest state was seen again, unchanged.

    Args:
        observed_at: Unix seconds of the poll or frame that showed it.
        eta_at: The estimate made then: when half of such tasks are done, Unix seconds; None if unknown.
        eta_by: When nine of ten are.
    """

    observed_at: float
    eta_at: float | None = None
    eta_by: float | None = None


def read_confirmation(
    observed_at: object = None, eta_at: object = None, eta_by: object = None, *_: object
) -> Confirmation | None:
    """A confirmation as another process wrote it, perhaps of another version: with fewer fields, or more.

    None if it does not say when: what was written beside it counts nevertheless.
    """
    seen_at = _moment(observed_at)
    return None if seen_at is None else Confirmation(seen_at, _moment(eta_at), _moment(eta_by))


def _moment(value: object) -> float | None:
    """Unix seconds of a number or its text; None for anything else."""
    try:
        seconds = float(value)  # type: ignore[arg-type] # what is no number raises TypeError
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds <= _LAST_SECOND else None  # a comparison with NaN is False


class NoticeCode(StrEnum):
    """The out-of-band messages of a stream; documented in docs/concepts.md."""

    STALE = "stale"
    FRESH = "fresh"
    STALLED = "stalled"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    CREDENTIAL_REFUSED = "credential_refused"
    UNKNOWN_STATUS = "unknown_status"
    RESULT_UNAVAILABLE = "result_unavailable"
    RAW_OMITTED = "raw_omitted"
    LINKS_EXPIRING = "links_expiring"
    TASK_NOT_FOUND = "task_not_found"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Notice:
    """An out-of-band message about a task; it changes no state.

    Args:
        code: What happened; `fresh` revokes every other notice of the task.
        retriable: Whether the bridge keeps trying without the client's help.
    """

    code: NoticeCode
    message: str
    retriable: bool = True


class Closing(StrEnum):
    """Why the bridge closes a connection. A value, not an exception: each of them is expected."""

    FINISHED = "finished"
    GONE = "gone"
    DRAIN = "drain"
    AGE = "age"
    SLOW = "slow"
    EXPIRED = "expired"
    OVER_CAPACITY = "over_capacity"

    @property
    def websocket_code(self) -> int:
        """The WebSocket close code. Clients reconnect after 4000-4499 and 101x, not after 4500-4999."""
        return _WEBSOCKET_CODES[self]


_WEBSOCKET_CODES = {
    Closing.FINISHED: 1000,
    Closing.GONE: 1001,
    Closing.DRAIN: 1012,
    Closing.AGE: 4002,
    Closing.SLOW: 4001,
    Closing.EXPIRED: 4501,
    Closing.OVER_CAPACITY: 1013,
}
