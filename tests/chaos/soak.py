"""`make soak`: tasks and clients come and go; memory and descriptors of the bridge must stay where they were.

SOAK_SECONDS (1800) is how long. Exit code 1 when the last fifth holds over 10 % more than the second fifth,
or when the judge found a fault. Descriptors are judged without those of clients: how many clients are there
is chance.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import aiohttp

from tests.chaos.churn import Churn
from tests.chaos.judge import Judge
from tests.chaos.long import say
from tests.chaos.site import Site, get, site, studio
from tests.chaos.viewers import Viewers

SAMPLES = 200
ROWS = 20
GROWTH = 1.10
PATIENCE = 60.0
RETENTION_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The bridge at one moment."""

    second: float
    rss: int
    descriptors: int
    watches: int
    connections: int

    @property
    def own_descriptors(self) -> int:
        """All but the clients'."""
        return self.descriptors - self.connections

    def __str__(self) -> str:
        return (
            f"{self.second:8.0f} {self.rss / 2**20:9.1f} {self.descriptors:12}"
            f" {self.watches:8} {self.connections:12}"
        )


async def main() -> int:
    """Everything; the exit code."""
    seconds = float(os.environ.get("SOAK_SECONDS", "1800"))
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    judge = Judge()
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = {"retention_seconds": RETENTION_SECONDS, "linger_seconds": 1.0}
        async with (
            studio(manual_clock=False, seed=seed) as provider,
            site(provider.url, Path(folder, "soak.db"), **settings) as bridge,
        ):
            viewers = Viewers(lambda: bridge.address, judge, seed)
            churn = Churn(provider, viewers, random.Random(seed), tasks_per_second=10)
            sampling = asyncio.create_task(_sample(bridge, provider.http, seconds, samples))
            try:
                await churn.run(seconds)
                await sampling
                await churn.finish(PATIENCE)
            finally:
                sampling.cancel()
                await asyncio.gather(sampling, return_exceptions=True)
                await viewers.close()
            disk = _size(Path(folder))
    say(
        f"{churn.tasks} tasks, {churn.judged} clients judged, {churn.vanished} vanished,"
        f" {judge.states} states"
    )
    say(f"journal on disk at the end: {disk / 2**20:.1f} MiB")
    faults = [*churn.verdict(), *_growth(samples)]
    for fault in faults[:50]:
        say(f"FAULT {fault}")
    return 1 if faults else 0


async def _sample(bridge: Site, http: aiohttp.ClientSession, seconds: float, samples: list[Sample]) -> None:
    say(f"{'second':>8} {'RSS, MiB':>9} {'descriptors':>12} {'watches':>8} {'connections':>12}")
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(1, SAMPLES + 1):
        await asyncio.sleep(began + seconds * number / SAMPLES - loop.time())
        _, text = await get(http, bridge.url + "/metrics")
        watches, connections = (_total(str(text), name) for name in ("bridge_watches", "bridge_connections"))
        one = Sample(loop.time() - began, bridge.rss(), bridge.descriptors(), watches, connections)
        samples.append(one)
        if number % (SAMPLES // ROWS) == 0:
            say(str(one))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _total(text: str, name: str) -> int:
    return int(
        sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + "{"))
    )


def _growth(samples: list[Sample]) -> list[str]:
    fifth = len(samples) // 5
    early, late = samples[fifth : 2 * fifth], samples[-fifth:]
    faults = []
    for name in ("rss", "own_descriptors"):
        before, after = (fmean(getattr(one, name) for one in part) for part in (early, late))
        say(f"{name}: second fifth {before:.0f}, last fifth {after:.0f}, {100 * (after / before - 1):+.1f} %")
        if after > before * GROWTH:
            faults.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return faults


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
