"""What `make bench replicas` measures with real bridges; each function yields rows of numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.contenders import providing
from bench.observers import metric
from tests.bench.replicas.load import Hoppers, Publisher, reading, until
from tests.bench.replicas.provider import CountingProvider, counting_provider
from tests.replicas import polls
from tests.replicas.engines import EngineProcess, engine_process
from tests.replicas.fleet import Fleet, fleet

Numbers = dict[str, float]
Row = tuple[str, Numbers]
TASKS = 40
QUIET = {"poll_min_seconds": 600, "poll_max_seconds": 600}


@dataclass(frozen=True)
class Sizes:
    """How large; `TINY` only checks that the code runs."""

    engine: str = "valkey"
    viewers: tuple[int, ...] = (120, 1_200, 9_900)
    replicas: tuple[int, ...] = (1, 2, 3, 5)
    changes: float = 57.0
    seconds: float = 8.0
    quiet_tasks: int = 20_000
    kills: int = 3
    leases: tuple[float, ...] = (3.0, 10.0)
    limited_tasks: int = 240
    streams: int = 1_000
    hop_changes: float = 200.0
    sockets: int = 3_000
    rounds: int = 12
    rates: tuple[float, ...] = (200.0, 2_000.0)
    sessions: tuple[int, ...] = (1, 3, 8, 24, 64)


FULL = Sizes()
TINY = Sizes(
    viewers=(80, 120),
    replicas=(1, 2),
    seconds=1.0,
    quiet_tasks=60,
    kills=1,
    leases=(3.0,),
    limited_tasks=60,
    streams=30,
    hop_changes=20.0,
    sockets=60,
    rounds=2,
    rates=(50.0,),
    sessions=(1, 3),
)


@asynccontextmanager
async def streaming_fleet(
    sizes: Sizes, count: int, tasks: int = TASKS, **settings: Any
) -> AsyncIterator[tuple[Fleet, EngineProcess, Publisher]]:
    """Bridges that follow a provider whose changes the benchmark publishes."""
    with providing(tasks) as (port, control):
        upstream = {**QUIET, "max_streams": tasks}
        async with (
            engine_process(sizes.engine) as engine,
            fleet(
                f"http://127.0.0.1:{port}/bytespike",
                engine,
                count=count,
                upstream=upstream,
                name="bytespike",
                max_connection_age_seconds=86_400,
                **settings,
            ) as bridges,
        ):
            yield bridges, engine, Publisher(control, tasks)


async def cost(sizes: Sizes) -> AsyncIterator[Row]:
    """What the engine computes for a change, with more and more viewers, then replicas."""
    for viewers in sizes.viewers:
        yield f"3 replicas, {viewers:,} viewers", await _cost(sizes, 3, viewers)
    for count in sizes.replicas:
        yield f"{count} replicas, 240 viewers", await _cost(sizes, count, 240)


async def _cost(sizes: Sizes, count: int, viewers: int) -> Numbers:
    async with (
        streaming_fleet(sizes, count) as (bridges, engine, publisher),
        reading(bridges, "/v1/tasks/bytespike/t%d/events", viewers, TASKS),
    ):
        await publisher.until_streams(TASKS)
        await publisher.pace(sizes.changes, 1.0)
        before = await _spent(engine), await _delivered(bridges)
        changes = await publisher.pace(sizes.changes, sizes.seconds)
        await asyncio.sleep(0.5)
        after = await _spent(engine), await _delivered(bridges)
        cpu, commands = (late - early for early, late in zip(before[0], after[0], strict=True))
        idle = await _idle(engine, sizes.seconds)
        return {
            "engine_us": cpu / changes * 1e6,
            "engine_us_beyond_idle": (cpu - idle[0]) / changes * 1e6,
            "commands_per_change": commands / changes,
            "engine_share": cpu / (sizes.seconds + 0.5),
            "changes": changes / sizes.seconds,
            "delivered": after[1] - before[1],
        }


async def _delivered(bridges: Fleet) -> float:
    series = 'bridge_events_total{delivery="sse"}'
    return sum([await asyncio.to_thread(metric, one.site.port, series) for one in bridges.replicas])


async def _spent(engine: EngineProcess) -> tuple[float, float]:
    return await engine.cpu_seconds(), await engine.calls()


async def _idle(engine: EngineProcess, seconds: float) -> tuple[float, float]:
    """CPU and commands of the same time without changes."""
    before = await _spent(engine)
    await asyncio.sleep(seconds + 0.5)
    after = await _spent(engine)
    return after[0] - before[0], after[1] - before[1]


async def quiet(sizes: Sizes) -> AsyncIterator[Row]:
    """Commands a second while nothing changes in very many tasks."""
    tasks = sizes.quiet_tasks
    with providing(tasks) as (port, _):
        upstream = {"poll_min_seconds": 60, "poll_max_seconds": 60, "requests_per_second": None}
        async with (
            engine_process(sizes.engine) as engine,
            fleet(
                f"http://127.0.0.1:{port}/qingbo",
                engine,
                upstream=upstream,
                engine_lease_seconds=10,
                linger_seconds=30,
                max_connection_age_seconds=86_400,
            ) as bridges,
            reading(
                bridges, "/v1/events?x=", tasks // 200 or 1, tasks, item="&task=qingbo/t%d", per_conn=200
            ),
        ):
            await asyncio.sleep(5.0 if tasks > 1000 else 1.0)
            cpu, commands = await _idle(engine, max(sizes.seconds * 4, 1.0))
            seconds = max(sizes.seconds * 4, 1.0) + 0.5
            yield (
                f"{tasks:,} tasks, 3 replicas",
                {"commands": commands / seconds, "engine_share": cpu / seconds} | await _memory(engine),
            )


async def _memory(engine: EngineProcess) -> Numbers:
    return {"memory_mb": float(await engine.info("used_memory")) / 1e6}


async def failover(sizes: Sizes) -> AsyncIterator[Row]:
    """After kill -9 of a bridge: until each open task is polled again."""
    for lease in sizes.leases:
        worst, typical, doubled = [], [], 0
        for seed in range(sizes.kills):
            async with _polled(sizes, TASKS, seed=seed, engine_lease_seconds=lease) as (bridges, provider):
                await asyncio.sleep(lease)
                victim = bridges.replicas[seed % len(bridges.replicas)]
                loop = asyncio.get_running_loop()
                before = loop.time()
                await bridges.kill(victim)
                await asyncio.sleep(lease + 3)
                seen = provider.polls
                after = polls.by_task(seen)
                gaps = [polls.longest_gap(times, before, before + lease + 2) for times in after.values()]
                late = [gap for gap in gaps if gap > 1.5]  # those it owned
                worst.append(max(gaps))
                typical += late
                doubled += len(polls.doubled(seen, 0.5))
        yield (
            f"lease {lease:g} s",
            {"p50_s": median(typical or [0.0]), "worst_s": max(worst), "doubled": doubled},
        )


@asynccontextmanager
async def _polled(
    sizes: Sizes, tasks: int, *, seed: int = 0, upstream: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[tuple[Fleet, CountingProvider]]:
    """Bridges that poll a provider which counts, every task watched at each of them."""
    pace = {"poll_min_seconds": 0.5, "poll_max_seconds": 0.5} | (upstream or {})
    async with (
        counting_provider() as provider,
        engine_process(sizes.engine) as engine,
        fleet(provider.url, engine, seed=seed, upstream=pace, **settings) as bridges,
        reading(bridges, "/v1/tasks/qingbo/t%d/events", 3 * tasks, tasks),
    ):

        async def all_polled() -> bool:
            return len({task for _, task in provider.polls}) >= tasks

        await until(all_polled, 30)
        yield bridges, provider


async def limit(sizes: Sizes) -> AsyncIterator[Row]:
    """One rate limit over three bridges, and what a 429 does."""
    upstream = {"requests_per_second": 40, "poll_min_seconds": 0.5, "poll_max_seconds": 1.0}
    async with _polled(sizes, sizes.limited_tasks, upstream=upstream) as (bridges, provider):
        loop = asyncio.get_running_loop()
        since = loop.time()
        await asyncio.sleep(max(sizes.seconds * 1.25, 2.0))
        times = [at for at, _ in provider.polls if since <= at]
        yield (
            "3 replicas at 40/s",
            {
                "per_second": len(times) / (loop.time() - since),
                "most_in_a_second": polls.busiest(times),
                "most_in_a_tenth": polls.busiest(times, 0.1),
            },
        )
        before = len(provider.polls)
        began = provider.refuse_for(3.0)
        await asyncio.sleep(3.2)
        met = [at - began for at, _ in provider.polls[before:] if at - began < 2.9]
        first = met[0] if met else 0.0
        yield (
            "429 for 3 s",
            {
                "met": len(met),
                "late": sum(at - first > 0.05 for at in met),
                "last_ms": (met[-1] - first) * 1000 if met else 0.0,
            },
        )
        await bridges.kill(bridges.replicas[0])
        since = loop.time()
        await asyncio.sleep(6.0)
        times = [at for at, _ in provider.polls if since <= at]
        rates = polls.per_window(times, since, since + 6.0)
        yield "after kill -9 of one", {"least": min(rates), "most_in_a_second": polls.busiest(times)}


async def resume(sizes: Sizes) -> AsyncIterator[Row]:
    """Streams that move to another bridge once a second."""
    tasks = 100 if sizes.streams >= 100 else 10
    async with streaming_fleet(sizes, 3, tasks) as (bridges, _, publisher):
        addresses = [one.site.address for one in bridges.replicas]
        hoppers = Hoppers(addresses, [f"bytespike/t{number % tasks}" for number in range(sizes.streams)])
        async with hoppers.running():
            await hoppers.until_all(60)
            await publisher.until_streams(tasks)
            hoppers.measure()
            await publisher.pace(sizes.hop_changes, max(sizes.seconds, 2.0))
            numbers = hoppers.numbers()
        yield f"{sizes.streams:,} streams, {sizes.hop_changes:g} changes/s", numbers


async def workers(sizes: Sizes) -> AsyncIterator[Row]:
    """From the first to the last socket of one task, with one worker and with two."""
    from tests.bench.replicas.sockets import fan_out

    for count in (1, 2):
        yield f"{count} worker{'s' * (count > 1)}", await fan_out(count, sizes.sockets, sizes.rounds)
