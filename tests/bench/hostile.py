"""`make bench hostile`: each flood beside a quiet pass of the same bridge; what the others notice of it.

python -m tests.bench.hostile [--quick] [--exposed] [FLOOD ...]

The bridge, the provider, the flood and the observer (this process) are apart: the bridge has a core of its
own, and on the other one the flood comes last. The observer follows tasks of an honest provider from an
address of its own, and asks `/livez` over new connections; every state carries the moment in which the
provider answered, so delivery is measured from there to the client.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

from bench import machine
from tests.harness import BridgeProcess, running_bridge
from tests.hostile.provider import ANSWERS, STREAMS, provider_process
from tests.hostile.websocket_floods import WEBSOCKET_FLOODS

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "build" / "bench" / "hostile.md"
OBSERVER = "127.0.0.2"
CORES = os.sched_getaffinity(0)
GOOD_TASKS = 20
BAD_TASKS = 10
SAMPLE_SECONDS = 0.05
SETTINGS = {"journal": "memory", "log_level": "warning"}
LIMIT_MEGABYTES = 150
LIVEZ_MS = 250.0
FLOOR_MS = 25.0  # of the deliveries: what another program on the machine costs now and then
HEAD = (
    "| flood | RSS | at most | `/livez` p99 | quiet | delivery p99 | quiet | states/s | quiet | |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the observer saw in one pass; milliseconds."""

    livez_p99: float
    delivery_p99: float
    per_second: float
    failed: int


@dataclass(frozen=True, slots=True)
class Row:
    """One flood beside its quiet pass."""

    name: str
    quiet: Seen
    flooded: Seen
    megabytes: float
    at_most: int

    @property
    def verdict(self) -> str:
        """What is worse than it should be, if anything."""
        faults = []
        if self.megabytes > self.at_most:
            faults.append("RSS")
        if self.flooded.livez_p99 > LIVEZ_MS or self.flooded.failed:
            faults.append("/livez")
        if self.flooded.delivery_p99 > max(2 * self.quiet.delivery_p99, FLOOR_MS):
            faults.append("delivery")
        return "**" + ", ".join(faults) + "**" if faults else "good"

    def __str__(self) -> str:
        one, other = self.flooded, self.quiet
        return (
            f"| `{self.name}` | +{max(self.megabytes, 0):.0f} MB | {self.at_most} MB |"
            f" {one.livez_p99:.0f} ms |"
            f" {other.livez_p99:.0f} ms | {one.delivery_p99:.0f} ms | {other.delivery_p99:.0f} ms |"
            f" {one.per_second:.0f} | {other.per_second:.0f} | {self.verdict} |"
        )


def floods() -> dict[str, int]:
    """All floods, with the megabytes each may add."""
    by_clients = {name: most for name, (_, most) in {**client_floods(), **WEBSOCKET_FLOODS}.items()}
    by_providers = dict.fromkeys((f"provider: {kind}" for kind in (*STREAMS, *ANSWERS)), LIMIT_MEGABYTES)
    return by_clients | by_providers


def client_floods() -> dict[str, Any]:
    """The floods of clients over HTTP."""
    try:
        return dict(importlib.import_module("tests.hostile.floods").FLOODS)
    except ModuleNotFoundError:
        return {}


async def main(config: argparse.Namespace) -> int:
    """Run the floods; the exit code is 1 when one of them costs the others more than it may."""
    place("observer")
    quiet_seconds, flood_seconds = (1.0, 1.5) if config.quick else (2.0, 3.5)
    settings = SETTINGS | ({"limits": "exposed"} if config.exposed else {})
    known = floods()
    rows: list[Row] = []
    _say(f"{machine.description()}\n\n{HEAD}")
    async with provider_process() as provider:
        for name in config.floods or known:
            async with _bridge(provider, settings) as bridge:
                quiet = await observe(bridge.url, quiet_seconds)
                before = _rss(bridge)
                async with flooding(name, bridge.url):
                    watching = asyncio.ensure_future(_peak(bridge, over := asyncio.Event()))
                    flooded = await observe(bridge.url, flood_seconds)
                    over.set()
                    grown = (await watching - before) / 2**20
                rows.append(Row(name, quiet, flooded, grown, known[name]))
                _say(str(rows[-1]))
                if "Traceback" in "".join(bridge.log):
                    _say(f"a traceback in the log of {name}:\n{''.join(bridge.log)[-2000:]}")
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_text("\n".join([HEAD, *map(str, rows)]) + "\n")
    bad = [row.name for row in rows if row.verdict != "good"]
    _say(f"\n{len(rows)} floods, {len(rows) - len(bad)} good. {', '.join(bad)}")
    return 1 if bad else 0


