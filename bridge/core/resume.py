"""What a client gets that asks for tasks, with or without a cursor: decided here for every delivery.

With an engine that replicas share there is more to it, because a process may be behind its clients, and may
show states that are not recorded while the engine is away:

- Only what is recorded in this epoch is compared with a cursor by its offset.
- A state that is not recorded has a cursor that says how far it is (`shown_of`). For a client that comes with
  such a cursor, only a state that goes beyond it is new.
- A client that is ahead of this process may have seen more than is known here: it gets nothing that is not
  recorded, and nothing at or below its cursor, until this process has caught up.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from bridge.core.cursor import Cursor, EventId, is_later
from bridge.core.event import Event
from bridge.core.merge import same_event
from bridge.core.task import State, Status


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
        epoch: Of its cursor, if that can be used.
        shown: How far the state was that it received last, if that was not recorded; else empty.
        ahead: Whether it is, or may be, beyond what this process has received, while the engine cannot be
            asked.
        beyond: Offset of such a cursor that was given for another list, so that `after` is None: only what is
            above it is certainly newer than what the client has, until the log was received up to there.
    """

    after: int | None = None
    reset_reason: str | None = None
    resumes: bool = False
    epoch: str = ""
    shown: str = ""
    ahead: bool = False
    beyond: int = 0

    @property
    def of_epoch_before(self) -> bool:
        """Whether its cursor is of an earlier epoch, and a `reset` has to wait for the engine."""
        return self.beyond == HELD.beyond


