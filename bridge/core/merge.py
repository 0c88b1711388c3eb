"""Merges an observation into the known state, and decides whether the result is news: an event.

Rule 1: a final status never changes; only `lost` may be replaced, by one of the other final statuses.
Rule 2: progress never decreases while a task is open, and keeps its value on failure.
Rule 3: only a poll that started after the newest change may move a status back; a pushed frame may be late,
        a poll that started later cannot be.
Rule 4: signed query strings, observation times and estimates are not events.

The rule of each field is in its row of `core.task.FIELDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b

from bridge.core.columns import Emit, Merge, generate, rows
from bridge.core.estimate import NO_ESTIMATE, Estimate
from bridge.core.task import Failure, Observation, Output, Source, State, Status, TaskFields

# An open status may only move up in this order when the observation may be late.
_RANK = {Status.UNKNOWN: 0, Status.QUEUED: 1, Status.PROCESSING: 2, Status.INPUT_REQUIRED: 2}


def merge(
    known: State | None,
    observation: Observation,
    *,
    source: Source,
    unix_time: float,
    estimate: Estimate = NO_ESTIMATE,
    late: bool = False,
) -> State | None:
    """The state to record; None when the observation is not an event.

    Args:
        unix_time: When it was observed, Unix seconds.
        estimate: What was estimated from it.
        late: Whether `observation` may be older than `known`: a pushed frame, or a poll that started before
            it.
    """
    if known is not None:
        if known.status.final and not (
            # The provider forgot the task and remembers it after all: that is the better answer.
            known.status is Status.LOST and observation.status.final and observation.status is not Status.LOST
        ):
            return None
        # An end is believed even when it comes late: nothing can follow it.
        if late and not observation.status.final and _RANK[observation.status] < _RANK.get(known.status, 0):
            return None
    state = _merged(known or unknown(unix_time=unix_time), observation, source, unix_time, estimate)
    return state if known is None or _differs(known, state) else None


def lost(known: State | None, why: Failure, *, unix_time: float) -> State:
    """The state of a task that its upstream no longer shows; everything known about it is kept."""
    return replace(
        known or unknown(unix_time=unix_time),
        status=Status.LOST,
        eta_at=None,
        eta_by=None,
        error=why,
        changed_at=unix_time,
        observed_at=unix_time,
        source=Source.POLL,
    )


def beyond(known: State, other: State) -> State | None:
    """What another process's state adds to the known one, both of the same task; None for nothing.

    Neither is known to follow the other: an end counts, a later status, more progress, or a later time with
    the same of both. What goes back is not news.
    """
    if other.changed_at < known.changed_at and not other.status.final:
        ahead = _RANK[other.status] > _RANK.get(known.status, 9)
        if not ahead and (other.progress or 0.0) <= (known.progress or 0.0):
            return None
    return merge(
        known,
        _observation_of(other),
        source=other.source,
        unix_time=other.changed_at,
        estimate=Estimate(other.eta_at, other.eta_by),
        late=True,
    )


def unknown(*, unix_time: float) -> State:
    """The state of a task that has not been observed yet. Sent to clients, never recorded."""
    return State(status=Status.UNKNOWN, changed_at=unix_time, observed_at=unix_time, source=Source.POLL)


def registered(*, unix_time: float) -> State:
    """The recorded state of a task that was registered and that no source has shown yet."""
    return State(status=Status.UNKNOWN, changed_at=unix_time, observed_at=unix_time, source=Source.SUBMIT)


def is_unseen(state: State) -> bool:
    """Whether a recorded state is that of a registered task which no source has shown yet.

    A submit never records one like it: what was accepted is `queued`, unless the provider's word says
    otherwise.
    """
    return state.source is Source.SUBMIT and _observation_of(state) == _NOTHING


def _progress(before: float | None, observation: Observation) -> float | None:
    if observation.status is Status.COMPLETED:
        return 100  # the last value reported is often lower
    if observation.status.final:
        # Some report 0 with a failure, which would throw the progress bar back.
        return before if before is not None else observation.progress
    if observation.progress is None or (before is not None and before > observation.progress):
        return before
    return observation.progress


def _unsigned(output: Output) -> tuple[object, ...]:
    # Providers sign their links afresh for each poll: with the query, every poll would be an event.
    url = output.url.partition("?")[0] if output.url is not None else None
    return (
        output.type,
        url,
        output.file_id,
        output.width,
        output.height,
        output.duration_seconds,
        output.data,
    )


_ESTIMATED = (Status.QUEUED, Status.PROCESSING, Status.INPUT_REQUIRED)
"""A tuple, for the same reason as that of the final ones in `core.task`."""

_MERGED = {
    Merge.REPLACE: "observation.{0}",
    Merge.KEEP: "observation.{0} if observation.{0} is not None else before.{0}",
    Merge.KEEP_FILLED: "observation.{0} or before.{0}",
    Merge.PROGRESS: "_progress(before.{0}, observation)",
    Merge.ETA_AT: "estimate.at if observation.status in _ESTIMATED else None",
    Merge.ETA_BY: "estimate.by if observation.status in _ESTIMATED else None",
    Merge.NOW: "unix_time",
    Merge.SOURCE: "source",
}
_COMPARED = {Emit.ALWAYS: "state.{0}", Emit.UNSIGNED: "tuple(map(_unsigned, state.{0}))"}

_merged: Callable[[State, Observation, Source, float, Estimate], State] = generate(
    "_merged(before, observation, source, unix_time, estimate)",
    [
        "return State(",
        *(f"    {row.name}={_MERGED[row.merge].format(row.name)}," for row in rows(State)),
        ")",
    ],
    {"State": State, "_progress": _progress, "_ESTIMATED": _ESTIMATED},
)
"""The observation copied over the known state, each field by the rule of its row."""

event_values: Callable[[State], tuple[object, ...]] = generate(
    "event_values(state)",
    [
        "return (",
        *(f"    {_COMPARED[row.emit].format(row.name)}," for row in rows(State) if row.emit in _COMPARED),
        ")",
    ],
    {"_unsigned": _unsigned},
)
"""The values whose change is an event."""


_observation_of: Callable[[State], Observation] = generate(
    "_observation_of(state)",
    ["return Observation(", *(f"    {row.name}=state.{row.name}," for row in rows(TaskFields)), ")"],
    {"Observation": Observation},
)
"""The fields of a state that an observation has too."""

_NOTHING = Observation(status=Status.UNKNOWN)


def _differs(known: State, state: State) -> bool:
    return event_values(known) != event_values(state)


def same_event(one: State, other: State) -> bool:
    """Whether two states are the same event: they differ in signatures, times and estimates at most."""
    return not _differs(one, other)


def is_ended(state: State) -> bool:
    """Whether nothing can replace a state: it is final, and not `lost`."""
    return state.status.final and state.status is not Status.LOST


def amends(previous: State | None, state: State) -> bool:
    """Whether a state only adds to an end what makes no event, such as where its copies are.

    Not of one and the same state: its jobs may be planned once more (`bridge.webhooks.late`).
    """
    return (
        previous is not None
        and previous is not state
        and previous.status.final
        and previous.status is state.status
        and same_event(previous, state)
    )


def newly_stored(previous: State | None, state: State) -> bool:
    """Whether an amendment brings a copy of an output that had none."""
    if previous is None or not any(output.stored_url for output in state.outputs):
        return False  # nearly always, where copies are made at all
    before = sum(output.stored_url is not None for output in previous.outputs)
    stored = sum(output.stored_url is not None for output in state.outputs)
    return stored > before and amends(previous, state)


def digest_of(state: State) -> bytes:
    """Of the values whose change is an event: the same for the same content seen by two bridges."""
    return blake2b(repr(event_values(state)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
