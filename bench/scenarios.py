"""The scenarios: one function per scenario, one dictionary per contender and cycle.

A function yields (contender, numbers). The runner calls it once per cycle, so that contenders alternate
and every ratio compares runs close in time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench import machine
from bench.contenders import (
    BUILD,
    ROOT,
    SERVER_CORE,
    Failed,
    Load,
    NotInstalled,
    Server,
    ask_provider,
    command_provider,
    end,
    get,
    kill,
    limit,
    loading,
    naive,
    ours,
    providing,
    read_line,
    start,
    streaming,
    with_engine,
    with_tls,
)
from bench.hubs import centrifugo, mercure, nchan
from bench.observers import Histograms, LatencyProbe, MemoryPeaks, metric, quantile

Row = tuple[str, dict[str, Any]]
Make = Callable[[], AbstractContextManager[Server]]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the scenarios; `TINY` only checks that the code runs."""

    few: int = 1_000
    many: int = 10_000  # 0 skips this size
    few_rounds: int = 300
    many_rounds: int = 40
    tasks: int = 5_000
    viewers: int = 7_500
    publishes: int = 60_000
    idle: int = 10_000
    churns: int = 3
    changes: int = 300
    watched: int = 20_000
    seconds: float = 10.0
    slow_run_seconds: float = 12.0
    slow_rate: float = 60.0
    connects: int = 5_000
    storm_changes: int = 1_500
    storm_seconds: float = 3.0
    scrapes: int = 60
    at_once: int = 256
    pause: float = 2.0
    release: float = 12.0  # the bridge trims memory some seconds after many connections have closed


FULL = Sizes()
TINY = Sizes(
    few=50,
    many=0,
    few_rounds=4,
    many_rounds=2,
    tasks=40,
    viewers=60,
    publishes=400,
    idle=60,
    churns=1,
    changes=10,
    watched=60,
    seconds=1.0,
    slow_run_seconds=2.0,
    slow_rate=400.0,
    connects=80,
    storm_changes=60,
    storm_seconds=0.3,
    scrapes=4,
    at_once=32,
    pause=0.2,
    release=0.2,
)


# More than one core can poll, yet no task misses three intervals, since that would send notices.
BUSY = {"poll_min_seconds": 0.4, "poll_max_seconds": 0.4}
HUBS_SSE: list[tuple[str, Make]] = [
    ("nchan SSE", nchan),
    ("Centrifugo SSE", centrifugo),
    ("Mercure SSE", mercure),
]
HUBS_WEBSOCKET: list[tuple[str, Make]] = [
    ("nchan WebSocket", lambda: nchan(websocket=True)),
    ("Centrifugo WebSocket", lambda: centrifugo(websocket=True)),
]


def fanout(sizes: Sizes) -> Iterator[Row]:
    """One task, all viewers: the next state is published when all have received the last one."""
    for viewers, rounds in ((sizes.few, sizes.few_rounds), (sizes.many, sizes.many_rounds)):
        if not viewers:
            continue
        makes: list[tuple[str, Make]] = [
            ("ours SSE", ours),
            ("ours SSE, memory journal", lambda: ours(memory=True)),
            ("ours SSE, 2 workers", lambda: ours(config={"workers": 2})),
            ("C limit SSE", limit),
            *HUBS_SSE,
            ("naive SSE", naive),
            ("ours WebSocket", lambda: ours(websocket=True)),
            ("C limit WebSocket", lambda: limit(websocket=True)),
            *HUBS_WEBSOCKET,
        ]
        if viewers == sizes.few:
            makes.append(("ours SSE, TLS", with_tls))
        for name, make in makes:
            yield from _locked(f"{name}, {viewers:,}", make, viewers, rounds)