@asynccontextmanager
async def _bridge(provider: str, settings: dict[str, Any]) -> AsyncIterator[BridgeProcess]:
    each = {
        "base_url": provider,
        "api_key": "test-key-0123456789",
        "poll_min_seconds": 0.1,
        "poll_max_seconds": 0.2,
        "callback_secret": "a-callback-secret-of-tests",
    }
    async with running_bridge({"bytespike": each, "qingbo": each}, **settings) as bridge:
        for thread in os.listdir(f"/proc/{bridge.process.pid}/task"):  # noqa: PTH208 - does not wait
            place("bridge", int(thread))
        yield bridge


def place(role: str, pid: int = 0) -> None:
    """Give the bridge a core of its own; on the other one, the observer goes before the flood.

    Args:
        role: `bridge`, `observer` (and all else that measures) or `flood`.
    """
    cores = sorted(CORES)
    if len(cores) > 1:
        os.sched_setaffinity(pid, cores[:1] if role == "bridge" else cores[1:])
    if role == "flood":
        os.setpriority(os.PRIO_PROCESS, pid, 10)


async def _peak(bridge: BridgeProcess, over: asyncio.Event) -> int:
    most = _rss(bridge)
    while not over.is_set():
        most = max(most, _rss(bridge))
        await asyncio.sleep(SAMPLE_SECONDS)
    return most


def _rss(bridge: BridgeProcess) -> int:
    return int(Path(f"/proc/{bridge.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def flooding(name: str, url: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.hostile", "--flood", name, url),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


# The observer


async def observe(url: str, seconds: float) -> Seen:
    """Follow good tasks and ask `/livez` for some time."""
    host, port = url.removeprefix("http://").split(":")
    delivered: list[float] = []
    asked: list[float] = []
    tasks = [
        asyncio.ensure_future(_follow(host, int(port), f"good-{number}", delivered))
        for number in range(GOOD_TASKS)
    ]
    await asyncio.sleep(0.5)
    delivered.clear()
    pinging = asyncio.ensure_future(_ping(host, int(port), asked))
    await asyncio.sleep(seconds)
    # A question that is still open took at least so long.
    pinging.cancel()
    await asyncio.gather(pinging, return_exceptions=True)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    failed = sum(1 for one in asked if one < 0)
    return Seen(
        livez_p99=_p99([one for one in asked if one >= 0]),
        delivery_p99=_p99(delivered),
        per_second=len(delivered) / seconds,
        failed=failed,
    )


async def _follow(host: str, port: int, task_id: str, delivered: list[float]) -> None:
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port, local_addr=(OBSERVER, 0))
            writer.write(_request(f"/v1/tasks/bytespike/{task_id}/events", "text/event-stream"))
            while line := await reader.readline():
                if line.startswith(b"data:"):
                    sent = json.loads(line[5:]).get("model") or ""
                    if sent.startswith("at-"):
                        delivered.append(time.monotonic_ns() / 1e6 - float(sent[3:]))
            writer.close()
        await asyncio.sleep(0.1)


async def _ping(host: str, port: int, asked: list[float]) -> None:
    while True:
        began = time.monotonic_ns()
        try:
            reader, writer = await asyncio.open_connection(host, port, local_addr=(OBSERVER, 0))
            writer.write(_request("/livez", "*/*"))
            head = await reader.readline()
            writer.close()
            asked.append((time.monotonic_ns() - began) / 1e6 if b" 200 " in head else -1.0)
        except asyncio.CancelledError:
            asked.append((time.monotonic_ns() - began) / 1e6)
            raise
        except OSError:
            asked.append(-1.0)
        await asyncio.sleep(0.01)


def _request(path: str, accept: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\nConnection: close\r\n\r\n".encode()


def _p99(values: list[float]) -> float:
    if len(values) < 2:
        return values[0] if values else 9999.0
    return quantiles(values, n=100, method="inclusive")[98]


# The flood's process


async def flood(name: str, url: str) -> None:
    """Flood until killed."""
    place("flood")
    host, port = url.removeprefix("http://").split(":")
    stop = asyncio.Event()
    if name.startswith("provider: "):
        kind = name.removeprefix("provider: ")
        await asyncio.gather(
            *(_follow(host, int(port), f"{kind}-{number}", []) for number in range(BAD_TASKS))
        )
    else:
        run, _ = {**client_floods(), **WEBSOCKET_FLOODS}[name]
        await run(host, int(port), stop)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("floods", nargs="*", metavar="FLOOD", help="all by default; --list names them")
    parser.add_argument("--quick", action="store_true", help="half the time, less exact")
    parser.add_argument("--exposed", action="store_true", help='with limits = "exposed"')
    parser.add_argument("--list", action="store_true", help="name the floods")
    parser.add_argument("--flood", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    options = _parsed()
    if options.list:
        _say("\n".join(floods()))
    elif options.flood:
        asyncio.run(flood(*options.flood))
    else:
        sys.exit(asyncio.run(main(options)))
