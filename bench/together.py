"""CPU time of a call about 100 tasks, beside 20 calls about one task each, in the same process and run.

The bridge is the whole one, in this process; the provider is another. Each round asks for polls that are due
now and waits for the last of them. Rounds of both kinds take turns.

    python -m bench.together [--rounds 200] [--size 300] [--repeat 5]
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import uvloop

from bridge.app import Bridge
from bridge.clock import SystemClock
from bridge.config.load import load
from bridge.core.task import TaskKey
from bridge.watchers.pool import Pool
from bridge.watchers.watcher import Watcher

TOGETHER = 100
ALONE = 20
LEAD_SECONDS = 0.005
ROUND_SECONDS = 0.05
"""A round ends after a multiple of this; nearly always after one."""

DIALECT = """
[upstreams.{name}]
preset = "custom"
api_key = "k"
base_url = "http://127.0.0.1:{port}"
poll_min_seconds = 0.001
poll_max_seconds = 600

[upstreams.{name}.dialect]
base_url = "https://provider.example"

[upstreams.{name}.dialect.auth.headers]
Authorization = "Bearer {{api_key}}"

[upstreams.{name}.dialect.poll]
min_seconds = 300
max_seconds = 600

[upstreams.{name}.dialect.calls.status]
path = "/qingbo/v1/tasks/{{task_id}}"

[upstreams.{name}.dialect.status]
at = "status"
common_words = true

[upstreams.{name}.dialect.fields]
task_id = "task_id"
progress = "progress"
model = "model"

[[upstreams.{name}.dialect.outputs]]
at = "output"
url = "url"
type_at = "type"
"""
MANY = """
[upstreams.together.dialect.calls.status_many]
path = "/qingbo/v1/many"
query = {{ ids = "{{task_ids}}" }}
max_ids = {tasks}
at = "items"
"""


def free_port() -> int:
    """A port that is not in use."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def providing(tasks: int, size: int) -> Iterator[tuple[int, int]]:
    """A provider in another process; its port and that of its control connection."""
    port, control = free_port(), free_port()
    words = [sys.executable, "-m", "bench.provider", str(port), str(control)]
    process = subprocess.Popen([*words, "--tasks", str(tasks), "--size", str(size)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield port, control
    finally:
        process.terminate()
        process.wait()


class Rounds:
    """Rounds of polls of one upstream's tasks."""

    def __init__(self, pool: Pool, upstream: str, tasks: int) -> None:
        self.keys = [TaskKey(upstream, f"t{number}") for number in range(tasks)]
        for key in self.keys:
            pool.want(key)
        self.watchers: list[Watcher] = []
        self._clock = SystemClock()
        self._pool = pool
        self._schedule = pool._schedulers.of(pool.upstream(upstream)).schedule

    async def begin(self) -> None:
        """Poll each task once."""
        for key in self.keys:
            error = await self._pool.wait_polled(key)
            assert error is None, error
        for key in self.keys:
            watcher = self._pool.watcher(key)
            assert watcher is not None
            self.watchers.append(watcher)

    async def poll(self) -> float:
        """Poll all tasks once; CPU seconds from when they are due."""
        before = [watcher.polls for watcher in self.watchers]
        due = self._clock.monotonic() + LEAD_SECONDS
        for watcher in self.watchers:
            watcher.watch.due = due
            self._schedule(watcher)
        began = time.thread_time()
        await asyncio.sleep(LEAD_SECONDS + ROUND_SECONDS)
        # No event says that a poll has ended.
        while any(one.polls == polls for one, polls in zip(self.watchers, before, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(ROUND_SECONDS)
        return time.thread_time() - began


async def publish(control: int, tasks: int, first: int) -> None:
    """Change each task once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", control)
    writer.write(b"p %d %d %d\ns\n" % (first, tasks * 4, tasks * 4))
    await reader.readline()
    writer.close()


async def measure(config: Path, control: int, rounds: int, *, changing: bool) -> tuple[float, float]:
    """Median CPU microseconds of a round of both kinds."""
    bridge = Bridge(load(config))
    took: dict[str, list[float]] = {"together": [], "alone": []}
    async with bridge.running():
        assert bridge._parts is not None
        pool = bridge._parts.pool
        kinds = {"together": Rounds(pool, "together", TOGETHER), "alone": Rounds(pool, "alone", ALONE)}
        for kind in kinds.values():
            await kind.begin()
        seq = 1
        for number in range(rounds + 10):
            for name, kind in kinds.items():
                if changing:
                    await publish(control, TOGETHER, seq)
                    seq += TOGETHER * 4
                seconds = await kind.poll()
                if number >= 10:
                    took[name].append(seconds)
    return median(took["together"]) * 1e6, median(took["alone"]) * 1e6


def main() -> None:
    """Print one line for each repetition, of unchanged and of changed tasks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--size", type=int, default=300, help="bytes of one state")
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, providing(TOGETHER, options.size) as (port, control):
        config = Path(folder) / "bridge.toml"
        text = 'journal = "memory"\nlog_level = "warning"\nport = 0\n'
        text += "".join(DIALECT.format(name=name, port=port) for name in ("together", "alone"))
        config.write_text(text + MANY.format(tasks=TOGETHER))
        for changing in (False, True):
            for _ in range(options.repeat):
                together, alone = uvloop.run(measure(config, control, options.rounds, changing=changing))
                kind = "changed" if changing else "unchanged"
                print(
                    f"{kind}: {TOGETHER} with one call {together:.0f} us, {ALONE} alone {alone:.0f} us"
                    f" ({together / alone:.2f}); a poll {together / TOGETHER:.1f} us, {alone / ALONE:.1f} us",
                    flush=True,
                )


if __name__ == "__main__":
    main()
