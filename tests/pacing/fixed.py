"""Pollers that know nothing: a fixed interval with a random phase, and what well-known clients do."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.pacing.numbers import mean, percentile
from tests.pacing.tasks import ROUND_TRIP, Task

_PHASES = 5
_BISECTIONS = 30


@dataclass(frozen=True, slots=True)
class Delays:
    """How often a poller asks, and how late it sees things, in seconds.

    Args:
        start: From queued to processing.
    """

    polls: float
    mean: float
    p95: float
    start: float


def at_equal_polls(tasks: Sequence[Task], polls: float, seed: int) -> Delays:
    """The delays of the fixed poller that needs so many polls per task."""
    rng = random.Random(seed)
    phases = [[rng.random() for _ in range(_PHASES)] for _ in tasks]
    low, high = 0.01, 100_000.0
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _polls(tasks, phases, middle) > polls else (low, middle)
    return fixed(tasks, phases, math.sqrt(low * high))


def _polls(tasks: Sequence[Task], phases: Sequence[Sequence[float]], interval: float) -> float:
    cycle = interval + ROUND_TRIP
    return mean(
        1 + max(math.ceil((task.end - task.known_at - phase * interval - ROUND_TRIP / 2) / cycle), 0)
        for task, of_task in zip(tasks, phases, strict=True)
        for phase in of_task
    )


def fixed(tasks: Sequence[Task], phases: Sequence[Sequence[float]], interval: float) -> Delays:
    """A poller that waits so long between an answer and the next question."""
    cycle = interval + ROUND_TRIP
    ends, starts = [], []
    for task, of_task in zip(tasks, phases, strict=True):
        for phase in of_task:
            first = task.known_at + phase * interval + ROUND_TRIP / 2

            def seen(change: float, first: float = first) -> float:
                return first + max(math.ceil((change - first) / cycle), 0) * cycle + ROUND_TRIP / 2

            ends.append(seen(task.end) - max(task.end, task.known_at))
            starts.append(seen(task.start) - max(task.start, task.known_at))
    ends.sort()
    return Delays(_polls(tasks, phases, interval), mean(ends), percentile(ends, 95), mean(starts))


Waits = Callable[[int, float, random.Random], float]
"""Seconds to the next poll, of the number of polls so far, the seconds since the first, and chance."""


def _times(first: float, factor: float, longest: float, every: int = 1) -> Waits:
    return lambda polls, age, rng: min(first * factor ** ((polls - 1) // every), longest)


def _seconds(interval: float) -> Waits:
    return lambda polls, age, rng: interval


CLIENTS: dict[str, Waits] = {
    "fal-js, replicate-js (0.5 s)": _seconds(0.5),
    "openai-python (1 s)": _seconds(1.0),
    "fixed 2 s": _seconds(2.0),
    "ComfyUI, openai-node (5 s)": _seconds(5.0),
    "Runway's client (6 s +- 1.5)": lambda polls, age, rng: 6.0 + rng.uniform(-1.5, 1.5),
    "LiteLLM's example (10 s)": _seconds(10.0),
    "Veo's example (20 s)": _seconds(20.0),
    "DashScope (1 to 5 s)": _times(1.0, 2.0, 5.0, every=3),
    "BFL (0.5 to 10 s)": _times(0.5, 1.5, 10.0),
    "kie.ai (2.5, 7.5, 22 s by age)": lambda polls, age, rng: 2.5 if age < 30 else 7.5 if age < 120 else 22.0,
}


def client(tasks: Sequence[Task], waits: Waits, seed: int) -> Delays:
    """A client that polls by its own rule; its first poll comes as soon as the task is known."""
    rng = random.Random(seed)
    counts, ends, starts = [], [], []
    for task in tasks:
        age, polls, started = task.known_at, 0, math.nan
        while True:
            polls += 1
            shown = age + ROUND_TRIP / 2
            age += ROUND_TRIP
            if math.isnan(started) and shown >= task.start:
                started = age - max(task.start, task.known_at)
            if shown >= task.end:
                break
            age += waits(polls, age - task.known_at, rng)
        counts.append(polls)
        ends.append(age - max(task.end, task.known_at))
        starts.append(started)
    ends.sort()
    return Delays(mean(counts), mean(ends), percentile(ends, 95), mean(starts))
