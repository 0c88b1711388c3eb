"""What a returning client gets: nothing, the newer state, or a reset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bridge.core.cursor import Cursor
from bridge.core.event import Event


class Resume(StrEnum):
    """How a resume went; also the label of `bridge_resumes_total`."""

    CURRENT = "current"
    NEWER = "newer"
    RESET = "reset"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a client says it stands.

    Args:
        after: Offset it has seen everything up to; None for a client that starts.
        reset_reason: Why its cursor cannot be honoured, when it cannot.
    """

    after: int | None = None
    reset_reason: str | None = None


def locate(token: str | None, *, epoch: str, head: int) -> Position:
    """Read what a client sent as its last event id. Never fails: what we cannot honour is a reset."""
    if not token:
        return Position()
    cursor = Cursor.parse(token)
    if cursor is None:
        return Position(reset_reason="unknown_cursor")
    if cursor.epoch != epoch:
        return Position(reset_reason="new_epoch")
    if cursor.offset > head:
        return Position(reset_reason="future_cursor")
    return Position(after=cursor.offset)


def resume(position: Position, latest: Sequence[Event | None]) -> Resume | None:
    """What became of a resume on these tasks; None for a client that starts."""
    if position.reset_reason is not None:
        return Resume.RESET
    if position.after is None:
        return None
    known = [event for event in latest if event is not None]
    if any(event.cursor.offset > position.after for event in known):
        return Resume.NEWER
    if len(known) == len(latest) and all(event.state.status.final for event in known):
        return Resume.ENDED
    return Resume.CURRENT


def _offset(event: Event) -> int:
    return event.cursor.offset
