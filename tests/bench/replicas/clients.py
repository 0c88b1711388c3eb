"""What the engine and its clients compute for a change, without bridges: `RedisEngine`s write and follow.

python -m tests.bench.replicas.clients write URL RATE SECONDS      one session that records states
python -m tests.bench.replicas.clients follow URL COUNT SECONDS    so many sessions that follow the log

Each prints one line of JSON. Ceiling: as many followers as replicas would be, four in each process at most.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from bridge.core.task import TaskKey
from bridge.engine.base import Apply, End, Mode, Stamp, StateEntry, Want
from bridge.replica.outbox import GATHER_SECONDS
from tests.replicas.engines import EngineProcess, engine_process

if TYPE_CHECKING:
    from bridge.engine.base import Engine
    from tests.bench.replicas.parts import Numbers, Row, Sizes

TASKS = 400
DOCUMENT_BYTES = 600
TTL = 30.0
WINDOW = 0.002  # between two reads, as a replica waits
RENEW_SECONDS = 1.0
EACH = 4  # followers in one process
BUSY_FOLLOWERS = (0, 1, 3)
MICROSECONDS = 1_000_000


async def busy(sizes: Sizes) -> AsyncIterator[Row]:
    """One engine with many changes: what it computes for each, and what following costs."""
    rate = max(sizes.rates)
    for followers in BUSY_FOLLOWERS:
        yield f"{followers} followers, {rate:,.0f} changes/s", await _measured(sizes, rate, followers)


async def ceiling(sizes: Sizes) -> AsyncIterator[Row]:
    """Ever more followers of one log: how many changes a second 70 % of the engine's core allow."""
    for followers in sizes.sessions:
        for rate in sizes.rates:
            numbers = await _measured(sizes, rate, followers)
            yield f"{followers} replicas, {rate:,.0f} changes/s", numbers
            if numbers["engine_share"] > 0.85:
                break  # beyond that the queue only grows


async def _measured(sizes: Sizes, rate: float, followers: int) -> Numbers:
    seconds = max(sizes.seconds / 2, 1.0)
    async with engine_process(sizes.engine, durable=True) as engine:
        groups = [min(EACH, followers - first) for first in range(0, followers, EACH)]
        following = [await _started("follow", engine, count, seconds + 4) for count in groups]
        writing = await _started("write", engine, rate, seconds)
        before = await engine.cpu_seconds()
        began = time.perf_counter()
        written = await _result(writing)
        took = time.perf_counter() - began
        cpu = await engine.cpu_seconds() - before
        followed = await asyncio.gather(*(_result(one) for one in following))
    changes = max(written["changes"], 1.0)
    per_change = cpu / changes * 1e6
    heard = sum(one["entries"] for one in followed)
    return {
        "changes": changes / written["seconds"],
        "engine_us": per_change,
        "engine_share": cpu / took,
        "writer_us": written["cpu"] / changes * 1e6,
        "follower_us": sum(one["cpu"] for one in followed) / max(heard, 1.0) * 1e6,
        "lag_p99_ms": max((one["lag_p99_ms"] for one in followed), default=0.0),
        "ceiling": 0.7e6 / per_change,
    }


