"""What this process does for one watched task: a small state machine.

One process alone owns every task from the start. Replicas ask: the answer is that they own it, or attend to
it and receive what its owner sees. `ALONE` exists only while their engine is away: no question can be sent,
and as far as is known here no replica has seen the task.
"""

from __future__ import annotations

from enum import Enum, auto


class Role(Enum):
    """What this process does for a task."""

    OWNING = auto()
    ASKING = auto()
    ATTENDING = auto()
    ALONE = auto()


class Turn(Enum):
    """What may change a role."""

    GRANTED = auto()
    ATTENDS = auto()
    REFUSED = auto()  # what this process saw was not recorded, because another one owns the task
    LEFT_ALONE = auto()  # the engine is away, and nothing is recorded of the task
    RECONNECTED = auto()  # the engine is back


POLLING = frozenset({Role.OWNING, Role.ALONE})
"""The roles in which a process polls a task and follows the provider's stream of it."""

_NEXT = {
    (Role.ASKING, Turn.LEFT_ALONE): Role.ALONE,
    (Role.ATTENDING, Turn.LEFT_ALONE): Role.ALONE,
    (Role.OWNING, Turn.REFUSED): Role.ASKING,
    (Role.ALONE, Turn.REFUSED): Role.ASKING,
    (Role.ALONE, Turn.RECONNECTED): Role.ASKING,
}


def after(role: Role, turn: Turn) -> Role:
    """The role after a turn. An answer always counts; what is not in the table changes nothing."""
    if turn is Turn.GRANTED:
        return Role.OWNING
    if turn is Turn.ATTENDS:
        return Role.ATTENDING
    return _NEXT.get((role, turn), role)
