"""Very many deliveries to receivers that fail a third of the time.

Told small in `test_flood.py` and large by `make webhooks`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.webhooks.judge import verdict
from tests.webhooks.places import SECRET, Kind, Place, endpoint, place
from tests.webhooks.receiver import BROKEN, HANG, OK, RESET, Receiver, Reply, Request, receiver

EVERY = ["task.final", "task.status", "task.state"]
AT_ONCE = 16
MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How large it is.

    Args:
        endpoints: Each is a receiver at an address of its own; every end is delivered to all of them.
        every: How many of them are told every state.
        failing: Attempts about one content that may fail; those after them do not.
        hanging: Of the failures, how many are no answer at all: each takes the 10 seconds of a time-out.
    """

    tasks: int
    endpoints: int
    every: int = 1
    failing: int = 1
    share: float = 1 / 3
    hanging: float = 0.02
    kind: Kind = "one"
    seed: int = 1
    patience: float = 120.0

    @property
    def deliveries(self) -> int:
        return self.tasks * self.endpoints


@dataclass
class Told:
    """What there is to tell."""

    plan: Plan
    seconds: float = 0.0
    attempts: int = 0
    replies: Counter[str] = field(default_factory=Counter)
    states: int = 0
    first_rss: int = 0
    largest_rss: int = 0
    longest: float = 0.0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = ", ".join(f"{count} {name}" for name, count in sorted(self.replies.items()))
        return (
            f"{self.plan.deliveries} ends at {self.plan.endpoints} endpoints of {self.plan.tasks} tasks in"
            f" {self.seconds:.0f} s ({self.plan.deliveries / self.seconds:.0f} a second): {self.attempts}"
            f" attempts ({said}), {self.states} contents; memory {self.first_rss / MEGABYTE:.0f} MB at first,"
            f" {self.largest_rss / MEGABYTE:.0f} MB at most; {len(self.faults)} faults"
        )


class Flood:
    """One run."""

    def __init__(self, plan: Plan, sinks: list[Receiver], at: Place) -> None:
        self.plan = plan
        self.sinks = sinks
        self.at = at
        self.told = Told(plan)
        self.open: set[tuple[int, str]] = set()  # ends that have not arrived yet, by endpoint
        self._chance = random.Random(plan.seed)
        for number, sink in enumerate(sinks):
            sink.answer = self._answering(number)

    async def play(self) -> Told:
        """Submit them all, wait for every end at every endpoint, judge."""
        loop, plan, told = asyncio.get_running_loop(), self.plan, self.told
        began = loop.time()
        weighing = asyncio.create_task(self._weigh_for_ever())
        names = iter(range(plan.tasks))
        await asyncio.gather(*(self._submit(names) for _ in range(AT_ONCE)))
        patience = loop.time() + plan.patience
        count = len(self.open)
        while self.open:
            await asyncio.sleep(0.2)
            if len(self.open) < count:
                count, patience = len(self.open), loop.time() + plan.patience
            if loop.time() > patience:
                told.faults.append(f"{len(self.open)} ends did not arrive, such as {sorted(self.open)[:3]}")
                break
        told.seconds = loop.time() - began
        weighing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await weighing
        self._judge()
        return told

    def _judge(self) -> None:
        requests = [one for sink in self.sinks for one in sink.requests]
        self.told.attempts = len(requests)
        self.told.states = len({one.id for one in requests})
        for sink in self.sinks:
            self.told.faults += verdict(sink.requests)

    async def _submit(self, names: Iterator[int]) -> None:
        for number in names:
            ref = f"qingbo/flood-{number}"
            self.open |= {(each, ref) for each in range(len(self.sinks))}
            life = [("processing", 10 * step) for step in range(1, 1 + number % 4)]
            made = await self.at.task(id=f"flood-{number}", life=[*life, ("completed", 100)])
            assert made == ref

    def _answering(self, number: int):
        seen: Counter[str] = Counter()

        def answer(request: Request) -> Reply:
            seen[request.id] += 1
            reply = OK
            if seen[request.id] <= self.plan.failing and self._chance.random() < self.plan.share:
                reply = (
                    HANG
                    if self._chance.random() < self.plan.hanging
                    else self._chance.choice([BROKEN, RESET])
                )
            self.told.replies["hang" if reply.hang else "reset" if reply.reset else str(reply.status)] += 1
            if reply is OK and request.document["type"] == "task.final":
                self.open.discard((number, request.data["task"]))
            return reply

        return answer

    async def _weigh_for_ever(self) -> None:
        while True:
            rss = sum(site.rss() for site in self.at.sites)
            self.told.first_rss = self.told.first_rss or rss
            self.told.largest_rss = max(self.told.largest_rss, rss)
            await asyncio.sleep(0.5)


async def flood(plan: Plan, folder: Path) -> Told:
    """Play it."""
    async with AsyncExitStack() as stack:
        hosts = [f"127.0.0.{2 + number}" for number in range(plan.endpoints)]
        sinks = [await stack.enter_async_context(receiver(SECRET, host=host)) for host in hosts]
        webhooks = {
            f"hook-{number}": endpoint(
                sink, f"/{number}", events=EVERY if number < plan.every else ["task.final"]
            )
            for number, sink in enumerate(sinks)
        }
        at = await stack.enter_async_context(place(plan.kind, folder, webhooks=webhooks, private_hosts=hosts))
        return await Flood(plan, sinks, at).play()
