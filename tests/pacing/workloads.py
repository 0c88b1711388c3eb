"""The workloads of `make pacing`: shapes of run times, of progress and of estimates that providers have.

The parameters and their sources are in docs/pacing.md. Where only a distribution is published, the tasks are
drawn from it: no trace is kept in the repository.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator

from tests.pacing.tasks import Provider, Shape, Task, Workload, arrivals, lognormal, queued

VIDEO = Provider()
QINGBO = Provider((2.0, 2.0, 5.0))
IMAGE = Provider((0.5, 0.5, 5.0))
ADVISED = Provider((1.0, 2.0, 10.0))
BYTESPIKE = Provider((1.0, 2.0, 5.0), created=False, completed=False)
SLOW = Provider((5.0, 10.0, 30.0))

Runs = Callable[[random.Random], float]
Change = Callable[[random.Random, Task], None]


def shaped(
    run: Runs, *, gap: float = 5.0, wait: float = 4.0, failing: float = 0.0, change: Change | None = None
) -> Callable[[random.Random, int], list[Task]]:
    """Tasks with independent run times.

    Args:
        run: Draws the seconds of one task's processing.
        wait: Mean seconds in the queue, exponential.
        failing: The share that fails, half of them at a random moment.
        change: Adds what the provider shows.
    """

    def make(rng: random.Random, count: int) -> list[Task]:
        tasks = []
        for at in arrivals(rng, count, gap):
            start, seconds, final = rng.expovariate(1 / wait), run(rng), "completed"
            if rng.random() < failing:
                final = "failed"
                seconds *= rng.random() if rng.random() < 0.5 else 1.0
            task = Task(at, start, start + max(seconds, 0.3), final=final)
            if change is not None:
                change(rng, task)
            tasks.append(task)
        return tasks

    return make


def video(rng: random.Random) -> float:
    return lognormal(rng, 120.0, 0.25)


def wide(rng: random.Random) -> float:
    """Run times of one kind with very different prompts."""
    return lognormal(rng, 100.0, 0.7)


def cold_or_warm(rng: random.Random) -> float:
    return rng.uniform(30.0, 120.0) if rng.random() < 0.2 else lognormal(rng, 3.0, 0.3)


def language_model(rng: random.Random) -> float:
    """Tokens at 40 per second, log-normal as in a published trace of conversations; half think first."""
    tokens = lognormal(rng, 129.0, 0.9)
    return (tokens + (lognormal(rng, 800.0, 0.8) if rng.random() < 0.5 else 0.0)) / 40.0


def batch(rng: random.Random) -> float:
    """Published: 70 % within an hour, 20 % within four, 10 % within a day."""
    part = rng.random()
    low, high = (600, 3_600) if part < 0.7 else (3_600, 14_400) if part < 0.9 else (28_800, 86_400)
    return rng.uniform(low, high)


# What a provider shows ------------------------------------------------------------------------------------


def with_progress(shape: Shape) -> Change:
    def change(rng: random.Random, task: Task) -> None:
        task.progress = shape

    return change


def linear(share: float) -> float:
    return math.floor(100 * share)


def halves(share: float) -> float:
    return 0.0 if share < 0.5 else 50.0


def saturating(share: float) -> float:
    """Fast at first, slower and slower: two thirds of the bar in a third of the time."""
    return math.floor(100 * (1 - math.exp(-3 * share)) / (1 - math.exp(-3)))


def stuck(share: float) -> float:
    return math.floor(99 * min(share / 0.8, 1.0))


def with_estimate(factor: float, spread: float) -> Change:
    """The true run times a factor."""

    def change(rng: random.Random, task: Task) -> None:
        task.estimate = round(task.end * lognormal(rng, factor, spread), 1)

    return change


def constant_estimate(rng: random.Random, task: Task) -> None:
    task.estimate = 60.0


def eta_doubled(rng: random.Random, task: Task) -> None:
    task.eta = lambda left: math.floor(2 * left)


def asks_each_second(rng: random.Random, task: Task) -> None:
    task.hint = 1.0


def met_late(rng: random.Random, task: Task) -> None:
    task.late = rng.uniform(0.0, 0.9) * task.end


# Several kinds --------------------------------------------------------------------------------------------


def many_models(
    models: int, median: float, between: float, within: float, *, gap: float, wait: float, runs: float = 0.0
) -> Callable[[random.Random, int], list[Task]]:
    """A mix of models, popular ones much more often.

    Args:
        between: Log-sd of the models' medians; `within` of the run times of one model.
        runs: How probable it is that a request names the model of the one before, as replayed traces have it.
    """

    def make(rng: random.Random, count: int) -> list[Task]:
        medians = [lognormal(rng, median, between) for _ in range(models)]
        popular = list(itertools.accumulate(1 / (rank + 1) for rank in range(models)))
        chosen, tasks = 0, []
        for at in arrivals(rng, count, gap):
            if not tasks or rng.random() >= runs:
                chosen = rng.choices(range(models), cum_weights=popular)[0]
            start = rng.expovariate(1 / wait)
            seconds = lognormal(rng, medians[chosen], within)
            tasks.append(Task(at, start, start + max(seconds, 0.3), model=f"model-{chosen}"))
        return tasks

    return make


def jobs(rng: random.Random, count: int) -> list[Task]:
    """Six jobs of a build server, 45 s to 25 minutes."""
    kinds = [
        ("lint", 45.0, 0.12),
        ("unit", 150.0, 0.2),
        ("build", 300.0, 0.15),
        ("e2e", 600.0, 0.25),
        ("image", 900.0, 0.2),
        ("nightly", 1500.0, 0.3),
    ]
    tasks = []
    for at in arrivals(rng, count, 20.0):
        name, median, spread = rng.choice(kinds)
        start = rng.expovariate(1 / 2.0)
        tasks.append(Task(at, start, start + lognormal(rng, median, spread), model=name))
    return tasks


def busy_servers(*, places: bool, median: float = 60.0, servers: int = 12) -> Callable[..., list[Task]]:
    """A queue whose load swings by 45 % around four fifths of what its servers can do."""

    def make(rng: random.Random, count: int) -> list[Task]:
        now, at = 0.0, []
        for _ in range(count):
            load = 0.8 * (1 + 0.45 * math.sin(2 * math.pi * now / (20 * median)))
            now += rng.expovariate(load * servers / (median * 1.03))
            at.append(now)
        return queued(rng, at, [lognormal(rng, median, 0.25) for _ in at], servers, places=places)

    return make


def all_at_once(rng: random.Random, count: int) -> list[Task]:
    """Thousands of tasks of seconds that come within a second; places in the queue move all the time."""
    at = sorted(rng.uniform(0.0, 1.0) for _ in range(count))
    return queued(rng, at, [lognormal(rng, 5.0, 0.3) for _ in at], max(count // 40, 1), places=True)


def slower_by_half(rng: random.Random, count: int) -> list[Task]:
    tasks = shaped(video)(rng, count)
    for task in tasks[count // 2 :]:
        task.end = task.start + 3 * (task.end - task.start)
    return tasks


# Providers that mislead -----------------------------------------------------------------------------------


def changing_regime(rng: random.Random, count: int) -> list[Task]:
    tasks = shaped(video)(rng, count)
    for index, task in enumerate(tasks):
        if (index // 40) % 2:
            task.end = task.start + 5 * (task.end - task.start)
    return tasks


def outage(rng: random.Random, count: int) -> list[Task]:
    tasks = shaped(video)(rng, count)
    for task in tasks[count // 3 : count // 3 + 100]:
        task.start, task.end, task.final = 0.1, 2.0, "failed"
    return tasks


def clock_off(draw: Callable[[random.Random], float]) -> Change:
    def change(rng: random.Random, task: Task) -> None:
        task.skew = draw(rng)

    return change


def eta_always_thirty(rng: random.Random, task: Task) -> None:
    task.eta = lambda left: 30.0


def eta_that_restarts(rng: random.Random, task: Task) -> None:
    task.eta = lambda left: round(left % 20.0, 1)


def estimate_of(seconds: float) -> Change:
    def change(rng: random.Random, task: Task) -> None:
        task.estimate = seconds

    return change


def random_progress(rng: random.Random, task: Task) -> None:
    levels = [math.floor(100 * rng.random()) for _ in range(400)]
    run = task.end - task.start
    task.progress = lambda share: levels[int(share * run / 3) % 400]


def done_at_once(rng: random.Random, task: Task) -> None:
    task.progress = lambda share: 99.0


def hours_among_seconds(rng: random.Random, count: int) -> list[Task]:
    tasks = shaped(lambda one: lognormal(one, 15.0, 0.3))(rng, count)
    for task in tasks:
        if rng.random() < 0.1:
            task.end = task.start + rng.uniform(1_800.0, 7_200.0)
    return tasks


def _workloads() -> Iterator[Workload]:
    images = many_models(79, 23.0, 0.424, 0.35, gap=2.0, wait=0.3, runs=0.5)
    yield Workload("video log-normal .25", shaped(video, failing=0.03))
    yield Workload("video log-normal .25, qingbo", shaped(video, failing=0.03), QINGBO)
    yield Workload("video jitter 3 %", shaped(lambda rng: rng.gauss(90.0, 2.7), wait=0.5))
    yield Workload("gamma k=4", shaped(lambda rng: rng.gammavariate(4.0, 30.0)))
    yield Workload("weibull 1.5", shaped(lambda rng: rng.weibullvariate(100.0, 1.5)))
    yield Workload("exponential", shaped(lambda rng: rng.expovariate(1 / 90.0), wait=0.5))
    yield Workload("bimodal cold start", shaped(cold_or_warm, wait=1.5), Provider((0.5, 1.0, 10.0)))
    yield Workload("heavy tail", shaped(lambda rng: lognormal(rng, 30.0, 1.2), wait=0.5))
    yield Workload("image", shaped(lambda rng: lognormal(rng, 8.0, 0.3), gap=2.0, wait=0.5), IMAGE)
    yield Workload("image mix of 79 models", images, ADVISED)
    yield Workload("image mix, advice for video", images)
    yield Workload("llm background", shaped(language_model, wait=0.5), ADVISED)
    yield Workload("llm batch of hours", shaped(batch, gap=3600.0, wait=0.5), SLOW, tasks=150)
    yield Workload("ci jobs", jobs, SLOW)
    yield Workload("queue M/G/k", busy_servers(places=False))
    yield Workload(
        "queue M/G/k with position", busy_servers(places=True, median=20.0), Provider((0.5, 1.0, 10.0))
    )
    yield Workload("progress linear", shaped(wide, change=with_progress(linear)))
    yield Workload("progress linear, qingbo", shaped(wide, change=with_progress(linear)), QINGBO)
    yield Workload("progress 0, 50", shaped(wide, change=with_progress(halves)))
    yield Workload("progress saturating", shaped(wide, change=with_progress(saturating)))
    yield Workload("progress stuck at 99", shaped(video, change=with_progress(stuck)))
    yield Workload("estimate true", shaped(wide, wait=0.5, change=with_estimate(1.0, 0.1)))
    yield Workload("estimate x0.5", shaped(wide, wait=0.5, change=with_estimate(0.5, 0.1)))
    yield Workload("estimate x2", shaped(wide, wait=0.5, change=with_estimate(2.0, 0.1)))
    yield Workload("estimate noise", shaped(wide, wait=0.5, change=with_estimate(1.0, 0.5)))
    yield Workload(
        "estimate constant, bytespike", shaped(video, wait=0.5, change=constant_estimate), BYTESPIKE
    )
    yield Workload("eta doubled", shaped(wide, wait=0.5, change=eta_doubled))
    yield Workload("many models", many_models(30, 85.0, 0.7, 0.25, gap=5.0, wait=4.0))
    yield Workload(
        "no model named", many_models(30, 100.0, 0.7, 0.25, gap=5.0, wait=0.5), Provider(model=False)
    )
    yield Workload("nothing named", shaped(video), Provider(created=False, completed=False, model=False))
    yield Workload("drift x3 at half", slower_by_half, stationary=False)
    yield Workload("late viewers", shaped(video, change=met_late))
    yield Workload(
        "llm hint every 1 s",
        shaped(lambda rng: lognormal(rng, 18.0, 0.5), wait=0.5, change=asks_each_second),
        ADVISED,
    )


def _misleading() -> Iterator[Workload]:
    far = 8 * 3600.0
    yield Workload("regime x5 every 40 tasks", changing_regime, stationary=False)
    yield Workload("outage: 100 fail in 2 s", outage, stationary=False)
    yield Workload("created_at 8 h off", shaped(video, change=clock_off(lambda rng: -far)))
    yield Workload("clock 5 s ahead", shaped(video, change=clock_off(lambda rng: 5.0)))
    yield Workload("clock jitter 3 s", shaped(video, change=clock_off(lambda rng: rng.gauss(0.0, 3.0))))
    yield Workload("eta always 30", shaped(wide, change=eta_always_thirty))
    yield Workload("eta that restarts", shaped(video, change=eta_that_restarts))
    yield Workload("estimate 1e7", shaped(video, change=estimate_of(1e7)))
    yield Workload("estimate 1 s", shaped(video, change=estimate_of(1.0)))
    yield Workload("random progress", shaped(video, change=random_progress))
    yield Workload("99 % at once", shaped(video, change=done_at_once))
    yield Workload("10 % hours among 15 s", hours_among_seconds)
    yield Workload("the same without model", hours_among_seconds, Provider(model=False))


WORKLOADS = {one.name: one for one in _workloads()}
MISLEADING = {one.name: one for one in _misleading()}
FLOOD = Workload("thousands at once", all_at_once, Provider((0.5, 1.0, 10.0)), tasks=3_000)
