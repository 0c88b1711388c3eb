"""A task of a simulated provider: when it starts and ends, and what its status call shows at any age."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

ROUND_TRIP = 0.2
"""Seconds between a question and its answer; the answer shows the task as it is in the middle."""

KNOWN_AFTER = 0.3
"""Seconds after its creation when the bridge knows a task that was submitted through it."""

START_OF_TIME = 1_800_000_000.0
"""Unix seconds at virtual time 0."""

Shape = Callable[[float], float]


@dataclass(slots=True)
class Task:
    """One task of a provider.

    Args:
        at: Virtual seconds when it is created.
        start: Its age in seconds when processing begins.
        end: Its age when it has its final status.
        progress: Percent shown at a share (0-1) of the processing; None where none is shown.
        estimate: The provider's estimate of the whole run, seconds.
        eta: The provider's estimate of what is left, of what really is.
        place: The queue position at an age.
        hint: Seconds the provider asks to wait before the next poll.
        late: Its age when the first client comes; None when it is submitted through the bridge.
        skew: Seconds by which the provider's clock is wrong.
        viewed: Whether a subscriber waits for it.
    """

    at: float
    start: float
    end: float
    model: str = "m"
    final: str = "completed"
    progress: Shape | None = None
    estimate: float | None = None
    eta: Shape | None = None
    place: Callable[[float], int] | None = None
    hint: float | None = None
    late: float | None = None
    skew: float = 0.0
    viewed: bool = True

    @property
    def known_at(self) -> float:
        """Its age when the bridge may first know its state."""
        return KNOWN_AFTER if self.late is None else self.late

    def status(self, age: float) -> str:
        """The status word at an age."""
        if age >= self.end:
            return self.final
        return "queued" if age < self.start else "processing"


@dataclass(frozen=True, slots=True)
class Provider:
    """What a provider's documents name, and how often it wants to be asked.

    Args:
        pace: Shortest, recommended and longest poll interval, seconds.
        created: Whether documents have the time of the creation; `completed`: of the end; `model`: the model.
    """

    pace: tuple[float, float, float] = (2.0, 5.0, 15.0)
    created: bool = True
    completed: bool = True
    model: bool = True

    def document(self, task: Task, age: float) -> dict[str, object]:
        """What the status call shows of a task at an age. Two equal documents are the same bytes."""
        status = task.status(age)
        shown: dict[str, object] = {"status": status}
        born = START_OF_TIME + task.at + task.skew
        if self.model:
            shown["model"] = task.model
        if self.created:
            shown["created_at"] = round(born, 3)
        if task.estimate is not None:
            shown["estimated_seconds"] = task.estimate
        if age >= task.end:
            if self.completed:
                shown["completed_at"] = round(born + task.end, 3)
            return shown
        if task.eta is not None:
            shown["eta_seconds"] = task.eta(task.end - age)
        if task.hint is not None:
            shown["poll_after"] = task.hint
        if status == "queued" and task.place is not None:
            shown["queue_position"] = task.place(age)
        if status == "processing" and task.progress is not None:
            shown["progress"] = task.progress((age - task.start) / max(task.end - task.start, 1e-9))
        return shown


@dataclass(frozen=True, slots=True)
class Workload:
    """Tasks of one provider.

    Args:
        make: Makes so many tasks with a random number generator, in the order of their creation.
        stationary: Whether later tasks are like earlier ones: then the ETA has to be calibrated.
        rate: Requests per second allowed; None for no limit.
        busy: The share of polls that the provider answers with 429 and Retry-After.
    """

    name: str
    make: Callable[[random.Random, int], list[Task]]
    provider: Provider = field(default_factory=Provider)
    tasks: int = 500
    stationary: bool = True
    rate: float | None = None
    busy: float = 0.0

    def draw(self, seed: int, tasks: int | None = None) -> list[Task]:
        """Its tasks for one seed; the same in every run and on every machine."""
        return self.make(random.Random(f"{self.name} {seed}"), tasks or self.tasks)


def arrivals(rng: random.Random, count: int, gap: float) -> list[float]:
    """Times of a Poisson process, so many seconds apart on average."""
    now, times = 0.0, []
    for _ in range(count):
        now += rng.expovariate(1 / gap)
        times.append(now)
    return times


def lognormal(rng: random.Random, median: float, spread: float) -> float:
    """A log-normal time in seconds."""
    return median * math.exp(rng.gauss(0.0, spread))


def queued(
    rng: random.Random, at: Sequence[float], runs: Sequence[float], servers: int, *, places: bool
) -> list[Task]:
    """Tasks that wait for one of so many servers, first come first served.

    Args:
        places: Whether the provider shows the queue position.
    """
    free = [0.0] * servers
    starts: list[float] = []
    for created in at:
        first = min(range(servers), key=free.__getitem__)
        starts.append(max(created, free[first]))
        free[first] = starts[-1] + runs[len(starts) - 1]

    def place(index: int, created: float) -> Callable[[float], int]:
        def ahead(age: float) -> int:
            # In order of arrival, starts never decrease: those ahead are those not started yet.
            low, high = 0, index
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if starts[middle] <= created + age else (low, middle)
            return index - low

        return ahead

    return [
        Task(
            created,
            start - created,
            start - created + run,
            place=place(index, created) if places else None,
        )
        for index, (created, start, run) in enumerate(zip(at, starts, runs, strict=True))
    ]
