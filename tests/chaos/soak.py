"""`make soak`: tasks and clients come and go, clients and providers flood, the way to the provider breaks.

SOAK_MINUTES (30) is how long. Exit code 1 when the last fifth holds over 5 % more than the third, or when the
judge found a fault. The fifths before fill tables and caches, whose size is bounded: of URLs, missing tasks.
Memory is compared between floods, and descriptors without those of clients: how many clients are there is
chance.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median

import aiohttp

from tests.bench.hostile import flooding, floods
from tests.chaos.churn import Churn
from tests.chaos.disasters import Disasters
from tests.chaos.judge import Judge
from tests.chaos.long import say
from tests.chaos.proxy import GOOD, proxied
from tests.chaos.site import Site, get, site, studio
from tests.chaos.viewers import Viewers
from tests.hostile.provider import provider_process

SAMPLES = 600
ROWS = 30
COLUMNS = "  second  RSS, MiB  descriptors  own  watches  connections       "
GROWTH = 1.05
MOST_DESCRIPTORS_MORE = 3
FLOOD_SECONDS = 4.0
CALM_SECONDS = 5.0
REST_SECONDS = 30.0  # after each of them was done once
SETTLED_SECONDS = 3.0  # after a flood, until the memory is compared
# In this order, again and again, so that every part of the run has all of them.
PROVIDER_FLOODS = ("states", "informational", "packed", "chunks", "wide-document")
CLIENT_FLOODS = (
    *("websocket_pings", "websocket_fragments", "websocket_messages"),
    *("half_sent_heads", "resets", "unread_streams", "random_documents", "subscribe_churn"),
)
FAULTS = ("_provider_refuses", "_provider_misbehaves", "_nonsense")
PATIENCE = 60.0
RETENTION_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The bridge at one moment.

    Args:
        own_descriptors: Those that are no connections of clients.
        calm: Whether no flood runs, and the last one is over for some seconds.
    """

    second: float
    rss: int
    descriptors: int
    own_descriptors: int
    watches: int
    connections: int
    calm: bool

    def __str__(self) -> str:
        return (
            f"{self.second:8.0f} {self.rss / 2**20:9.1f} {self.descriptors:12} {self.own_descriptors:4}"
            f" {self.watches:8} {self.connections:12} {'' if self.calm else 'flood':>6}"
        )


@dataclass
class Trouble:
    """Floods and faults, one after the other.

    Attributes:
        acts: How often each was done.
        calm_since: When the last one ended, in seconds of the event loop; infinity during one.
    """

    bridge: Site
    disasters: Disasters
    acts: Counter[str] = field(default_factory=Counter)
    calm_since: float = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        known = floods()
        wished = [*(f"provider: {kind}" for kind in PROVIDER_FLOODS), *CLIENT_FLOODS, *FAULTS]
        for name in cycle([name for name in wished if name in known or name in FAULTS] + ["rest"]):
            if name == "rest":
                await asyncio.sleep(REST_SECONDS)
                continue
            self.calm_since = float("inf")
            if name in FAULTS:
                await getattr(self.disasters, name)()
            else:
                async with flooding(name, self.bridge.url):
                    await asyncio.sleep(FLOOD_SECONDS)
            self.acts[name.strip("_")] += 1
            self.calm_since = asyncio.get_running_loop().time()
            await asyncio.sleep(CALM_SECONDS)

    @property
    def calm(self) -> bool:
        """Whether the bridge has had time to forget the last one."""
        return asyncio.get_running_loop().time() - self.calm_since > SETTLED_SECONDS


async def main() -> int:
    """Everything; the exit code."""
    minutes = float(os.environ.get("SOAK_MINUTES", "30"))
    seconds = float(os.environ.get("SOAK_SECONDS", minutes * 60))
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    judge = Judge()
    samples: list[Sample] = []
    settings = {"retention_seconds": RETENTION_SECONDS, "linger_seconds": 1.0, "write_timeout_seconds": 5.0}
    with tempfile.TemporaryDirectory() as folder:
        async with (
            studio(manual_clock=False, seed=seed) as provider,
            proxied(provider.url) as way,
            provider_process() as flooding_url,
            site(
                f"{way.url}/{provider.name}",
                Path(folder, "soak.db"),
                upstream={"timeout_seconds": 2.0, "poll_max_seconds": 1.0},
                others={"bytespike": flooding_url},
                **settings,
            ) as bridge,
        ):
            viewers = Viewers(lambda: bridge.address, judge, seed)
            churn = Churn(provider, viewers, random.Random(seed), tasks_per_second=10)
            trouble = Trouble(bridge, Disasters(bridge, way, way, random.Random(seed + 1)))
            sampling = asyncio.create_task(_sample(bridge, provider.http, seconds, samples, trouble))
            troubling = asyncio.create_task(trouble.run())
            try:
                await churn.run(seconds)
                await sampling
                troubling.cancel()
                await asyncio.gather(troubling, return_exceptions=True)
                way.behave(GOOD)
                await churn.finish(PATIENCE)
            finally:
                sampling.cancel()
                troubling.cancel()
                ends = await asyncio.gather(sampling, troubling, return_exceptions=True)
                await viewers.close()
            disk = _size(Path(folder))
    say(
        f"{churn.tasks} tasks, {churn.judged} clients judged, {churn.vanished} vanished,"
        f" {judge.states} states"
    )
    say(", ".join(f"{count} x {name}" for name, count in trouble.acts.items()))
    say(f"journal on disk at the end: {disk / 2**20:.1f} MiB")
    faults = [*churn.verdict(), *_growth(samples)]
    faults += [repr(end) for end in ends if isinstance(end, Exception)]
    for fault in faults[:50]:
        say(f"FAULT {fault}")
    say(f"{len(faults)} faults")
    return 1 if faults else 0


async def _sample(
    bridge: Site, http: aiohttp.ClientSession, seconds: float, samples: list[Sample], trouble: Trouble
) -> None:
    say(COLUMNS)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(1, SAMPLES + 1):
        await asyncio.sleep(began + seconds * number / SAMPLES - loop.time())
        _, text = await get(http, bridge.url + "/metrics")
        watches, connections = (_total(str(text), name) for name in ("bridge_watches", "bridge_connections"))
        second = loop.time() - began
        descriptors = (bridge.descriptors(), bridge.own_descriptors())
        one = Sample(second, bridge.rss(), *descriptors, watches, connections, trouble.calm)
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
    faults = []
    for name, allowed in (("rss", 0), ("own_descriptors", MOST_DESCRIPTORS_MORE)):
        before, after = (
            median([getattr(one, name) for one in part if one.calm] or [0])
            for part in (samples[2 * fifth : 3 * fifth], samples[-fifth:])
        )
        if not before or not after:
            faults.append(f"{name}: there was no calm moment to compare")
            continue
        say(f"{name}: third fifth {before:.0f}, last fifth {after:.0f}, {100 * (after / before - 1):+.1f} %")
        if after > before * GROWTH + allowed:
            faults.append(f"{name} grew from {before:.0f} to {after:.0f}")
    return faults


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
