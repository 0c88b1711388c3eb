from __future__ import annotations

from collections.abc import Sequence

from bridge.core.details import NO_DETAILS, TaskDetails
from bridge.core.task import Source, State, Status, TaskKey
from bridge.engine.base import Job
from bridge.journal.base import JobPlanner
from bridge.journal.planners import Planners

TASK = TaskKey("qingbo", "t")
STATE = State(status=Status.COMPLETED, changed_at=1.0, observed_at=1.0, source=Source.POLL)


class OneQueue:
    def __init__(self, queue: str, number: int = 1) -> None:
        self.jobs = [Job(queue, f"{queue}-{one}", b"") for one in range(number)]
        self.wrote: list[tuple[list[str], int]] = []

    def plan(self, key: TaskKey, previous: State | None, state: State, details: TaskDetails) -> Sequence[Job]:
        return self.jobs

    def written(self, key: TaskKey, jobs: Sequence[Job], dropped: int) -> None:
        self.wrote.append(([job.id for job in jobs], dropped))


class Planned:
    planner: JobPlanner | None = None


def test_a_journal_without_planners_and_with_one_asks_nobody_in_between() -> None:
    journal, one = Planned(), OneQueue("a")
    planners = Planners(journal)  # type: ignore[arg-type]
    planners.use(one, used=False)
    assert journal.planner is None
    planners.use(one, used=True)
    planners.use(one, used=True)
    assert journal.planner is one
    planners.use(one, used=False)
    assert journal.planner is None


def test_each_of_several_learns_of_its_own_jobs() -> None:
    journal, one, other, none = Planned(), OneQueue("a", 2), OneQueue("b"), OneQueue("c", 0)
    planners = Planners(journal)  # type: ignore[arg-type]
    for planner in (one, other, none):
        planners.use(planner, used=True)
    assert journal.planner is not None
    jobs = journal.planner.plan(TASK, None, STATE, NO_DETAILS)
    assert [job.id for job in jobs] == ["a-0", "a-1", "b-0"]
    journal.planner.written(TASK, jobs, 0)
    assert (one.wrote, other.wrote, none.wrote) == ([(["a-0", "a-1"], 0)], [(["b-0"], 0)], [])
    planners.use(one, used=False)
    planners.use(none, used=False)
    assert journal.planner is other
