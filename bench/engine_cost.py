"""What a shared engine costs: CPU of a real server per change and per follower, and of the followers.

python -m bench.engine_cost [valkey redis7 redis62] [--seconds 8] [--rate 2000] [--followers 3] [--no-window]

Changes come at a steady rate. As in a replica, the writer has one call in flight, begun no sooner than
`GATHER_SECONDS` after the one before, and what comes meanwhile goes with the next. Each follower is a
process. The run without followers shows what a change costs alone.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import multiprocessing
import re
import time
from collections import deque
from multiprocessing.queues import Queue
from typing import Any

import uvloop

from bridge.clock import SystemClock
from bridge.core.task import TaskKey
from bridge.engine.address import parse_address
from bridge.engine.base import Apply, End, Mode, Stamp, StateEntry, Want
from bridge.engine.redis.connect import ServerAccess
from bridge.engine.redis.engine import RedisEngine
from bridge.replica.outbox import GATHER_SECONDS
from tests.fakes.redis_servers import RedisServer, unavailable

DOCUMENT = b"x" * 600
RAW = b"y" * 900
TASKS = 2_000
QUIET = 20_000
WINDOW_SECONDS = 0.003
TICK_SECONDS = 0.001
CLOCK = SystemClock()


def engine_at(url: str) -> RedisEngine:
    """An engine, not connected."""
    return RedisEngine(ServerAccess(address=parse_address(url), timeout=10.0))


def server_cpu(server: RedisServer) -> float:
    """CPU seconds that the server has used."""
    answer = server.ask("INFO", "cpu")
    return sum(float(x) for x in re.findall(r"used_cpu_(?:sys|user):([\d.]+)", answer))


def calls(server: RedisServer) -> int:
    """Commands that the server has processed."""
    return int(re.findall(r"total_commands_processed:(\d+)", server.ask("INFO", "stats"))[0])


async def follow(url: str, window: float, begin: Any, results: Queue[tuple[int, float, float]]) -> None:
    """Read the log until its last entry; report entries, CPU seconds and the median age of an entry."""
    engine = engine_at(url)
    await engine.connect()
    welcome = await engine.session("f", ttl=60, known_head=0, new_epoch="e1", about=b"", opens=True)
    after, entries, ages, over = welcome.head, 0, [], False
    begin.wait()
    started = time.process_time()
    while not over:
        for entry in await engine.read(after, block=0.5):
            after = entry.offset
            entries += 1
            if entries % 50 == 0:
                ages.append(CLOCK.time() - after / 1e6)
            over = over or (isinstance(entry, StateEntry) and entry.key.task_id == "last")
        if window and not over:
            await asyncio.sleep(window)
    ages.sort()
    results.put((entries, time.process_time() - started, ages[len(ages) // 2]))
    await engine.close()


def _follow(url: str, window: float, begin: Any, results: Queue[tuple[int, float, float]]) -> None:
    uvloop.run(follow(url, window, begin, results))


def state(task: str, version: int) -> Apply:
    """One change of 600 bytes, with 900 of the provider's own."""
    digest = hashlib.blake2b(f"{task}{version}".encode(), digest_size=16).digest()
    stamp = Stamp(version, "w")
    return Apply(TaskKey("up", task), Mode.FREE, version - 1, stamp, End.OPEN, digest, DOCUMENT, RAW)


async def write(engine: RedisEngine, rate: int, seconds: float) -> tuple[int, int]:
    """Record changes at a rate; how many, and in how many calls."""
    versions = dict.fromkeys(range(TASKS), 0)
    waiting: deque[int] = deque()
    changes = made = groups = 0
    began = CLOCK.monotonic()
    while (passed := CLOCK.monotonic() - began) < seconds:
        due = int(passed * rate)
        waiting.extend(number % TASKS for number in range(made, due))
        made = due
        if not waiting:
            await asyncio.sleep(TICK_SECONDS)
            continue
        states: list[Apply] = []
        while waiting and len(states) < 64:
            number = waiting.popleft()
            versions[number] += 1
            states.append(state(f"task-{number:08d}", versions[number]))
        sent = CLOCK.monotonic()
        applied = await engine.apply("w", states)
        assert all(one.outcome == "recorded" for one in applied)
        changes, groups = changes + len(states), groups + 1
        await asyncio.sleep(max(sent + GATHER_SECONDS - CLOCK.monotonic(), 0.0))
    await engine.apply("w", [state("last", 1)])
    return changes, groups


