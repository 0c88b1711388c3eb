"""What the journal carries: a state that was news, and a notice about a task."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from bridge.core.cursor import Cursor
from bridge.core.task import State, TaskKey


class Event(NamedTuple):
    """A state that was news, recorded.

    Args:
        seen: Monotonic seconds when a source saw it, in the process that saw it; 0 after a restart.
    """

    key: TaskKey
    cursor: Cursor
    state: State
    seen: float = 0.0


class NoticeCode(StrEnum):
    """What a stream may say beside states."""

    STALE = "stale"
    FRESH = "fresh"
    STALLED = "stalled"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    CREDENTIAL_REFUSED = "credential_refused"
    LINKS_EXPIRING = "links_expiring"
    TASK_NOT_FOUND = "task_not_found"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a viewer should know about how a task is seen; it changes no state.

    Args:
        code: What happened; `fresh` takes back every other one of the task.
        retriable: Whether the bridge goes on by itself.
    """

    code: NoticeCode
    message: str
    retriable: bool = True


class Closing(StrEnum):
    """Why a connection ends. A value, not an exception: every ending is planned for."""

    FINISHED = "finished"
    GONE = "gone"
    DRAIN = "drain"
    AGE = "age"
    SLOW = "slow"
    EXPIRED = "expired"
    OVER_CAPACITY = "over_capacity"

    @property
    def websocket_code(self) -> int:
        """Close code; 4000-4499 and the 101x come back, 4500-4999 do not."""
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
