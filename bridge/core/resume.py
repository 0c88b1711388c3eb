"""What a client gets that asks for tasks, with or without a cursor: decided here for every delivery."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from bridge.core.cursor import EventId
from bridge.core.event import Event


class Resume(StrEnum):
    """Result of a resume; also the label of `bridge_resumes_total`."""

    CURRENT = "current"
    NEWER = "newer"
    RESET = "reset"
    ENDED = "ended"


class Position(NamedTuple):
    """Where a client left off.

    Args:
        after: Offset of the last event it received; None for a client that gets every current state.
        reset_reason: Why its cursor cannot be used; the code that `reset` carries.
        resumes: Whether it came with a cursor, usable or not.
    """

    after: int | None = None
    reset_reason: str | None = None
    resumes: bool = False


class Decision(NamedTuple):
    """The answer to a request for some tasks.

    Args:
        resume: The result for a client that came with a cursor; None for a new client.
        nothing_more: Every task is final and its end was received, or it does not exist: no stream, and no
            call to the provider. HTTP 204 for a client that came with a cursor, 404 for one without.
    """

    position: Position
    resume: Resume | None
    nothing_more: bool


def decide(
    token: str | None,
    mark: str | None,
    *,
    epoch: str,
    head: int,
    latest: Sequence[Event | None],
    missing: Sequence[bool],
) -> Decision:
    """What a client gets that asks for some tasks. Never fails: an unusable token leads to a reset.

    Args:
        token: Its last event id.
        mark: The mark of its list (`bridge.core.cursor.mark_of`); None on a stream of one task.
        epoch: Of this journal.
        head: The newest offset in it.
        latest: The newest event of each task.
        missing: Whether each task is known not to exist.
    """
    position = locate(token, mark, epoch=epoch, head=head)
    absent = [event is None and gone for event, gone in zip(latest, missing, strict=True)]
    nothing_more = all(
        gone or (event is not None and is_seen(event, position) and event.state.status.final)
        for event, gone in zip(latest, absent, strict=True)
    )
    if not position.resumes:
        return Decision(position, None, nothing_more)
    if nothing_more:
        return Decision(position, Resume.ENDED, nothing_more=True)
    if position.reset_reason is not None:
        return Decision(position, Resume.RESET, nothing_more=False)
    quiet = position.after is not None and all(event is None or is_seen(event, position) for event in latest)
    return Decision(position, Resume.CURRENT if quiet else Resume.NEWER, nothing_more=False)


def locate(token: str | None, mark: str | None, *, epoch: str, head: int) -> Position:
    """Interpret a client's last event id."""
    if not token:
        return Position()
    event_id = EventId.parse(token)
    if event_id is None:
        return Position(reset_reason="unknown_cursor", resumes=True)
    if event_id.cursor.epoch != epoch or event_id.cursor.offset > head:
        # An offset ahead of this journal belongs to another history too: it was restored from a backup. The
        # same answer, or any client could ask how many events there are.
        return Position(reset_reason="new_epoch", resumes=True)
    if event_id.mark != mark:
        # Given for another list. A task of this one may have changed before, unseen.
        return Position(resumes=True)
    return Position(after=event_id.cursor.offset, resumes=True)


def is_seen(event: Event, position: Position) -> bool:
    """Whether the client has this event or a newer one of its task."""
    return position.after is not None and event.cursor.offset <= position.after
