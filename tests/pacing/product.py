"""The one module of the judge that knows the names of the product's decisions, now and in older commits.

`Decisions` drives `bridge.core.watch.Watch` as `bridge.watchers.watcher.Watcher` does: what a submit or a
poll showed goes in, and `due` comes out. Nothing else of the product is used.
"""

from __future__ import annotations

import importlib
import inspect
import random
from importlib.util import find_spec
from typing import Any

from bridge.core.task import Observation, Source, Status
from bridge.core.watch import Watch

LEARNED = find_spec("bridge.core.learned") is not None
"""Whether the product learns distributions; before, it learned medians in `estimate`."""

OLDEST = find_spec("bridge.core.pacing") is not None
"""Whether the product is of commit e07285d, whose names are others."""

Estimates = tuple[float | None, float | None, float | None]


class Decisions:
    """What one upstream has learned, and the watches of its tasks.

    Args:
        pace: Shortest, recommended and longest interval, seconds.
        after: What a process before has learned, as it is kept in the journal; see `kept`.
    """

    def __init__(self, pace: tuple[float, float, float], rng: random.Random, after: Any = ()) -> None:
        shortest, recommended, longest = pace
        bounds = {"min_seconds": shortest, "recommended_seconds": recommended, "max_seconds": longest}
        self._pace = _module("pacing" if OLDEST else "schedule").Pace(**bounds)
        self._rng = rng
        self.kept: list[Any] = []
        if LEARNED:
            self._learned = _module("learned").LearnedRuns()
            self._learned.taught = self.kept.append
            self._learned.load(after)
            self._shared = (self._learned, _module("price").PollPrice())
        else:
            self._history = _module("forecast").RunTimes() if OLDEST else _module("estimate").RuntimeHistory()
            self._shared = (self._history,)
        self._names = inspect.signature(Watch.unchanged).parameters

    def begin(self, now: float) -> Watch:
        """A watch of a task that is known from now on."""
        return Watch(self._pace, *self._shared, self._rng.random, now)

    def observed(
        self,
        watch: Any,
        document: dict[str, Any],
        *,
        now: float,
        unix_time: float,
        started_at: float,
        submitted: bool = False,
    ) -> None:
        """A poll, or the answer to the submit, showed this document."""
        observation = Observation(**(document | {"status": Status(document["status"])}))
        source = Source.SUBMIT if submitted else Source.POLL
        if OLDEST:
            state = watch.observed(observation, source=source, now=now, wall=unix_time, asked=started_at).news
        else:
            state = watch.observed(
                observation, source=source, now=now, unix_time=unix_time, started_at=started_at
            ).state
        if not LEARNED and state is not None:
            self._learn(state)

    def _learn(self, state: Any) -> None:
        """What the watcher did, before the watch itself did it."""
        if state.status is not Status.COMPLETED or state.created_at is None:
            return
        names = _module("forecast" if OLDEST else "estimate")
        run_time = (state.completed_at or state.changed_at) - state.created_at
        if 0 <= run_time <= names.PLAUSIBLE_SECONDS:
            kind = names.Kind if OLDEST else names.TaskKind
            self._history.learn(kind(state.model, state.action), run_time)

    def unchanged(self, watch: Any, *, now: float, unix_time: float, started_at: float) -> None:
        """A poll brought the same bytes as the one before."""
        told = {"now": now, "unix_time": unix_time, "started_at": started_at, "asked": started_at}
        watch.unchanged(**{name: value for name, value in told.items() if name in self._names})

    @staticmethod
    def estimates(watch: Any, unix_time: float) -> Estimates:
        """`eta_seconds` as the state document has it, `eta_at` and `eta_by`, as Unix seconds."""
        if LEARNED:
            at, by = watch.estimate
            return None if at is None else max(at - unix_time, 0.0), at, by
        known = watch.known
        if known is None or known.eta_seconds is None:
            return None, None, None
        # It did not age; as a moment, it counts from the change that brought it.
        return known.eta_seconds, known.changed_at + known.eta_seconds, None


def _module(name: str) -> Any:
    return importlib.import_module(f"bridge.core.{name}")


def http_response(status: int, headers: dict[str, str], body: bytes) -> Any:
    """A provider's answer, as the HTTP client hands it on."""
    base = importlib.import_module("bridge.dialects.base")
    return (base.Answer if OLDEST else base.HttpResponse)(status, headers, body)


def bridge_app(settings: Any, clock: Any) -> Any:
    """The whole app, with chance that a run's seed decides, where the commit allows that."""
    made = importlib.import_module("bridge.app" if OLDEST else "bridge.app.bridge").Bridge
    if "rng" in inspect.signature(made).parameters:
        return made(settings, clock=clock, rng=random.random)
    return made(settings, clock=clock)
