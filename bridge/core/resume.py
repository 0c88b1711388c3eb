"""Resuming a stream: what a reconnecting client has missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from bridge.core.cursor import Cursor
from bridge.core.event import Event


class Resume(StrEnum):
    """Result of a resume; also the label of `bridge_resumes_total`."""

    CURRENT = "current"
    NEWER = "newer"
    RESET = "reset"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Position:
    """Where a client left off.

    Args:
        after: Offset of the last event it received; None for a new client.
        reset_reason: Why its cursor cannot be used; the code that `reset` carries.
    """

    after: int | None = None
    reset_reason: str | None = None


def locate(token: str | None, *, epoch: str, head: int) -> Position:
    """Interpret a client's last event id. Never fails: an unusable token leads to a reset.

    Args:
        epoch: Of this journal.
        head: The newest offset in it.
    """
    if not token:
        return Position()
    cursor = Cursor.parse(token)
    if cursor is None:
        return Position(reset_reason="unknown_cursor")
    if cursor.epoch != epoch:
        return Position(reset_reason="new_epoch")
    if cursor.offset > head:
        # The same epoch, yet not issued by this journal: it was restored from a backup.
        return Position(reset_reason="future_cursor")
    return Position(after=cursor.offset)


def resume(position: Position, latest: Sequence[Event | None]) -> Resume | None:
    """Result of resuming on tasks with these newest events; None for a new client."""
    if position.reset_reason is not None:
        return Resume.RESET
    if position.after is None:
        return None
    known = [event for event in latest if event is not None]
    if any(event.cursor.offset > position.after for event in known):
        return Resume.NEWER
    # Only if every task is known: one without an event may still produce its first.
    if len(known) == len(latest) and all(event.state.status.final for event in known):
        return Resume.ENDED
    return Resume.CURRENT
