"""The one module of the judge that knows the names of the product's decisions, now and in older commits.

`Decisions` drives `bridge.core.watch.Watch` as `bridge.watchers.watcher.Watcher` does: what a submit or a
poll showed goes in, and `due` comes out. Nothing else of the product is used.
"""

from __future__ import annotations

import importlib
import random
from importlib.util import find_spec
from typing import Any

from bridge.core.task import Observation, Source, Status
from bridge.core.watch import Watch

BEFORE = find_spec("bridge.core.pacing") is not None
"""Whether the product is of commit e07285d, whose names are others."""

_schedule = importlib.import_module("bridge.core.pacing" if BEFORE else "bridge.core.schedule")
_estimate = importlib.import_module("bridge.core.forecast" if BEFORE else "bridge.core.estimate")
_History = _estimate.RunTimes if BEFORE else _estimate.RuntimeHistory
_Kind = _estimate.Kind if BEFORE else _estimate.TaskKind


class Decisions:
    """What one upstream has learned, and the watches of its tasks.

    Args:
        pace: Shortest, recommended and longest interval, seconds.
    """

    def __init__(self, pace: tuple[float, float, float], rng: random.Random) -> None:
        shortest, recommended, longest = pace
        self._pace = _schedule.Pace(
            min_seconds=shortest, recommended_seconds=recommended, max_seconds=longest
        )
        self._history = _History()
        self._rng = rng

    def begin(self, now: float) -> Watch:
        """A watch of a task that is known from now on."""
        return Watch(self._pace, self._history, self._rng.random, now)

    def observed(
        self,
        watch: Watch,
        document: dict[str, object],
        *,
        now: float,
        unix_time: float,
        started_at: float,
        submitted: bool = False,
    ) -> None:
        """A poll, or the answer to the submit, showed this document."""
        observation = Observation(**(document | {"status": Status(document["status"])}))  # type: ignore[arg-type]
        source = Source.SUBMIT if submitted else Source.POLL
        if BEFORE:
            old: Any = watch
            state = old.observed(observation, source=source, now=now, wall=unix_time, asked=started_at).news
        else:
            state = watch.observed(
                observation, source=source, now=now, unix_time=unix_time, started_at=started_at
            ).state
        if state is not None and state.status is Status.COMPLETED and state.created_at is not None:
            run_time = (state.completed_at or state.changed_at) - state.created_at
            if 0 <= run_time <= _estimate.PLAUSIBLE_SECONDS:
                self._history.learn(_Kind(state.model, state.action), run_time)

    @staticmethod
    def unchanged(watch: Watch, *, now: float, started_at: float) -> None:
        """A poll brought the same bytes as the one before."""
        if BEFORE:
            old: Any = watch
            old.unchanged(now=now, asked=started_at)
        else:
            watch.unchanged(now=now, started_at=started_at)

    @staticmethod
    def estimates(watch: Watch, unix_time: float) -> tuple[float | None, float | None, float | None]:
        """`eta_seconds` as the state document has it, `eta_at` and `eta_by`, as Unix seconds."""
        known = watch.known
        if known is None or known.eta_seconds is None:
            return None, None, None
        # Without an ETA of its own moment, the one of the newest change counts from there.
        return known.eta_seconds, known.changed_at + known.eta_seconds, None
