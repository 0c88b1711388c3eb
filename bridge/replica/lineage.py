"""Which states of a task one state builds on, and what becomes of a state that an outage left unrecorded."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from bridge.core.merge import beyond
from bridge.core.task import State
from bridge.engine.base import Stamp

MAX_RUNS = 8


class Lineage:
    """The stamps of the states that led to the newest one, as runs of versions by one session.

    A stamp names one state in all histories: a state is an ancestor if its stamp is here. As earlier
    versions may use a stamp again after the engine lost states, the same state has the same content too.
    """

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: list[tuple[int, int, str]] = []

    def add(self, stamp: Stamp) -> None:
        """The next state."""
        version, session = stamp
        if self._runs:
            first, last, by = self._runs[-1]
            if by == session and version == last + 1:
                self._runs[-1] = (first, version, by)
                return
        self._runs.append((version, version, session))
        del self._runs[:-MAX_RUNS]

    def restart(self, stamp: Stamp) -> None:
        """What led to this state is not known."""
        self._runs = [(stamp.version, stamp.version, stamp.session)]

    def __contains__(self, stamp: Stamp) -> bool:
        return any(by == stamp.session and first <= stamp.version <= last for first, last, by in self._runs)


class Return(Enum):
    """What an unrecorded state becomes once the engine can be asked."""

    IS_RECORDED = auto()  # it is the newest recorded one: the same content
    AGAIN = auto()  # recorded as it was: the record is older, or gone
    MERGED = auto()  # recorded merged with what others recorded meanwhile
    GIVEN_UP = auto()  # what is recorded says all it says, and more


class Plan(NamedTuple):
    """The decision, and the state to record."""

    become: Return
    state: State | None = None


def plan_return(
    ours: State,
    *,
    stamp: Stamp,
    digest: bytes,
    lineage: Lineage,
    recorded: State | None,
    recorded_stamp: Stamp,
    recorded_digest: bytes,
) -> Plan:
    """Decide about a state that was shown and is not recorded, as far as is known.

    Versions alone decide nothing: two sessions may each have counted up to the same one.

    Args:
        ours: The state shown here.
        stamp: Its own.
        lineage: What it builds on, itself included.
        recorded: The newest recorded state; None for none.
    """
    if recorded is None:
        return Plan(Return.AGAIN, ours)
    if recorded_digest == digest:
        return Plan(Return.IS_RECORDED)
    if recorded_stamp in lineage and recorded_stamp != stamp:
        return Plan(Return.AGAIN, ours)
    merged = beyond(recorded, ours)
    return Plan(Return.GIVEN_UP) if merged is None else Plan(Return.MERGED, merged)
