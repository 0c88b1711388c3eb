"""`make chaos`: the kill at full size, ten thousand clients vanishing, then disasters until time is up.

CHAOS_SECONDS (600) is the time for all of it, CHAOS_SEED repeats a run. The exit code is 1 when the judge
found a fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.chaos.churn import Churn
from tests.chaos.crowd import Crowd
from tests.chaos.disasters import Disasters
from tests.chaos.judge import Judge
from tests.chaos.killed import Plan, kill_under_load
from tests.chaos.proxy import GOOD, Whims, proxied
from tests.chaos.site import metric, site, studio
from tests.chaos.viewers import Viewers
from tests.e2e.scene import until

PATIENCE = 120.0
LEAST_RANDOM_SECONDS = 60.0
CALM_SECONDS = (1.0, 5.0)
VANISHING = 10_000
DESCRIPTORS_BESIDE = 500


async def main() -> int:
    """Everything; the exit code."""
    seconds = float(os.environ.get("CHAOS_SECONDS", "600"))
    seed = int(os.environ.get("CHAOS_SEED", str(random.SystemRandom().randrange(1_000_000))))
    say(f"CHAOS_SEED={seed} CHAOS_SECONDS={seconds:g}")
    _raise_descriptor_limit()
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as another:
        for lose_journal, where in ((False, folder), (True, another)):
            size = {"tasks": 1000, "clients": 2000, "rate": 400.0, "patience": PATIENCE}
            plan = Plan(**size, lose_journal=lose_journal, seed=seed)
            told = await kill_under_load(plan, Path(where))
            say(f"kill -9 {'and the journal deleted' if lose_journal else 'on the same journal'}: {told}")
            faults += told.faults
        faults += await _vanishing()
        faults += await _by_chance(max(end - loop.time(), LEAST_RANDOM_SECONDS), seed, Path(folder))
    for fault in faults[:50]:
        say(f"FAULT {fault}")
    say(f"{len(faults)} faults, CHAOS_SEED={seed}")
    return 1 if faults else 0


async def _vanishing() -> list[str]:
    """As many clients as there may be go at once."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(VANISHING, hard - DESCRIPTORS_BESIDE)
    async with studio() as provider, site(provider.url) as bridge:
        (ref,) = await provider.submit([{"queue_seconds": 0, "run_seconds": 100, "outcome": "completed"}])
        crowd = Crowd(bridge.address, f"/v1/tasks/{ref}/events")
        await crowd.come(number)
        full = bridge.rss()
        crowd.vanish()
        began = asyncio.get_running_loop().time()
        series = 'bridge_connections{delivery="sse"}'
        await until(lambda: metric(provider.http, bridge.url, series), 0.0)
        took = asyncio.get_running_loop().time() - began
        say(f"{number} clients vanished at once, from {full / 2**20:.0f} MiB: noticed in {took:.1f} s")
    return [] if took < 30 else [f"{number} vanished clients were noticed after {took:.1f} s"]


async def _by_chance(seconds: float, seed: int, folder: Path) -> list[str]:
    chance, calm = random.Random(seed), random.Random(seed + 2)
    acts: Counter[str] = Counter()
    settings = {"upstream": {"timeout_seconds": 2.0, "poll_max_seconds": 1.0}, "drain_seconds": 2.0}
    async with (
        studio(manual_clock=False, seed=seed) as provider,
        proxied(provider.url) as way,
        site(f"{way.url}/qingbo", folder / "long.db", write_timeout_seconds=3.0, **settings) as bridge,
        proxied(bridge.url, Whims(seed, rate=0.15)) as front,
    ):
        viewers = Viewers(lambda: ("127.0.0.1", front.port), Judge(), seed)
        churn = Churn(provider, viewers, chance)
        disasters = Disasters(bridge, way, front, random.Random(seed + 1))
        coming = asyncio.create_task(churn.run(seconds))
        try:
            while not coming.done():
                await asyncio.wait([coming], timeout=calm.uniform(*CALM_SECONDS))
                if not coming.done():
                    acts[await disasters.next()] += 1
            await coming
            front.choose(lambda _: GOOD)
            front.reset_all()
            with contextlib.suppress(AssertionError):  # who is still waiting is told below
                await churn.finish(PATIENCE)
            late = [f"{one.name} still waits for {one.refs}: {one.known}" for one in viewers.judge.accounts]
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            await viewers.close()
        say(f"by chance, {seconds:.0f} s: " + ", ".join(f"{count} x {name}" for name, count in acts.items()))
        say(
            f"{churn.tasks} tasks, {churn.judged} clients judged, {churn.vanished} vanished,"
            f" {viewers.judge.states} states, {dict(viewers.judge.counts)}"
        )
        return [*churn.verdict(), *late]


def say(line: str) -> None:
    """Tell whoever waits."""
    print(line, flush=True)  # noqa: T201 - a program's output


def _raise_descriptor_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
