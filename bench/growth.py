"""`make bench growth`: what more open tasks and more stored events cost, in one process on one core.

    python -m bench.growth [--quick] [--results FILE] [--no-write]

Open tasks: each is recorded and has a viewer, 200 on a connection, is polled every ten seconds, and never
changes. Stored events: of 5,000 tasks, recorded at maximum speed, the last of them at a rate that leaves
half of the core free; meanwhile states are read over HTTP, of tasks that are watched, and of tasks without
a watch, whose first state waits for the provider and for its commit; after that the history of one task
of which no more is stored than before. In the end four in ten tasks have ended, their retention has expired,
and one pass deletes them beside appends that are timed.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from socket import create_connection
from statistics import median
from typing import Any

from bench import charts, machine
from bench.contenders import (
    BUILD,
    LOAD_CORE,
    ROOT,
    START_SECONDS,
    Failed,
    Server,
    ask_provider,
    build,
    kill,
    loading,
    ours,
    providing,
)
from bench.observers import Histograms, metric, quantile
from bench.scenarios import opened

BEGIN, END = "<!-- growth:begin -->", "<!-- growth:end -->"
UPSTREAM = "qingbo"
PER_CONNECTION = 200
POLL_SECONDS = 10.0
HOLD_MS = 50.0
"""What a retention pass may hold the event loop or an append at a time."""

Rows = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Growth:
    """The sizes; `QUICK` only checks that the code runs.

    Args:
        open: Numbers of open tasks.
        stored: Numbers of stored events; a file keeps 1,000,000 at most, and reads add some.
        tasks: How many tasks these are of.
        history: How many states the task has whose history is read.
        seconds: How long polls are counted: an interval, since polls that began together stay together.
        watched: How many tasks are read again and again.
        rate: Changes per second, once not as many as possible are recorded.
        paced: How many of the stored events come at that rate; half of the new ones at most.
    """

    open: tuple[int, ...] = (1_000, 10_000, 50_000, 100_000)
    stored: tuple[int, ...] = (10_000, 100_000, 980_000)
    tasks: int = 5_000
    history: int = 100
    reads: int = 30
    seconds: float = 10.0
    watched: int = 200
    rate: int = 5_000
    paced: int = 20_000


FULL = Growth()
QUICK = Growth(
    open=(40, 80),
    stored=(300, 900),
    tasks=30,
    history=20,
    reads=3,
    seconds=0.5,
    watched=10,
    rate=500,
    paced=200,
)


def open_tasks(growth: Growth) -> Iterator[tuple[str, dict[str, float]]]:
    """Memory, CPU of a poll, and the time from the start to ready with all of them recorded."""
    for tasks in growth.open:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=BUILD)))
            provider = stack.enter_context(providing(tasks))
            with _watching(tasks, folder, provider) as server:
                before = machine.memory_kb(server.pids)
                numbers = _opened(server, growth, tasks)
                kill(server)
            began = time.perf_counter()
            with _watching(tasks, folder, provider) as server:
                numbers["ready_s"] = time.perf_counter() - began
                numbers["resumed"] = metric(server.port, _WATCHES)
                numbers["kb_alone"] = (machine.memory_kb(server.pids) - before) / tasks
            yield f"{tasks:,}", numbers


def stored_events(growth: Growth) -> Iterator[tuple[str, dict[str, float]]]:
    """Durable changes per second, reads meanwhile, the history of one task, and the time of a restart."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=BUILD)))
        # Of every second task nothing is recorded before it is read.
        provider = stack.enter_context(providing(2 * growth.tasks))
        reads = Reads(growth)
        stored = sequence = 0
        for wanted in growth.stored:
            with _recording(growth, folder, provider) as (server, control):
                if not stored:
                    sequence = control.record("a", 1, growth.history)
                    stored = growth.history
                paced = min(growth.paced, (wanted - stored) // 2)
                reads.watch(server.port)
                with reads.beside(server.port) as flooded:
                    began = time.perf_counter()
                    first, sequence = sequence, control.record("g", sequence, wanted - stored - paced)
                    rate = (sequence - first) / (time.perf_counter() - began)
                with reads.beside(server.port) as spared:
                    sequence = control.record("r", sequence, paced, growth.rate)
                stored = wanted
                history = [_history(server.port, growth) for _ in range(growth.reads)]
                numbers = {
                    "changes_per_second": rate,
                    "get_p99_ms": quantile(flooded.watched, 0.99) * 1000,
                    "first_p99_ms": quantile(flooded.first, 0.99) * 1000,
                    "spared_get_p99_ms": quantile(spared.watched, 0.99) * 1000,
                    "spared_first_p99_ms": quantile(spared.first, 0.99) * 1000,
                    "history_ms": median(history) * 1000,
                    "file_mb": sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
                }
                kill(server)
            began = time.perf_counter()
            with _recording(growth, folder, provider) as (server, control):
                numbers["ready_s"] = time.perf_counter() - began
                if wanted == growth.stored[-1]:
                    control.record("f", sequence, growth.tasks // 2)
                yield f"{wanted:,}", numbers
        yield "retention", _retention(growth, folder, provider)


def _opened(server: Server, growth: Growth, tasks: int) -> dict[str, float]:
    assert server.provider is not None
    per_connection = min(PER_CONNECTION, tasks)
    before = machine.memory_kb(server.pids)
    server.path, server.item = "/v1/events?x=", f"&task={UPSTREAM}/t%d"
    with loading(server, tasks=tasks, per_conn=per_connection, timeout=120) as load:
        scraped = Histograms(server.port)
        began = time.perf_counter()
        opened(load, max(tasks // per_connection, 1), 20)
        took = time.perf_counter() - began
        lag = Histograms(server.port).quantile(scraped, "bridge_loop_lag_seconds", 0.99)
        load("hold", min(2.0, growth.seconds))
        full = machine.memory_kb(server.pids)
        ask_provider(server.provider, "z")
        cpu = machine.cpu_seconds(server.pids)
        load("hold", growth.seconds)
        cpu = machine.cpu_seconds(server.pids) - cpu
        polls = ask_provider(server.provider, "s")["status"]
    return {
        "first_states_s": took,
        "lag_p99_ms": lag * 1000,
        "kb_per_task": (full - before) / tasks,
        "polls": polls,
        "cpu_us_per_poll": cpu / max(polls, 1) * 1e6,
    }


def _retention(growth: Growth, folder: Path, provider: tuple[int, int]) -> dict[str, float]:
    """One pass over the ended tasks; it begins with the start of the bridge."""
    file = folder / "bridge.db"
    before, ended = _counted(file, "events"), _counted(file, "tasks WHERE open = 0")
    with _recording(growth, folder, provider, retention_seconds=0.001) as (_, control):
        began, holds = time.perf_counter(), {"loop_ms": 0.0, "append_ms": 0.0}
        while _counted(file, "tasks WHERE open = 0"):
            if time.perf_counter() - began > START_SECONDS:
                raise Failed("the retention pass does not end")
            held = control.held(milliseconds=200)
            holds = {name: max(value, held[name]) for name, value in holds.items()}
        seconds = time.perf_counter() - began
    return {"tasks": ended, "events": before - _counted(file, "events"), "seconds": seconds, **holds}


def _counted(file: Path, what: str) -> int:
    """Rows of a journal file that a bridge may have open."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        ((number,),) = database.execute(f"SELECT count(*) FROM {what}")
    return int(number)


_WATCHES = f'bridge_watches{{source="poll",upstream="{UPSTREAM}"}}'


@contextmanager
def _watching(tasks: int, folder: Path, provider: tuple[int, int]) -> Iterator[Server]:
    with ours(
        tasks=tasks,
        upstream=UPSTREAM,
        streams=False,
        provider=provider,
        folder=folder,
        pace={
            "requests_per_second": 100_000,
            "poll_min_seconds": POLL_SECONDS,
            "poll_max_seconds": POLL_SECONDS,
        },
        config={"max_lingering_watches": 0},
    ) as server:
        yield server


@contextmanager
def _recording(
    growth: Growth, folder: Path, provider: tuple[int, int], **config: float
) -> Iterator[tuple[Server, Control]]:
    with (
        ours(tasks=growth.tasks, inproc=True, provider=provider, folder=folder, config=config) as server,
        create_connection(("127.0.0.1", int(server.trigger[1])), timeout=MAX_STAGE_SECONDS) as line,
    ):
        yield server, Control(line.makefile("rwb"))


MAX_STAGE_SECONDS, MAX_HISTORY_SECONDS = 300.0, 30.0


class Control:
    """The control connection of `bench.inproc`."""

    def __init__(self, line: Any) -> None:
        self._line = line

    def record(self, word: str, first: int, count: int, batch: int = 100) -> int:
        """Record states and wait for them; returns the next sequence number."""
        self._ask(f"{word} {first} {count} {batch}\nw")
        return first + count

    def held(self, *, milliseconds: int) -> dict[str, float]:
        """The longest holds of the event loop and of an append."""
        return self._ask(f"h {milliseconds}")

    def _ask(self, command: str) -> dict[str, float]:
        self._line.write(command.encode() + b"\n")
        self._line.flush()
        return dict(json.loads(self._line.readline()))


@dataclass
class Took:
    """Seconds of reads.

    Args:
        watched: Of tasks that were watched.
        first: Of tasks of which nothing was known.
    """

    watched: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)

    @property
    def enough(self) -> bool:
        """Whether there is anything of both."""
        return bool(self.watched and self.first)


class Reads:
    """Reads states over HTTP; every fourth is of another task without a watch."""

    def __init__(self, growth: Growth) -> None:
        self._growth = growth
        self._unread = growth.tasks

    def watch(self, port: int) -> None:
        """Read the tasks that are read again later: the bridge watches them from then on."""
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as line:
            for number in range(self._growth.watched):
                _read(line, number)

    @contextmanager
    def beside(self, port: int) -> Iterator[Took]:
        """Read until the end; yields what it took."""
        took, over = Took(), threading.Event()

        def read() -> None:
            with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as line:
                while not over.wait(0.01):
                    if len(took.watched) <= 3 * len(took.first):
                        took.watched.append(_read(line, len(took.watched) % self._growth.watched))
                    else:
                        took.first.append(_read(line, self._unread))
                        self._unread += 1

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield took
        finally:
            while not took.enough and thread.is_alive():
                time.sleep(0.01)
            over.set()
            thread.join()


def _read(line: http.client.HTTPConnection, number: int) -> float:
    """Seconds of one read."""
    began = time.perf_counter()
    line.request("GET", f"/v1/tasks/bytespike/t{number}")
    line.getresponse().read()
    return time.perf_counter() - began


def _history(port: int, growth: Growth) -> float:
    """Seconds until all states of the last task have come."""
    path = f"/v1/tasks/bytespike/t{growth.tasks - 1}/events?history=1"
    began = time.perf_counter()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as line:
        line.request("GET", path)
        answer, states = line.getresponse(), 0
        while states < growth.history:
            block = answer.readline()
            if not block or time.perf_counter() - began > MAX_HISTORY_SECONDS:
                raise Failed(f"{states} states of {growth.history} came")
            states += block.startswith(b"data: {") and b'"cursor"' in block
    return time.perf_counter() - began


PARTS: dict[str, Callable[[Growth], Iterator[tuple[str, dict[str, float]]]]] = {
    "open tasks": open_tasks,
    "stored events": stored_events,
}
COLUMNS: dict[str, tuple[str, str]] = {
    "kb_per_task": ("KB per open task", ".1f"),
    "kb_alone": ("KB without viewers", ".1f"),
    "cpu_us_per_poll": ("CPU µs/poll", ".0f"),
    "polls": ("polls counted", ",.0f"),
    "first_states_s": ("s until each had its first state", ".1f"),
    "lag_p99_ms": ("loop lag p99 meanwhile, ms", ".0f"),
    "resumed": ("resumed", ",.0f"),
    "changes_per_second": ("durable changes/s", ",.0f"),
    "get_p99_ms": ("GET p99 meanwhile, ms", ".1f"),
    "first_p99_ms": ("first GET of a task, p99, ms", ".1f"),
    "spared_get_p99_ms": ("GET p99 beside 5,000 changes/s, ms", ".1f"),
    "spared_first_p99_ms": ("first GET beside these, p99, ms", ".1f"),
    "history_ms": ("history of one task, ms", ".1f"),
    "file_mb": ("files, MB", ",.0f"),
    "ready_s": ("s from start to ready", ".1f"),
}
PICTURE = (
    "kb_per_task",
    "cpu_us_per_poll",
    "changes_per_second",
    "get_p99_ms",
    "spared_get_p99_ms",
    "history_ms",
    "ready_s",
)


def markdown(results: dict[str, Any]) -> str:
    """Both tables, and the retention pass."""
    machine_of = results["machine"]
    where = ", ".join(machine_of[key] for key in ("cores", "memory", "system"))
    lines = [f"{results['when']}, commit `{results['commit']}`; {where}.", ""]
    for part in PARTS:
        rows: Rows = {name: row for name, row in results[part].items() if name != "retention"}
        keys = [key for key in COLUMNS if all(key in row for row in rows.values())]
        lines.append(f"| {part} | " + " | ".join(COLUMNS[key][0] for key in keys) + " |")
        lines.append("|---" * (len(keys) + 1) + "|")
        for name, row in rows.items():
            cells = (format(row[key], COLUMNS[key][1]) for key in keys)
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    kept = results["stored events"]["retention"]
    lines.append(
        f"One retention pass deleted {kept['tasks']:,.0f} ended tasks with {kept['events']:,.0f} events in"
        f" {kept['seconds']:.1f} s; the event loop was held {kept['loop_ms']:.0f} ms at most, an append"
        f" {kept['append_ms']:.0f} ms (at most {HOLD_MS:.0f} is wanted)."
    )
    return "\n".join(lines)


def picture(results: dict[str, Any]) -> str:
    """One group of bars for each figure, one bar for each size."""
    groups = []
    for part in PARTS:
        rows: Rows = {name: row for name, row in results[part].items() if name != "retention"}
        for key in PICTURE:
            title, style = COLUMNS[key]
            if all(key in row for row in rows.values()):
                bars = [(f"{name} {part}", row[key], format(row[key], style)) for name, row in rows.items()]
                groups.append((title, bars))
    return charts.grouped("What more open tasks and more stored events cost", groups)


def write(results: dict[str, Any], page: Path) -> None:
    """Write the tables between the markers, and the picture beside the page."""
    before, rest = page.read_text("utf-8").split(BEGIN)
    _, after = rest.split(END)
    image = page.with_name("growth.svg")
    body = f"![What more tasks and events cost]({image.name})\n\n{markdown(results)}"
    page.write_text(f"{before}{BEGIN}\n{body}\n{END}{after}", "utf-8")
    image.write_text(picture(results), "utf-8")


def main(words: list[str] | None = None) -> int:
    """Measure both parts, print the tables, and write them."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="takes seconds; the figures mean nothing")
    parser.add_argument("--results", type=Path, help="where the figures go (build/bench/growth.json)")
    parser.add_argument("--no-write", action="store_true", help="do not change docs/performance.md")
    config = parser.parse_args(words)
    build()
    if (os.cpu_count() or 1) > LOAD_CORE:
        os.sched_setaffinity(0, {LOAD_CORE})
    growth = QUICK if config.quick else FULL
    results: dict[str, Any] = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),  # noqa: TID251 - no bridge here
        "commit": machine.commit(),
        "machine": machine.description(),
    }
    began = time.perf_counter()
    try:
        for part, measure in PARTS.items():
            results[part] = {}
            for name, row in measure(growth):
                results[part][name] = row
                print(f"{part}, {name}: {json.dumps(row)}", flush=True)
    except Failed as error:
        print(f"FAILED: {error}")
        return 1
    path = config.results or BUILD / ("growth-quick.json" if config.quick else "growth.json")
    path.write_text(json.dumps(results, indent=1), "utf-8")
    print(f"\n{markdown(results)}\n\ntook {time.perf_counter() - began:.0f} s", flush=True)
    if not config.quick and not config.no_write:
        write(results, ROOT / "docs" / "performance.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
