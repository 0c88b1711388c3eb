"""The whole level: the app as ASGI in virtual time, with a provider in this process and subscribers over SSE.

Two things are replaced: the clock, and `Session.ask`, which would send the request to a provider.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bridge.settings import load
from bridge.sources.session import Session
from tests.fakes.virtual import START, LoopClock, VirtualLoop
from tests.pacing import fast
from tests.pacing.fast import Calibration, Seen
from tests.pacing.numbers import mean
from tests.pacing.product import bridge_app, http_response
from tests.pacing.tasks import ROUND_TRIP, START_OF_TIME, Task, Workload, arrivals, lognormal
from tests.pacing.workloads import WORKLOADS
from tests.truth.asgi import Response

RETRY_AFTER = 7.0
RATE_WINDOW = 10.0
THREAD_SECONDS = 0.002
"""How long a loop with threads beside it waits before time jumps."""

JSON = {"content-type": "application/json"}
FIELDS = (
    "progress", "model", "created_at", "completed_at", "estimated_seconds", "eta_seconds", "queue_position",
    "poll_after",
)  # fmt: skip
WORDS = ("queued", "processing", "completed", "failed")
KINDS = (("image", 24.0, 0.3, 0.4), ("video", 240.0, 0.25, 0.4), ("film", 900.0, 0.3, 0.2))


def mixed(unviewed: float) -> Callable[[random.Random, int], list[Task]]:
    """Images, videos and films, one each four seconds: about six polls per second without a limit."""

    def make(rng: random.Random, count: int) -> list[Task]:
        tasks = []
        for at in arrivals(rng, count, 4.0):
            name, median, spread, _ = rng.choices(KINDS, [kind[3] for kind in KINDS])[0]
            start, viewed = rng.expovariate(0.5), rng.random() >= unviewed
            run = lognormal(rng, median, spread)
            tasks.append(Task(at, start, start + run, model=name, viewed=viewed))
        return tasks

    return make


def with_hints(rng: random.Random, count: int) -> list[Task]:
    """Every other task's provider says when to come again."""
    tasks = []
    for index, at in enumerate(arrivals(rng, count, 6.0)):
        start = rng.expovariate(1 / 3.0)
        hint = rng.choice((1.0, 4.0, 9.0, 25.0)) if index % 2 else None
        tasks.append(Task(at, start, start + lognormal(rng, 60.0, 0.3), hint=hint))
    return tasks


def _workloads() -> Iterator[Workload]:
    for name, count in (
        ("video log-normal .25", 200),
        ("image", 200),
        ("progress linear", 150),
        ("queue M/G/k with position", 150),
    ):
        yield replace(WORKLOADS[name], tasks=count)
    yield Workload("rate limit, demand 2x", mixed(0.0), tasks=400, rate=3.0)
    yield Workload("rate limit, demand 4x", mixed(0.0), tasks=400, rate=1.5)
    yield Workload("demand 4x, half unwatched", mixed(0.5), tasks=400, rate=1.5)
    yield Workload("429s and poll_after", with_hints, tasks=200, busy=0.02)


WHOLE = {one.name: one for one in _workloads()}
RESTART = replace(WORKLOADS["video log-normal .25"], tasks=125)
AFTER_RESTART = 25


class VirtualClock(LoopClock):
    """The clock under its names of all commits."""

    def now(self) -> float:
        """Monotonic seconds, in commit e07285d."""
        return self.monotonic()

    def wall(self) -> float:
        """Unix seconds, in commit e07285d."""
        return self.time()


class ThreadLoop(VirtualLoop):
    """A virtual loop that lets threads finish before time jumps."""

    def __init__(self) -> None:
        super().__init__()
        jump = self._selector.select

        def select(timeout: float | None = None) -> list[Any]:
            if timeout is None or timeout > 0:
                ready = super(type(self._selector), self._selector).select(THREAD_SECONDS)
                if ready or timeout is None:
                    return ready
            return jump(timeout)

        self._selector.select = select


