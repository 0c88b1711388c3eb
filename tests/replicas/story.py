"""Tasks and clients that come and go before several bridges, while things break; then the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.site import Studio, studio
from tests.chaos.viewers import Viewers
from tests.replicas import polls
from tests.replicas.acts import ENGINE_ACTS, HISTORY_CHANGES, PARTITIONS, REPLICA_ACTS, Acts, Fault
from tests.replicas.engines import EngineProcess
from tests.replicas.fleet import LEASE, Fleet, fleet
from tests.replicas.judge import Disturbance, SharedAccount, SharedJudge

PATIENCE = 60.0
MIN_SECONDS, MAX_SECONDS = 0.5, 1.0
HEALS = 3.0
"""Seconds after a fault in which replicas still agree again."""

FAILOVER = LEASE + 1.0
"""Seconds after a kill in which its tasks are polled again, on a machine that wakes everybody in time."""

TICK = 0.05
WAKES = 6
"""How many times one after the other somebody has to wake between a fault and the first poll after it: who
notices, who asks the engine, the engine, who is answered, who polls, the provider."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long, how large, and what may happen.

    Args:
        acts: Names; each is done once in a random order, then again by chance until the time is over.
        moves: How long a client stays at one bridge, in seconds.
    """

    seed: int
    seconds: float = 75.0
    count: int = 3
    acts: Sequence[str] = (*REPLICA_ACTS, *ENGINE_ACTS)
    moves: tuple[float, float] | None = (1.0, 8.0)
    tasks_per_second: float = 3.0
    viewers_per_task: int = 2
    calm: tuple[float, float] = (2.0, 4.0)
    run_seconds: tuple[float, float] = (2.0, 20.0)
    under: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """One act, as the provider and the viewers saw it.

    Args:
        unpolled: The longest time since it began in which an open task was not polled, in seconds.
        pause: The longest time in which a viewer heard nothing of an open task.
        doubled: Polls nearer to each other than the interval allows.
        late: By how much this process woke too late at most meanwhile: the others have the same machine.
    """

    fault: Fault
    unpolled: float
    pause: float
    doubled: int
    late: float

    def __str__(self) -> str:
        return (
            f"{self.fault.name:18} {self.fault.until - self.fault.since:5.1f} s: longest without a poll"
            f" {self.unpolled:4.1f} s, without news {self.pause:4.1f} s, {self.doubled} polls doubled,"
            f" woken {self.late:.2f} s late"
        )

    def slow(self) -> Iterator[str]:
        """What of it took longer than is allowed."""
        name, busy = self.fault.name, WAKES * self.late
        if name in {"kill", "stop"} and self.unpolled > FAILOVER + busy:
            yield f"{name}: a task was not polled for {self.unpolled:.2f} s, lease {LEASE}"
        if name == "rolling" and self.unpolled > 2 * MAX_SECONDS + 0.5 + busy:
            yield f"{name}: a task was not polled for {self.unpolled:.2f} s"


@dataclass
class Verdict:
    """What there is to tell.

    Attributes:
        faults: What no viewer and no provider may see, however busy the machine is.
        slow: What took longer than it does on a quiet machine. A verdict for `make chaos-replicas`, not for
            tests that share the machine with others.
        lines: One for each act.
    """

    faults: list[str]
    slow: list[str]
    judge: SharedJudge
    tasks: int
    doubled: int
    lines: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.judge.counts.items()))
        return (
            f"{self.tasks} tasks, {len(self.judge.accounts)} clients, {self.judge.states} states; {counts};"
            f" {self.doubled} polls doubled in partitions; {len(self.faults)} faults, {len(self.slow)} slow"
        )


class Story:
    """One run."""

    def __init__(self, plan: Plan, provider: Studio, bridges: Fleet) -> None:
        self.plan = plan
        self.provider = provider
        self.fleet = bridges
        self.judge = SharedJudge()
        self.viewers = Viewers(lambda: bridges.address, self.judge, plan.seed, moves=plan.moves)
        self.acts = Acts(bridges, random.Random(plan.seed + 1), self._begins)
        self.refs: list[str] = []
        self.lives: dict[str, tuple[float, float]] = {}
        self.resets: list[float] = []
        self.woken: list[tuple[float, float]] = []  # when, and by how much too late
        self._chance = random.Random(plan.seed)

    async def play(self) -> Verdict:
        """Let it happen, wait for everybody, judge."""
        loop = asyncio.get_running_loop()
        arriving = asyncio.create_task(self.arrive_for_ever())
        waking = asyncio.create_task(self.wake_for_ever())
        try:
            end = loop.time() + self.plan.seconds
            await asyncio.sleep(self._chance.uniform(*self.plan.calm))
            coming = self._chance.sample(list(self.plan.acts), len(self.plan.acts))
            while loop.time() < end and self.plan.acts:
                name = coming.pop() if coming else self._chance.choice(list(self.plan.acts))
                await self.act(name)
                await asyncio.sleep(self._chance.uniform(*self.plan.calm))
            await asyncio.sleep(max(end - loop.time(), 0))
            arriving.cancel()
            await self.finish()
        finally:
            arriving.cancel()
            waking.cancel()
            await asyncio.gather(arriving, waking, return_exceptions=True)
            await self.viewers.close()
        return self.verdict()

    async def act(self, name: str, which: int | None = None) -> Fault:
        """One act; the judge hears when bridges could not agree."""
        fault = await self.acts.do(name, which)
        if name in PARTITIONS:
            self._disturb(fault)
        return fault

    async def finish(self) -> None:
        """Wait until everybody was told the end; who waits in vain is found by the verdict."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while not all(one.over or one.left for one in self.judge.accounts):
                    await self.viewers.news.wait()
        for account in self.judge.accounts:
            if not (account.over or account.left):
                known = {ref: account.known.get(ref) for ref in account.refs}
                self.judge.find(f"{account.name} still waits for {known}")

    async def arrive_for_ever(self) -> None:
        """Tasks begin, each with clients."""
        while True:
            await self.arrive()
            await asyncio.sleep(self._chance.expovariate(self.plan.tasks_per_second))

    async def wake_for_ever(self) -> None:
        """Note how busy the machine is."""
        loop = asyncio.get_running_loop()
        while True:
            wanted = loop.time() + TICK
            await asyncio.sleep(TICK)
            self.woken.append((loop.time(), loop.time() - wanted))

    async def arrive(self) -> None:
        """One more task, and those who watch it."""
        (ref,) = await self.provider.submit([life := self._life()])
        now = asyncio.get_running_loop().time()
        self.refs.append(ref)
        self.lives[ref] = (now, now + life["queue_seconds"] + life["run_seconds"])
        for _ in range(self._chance.randint(1, 2 * self.plan.viewers_per_task - 1)):
            self._watch(ref)

    def _life(self) -> dict[str, Any]:
        outcome = "failed" if self._chance.random() < 0.15 else "completed"
        queue, run = self._chance.uniform(0, 1.5), self._chance.uniform(*self.plan.run_seconds)
        return {"queue_seconds": queue, "run_seconds": run, "outcome": outcome}

    def _watch(self, ref: str) -> None:
        kind = self._chance.random()
        recent = self.refs[-10:]
        some = list(dict.fromkeys([ref, *self._chance.sample(recent, min(len(recent), 5))]))
        if kind < 0.6 or len(some) < 2:
            self.viewers.sse(ref)
        elif kind < 0.8:
            self.viewers.sse(*some)
        elif kind < 0.9:
            self.viewers.socket(*some[:3])
        else:
            self.viewers.client(*some[:2])

    def _begins(self, name: str) -> None:
        """Before an act: from now on it may show."""
        if name in HISTORY_CHANGES:
            self.judge.resets_expected = True
        now = asyncio.get_running_loop().time()
        if name == "kill":
            self.judge.kills.append(now)
        if name in PARTITIONS:
            self._open = Disturbance(now, float("inf"), split=name == "split")
            self.judge.disturbances.append(self._open)

    def _disturb(self, fault: Fault) -> None:
        self.judge.disturbances.remove(self._open)
        late = max((late for at, late in self.woken if fault.since <= at), default=0.0)
        until = fault.until + HEALS + WAKES * late
        self.judge.disturbances.append(Disturbance(fault.since, until, split=fault.name == "split"))

    # The verdict

    def verdict(self) -> Verdict:
        """Everything that was wrong, and a line for each act."""
        faults = self.judge.verdict(self.provider.truth(self.refs))
        pairs = polls.doubled(self._polls(), MIN_SECONDS)
        within = [pair for pair in pairs if self.judge.disturbed(pair.at - pair.gap, pair.at)]
        faults += [str(pair) for pair in pairs if pair not in within]
        told = [self.told(fault) for fault in self.acts.done]
        slow = [wrong for one in told for wrong in one.slow()]
        return Verdict(faults, slow, self.judge, len(self.refs), len(within), [str(one) for one in told])

    def told(self, fault: Fault) -> Told:
        """One act as the provider and the viewers saw it."""
        until = fault.until + HEALS
        seen = self._polls()
        pairs = [pair for pair in polls.doubled(seen, MIN_SECONDS) if fault.since <= pair.at <= until]
        late = max((late for at, late in self.woken if fault.since <= at <= until), default=0.0)
        return Told(fault, self._longest_unpolled(seen, fault), self._longest_pause(fault), len(pairs), late)

    def _polls(self) -> list[tuple[float, str]]:
        return sorted(self.provider.looks)

    def _longest_unpolled(self, seen: Sequence[tuple[float, str]], fault: Fault) -> float:
        times = polls.by_task(seen)
        longest = 0.0
        for ref, (born, ends) in self.lives.items():
            since, until = max(fault.since, born + 2), min(fault.until + HEALS, ends)
            if until > since:
                after = [at for at in times[ref.partition("/")[2]] if at >= since]
                longest = max(longest, polls.longest_gap(after, since, until))
        return longest

    def _longest_pause(self, fault: Fault) -> float:
        longest = 0.0
        for account in self.judge.accounts:
            assert isinstance(account, SharedAccount)
            for ref, times in account.times.items():
                _, ends = self.lives[ref]
                until = min(fault.until + HEALS, ends)
                since = max(fault.since, times[0])
                if until > since:
                    longest = max(longest, polls.longest_gap(times, since, until))
        return longest


@asynccontextmanager
async def stage(plan: Plan, engine: EngineProcess | None) -> AsyncIterator[Story]:
    """Provider, bridges and balancer, before anything happens."""
    upstream = {"poll_min_seconds": MIN_SECONDS, "poll_max_seconds": MAX_SECONDS, "timeout_seconds": 5.0}
    async with (
        studio(manual_clock=False, seed=plan.seed) as provider,
        fleet(
            provider.url,
            engine,
            count=plan.count,
            seed=plan.seed,
            upstream=upstream,
            under=plan.under,
        ) as bridges,
    ):
        yield Story(plan, provider, bridges)


async def play(plan: Plan, engine: EngineProcess | None) -> Verdict:
    """A run, whole."""
    async with stage(plan, engine) as story:
        return await story.play()