async def one_run(server: RedisServer, config: argparse.Namespace, followers: int) -> dict[str, float]:
    """Changes at the rate with so many followers."""
    server.ask("FLUSHALL")
    engine = engine_at(server.url)
    await engine.connect()
    await engine.session("w", ttl=600, known_head=0, new_epoch="e1", about=b"", opens=True)
    for first in range(0, TASKS, 100):
        wants = [Want(TaskKey("up", f"task-{n:08d}"), may_own=False) for n in range(first, first + 100)]
        await engine.want("w", wants, linger=600)
    context = multiprocessing.get_context("spawn")
    begin, results = context.Barrier(followers + 1), context.Queue()
    window = 0.0 if config.no_window else WINDOW_SECONDS
    processes = [
        context.Process(target=_follow, args=(server.url, window, begin, results)) for _ in range(followers)
    ]
    for process in processes:
        process.start()
    await asyncio.to_thread(begin.wait)
    before, own = server_cpu(server), time.process_time()
    changes, groups = await write(engine, config.rate, config.seconds)
    used, own = server_cpu(server) - before, time.process_time() - own
    found = [results.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
    await engine.close()
    per_entry = [cpu / entries * 1e6 for entries, cpu, _ in found]
    return {
        "changes/s": changes / config.seconds,
        "a call": changes / groups,
        "server us/change": used / changes * 1e6,
        "writer us/change": own / changes * 1e6,
        "follower us/entry": sum(per_entry) / len(found) if found else 0.0,
        "age p50 ms": sum(age for _, _, age in found) / len(found) * 1e3 if found else 0.0,
    }


async def quiet(server: RedisServer) -> dict[str, float]:
    """A replica that owns 20,000 tasks that do not change: renewals, and interest in bulk."""
    server.ask("FLUSHALL")
    engine = engine_at(server.url)
    await engine.connect()
    await engine.session("w", ttl=600, known_head=0, new_epoch="e1", about=b"", opens=True)
    keys = [TaskKey("up", f"task-{number:08d}") for number in range(QUIET)]
    before = server_cpu(server)
    for first in range(0, QUIET, 100):
        await engine.want("w", [Want(key) for key in keys[first : first + 100]], linger=600)
    wanting = server_cpu(server) - before
    before, sent = server_cpu(server), calls(server)
    for _ in range(500):
        await engine.session("w", ttl=600, known_head=0, new_epoch="e1", about=b"", opens=False)
    renewing, sent = server_cpu(server) - before, calls(server) - sent
    before, round_calls = server_cpu(server), calls(server)
    await engine.rewant(keys, linger=600)
    rewanting, round_calls = server_cpu(server) - before, calls(server) - round_calls
    for first in range(0, QUIET, 64):
        await engine.apply("w", [state(key.task_id, 1) for key in keys[first : first + 64]])
    memory = int(re.findall(r"used_memory:(\d+)", server.ask("INFO", "memory"))[0])
    await engine.close()
    return {
        "want us/task": wanting / QUIET * 1e6,
        "renewal us": renewing / 500 * 1e6,
        "rewant 20,000 ms": rewanting * 1e3,
        "rewant 20,000 calls": round_calls - 1,
        "memory a task B": memory / QUIET,
    }


def main() -> None:
    """Measure, and print one line for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers", nargs="*", default=["valkey", "redis7", "redis62"])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--followers", type=int, default=3)
    parser.add_argument("--no-window", action="store_true")
    config = parser.parse_args()
    for kind in config.servers:
        if unavailable(kind):
            print(unavailable(kind))
            continue
        with RedisServer(kind) as server:
            for followers in (0, config.followers):
                show(f"{kind}, {followers} followers", uvloop.run(one_run(server, config, followers)))
            show(f"{kind}, quiet", uvloop.run(quiet(server)))


def show(what: str, figures: dict[str, float]) -> None:
    """One line."""
    print(f"{what:22}", "  ".join(f"{name} {value:.1f}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
