"""Several planners of jobs as the one that a journal asks."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.core.details import TaskDetails
from bridge.core.task import State, TaskKey
from bridge.engine.base import Job
from bridge.journal.base import JobPlanner, Journal


class Planners:
    """Satisfies `JobPlanner` for several of them; each has queues of its own.

    A journal without a planner pays one comparison for a state, and with one only its own call: this comes
    between only where there are two.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._planners: list[JobPlanner] = []
        self._planned: dict[str, JobPlanner] = {}  # by queue, of the newest plan of each

    def use(self, planner: JobPlanner, *, used: bool) -> None:
        """Ask `planner` from now on, or (not `used`) no longer."""
        others = [one for one in self._planners if one is not planner]
        self._planners = [*others, planner] if used else others
        several = len(self._planners) > 1
        self._journal.planner = self if several else next(iter(self._planners), None)

    def plan(self, key: TaskKey, previous: State | None, state: State, details: TaskDetails) -> Sequence[Job]:
        """See `JobPlanner`."""
        jobs: list[Job] = []
        for planner in self._planners:
            planned = planner.plan(key, previous, state, details)
            jobs += planned
            self._planned.update((job.queue, planner) for job in planned)
        return jobs

    def written(self, key: TaskKey, jobs: Sequence[Job], dropped: int) -> None:
        """See `JobPlanner`: which of them were dropped is not known, so each learns of all."""
        for planner in self._planners:
            own = [job for job in jobs if self._planned.get(job.queue) is planner]
            if own:
                planner.written(key, own, min(dropped, len(own)))