HELD = Position(ahead=True, beyond=2**62)
"""Of a client that gets nothing for now."""


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
    sure: bool = True,
) -> Decision:
    """What a client gets that asks for some tasks. Never fails: an unusable token leads to a reset.

    Args:
        token: Its last event id.
        mark: The mark of its list (`bridge.core.cursor.mark_of`); None on a stream of one task.
        epoch: Of this journal.
        head: The newest offset in it.
        latest: The newest event of each task.
        missing: Whether each task is known not to exist.
        sure: Whether what is beyond `epoch` and `head` is foreign (`Journal.caught_up`).
    """
    position = locate(token, mark, epoch=epoch, head=head, sure=sure)
    absent = [event is None and gone for event, gone in zip(latest, missing, strict=True)]
    nothing_more = all(
        gone or (event is not None and event.state.status.final and is_end_seen(event, position))
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


def locate(token: str | None, mark: str | None, *, epoch: str, head: int, sure: bool = True) -> Position:
    """Interpret a client's last event id; see `decide`."""
    if not token:
        return Position()
    event_id = EventId.parse(token)
    if event_id is None:
        return Position(reset_reason="unknown_cursor", resumes=True)
    cursor = event_id.cursor
    foreign = cursor.epoch != epoch
    ahead = is_later(cursor.epoch, epoch) if foreign else cursor.offset > head
    if (foreign or ahead) and (sure or not ahead):
        # An offset ahead of this journal belongs to another history too: it was restored from a backup. The
        # same answer, or any client could ask how many events there are.
        reset = Position(reset_reason="new_epoch", resumes=True)
        # Unless sure, others may have shown more, and cannot record it now: a reset would go back.
        return reset if sure else HELD._replace(resumes=True, epoch=cursor.epoch)
    if not event_id.is_of(mark):
        # Given for another list. A task of this one may have changed before, unseen.
        unseen = Position(resumes=True, epoch=cursor.epoch)
        return unseen._replace(ahead=True, beyond=cursor.offset) if ahead else unseen
    # Of which task of a list the state was shown, its id does not say; nor is it ever given for one.
    shown = cursor.shown if mark is None else ""
    return Position(cursor.offset, resumes=True, epoch=cursor.epoch, shown=shown, ahead=ahead)


def is_seen(event: Event, position: Position) -> bool:
    """Whether the client gets nothing for this event: it has it, a newer one of its task, or may have."""
    cursor, after = event.cursor, position.after
    if after is None:
        recorded_beyond = cursor.epoch == position.epoch and cursor.offset > position.beyond
        return position.ahead and (bool(cursor.shown) or not recorded_beyond)
    if not (cursor.shown or position.shown or position.ahead):
        return cursor.offset <= after
    if position.ahead and cursor.epoch != position.epoch:
        return True  # in the later epoch it may have been shown more
    if cursor.offset < after if cursor.shown else cursor.offset <= after:
        return True
    return bool(position.shown) and not goes_beyond(event.state, position.shown)


def is_end_seen(event: Event, position: Position) -> bool:
    """Whether the client has received the end of the task for certain; `event` is its end."""
    if position.after is None:
        return False
    if position.shown and _is_end(position.shown):
        return event.state.status is not Status.LOST or position.shown[0] == Status.LOST[0]
    cursor = event.cursor
    return not cursor.shown and cursor.epoch == position.epoch and cursor.offset <= position.after


def is_caught_up(event: Event, position: Position) -> bool:
    """Whether the state that the client was shown, or one as far, is recorded: now offsets decide."""
    cursor, shown = event.cursor, position.shown
    if not shown or cursor.shown or position.after is None or cursor.offset <= position.after:
        return False
    rank, other = _RANKS[event.state.status], _RANK_OF_LETTER.get(shown[0], 0)
    return rank > other or (rank == other and (rank >= _LOST or _permille(event.state) >= int(shown[1:])))


# How far a state is

_RANKS = {
    Status.UNKNOWN: 0,
    Status.QUEUED: 1,
    Status.PROCESSING: 2,
    Status.INPUT_REQUIRED: 2,
    Status.LOST: 3,
    Status.COMPLETED: 4,
    Status.FAILED: 4,
    Status.CANCELLED: 4,
}
_RANK_OF_LETTER = {status[0]: rank for status, rank in _RANKS.items()}
_LOST = _RANKS[Status.LOST]


def shown_of(state: State) -> str:
    """How far a state is, as its cursor says while it is not recorded: `p500` is processing at 50 %."""
    return f"{state.status[0]}{_permille(state)}"


def goes_beyond(state: State, shown: str) -> bool:
    """Whether a state is further than the one shown to a client: by status, progress, or as the end."""
    rank, other = _RANKS[state.status], _RANK_OF_LETTER.get(shown[0], 0)
    if rank >= _LOST:
        return rank > other
    progress, before = _permille(state), int(shown[1:])
    # A higher status with less progress would throw a progress bar back.
    return other < _LOST and progress >= before and (rank > other or (rank == other and progress > before))


def _permille(state: State) -> int:
    return round(10 * (state.progress or 0))


def _is_end(shown: str) -> bool:
    return _RANK_OF_LETTER.get(shown[0], 0) >= _LOST


class Relation(StrEnum):
    """How a state compares with one that was sent and is not recorded."""

    NEWS = "news"
    SAME = "same"
    BEHIND = "behind"


def compare(sent: State, state: State) -> Relation:
    """Whether a state is news to clients that were sent another one, which is not recorded in this epoch."""
    if same_event(sent, state):
        return Relation.SAME
    shown = shown_of(sent)
    if goes_beyond(state, shown):
        return Relation.NEWS
    if _is_end(shown):
        # Two ends differ only where two processes saw different ones: the first stays.
        return Relation.SAME if _RANKS[state.status] == _RANKS[sent.status] else Relation.BEHIND
    level = shown_of(state)[1:] == shown[1:] and _RANKS[state.status] == _RANKS[sent.status]
    return Relation.NEWS if level and state.changed_at > sent.changed_at else Relation.BEHIND


def unrecorded(event: Event, epoch: str, offset: int) -> Event:
    """The event of a state that is not recorded in this epoch, on top of the recorded one at `offset`."""
    return event._replace(cursor=Cursor(epoch, offset, shown_of(event.state)))