class Scripted:
    """The provider: answers submits and status calls, and counts what it is asked."""

    def __init__(self, workload: Workload, tasks: Sequence[Task], clock: VirtualClock) -> None:
        self.tasks = tasks
        self.seen = [Seen() for _ in tasks]
        self.asked: list[float] = []
        self.quiet_broken = self.hint_broken = self.told_busy = self.refused = 0
        self.ended = [asyncio.Event() for _ in tasks]
        self._workload = workload
        self._clock = clock
        self._rng = random.Random(f"provider of {workload.name}")
        self._quiet = (0.0, 0.0)
        self._not_before = [0.0] * len(tasks)

    def _now(self) -> float:
        return self._clock.monotonic() - START

    async def answer(self, request: Any) -> Any:
        """One call, a round trip long; what it shows is of its middle."""
        if request.method == "POST":
            index = json.loads(request.body)["index"]
            await self._clock.sleep(ROUND_TRIP / 2)
            task = self.tasks[index]
            task.at = self._now()
        else:
            index = int(request.path.rpartition("-")[2])
            task = self.tasks[index]
            self._count(index, self._now())
            await self._clock.sleep(ROUND_TRIP / 2)
            if self._rng.random() < self._workload.busy:
                return await self._busy()
        shown = self._now()
        document = self._workload.provider.document(task, shown - task.at)
        await self._clock.sleep(ROUND_TRIP / 2)
        if request.method != "POST" and not task.viewed:
            self._seen(index, str(document["status"]))
        if task.hint is not None:
            self._not_before[index] = self._now() + task.hint
        body = json.dumps({"task_id": f"t-{index}", **document}).encode()
        return http_response(200, JSON, body)

    def _count(self, index: int, now: float) -> None:
        self.asked.append(now)
        self.seen[index].polled_at.append(now)
        self.hint_broken += now < self._not_before[index] - 1e-6
        # What starts in the instant of the answer cannot know of it.
        self.quiet_broken += self._quiet[0] + 0.01 < now < self._quiet[1] - 1e-6

    async def _busy(self) -> Any:
        self.told_busy += 1
        await self._clock.sleep(ROUND_TRIP / 2)
        self._quiet = self._now(), max(self._quiet[1], self._now() + RETRY_AFTER)
        return http_response(429, JSON | {"retry-after": f"{RETRY_AFTER:g}"}, b'{"error": "slow down"}')

    def _seen(self, index: int, status: str) -> None:
        task, seen, now = self.tasks[index], self.seen[index], self._now()
        if seen.started != seen.started and status not in ("queued", "unknown"):
            seen.started = now - task.at - task.start
        if status in ("completed", "failed", "lost") and not self.ended[index].is_set():
            seen.ended = now - task.at - task.end
            self.ended[index].set()

    async def live(self, app: Any, index: int, calibration: Calibration) -> None:
        """Submit one task at its time, and follow it to its end."""
        task = self.tasks[index]
        await self._clock.sleep(task.at - self._now())
        body = json.dumps({"index": index}).encode()
        while True:
            submit = Response()
            await submit.run(app, "POST", "/v1/tasks/u", JSON, body=body)
            if submit.status == 201:
                break
            if submit.status not in (429, 503) or b"nothing was sent" not in submit.body:
                raise RuntimeError(f"a submit was answered {submit.status}: {submit.body[:200]!r}")
            # Where the rate limit is short, a submit may not get its turn: a client tries again.
            self.refused += 1
            await self._clock.sleep(1.0)
        if not task.viewed:
            await self.ended[index].wait()
        while not self.ended[index].is_set():
            await self._follow(app, index, calibration)

    async def _follow(self, app: Any, index: int, calibration: Calibration) -> None:
        rest, task = bytearray(), self.tasks[index]

        def chunk(data: bytes) -> None:
            rest.extend(data)
            while (cut := rest.find(b"\n\n")) >= 0:
                lines = bytes(rest[:cut]).split(b"\n")
                del rest[: cut + 2]
                if any(line.startswith(b"event:") for line in lines):
                    continue
                for line in lines:
                    if line.startswith(b"data:"):
                        self._state(index, json.loads(line[5:]), calibration)

        stream = Response(chunk)
        path = f"/v1/tasks/u/t-{index}/events"
        await stream.run(app, "GET", path, {"accept": "text/event-stream"})
        if stream.status != 200:
            raise RuntimeError(f"{path} of {task.model} was answered {stream.status}: {stream.body[:200]!r}")

    def _state(self, index: int, state: dict[str, Any], calibration: Calibration) -> None:
        if "status" not in state:
            return
        task, now = self.tasks[index], START_OF_TIME + self._now()
        self._seen(index, state["status"])
        if index >= fast.LEARNING_TASKS and state["status"] in ("queued", "processing"):
            moments = [_unix(state.get(name)) for name in ("eta_at", "eta_by")]
            end = START_OF_TIME + task.at + task.end
            calibration.add(state.get("eta_seconds"), *moments, end=end, now=now, run=task.end)