async def _started(what: str, engine: EngineProcess, number: float, seconds: float) -> Process:
    words = [sys.executable, "-m", "tests.bench.replicas.clients", what, engine.url]
    words += [str(number), str(seconds)]
    process = await asyncio.create_subprocess_exec(*words, stdout=PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"ready\n"
    return process


async def _result(process: Process) -> dict[str, float]:
    assert process.stdout is not None
    async with asyncio.timeout(300):
        line = await process.stdout.readline()
        await process.wait()
    return {name: float(value) for name, value in json.loads(line).items()}


# In a process of its own


async def open_engine(url: str) -> Engine:
    """A connected engine."""
    from bridge.engine.address import parse_address
    from bridge.engine.redis.connect import ServerAccess
    from bridge.engine.redis.engine import RedisEngine

    engine: Any = RedisEngine(ServerAccess(address=parse_address(url), timeout=5.0))
    await engine.connect()
    return engine  # type: ignore[no-any-return]


async def _open_session(engine: Engine, name: str) -> int:
    welcome = await engine.session(
        name, ttl=TTL, known_head=0, new_epoch="e00000001aa", about=b"{}", opens=True
    )
    return welcome.head


async def write(url: str, rate: float, seconds: float) -> dict[str, float]:
    """Record states at this rate as a replica does: what has gathered goes with the next call."""
    engine, session = await open_engine(url), f"writer-{os.getpid()}"
    await _open_session(engine, session)
    keys = [TaskKey("qingbo", f"task-{number}") for number in range(TASKS)]
    for first in range(0, TASKS, 100):
        await engine.want(session, [Want(key) for key in keys[first : first + 100]], linger=600.0)
    versions = dict.fromkeys(keys, 0)
    body = b"x" * DOCUMENT_BYTES
    say("ready")
    cpu, began, done = time.process_time(), time.monotonic(), 0  # noqa: TID251 - no bridge here
    while (now := time.monotonic() - began) < seconds:  # noqa: TID251
        due = min(int(now * rate) - done, 64)
        if due <= 0:
            await asyncio.sleep(0.001)
            continue
        states = []
        for number in range(done, done + due):
            key = keys[number % TASKS]
            version = versions[key] = versions[key] + 1
            digest = blake2b(b"%d" % number, digest_size=16).digest()
            stamp = Stamp(version, session)
            states.append(Apply(key, Mode.OWNER, version - 1, stamp, End.OPEN, digest, body))
        sent = time.monotonic()  # noqa: TID251
        await engine.apply(session, states)
        done += due
        await asyncio.sleep(max(sent + GATHER_SECONDS - time.monotonic(), 0.0))  # noqa: TID251
    took = time.monotonic() - began  # noqa: TID251
    cpu = time.process_time() - cpu
    await asyncio.sleep(1.0)
    await engine.close()
    return {"changes": done, "seconds": took, "cpu": cpu}


async def follow(url: str, count: int, seconds: float) -> dict[str, float]:
    """Follow the log with so many sessions, each renewed once a second."""
    engines = [await open_engine(url) for _ in range(count)]
    names = [f"follower-{os.getpid()}-{number}" for number in range(count)]
    heads = [await _open_session(engine, name) for engine, name in zip(engines, names, strict=True)]
    lags: list[float] = []
    say("ready")
    cpu, until = time.process_time(), time.monotonic() + seconds  # noqa: TID251
    entries = await asyncio.gather(
        *(
            _follow_one(engine, name, head, until, lags)
            for engine, name, head in zip(engines, names, heads, strict=True)
        )
    )
    cpu = time.process_time() - cpu
    lags.sort()
    for engine in engines:
        await engine.close()
    return {
        "entries": sum(entries),
        "cpu": cpu,
        "lag_p99_ms": lags[int(len(lags) * 0.99)] if len(lags) > 1 else 0.0,
    }


async def _follow_one(engine: Engine, name: str, head: int, until: float, lags: list[float]) -> int:
    heard, renewed = 0, time.monotonic()  # noqa: TID251
    while (now := time.monotonic()) < until:  # noqa: TID251
        if now - renewed > RENEW_SECONDS:
            renewed = now
            await engine.session(
                name, ttl=TTL, known_head=head, new_epoch="e00000001ab", about=b"{}", opens=False
            )
        entries = await engine.read(head, block=0.5)
        if not entries:
            continue
        states = [entry for entry in entries if isinstance(entry, StateEntry)]
        heard, head = heard + len(states), entries[-1].offset
        if states:
            lags.append(time.time() * 1000 - states[0].offset / 1000)  # noqa: TID251 - one machine, one clock
        await asyncio.sleep(WINDOW)
    return heard


def say(line: str) -> None:
    """Tell the process that waits."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    what, url, number, seconds = sys.argv[1:5]
    if what == "write":
        running = write(url, float(number), float(seconds))
    else:
        running = follow(url, int(float(number)), float(seconds))
    say(json.dumps(asyncio.run(running)))
