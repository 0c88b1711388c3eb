"""What is news: one observation weighed against what was known.

Rule 1: a final state is a latch; only a real final state may replace `lost`.
Rule 2: progress never goes down while a task is open, and stays where it was on failure.
Rule 3: only a look that began after the newest change may move a status back; a pushed
        frame may be late, a poll that began later cannot be.
Rule 4: signed query strings, times of looking and estimates are no news.
"""

from __future__ import annotations

from dataclasses import replace

from bridge.core.task import Observation, Output, Source, State, Status

_RANK = {Status.UNKNOWN: 0, Status.QUEUED: 1, Status.PROCESSING: 2, Status.INPUT_REQUIRED: 2}


def merge(
    known: State | None,
    seen: Observation,
    *,
    source: Source,
    wall: float,
    eta_seconds: float | None = None,
    late: bool = False,
) -> State | None:
    """The state to record, or None when `seen` tells nothing new.

    Args:
        wall: Unix seconds of the observation.
        late: Whether `seen` may be older than `known` (a pushed frame, a look that began before).
    """
    if known is not None:
        if known.status.final and not (known.status is Status.LOST and _real_ending(seen.status)):
            return None
        if late and not seen.status.final and _RANK[seen.status] < _RANK.get(known.status, 0):
            return None
    state = _weighed(known, seen, source, wall, eta_seconds)
    return state if known is None or _differs(known, state) else None


def lost(known: State | None, *, wall: float) -> State:
    """The state of a task its upstream no longer shows."""
    base = known or State(status=Status.LOST, changed_at=wall, observed_at=wall, source=Source.POLL)
    return replace(
        base, status=Status.LOST, eta_seconds=None, changed_at=wall, observed_at=wall, source=Source.POLL
    )


def unknown(*, wall: float) -> State:
    """The state of a task nobody has seen yet. Given out, never recorded."""
    return State(status=Status.UNKNOWN, changed_at=wall, observed_at=wall, source=Source.POLL)


def _real_ending(status: Status) -> bool:
    return status.final and status is not Status.LOST


def _weighed(
    known: State | None, seen: Observation, source: Source, wall: float, eta_seconds: float | None
) -> State:
    before = known or State(status=Status.UNKNOWN, changed_at=wall, observed_at=wall, source=source)
    return State(
        status=seen.status,
        upstream_status=seen.upstream_status,
        alias=seen.alias or before.alias,
        progress=_progress(before.progress, seen),
        eta_seconds=None if seen.status.final else eta_seconds,
        queue_position=seen.queue_position,
        model=seen.model or before.model,
        action=seen.action or before.action,
        created_at=seen.created_at if seen.created_at is not None else before.created_at,
        completed_at=seen.completed_at if seen.completed_at is not None else before.completed_at,
        outputs=seen.outputs or before.outputs,
        error=seen.error,
        credits_used=seen.credits_used if seen.credits_used is not None else before.credits_used,
        credits_estimated=(
            seen.credits_estimated if seen.credits_estimated is not None else before.credits_estimated
        ),
        changed_at=wall,
        observed_at=wall,
        source=source,
        raw=seen.raw,
    )


def _progress(before: float | None, seen: Observation) -> float | None:
    if seen.status is Status.COMPLETED:
        return 100
    if seen.status.final:
        return before if before is not None else seen.progress
    if seen.progress is None or (before is not None and before > seen.progress):
        return before
    return seen.progress


def _differs(known: State, state: State) -> bool:
    return _news_of(known) != _news_of(state)


def _news_of(state: State) -> tuple[object, ...]:
    return (
        state.status,
        state.upstream_status,
        state.alias,
        state.progress,
        state.queue_position,
        state.model,
        state.action,
        state.created_at,
        state.completed_at,
        tuple(_without_signature(output) for output in state.outputs),
        state.error,
        state.credits_used,
    )


def _without_signature(output: Output) -> tuple[object, ...]:
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
