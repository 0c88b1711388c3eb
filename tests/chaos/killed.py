"""The story of a kill: load, `kill -9` in the midst of it, a restart on the same file and port.

Told small in `test_kill.py` and large by `make chaos`.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.judge import Judge, Sight
from tests.chaos.site import Site, Studio, get, site, studio
from tests.chaos.viewers import Viewers

STEP_SECONDS = 1.0
STEPS_BEFORE, STEPS_DEAD = 12, 6
FORGOTTEN = 5  # ended tasks the provider does not know any more after the kill
MANY = 20  # tasks on a many-task stream
SPACING = 1.25  # a paced rate, with what a busy machine adds to it


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How large the story is.

    Args:
        rate: The provider's budget, in requests a second.
        lose_journal: Whether the file is deleted while the bridge is dead.
    """

    tasks: int
    clients: int
    rate: float
    patience: float
    lose_journal: bool = False
    seed: int = 1


@dataclass(slots=True)
class Told:
    """What there is to be judged."""

    judge: Judge
    announced: int
    restored: int
    busiest: int
    window: float
    faults: list[str]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.judge.counts.items()))
        return (
            f"{len(self.judge.accounts)} clients saw {self.judge.states} states"
            f" ({self.announced} endings before the kill), {self.restored} tasks watched again unasked,"
            f" at most {self.busiest} looks in {self.window:g} s; {counts}; {len(self.faults)} faults"
        )


async def kill_under_load(plan: Plan, directory: Path) -> Told:
    """Play it."""
    chance = random.Random(plan.seed)
    judge = Judge()
    async with studio(seed=plan.seed) as provider:
        refs = await provider.submit(_lives(plan.tasks, chance))
        upstream = {"requests_per_second": plan.rate, "poll_max_seconds": 0.5}
        async with site(provider.url, directory / "kill.db", upstream=upstream) as bridge:
            viewers = Viewers(lambda: bridge.address, judge, plan.seed)
            try:
                return await _Story(plan, provider, bridge, viewers, refs, chance).play()
            finally:
                await viewers.close()


class _Story:
    def __init__(
        self,
        plan: Plan,
        provider: Studio,
        bridge: Site,
        viewers: Viewers,
        refs: list[str],
        chance: random.Random,
    ) -> None:
        self._plan = plan
        self._provider = provider
        self._bridge = bridge
        self._viewers = viewers
        self._refs = refs
        self._chance = chance

    async def play(self) -> Told:
        plan, viewers, provider = self._plan, self._viewers, self._provider
        watching = self._arrive()
        await viewers.until(lambda: all(len(one.known) == len(one.refs) for one in watching), plan.patience)
        for _ in range(STEPS_BEFORE):
            await self._step()
        provider.advance(STEP_SECONDS)
        await viewers.reach(viewers.judge.states + plan.clients // 10, plan.patience)  # in the midst of it
        viewers.gate.clear()
        await self._bridge.end(signal.SIGKILL)
        open_then = provider.open(self._refs)
        announced = viewers.judge.announced()
        for _ in range(STEPS_DEAD):
            provider.advance(STEP_SECONDS)
        await viewers.until(lambda: not viewers.writers, plan.patience)
        if plan.lose_journal:
            self._bridge.forget()
        else:
            provider.forget(sorted(announced)[:FORGOTTEN])
        began = asyncio.get_running_loop().time()
        await self._bridge.start()
        looks = [] if plan.lose_journal else await self._watched_again(open_then, began)
        faults = await self._forgotten(announced)
        viewers.gate.set()
        while provider.open(self._refs):
            await self._step()
        await viewers.all_over(plan.patience)
        faults += viewers.judge.verdict(provider.truth(self._refs))
        faults += await self._forgotten(viewers.judge.announced())
        window = 0.5
        busiest = _busiest([at for at, _ in looks], window)
        if busiest > plan.rate * window * SPACING + 1:
            faults.append(f"{busiest} looks in {window} s with {plan.rate} a second allowed")
        return Told(viewers.judge, len(announced), len({ref for _, ref in looks}), busiest, window, faults)

    def _arrive(self) -> list[Any]:
        """Mostly one task each, some many, some on WebSockets, a few with our own client."""
        arrived = []
        for number in range(self._plan.clients):
            one = self._refs[number % len(self._refs)]
            if number % 10 == 7:
                arrived.append(self._viewers.sse(*self._chance.sample(self._refs, MANY)))
            elif number % 20 == 3:
                arrived.append(self._viewers.socket(*self._chance.sample(self._refs, 3)))
            elif number % 50 == 9:
                arrived.append(self._viewers.client(*self._chance.sample(self._refs, 2)))
            else:
                arrived.append(self._viewers.sse(one))
        return arrived

    async def _step(self) -> None:
        """A second at the provider; much of its news must arrive before the next."""
        before, moving = self._viewers.judge.states, len(self._provider.open(self._refs))
        self._provider.advance(STEP_SECONDS)
        await self._viewers.reach(before + max(moving // 2, 1), self._plan.patience)

    async def _watched_again(self, open_then: list[str], began: float) -> list[tuple[float, str]]:
        """Nobody asks; each task that was open is looked at nevertheless."""
        async with asyncio.timeout(self._plan.patience + len(open_then) / self._plan.rate):
            while not {ref for _, ref in self._provider.polled_since(began)} >= set(open_then):
                await self._provider.look()
        return self._provider.polled_since(began)

    async def _forgotten(self, announced: dict[str, Sight]) -> list[str]:
        """The endings that were announced and are not what the bridge says now."""
        faults = []
        for ref, seen in announced.items():
            status, state = await get(self._provider.http, f"{self._bridge.url}/v1/tasks/{ref}")
            now = Sight.of(state) if status == 200 else None
            if now is None or now.ending != seen.ending:
                faults.append(f"{ref}: announced {seen}, now {status} {now}")
            elif not self._plan.lose_journal and (now.epoch, now.offset) != (seen.epoch, seen.offset):
                faults.append(f"{ref}: announced as {seen}, recorded as {now}")
        return faults


def _lives(number: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    """A third ends before the kill, a third while the bridge is dead, the rest after."""
    dead = STEPS_BEFORE + STEPS_DEAD
    spans = [(4, STEPS_BEFORE - 2), (STEPS_BEFORE + 2, dead), (dead + 2, dead + 8)]
    for each in range(number):
        outcome = "failed" if each % 10 == 4 else "completed"
        run = chance.uniform(*spans[each % 3]) - 0.5
        yield {"queue_seconds": 0.5, "run_seconds": run, "outcome": outcome}


def _busiest(times: list[float], window: float) -> int:
    """The most calls within any so long a time."""
    most = first = 0
    for last, at in enumerate(times):
        while at - times[first] > window:
            first += 1
        most = max(most, last - first + 1)
    return most