def many(sizes: Sizes) -> Iterator[Row]:
    """Many tasks with one or two viewers each, changing at random, and one task with as many viewers."""
    tasks, viewers = sizes.tasks, sizes.viewers
    rounds = max(sizes.publishes // viewers, 2)
    small = (tasks // 5, viewers // 5)
    memory = ", memory journal"

    def durable(n: int) -> Make:
        return lambda: ours(inproc=True, tasks=n)

    def in_memory(n: int) -> Make:
        return lambda: ours(inproc=True, memory=True, tasks=n)

    yield from _locked("ours, one task", durable(1), viewers, rounds)
    yield from _locked(f"ours, one task{memory}", in_memory(1), viewers, rounds)
    yield from _locked("C limit, one task", limit, viewers, rounds)
    cases: list[tuple[str, Callable[[int], Make], int, int, int]] = [
        ("ours, many tasks", durable, tasks, viewers, 100),
        (f"ours, many tasks{memory}", in_memory, tasks, viewers, 100),
        (f"ours, many tasks, one change per turn{memory}", in_memory, tasks, viewers, 1),
        (f"ours, one task of two viewers, one change per turn{memory}", in_memory, 1, 2, 1),
        (f"ours, a fifth of the tasks{memory}", in_memory, *small, 100),
        ("ours, many tasks, engine", lambda n: lambda: with_engine(tasks=n), tasks, viewers, 100),
        ("C limit, many tasks", lambda n: lambda: limit(tasks=n), tasks, viewers, 100),
    ]
    hubs: dict[str, Callable[..., AbstractContextManager[Server]]]
    hubs = {"nchan": nchan, "Centrifugo": centrifugo, "Mercure": mercure}
    for name, hub in hubs.items():
        run = partial(hub, publishers=32)
        # mypy does not know the type of a lambda with a default
        cases.append((f"{name}, many tasks", lambda _, run=run: run, tasks, viewers, 100))  # type: ignore[misc]
    for name, make, of_tasks, of_viewers, batch in cases:
        with _run(make(of_tasks)) as server:
            if server is None:
                continue
            yield name, flooded(server, sizes, of_tasks, of_viewers, batch)


def burst(sizes: Sizes) -> Iterator[Row]:
    """Ten changes of one task at once; an event is delivered when its reader has it or a newer one."""
    makes: list[tuple[str, Make]] = [
        ("ours", ours),
        ("ours, memory journal", lambda: ours(memory=True)),
        ("ours, in-process publisher", lambda: ours(inproc=True)),
        ("nchan", nchan),
        ("C limit", limit),
    ]
    for name, make in makes:
        yield from _locked(f"{name}, 10 per turn", make, sizes.few, max(sizes.few_rounds // 3, 2), changes=10)
        yield from _locked(f"{name}, 1 per turn", make, sizes.few, max(sizes.few_rounds // 3, 2))


def idle(sizes: Sizes) -> Iterator[Row]:
    """Memory of idle connections, and memory left after they have closed."""
    peers: list[tuple[str, Make]] = [*HUBS_SSE, *HUBS_WEBSOCKET, ("naive SSE", naive), ("C limit SSE", limit)]
    cases: list[tuple[str, Make, int, int]] = [
        ("ours SSE", ours, sizes.idle, sizes.churns),
        ("ours WebSocket", lambda: ours(websocket=True), sizes.idle, sizes.churns),
        *((name, make, sizes.idle, 1) for name, make in peers),
    ]
    if sizes is not TINY:
        maximum = machine.descriptor_limit() - 150
        cases += [
            ("ours SSE, maximum", ours, maximum, 1),
            ("ours WebSocket, maximum", lambda: ours(websocket=True), maximum, 1),
        ]
    for name, make, number, churns in cases:
        with _run(make) as server:
            if server is None:
                continue
            with loading(server) as load:
                opened(load, min(200, number), sizes.at_once)
                load("drop", 0)
                time.sleep(sizes.pause)
                before = machine.memory_kb(server.pids)
                kernel = machine.tcp_memory_kb()
                got = opened(load, number, sizes.at_once)
                load("hold", sizes.pause)
                full = machine.memory_kb(server.pids)
                numbers = {
                    "connections": got["opened"],
                    "kb_per_connection": (full - before) / got["opened"],
                    "kernel_kb_per_connection": (machine.tcp_memory_kb() - kernel) / got["opened"],
                    "before_kb": before,
                    "after_kb": [],
                }
                for _ in range(churns - 1):
                    load("drop", 0)
                    time.sleep(sizes.release)
                    numbers["after_kb"].append(machine.memory_kb(server.pids))
                    again = opened(load, number, sizes.at_once)
                    if again["opened"] != got["opened"]:
                        raise Failed(f"{name}: {again} after a churn")
                load("drop", 0)
                time.sleep(sizes.release)
                numbers["after_kb"].append(machine.memory_kb(server.pids))
                numbers["left"] = max(numbers["after_kb"]) / before
                if name.startswith("ours"):
                    numbers["process_mb"] = before / 1024
                    numbers["kept_mb"] = (max(numbers["after_kb"]) - before) / 1024
                yield name, numbers


def slow(sizes: Sizes) -> Iterator[Row]:
    """One reader in a hundred stops reading, half as many wake up in time; what do the others notice?"""
    for sleepers in (0, max(sizes.few // 100, 2)):
        wakers = sleepers // 2
        config = {"write_timeout_seconds": sizes.slow_run_seconds}
        with ours(config=config) as server, loading(server) as load:
            opened(load, sizes.few, sizes.at_once, small=sleepers + wakers)
            streaming(server, 1)
            load("pace", 20, 20, 1)
            load("sleep", sleepers + wakers)
            memory = MemoryPeaks(server.pids)
            # the first part fills every buffer on the way, the second one meets them full
            load("pace", sizes.slow_rate, int(sizes.slow_rate * sizes.slow_run_seconds * 0.8), 1)
            woken = load("wake", wakers)
            numbers = load("pace", sizes.slow_rate, int(sizes.slow_rate * sizes.slow_run_seconds * 0.8), 1)
            peaks = memory.stop()
            # Their time begins when the buffers on the way are full, which takes some of the run.
            for _ in range(int(sizes.slow_run_seconds)):
                load("hold", 1)
                aborted = metric(server.port, 'bridge_disconnects_total{delivery="sse",reason="slow"}')
                if aborted >= sleepers:
                    break
            conflated = metric(server.port, 'bridge_conflated_total{delivery="sse"}')
            ended = load("final")
            name = f"{sleepers} readers stopped" if sleepers else "no reader stopped"
            yield (
                name,
                numbers
                | peaks
                | {"sleepers": sleepers, "wakers": wakers, "woken": woken, "aborted": aborted}
                | {"conflated": conflated, "final": ended},
            )


def connect(sizes: Sizes) -> Iterator[Row]:
    """New streams per second, each counted when it has received the current state."""
    makes: list[tuple[str, Make]] = [
        ("ours SSE", ours),
        ("C limit SSE", limit),
        *HUBS_SSE,
        ("naive SSE", naive),
        ("ours WebSocket", lambda: ours(websocket=True)),
        *HUBS_WEBSOCKET,
    ]
    for name, make in makes:
        with _run(make) as server:
            if server is None:
                continue
            with loading(server) as load:
                opened(load, 20, 20)
                yield name, opened(load, sizes.connects, sizes.at_once)


def storm(sizes: Sizes) -> Iterator[Row]:
    """Some viewers are there, many come within a second; what do the others notice?"""
    tasks, before = sizes.tasks, min(sizes.few, sizes.tasks)
    more = sizes.connects * 9 // 5
    pace = {"requests_per_second": 100_000}
    with ours(tasks=tasks, upstream="qingbo", pace=pace, streams=False) as server, ExitStack() as stack:
        one, many = server.path, "/v1/events?x="
        server.path, server.item = many, "&task=qingbo/t%d"
        per_conn = min(200, tasks)
        every = stack.enter_context(loading(server, tasks=tasks, per_conn=per_conn, timeout=60))
        opened(every, tasks // per_conn, 20)  # from now on all tasks have a state, and are polled
        server.path, server.item = one, None
        first = stack.enter_context(loading(server, tasks=tasks))
        opened(first, before, sizes.at_once)
        state = json.loads(get(server.port, "/v1/tasks/qingbo/t0"))
        server.path, server.stateless = f"{one}?last_event_id={state['cursor']}", True
        newcomers = stack.enter_context(loading(server, tasks=tasks))
        quiet = _beside(server, first, sizes)
        newcomers.send("open", more, more, more, 0)
        loud = _beside(server, first, sizes)
        numbers = _came(newcomers, more)
        numbers |= {f"{name}_quiet": value for name, value in quiet.items()}
        yield "ours", numbers | loud
    for name, make in (("nchan", nchan), ("Centrifugo", centrifugo), ("Mercure", mercure)):
        with _run(partial(make, publishers=8)) as peer, ExitStack() as stack:
            if peer is None:
                continue
            first = stack.enter_context(loading(peer, tasks=tasks))
            opened(first, before, sizes.at_once)
            peer.stateless = True
            newcomers = stack.enter_context(loading(peer, tasks=tasks))
            newcomers.send("open", more, more, more, 0)
            changed = first("pace", sizes.storm_changes / sizes.storm_seconds, sizes.storm_changes, 1)
            numbers = _came(newcomers, more) | _checked(changed)
            yield name, numbers | {"first_viewers_p99_ms": changed["p99_us"] / 1000}


def _beside(server: Server, load: Load, sizes: Sizes) -> dict[str, Any]:
    """Changes to some viewers, `/livez` and polls, for as long as a storm takes."""
    probe, before = LatencyProbe(server.port), Histograms(server.port)
    changed = load("pace", sizes.storm_changes / sizes.storm_seconds, sizes.storm_changes, 1)
    took, after = probe.stop(), Histograms(server.port)
    return {
        "first_viewers_p99_ms": changed["p99_us"] / 1000,
        "livez_p99_ms": quantile(took, 0.99) * 1000,
        "poll_p99_ms": after.quantile(before, "bridge_upstream_request_seconds", 0.99) * 1000,
    } | _checked(changed)


def _checked(changed: dict[str, Any]) -> dict[str, Any]:
    return {key: changed[key] for key in ("missing_last", "repeats", "backwards", "foreign", "closed")}


def _came(newcomers: Load, number: int) -> dict[str, Any]:
    got = newcomers.answer()
    if got["opened"] != number:
        raise Failed(f"only {got['opened']} of {number} connections opened: {got}")
    return {key: got[key] for key in ("seconds", "cpu_us_per_connection", "first_p99_us")}


def restart(sizes: Sizes) -> Iterator[Row]:
    """The bridge is killed and restarted with all clients connected: time until all have reconnected."""
    tasks = max(sizes.connects // 10, 1)
    port = machine.free_port()
    with ExitStack() as stack:
        provider = stack.enter_context(providing(tasks))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=BUILD)))

        def bridge() -> AbstractContextManager[Server]:
            return ours(tasks=tasks, port=port, provider=provider, streams=False, folder=folder)

        server = stack.enter_context(bridge())
        load = stack.enter_context(loading(server, tasks=tasks))
        got = opened(load, sizes.connects, sizes.at_once)
        load("return", 0)
        ask_provider(provider[1], "z")
        load.send("return", 40)
        kill(server)
        stack.enter_context(bridge())
        back = load.answer(seconds=60)
        asked = ask_provider(provider[1], "s")
        yield "ours", back | {"connections": got["opened"], "tasks": tasks, "asked": asked}


def answer(sizes: Sizes) -> Iterator[Row]:
    """Latency from the provider's response to the last socket, at ten changes per second."""
    polled = {"poll_min_seconds": 0.05, "poll_max_seconds": 0.05}
    makes: list[tuple[str, Make, int]] = [
        ("ours, provider streams", ours, 1),
        ("ours, provider streams, memory journal", lambda: ours(memory=True), 1),
        ("ours, provider polled", lambda: ours(upstream="qingbo", pace=polled, streams=False), 0),
        ("C limit", limit, 0),
    ]
    for name, make, streams in makes:
        with make() as server, loading(server) as load:
            opened(load, sizes.few, sizes.at_once)
            if streams:
                streaming(server, streams)
            load("pace", 10, 10, 1)
            yield name, load("pace", 10, sizes.changes, 1)


def upstream(sizes: Sizes) -> Iterator[Row]:
    """Status calls compared with a loop of aiohttp requests to the same provider; and many watched tasks."""
    few = min(sizes.watched, 4_000)
    with providing(few) as provider:
        base = f"http://127.0.0.1:{provider[0]}/qingbo/v1/tasks"
        words = [sys.executable, "-m", "bench.peers.bare_aiohttp", base, str(few), "32", str(sizes.seconds)]
        process = start(words, core=SERVER_CORE)
        try:
            line = read_line(process, sizes.seconds + 30)
            if not line:
                raise Failed("the bare client printed nothing")
            yield "bare aiohttp", dict(json.loads(line))
        finally:
            end(process)
    yield "ours, maximum rate", watched(sizes, few, BUSY)
    yield "ours, maximum rate, learned times", watched(sizes, few, BUSY, ended=min(64, few // 3))
    yield "ours, many tasks", watched(sizes, sizes.watched, {})


def scrape(sizes: Sizes) -> Iterator[Row]:
    """Scrapes of `/metrics` with three upstreams, one or many watched tasks, and the delay they cause."""
    for tasks in (1, sizes.watched):
        per_conn = min(200, tasks)
        with ours(tasks=tasks, upstream="qingbo", streams=False, more=("vapi", "bytespike")) as server:
            server.path, server.item = "/v1/events?x=", "&task=qingbo/t%d"
            with loading(server, tasks=tasks, per_conn=per_conn, timeout=60) as load:
                opened(load, max(tasks // per_conn, 1), 20)
                time.sleep(min(3.0, sizes.seconds))
                yield "one watched task" if tasks == 1 else "many watched tasks", _scraped(server, sizes)


def _scraped(server: Server, sizes: Sizes) -> dict[str, Any]:
    """Scrape repeatedly, as Prometheus does, while a probe requests `/livez` continuously."""
    took: list[float] = []
    text = ""
    baseline = machine.cpu_seconds(server.pids)  # CPU of watching without scrapes
    time.sleep(sizes.scrapes / 20)
    baseline = (machine.cpu_seconds(server.pids) - baseline) / (sizes.scrapes / 20)
    cpu = machine.cpu_seconds(server.pids)
    for _ in range(sizes.scrapes):
        started_at = time.perf_counter()
        text = get(server.port, "/metrics", accept="application/openmetrics-text")
        took.append(time.perf_counter() - started_at)
    cpu = machine.cpu_seconds(server.pids) - cpu - baseline * sum(took)
    quiet = LatencyProbe(server.port)
    time.sleep(sizes.scrapes / 20)
    alone = quiet.stop()
    beside = LatencyProbe(server.port)
    for _ in range(sizes.scrapes):
        get(server.port, "/metrics", accept="application/openmetrics-text")
        time.sleep(0.02)
    others = beside.stop()
    return {
        "watches": metric(server.port, 'bridge_watches{source="poll",upstream="qingbo"}'),
        "series": text.count("\n"),
        "scrape_ms": median(took) * 1000,
        "cpu_ms": cpu / len(took) * 1000,
        "alone_p99_ms": quantile(alone, 0.99) * 1000,
        "beside_p99_ms": quantile(others, 0.99) * 1000,
    }


def watched(
    sizes: Sizes, tasks: int, pace: dict[str, Any], *, ended: int = 0, root: Path = ROOT
) -> dict[str, Any]:
    """Tasks that are watched and do not change: polls, and their CPU.

    Args:
        ended: How many of them end before that, so that the times of the others are learned from them.
    """
    per_conn = min(200, tasks)
    with (
        providing(tasks, dated=ended > 0) as provider,
        ours(
            tasks=tasks, upstream="qingbo", pace=pace, streams=False, provider=provider, root=root
        ) as server,
    ):
        assert server.provider is not None
        server.path = "/v1/events?x="
        server.item = "&task=qingbo/t%d"
        with loading(server, tasks=tasks, per_conn=per_conn, timeout=60) as load:
            opened(load, tasks // per_conn, 20)
            if ended:
                command_provider(server.provider, f"e 0 {ended}")
            time.sleep(min(6.0, sizes.seconds))  # until the poll intervals of unchanged tasks have grown
            ask_provider(server.provider, "z")
            before, cpu, started_at = (
                Histograms(server.port),
                machine.cpu_seconds(server.pids),
                time.perf_counter(),
            )
            load("hold", sizes.seconds)
            took = time.perf_counter() - started_at
            cpu = machine.cpu_seconds(server.pids) - cpu
            calls = ask_provider(server.provider, "s")["status"]
            after = Histograms(server.port)
            lag = after.quantile(before, "bridge_loop_lag_seconds", 0.99)
            wait = after.quantile(before, "bridge_budget_wait_seconds", 0.99)
            state = load("stat")
    return {
        "tasks": tasks,
        "per_second": calls / took,
        "cpu_us": cpu / max(calls, 1) * 1e6,
        "server_util": cpu / took,
        "lag_p99_ms": lag * 1000,
        "budget_wait_p99_ms": wait * 1000,
        "mean_interval_s": tasks * took / max(calls, 1),
        "closed": state["closed"],
    }


def flooded(server: Server, sizes: Sizes, tasks: int, viewers: int, batch: int) -> dict[str, Any]:
    """Changes of many tasks at maximum speed."""
    with loading(server, tasks=tasks) as load:
        opened(load, viewers, sizes.at_once)
        _settle(server)
        # A hub without history has had no change of any task so far, and the first one costs it a search.
        load("flood", sizes.publishes // (2 if server.stateless else 10), batch)
        return load("flood", sizes.publishes, batch) | {"viewers": viewers, "tasks": tasks}


def _locked(name: str, make: Make, viewers: int, rounds: int, *, changes: int = 1) -> Iterator[Row]:
    with _run(make) as server:
        if server is None:
            return
        with loading(server) as load:
            yield name, in_lockstep(server, load, viewers, rounds, changes)


def in_lockstep(server: Server, load: Load, viewers: int, rounds: int, changes: int = 1) -> dict[str, Any]:
    """The next changes of one task are published when all viewers have the last one."""
    opened(load, viewers, 256)
    _settle(server)
    return load("lock", max(rounds // 10, 1), rounds, changes) | {"viewers": viewers}


def _settle(server: Server) -> None:
    if server.name == "ours":
        streaming(server, 1)
    time.sleep(0.2)


@contextmanager
def _run(make: Make) -> Iterator[Server | None]:
    """Run a contender; yield None if it is not installed."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(make())
        except NotInstalled:
            server = None
        yield server


def opened(load: Load, number: int, at_once: int, *, small: int = 0) -> dict[str, Any]:
    """Open connections, each with its first state.

    Raises:
        Failed: One was refused, or got none.
    """
    got = load("open", number, 0, at_once, small)
    if got["opened"] != number:
        raise Failed(f"only {got['opened']} of {number} connections opened: {got}")
    return got


SCENARIOS: dict[str, Callable[[Sizes], Iterator[Row]]] = {
    scenario.__name__: scenario
    for scenario in (fanout, many, burst, idle, slow, connect, storm, restart, answer, upstream, scrape)
}