def _unix(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()


def settings(workload: Workload, journal: str = "memory") -> Any:
    """The bridge's settings for this provider."""
    shortest, recommended, longest = workload.provider.pace
    dialect = {
        "title": "Pacing",
        "base_url": "http://provider.invalid",
        "poll": {"min_seconds": shortest, "recommended_seconds": recommended, "max_seconds": longest},
        "calls": {"status": {"path": "/tasks/{task_id}"}, "submit": {"method": "POST", "path": "/tasks"}},
        "status": {"at": "status", "words": {word: word for word in WORDS}},
        "fields": {name: name for name in ("task_id", *FIELDS)},
    }
    upstream = {"preset": "custom", "dialect": dialect, "api_key": "k", "max_in_flight": 64}
    if workload.rate is not None:
        upstream["requests_per_second"] = workload.rate
    return load(
        None,
        environment={},
        journal=journal,
        upstreams={"u": upstream},
        max_connection_age_seconds=1e7,
        inspector=False,
    )


@contextmanager
def _provider(provider: Scripted) -> Iterator[None]:
    async def ask(self: Session, request: Any, timeout_seconds: float | None = None, **options: Any) -> Any:
        return await provider.answer(request)

    kept, Session.ask = Session.ask, ask  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Session.ask = kept  # type: ignore[method-assign]


def play(
    workload: Workload,
    tasks: Sequence[Task],
    seed: int,
    *,
    lives: Sequence[int] = (),
    journal: str = "memory",
) -> tuple[Scripted, Calibration]:
    """Run the app until all tasks have ended.

    Args:
        lives: Task numbers with which another app begins on the same journal; the app before has ended.
    """
    random.seed(seed)
    calibration = Calibration()
    loops: list[VirtualLoop] = []

    def make() -> VirtualLoop:
        loops.append(VirtualLoop() if journal == "memory" else ThreadLoop())
        return loops[0]

    async def main(provider: Scripted, clock: VirtualClock) -> None:
        for first, last in zip((0, *lives), (*lives, len(tasks)), strict=True):
            app = bridge_app(settings(workload, journal), clock)
            async with app.running():
                every = (provider.live(app, index, calibration) for index in range(first, last))
                await asyncio.gather(*every)

    with asyncio.Runner(loop_factory=make) as runner:
        runner.get_loop()
        clock = VirtualClock(loops[0])
        provider = Scripted(workload, tasks, clock)
        with _provider(provider):
            runner.run(main(provider, clock))
    return provider, calibration


def judge(workload: Workload, seed: int, count: int | None = None) -> dict[str, float]:
    """Run one workload with one seed; its numbers, and how the provider was treated."""
    tasks = workload.draw(seed, count)
    provider, calibration = play(workload, tasks, seed)
    counted = [
        (task, seen) for task, seen in zip(tasks, provider.seen, strict=True) if _counts(workload, task)
    ]
    run = fast.numbers(
        workload, [task for task, _ in counted], [seen for _, seen in counted], calibration, seed
    )
    found = run.as_dict()
    viewed = [seen.ended for task, seen in counted if task.viewed]
    if len(viewed) < len(counted):
        found["viewed_mean"] = mean(viewed)
    if workload.rate is not None:
        # Polls wait for their turn, and healthy tasks rest up to five minutes.
        found["too_rare"] = 0
        found["over_rate"] = _over(provider.asked, workload.rate)
    if workload.busy:
        found["too_rare"] = 0
    found |= {"hint_broken": provider.hint_broken, "quiet_broken": provider.quiet_broken}
    return found | {"told_busy": provider.told_busy, "refused": provider.refused}


def _counts(workload: Workload, task: Task) -> bool:
    """Under a rate limit, tasks count that come while the load is steady."""
    return workload.rate is None or 800.0 <= task.at <= 1_500.0


def _over(asked: Iterable[float], rate: float) -> int:
    """Windows with more calls than the rate allows in them, one second's burst left out."""
    times = sorted(asked)
    allowed = int(RATE_WINDOW * rate + max(rate, 1.0)) + 1
    return sum(late - early < RATE_WINDOW for early, late in zip(times, times[allowed:], strict=False))


def restarted(seed: int) -> dict[str, float]:
    """The same tasks with and without a restart before the last of them, on a journal on disk."""
    means = {}
    for name, lives in (("steady", ()), ("restarted", (RESTART.tasks - AFTER_RESTART,))):
        tasks = RESTART.draw(seed)
        with tempfile.TemporaryDirectory() as folder:
            journal = f"sqlite:///{Path(folder) / 'journal.db'}"
            provider, _ = play(RESTART, tasks, seed, lives=lives, journal=journal)
        means[name] = mean(seen.ended for seen in provider.seen[-AFTER_RESTART:])
        means[f"{name}_polls"] = mean(len(seen.polled_at) for seen in provider.seen[-AFTER_RESTART:])
    return means
