"""Turns the results of the cycles into targets met or missed, tables, and one chart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench import charts
from bench.scenarios import FULL, Sizes

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
MEMORY_BOUND_KB = (
    256  # a socket buffer of 64 KiB, which the kernel doubles; 64 KiB write buffer; the rest is bookkeeping
)

PEERS = ("nchan", "Centrifugo", "Mercure")
_EVENT, _NEW, _IDLE = "cpu_us_per_event", "cpu_us_per_connection", "kb_per_connection"
# What is compared with each peer: what it is called, scenario, our row, theirs, and the figure.
BESIDE = (
    ("an event, 1,000 SSE", "fanout", "ours SSE, 1,000", "{} SSE, 1,000", _EVENT),
    ("an event, 10,000 SSE", "fanout", "ours SSE, 10,000", "{} SSE, 10,000", _EVENT),
    ("an event, 1,000 WebSockets", "fanout", "ours WebSocket, 1,000", "{} WebSocket, 1,000", _EVENT),
    ("an event, 10,000 WebSockets", "fanout", "ours WebSocket, 10,000", "{} WebSocket, 10,000", _EVENT),
    ("5,000 tasks, in memory", "many", "ours, many tasks, memory journal", "{}, many tasks", _EVENT),
    ("5,000 tasks, ours on disk", "many", "ours, many tasks", "{}, many tasks", _EVENT),
    ("a new SSE stream", "connect", "ours SSE", "{} SSE", _NEW),
    ("a new WebSocket", "connect", "ours WebSocket", "{} WebSocket", _NEW),
    ("memory, idle SSE stream", "idle", "ours SSE", "{} SSE", _IDLE),
    ("memory, idle WebSocket", "idle", "ours WebSocket", "{} WebSocket", _IDLE),
)

Cycle = dict[str, dict[str, Any]]
Result = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """One target and its values in every cycle."""

    what: str
    bound: str
    values: list[float]
    holds: bool
    unit: str = "x"

    @property
    def typical(self) -> float:
        """The median over all cycles."""
        return median(self.values)


def targets(results: dict[str, Result], sizes: Sizes = FULL) -> Iterator[Target]:
    """Yield all targets that the results cover."""
    for scenario, judge in _JUDGES.items():
        if scenario in results:
            yield from judge(_Cycles(results[scenario]["cycles"]), sizes)


def client_errors(results: dict[str, Result]) -> list[str]:
    """Return runs with clients that ended incorrectly or received duplicates."""
    found = []
    for scenario, result in results.items():
        for number, cycle in enumerate(result["cycles"], start=1):
            for name, row in cycle.items():
                bad = {
                    key: row[key]
                    for key in ("repeats", "backwards", "foreign", "missing_last")
                    if row.get(key)
                }
                if row.get("command") == "lock" and "10 per turn" not in name and row.get("skipped"):
                    bad["skipped"] = row["skipped"]
                if row.get("closed") and scenario != "slow":
                    bad["closed"] = row["closed"]
                if bad:
                    found.append(f"{scenario}, cycle {number}, {name}: {bad}")
    return found


class _Cycles:
    """Results of one scenario, compared within each cycle."""

    def __init__(self, cycles: list[Cycle]) -> None:
        self._cycles = cycles

    def values(self, name: str, key: str | Callable[[dict[str, Any]], float]) -> list[float]:
        """Return one number of a contender per cycle."""
        read = key if callable(key) else lambda row: float(row[key])
        return [read(row) for row in self.rows(name)]

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Return all numbers of a contender, one row per cycle."""
        return [cycle[name] for cycle in self._cycles if name in cycle]

    def ratio(self, first: str, second: str, key: str) -> list[float]:
        """Return the ratio of two contenders per cycle."""
        return [
            cycle[first][key] / cycle[second][key]
            for cycle in self._cycles
            if first in cycle and second in cycle and cycle[second][key]
        ]

    def names(self) -> list[str]:
        """Return the contenders in the order of their first run."""
        return list(dict.fromkeys(name for cycle in self._cycles for name in cycle))


def _at_least(what: str, bound: float, values: list[float], unit: str = "x") -> Iterator[Target]:
    if values:
        yield Target(what, f"at least {_short(bound)}{_space(unit)}", values, median(values) >= bound, unit)


def _at_most(what: str, bound: float, values: list[float], unit: str = "x") -> Iterator[Target]:
    if values:
        yield Target(what, f"at most {_short(bound)}{_space(unit)}", values, median(values) <= bound, unit)


def _judged(what: str, bound: float | None, values: list[float], unit: str = "x") -> Iterator[Target]:
    """A promise that it is at most `bound`, or only a figure."""
    yield from _reported(what, values, unit) if bound is None else _at_most(what, bound, values, unit)


def _possessive(peer: str) -> str:
    return "the C limit's" if peer == "C limit" else f"{peer}'s"


def _reported(what: str, values: list[float], unit: str = "x") -> Iterator[Target]:
    if values:
        yield Target(what, "", values, holds=True, unit=unit)


def _fanout(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    rate, cpu, last = "events_per_second", "cpu_us_per_event", "all_p99_us"
    bounds = {  # nchan, Centrifugo, the C limit
        ("SSE", sizes.few): (1.0, 0.6, 1.35),
        ("SSE", sizes.many): (0.95, 0.5, None),
        ("WebSocket", sizes.few): (1.0, None, None),
        ("WebSocket", sizes.many): (1.0, None, None),
    }
    for (kind, number), (nchan, centrifugo, limit) in bounds.items():
        at = f"{number:,}"  # nothing of a size is judged that was not run
        ours, what = f"ours {kind}, {at}", f"1. {at} {kind}: CPU per event over "
        in_memory = f"ours {kind}, memory journal, {at}"
        judged = {"nchan": nchan, "Centrifugo": centrifugo, "Mercure": None, "C limit": limit}
        for peer, bound in judged.items():
            name = f"{peer} {kind}, {at}"
            yield from _judged(f"{what}{_possessive(peer)}", bound, cycles.ratio(ours, name, cpu))
            yield from _reported(
                f"1. {at} {kind}: last socket's p99 over {_possessive(peer)}", cycles.ratio(ours, name, last)
            )
        yield from _reported(f"{what}the same with the memory journal", cycles.ratio(ours, in_memory, cpu))
        workers = cycles.ratio(f"ours {kind}, 2 workers, {at}", ours, cpu)
        yield from _reported(f"1. {at} {kind}: CPU per event of 2 workers together, over one's", workers)
        tls = cycles.ratio(f"ours {kind}, TLS, {at}", ours, cpu)
        yield from _reported(f"1. {at} {kind}, TLS: CPU per event over that without", tls)
        for peer in ("C limit", "nchan"):
            values = cycles.ratio(ours, f"{peer} {kind}, {at}", rate)
            yield from _reported(f"1. {at} {kind}: events/s over {_possessive(peer)}", values)
        yield from _at_least(
            f"1. {at} {kind}: events/s over naive sse-starlette's",
            3.5,
            cycles.ratio(ours, f"naive {kind}, {at}", rate),
        )


def _many(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    del sizes
    cpu, ours, memory = "cpu_us_per_event", "ours, many tasks", ", memory journal"
    what = "2. many tasks, memory journal: CPU per event over "
    for peer, bound in {"nchan": 1.15, "Centrifugo": 0.55, "Mercure": None, "C limit": None}.items():
        values = cycles.ratio(f"{ours}{memory}", f"{peer}, many tasks", cpu)
        yield from _judged(f"{what}{_possessive(peer)}", bound, values)
    what = "2. many tasks, durable: CPU per event over "
    yield from _at_most(
        f"{what}Centrifugo's, which keeps nothing", 0.9, cycles.ratio(ours, "Centrifugo, many tasks", cpu)
    )
    yield from _reported(f"{what}nchan's, which keeps nothing", cycles.ratio(ours, "nchan, many tasks", cpu))
    yield from _reported(f"{what}our memory journal's", cycles.ratio(ours, f"{ours}{memory}", cpu))
    engine = cycles.ratio(f"{ours}, engine", ours, cpu)
    yield from _reported("2. many tasks, engine: CPU per event over the file's", engine)
    alone = "2. many tasks: CPU per event over the one-task case's"
    yield from _reported(alone, cycles.ratio(ours, "ours, one task", cpu))
    yield from _reported(
        "2. the same for the C limit", cycles.ratio("C limit, many tasks", "C limit, one task", cpu)
    )
    one = f"ours, one task{memory}"
    for words, name in (
        ("the same with the memory journal", f"{ours}{memory}"),
        ("memory journal, one change per turn", f"{ours}, one change per turn{memory}"),
    ):
        yield from _reported(f"2. {words}", cycles.ratio(name, one, cpu))
    few = f"ours, one task of two viewers, one change per turn{memory}"
    yield from _reported(
        "2. memory journal, one change per turn, over one task with as few viewers",
        cycles.ratio(f"{ours}, one change per turn{memory}", few, cpu),
    )
    yield from _reported(
        "2. memory journal, five times the tasks and viewers: CPU per event",
        cycles.ratio(f"{ours}{memory}", f"ours, a fifth of the tasks{memory}", cpu),
    )


def _burst(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    del sizes
    rate = "meant_per_second"
    for name in ("ours, in-process publisher", "ours", "ours, memory journal"):
        ten, one = f"{name}, 10 per turn", f"{name}, 1 per turn"
        over = cycles.ratio(ten, "nchan, 10 per turn", rate)
        yield from _at_least(f"3. {name}, ten changes per turn: events/s over nchan's", 5, over)
        yield from _reported(f"3. {name}, ten changes over one: events/s", cycles.ratio(ten, one, rate))


def _idle(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    del sizes
    bounds = {"ours SSE": (12.0, 1.15), "ours WebSocket": (15.0, 1.2)}
    for name in cycles.names():
        each, left = bounds.get(name.partition(",")[0], (None, None))
        values = cycles.values(name, "kb_per_connection")
        yield from _judged(f"4. idle {name}: memory per connection", each, values, "KB")
        values = cycles.values(name, lambda row: max(row["after_kb"]) / row["before_kb"])
        yield from _judged(f"4. {name}: memory after all disconnected over before", left, values)
        if name.endswith("maximum"):
            yield from _reported(
                f"4. {name}: connections of one process", cycles.values(name, "connections"), ""
            )


def _slow(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    name = f"{max(sizes.few // 100, 2)} readers stopped"
    yield from _at_most(
        "5. slow readers: p99 of the others", 1.1, cycles.ratio(name, "no reader stopped", "p99_us")
    )
    per_reader = [
        (one["grown_kb"] - none["grown_kb"] + one["kernel_grown_kb"] - none["kernel_grown_kb"])
        / (one["sleepers"] + one["wakers"])
        for one, none in zip(
            cycles.rows(name),
            cycles.rows("no reader stopped"),
            strict=False,
        )
    ]
    yield from _at_most(
        "5. memory per stopped reader, including the kernel's", MEMORY_BOUND_KB, per_reader, "KB"
    )
    share = cycles.values(name, lambda row: row["aborted"] / row["sleepers"])
    yield from _at_least("5. stopped readers aborted as `slow`", 1.0, share)
    woken = cycles.values(
        name,
        lambda row: min(row["woken"]["have_last"], row["final"]["woken_ended"]) / max(row["wakers"], 1),
    )
    yield from _at_least("5. resumed readers that received the newest and the final state", 1.0, woken)


def _connect(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    del sizes
    bounds = {"SSE": 1.0, "WebSocket": 1.8}  # over Centrifugo
    for kind, bound in bounds.items():
        ours, cpu = f"ours {kind}", "cpu_us_per_connection"
        what = f"6. a new {kind}{' stream' if kind == 'SSE' else ''}"
        yield from _reported(f"{what}: CPU", cycles.values(ours, cpu), "us")
        for peer in ("nchan", "Centrifugo", "Mercure", "C limit", "naive"):
            limit = bound if peer == "Centrifugo" else None
            values = cycles.ratio(ours, f"{peer} {kind}", cpu)
            yield from _judged(f"{what}: CPU over {_possessive(peer)}", limit, values)
        yield from _reported(f"{what}: per second", cycles.values(ours, "per_second"), "")


def _storm(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    del sizes
    for peer, bound in {"Centrifugo": 1.5, "nchan": None, "Mercure": None}.items():
        what = f"6. storm: all have their first byte, over {_possessive(peer)} time"
        yield from _judged(what, bound, cycles.ratio("ours", peer, "seconds"))
    for name, what in {"first_viewers": "the first thousand", "livez": "`/livez`", "poll": "polls"}.items():
        key = f"{name}_p99_ms"
        values = [row[key] / row[f"{key}_quiet"] for row in cycles.rows("ours") if row[f"{key}_quiet"]]
        yield from _at_most(f"6. storm: p99 of {what} over the quiet part's", 4, values)


def _restart(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    del sizes
    back = cycles.values("ours", lambda row: row["back"] / row["connections"])
    yield from _at_least("6. after kill and restart: share of clients reconnected", 1.0, back)
    yield from _at_most(
        "6. after kill and restart: all reconnected after", 15, cycles.values("ours", "seconds"), "s"
    )
    asked = cycles.values("ours", lambda row: row["asked"]["status"] / row["tasks"])
    yield from _at_most("6. after restart: status calls per task", 2, asked, "")


def _answer(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    del sizes
    for name in cycles.names():
        what = f"7. provider response to the last socket, p99 ({name})"
        values = cycles.values(name, lambda row: row["all_p99_us"] / 1000)
        judged = name.startswith("ours") and "memory" not in name
        yield from _at_most(what, 20, values, "ms") if judged else _reported(what, values, "ms")


def _upstream(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    del sizes
    ratio = cycles.ratio("ours, maximum rate", "bare aiohttp", "per_second")
    yield from _at_least("8. status calls over a bare aiohttp loop's", 0.8, ratio)
    cpu = "cpu_us"
    bare = cycles.ratio("ours, maximum rate", "bare aiohttp", cpu)
    yield from _at_most("8. CPU of a poll over a bare aiohttp request's", 1.5, bare)
    learned = cycles.ratio("ours, maximum rate, learned times", "ours, maximum rate", cpu)
    yield from _reported("8. CPU of a poll scheduled by learned times, over one without", learned)
    many = "ours, many tasks"
    yield from _at_most("8. many watched tasks: loop lag p99", 50, cycles.values(many, "lag_p99_ms"), "ms")
    yield from _reported("8. many watched tasks: mean interval", cycles.values(many, "mean_interval_s"), "s")
    yield from _reported(
        "8. many watched tasks: rate limit wait, p99", cycles.values(many, "budget_wait_p99_ms"), "ms"
    )


def _scrape(cycles: _Cycles, sizes: Sizes) -> Iterator[Target]:
    del sizes
    one, many = "one watched task", "many watched tasks"
    yield from _at_most("9. CPU of a scrape, many watched tasks", 50, cycles.values(many, "cpu_ms"), "ms")
    yield from _reported("9. the same with one watched task", cycles.values(one, "cpu_ms"), "ms")
    yield from _reported("9. other requests during scrapes, p99", cycles.values(many, "beside_p99_ms"), "ms")
    yield from _reported("9. the same without scrapes", cycles.values(many, "alone_p99_ms"), "ms")


_JUDGES: dict[str, Callable[[_Cycles, Sizes], Iterator[Target]]] = {
    "fanout": _fanout,
    "many": _many,
    "burst": _burst,
    "idle": _idle,
    "slow": _slow,
    "connect": _connect,
    "storm": _storm,
    "restart": _restart,
    "answer": _answer,
    "upstream": _upstream,
    "scrape": _scrape,
}

_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "events_per_second": ("events/s", lambda value: f"{value:,.0f}"),
    "meant_per_second": ("incl. conflated", lambda value: f"{value:,.0f}"),
    "cpu_us_per_event": ("CPU µs/event", lambda value: f"{value:.1f}"),
    "p50_us": ("p50 ms", lambda value: f"{value / 1000:.2f}"),
    "p99_us": ("p99 ms", lambda value: f"{value / 1000:.2f}"),
    "max_us": ("max ms", lambda value: f"{value / 1000:.2f}"),
    "all_p99_us": ("last socket p99 ms", lambda value: f"{value / 1000:.2f}"),
    "server_util": ("server busy", lambda value: f"{value:.2f}"),
    "load_util": ("load busy", lambda value: f"{value:.2f}"),
    "connections": ("connections", lambda value: f"{value:,.0f}"),
    "kb_per_connection": ("KB per connection", lambda value: f"{value:.1f}"),
    "kernel_kb_per_connection": ("kernel KB", lambda value: f"{value:.1f}"),
    "left": ("memory after over before", lambda value: f"{value:.2f}"),
    "process_mb": ("MB at first", lambda value: f"{value:.0f}"),
    "kept_mb": ("MB kept", lambda value: f"{value:.0f}"),
    "per_second": ("per second", lambda value: f"{value:,.0f}"),
    "cpu_us_per_connection": ("CPU µs/connection", lambda value: f"{value:.0f}"),
    "first_p99_us": ("first state p99 ms", lambda value: f"{value / 1000:.1f}"),
    "first_viewers_p99_ms": ("first viewers p99 ms", lambda value: f"{value:.1f}"),
    "first_viewers_p99_ms_quiet": ("the same before", lambda value: f"{value:.1f}"),
    "livez_p99_ms": ("`/livez` p99 ms", lambda value: f"{value:.1f}"),
    "livez_p99_ms_quiet": ("`/livez` before", lambda value: f"{value:.1f}"),
    "poll_p99_ms": ("polls p99 ms", lambda value: f"{value:.1f}"),
    "poll_p99_ms_quiet": ("polls before", lambda value: f"{value:.1f}"),
    "cpu_us": ("CPU µs/call", lambda value: f"{value:.0f}"),
    "watches": ("watches", lambda value: f"{value:,.0f}"),
    "series": ("lines", lambda value: f"{value:,.0f}"),
    "cpu_ms": ("CPU ms/scrape", lambda value: f"{value:.1f}"),
    "scrape_ms": ("ms per scrape", lambda value: f"{value:.1f}"),
    "alone_p99_ms": ("other requests p99 ms, no scrapes", lambda value: f"{value:.1f}"),
    "beside_p99_ms": ("other requests p99 ms, scrapes", lambda value: f"{value:.1f}"),
    "lag_p99_ms": ("loop lag p99 ms", lambda value: f"{value:.1f}"),
    "back": ("reconnected", lambda value: f"{value:,.0f}"),
    "seconds": ("seconds", lambda value: f"{value:.2f}"),
}


def markdown(results: dict[str, Result]) -> str:
    """Return the section between the markers of docs/benchmarks.md."""
    rows = list(targets(results))
    lines = [*_head(results), "", *_target_table(rows), ""]
    if "fanout" in results:
        lines += ["![CPU per delivered event](benchmarks.svg)", ""]
    bad = client_errors(results)
    if bad:
        lines += ["**Clients that ended incorrectly:**", "", *(f"- {one}" for one in bad), ""]
    else:
        lines += [
            "In every run every client ended with the last state, without duplicates or reordering.",
            "",
        ]
    missed = [one for one in rows if not one.holds]
    if missed:
        lines += [
            "Missed targets:",
            "",
            *(f"- {one.what}: {_value(one)}, target {one.bound}" for one in missed),
            "",
        ]
    for scenario, result in results.items():
        lines += [f"### {scenario}", "", *_measurements(result["cycles"]), ""]
    return "\n".join(lines)


def text(results: dict[str, Result]) -> str:
    """Return the targets as text for a terminal."""
    rows = [("met", "measured", "target", "median (range)")]
    rows += [("yes" if one.holds else "NO", one.what, one.bound, _value(one)) for one in targets(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [f"WRONG: {one}" for one in client_errors(results)]
    return "\n".join(lines)


def write(results: dict[str, Result], page: Path) -> None:
    """Write the tables between the markers, and the charts beside the page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{markdown(results).rstrip()}\n{END}{after}")
    if "fanout" in results:
        page.with_suffix(".svg").write_text(picture(_Cycles(results["fanout"]["cycles"])))
    page.with_name("performance.svg").write_text(beside(results))


def beside(results: dict[str, Result]) -> str:
    """What ours costs over what each peer does, as one picture; what was not measured is left out."""
    groups = []
    for peer in PEERS:
        rows = []
        for what, scenario, ours, theirs, key in BESIDE:
            cycles = _Cycles(results[scenario]["cycles"] if scenario in results else [])
            if values := cycles.ratio(ours, theirs.format(peer), key):
                rows.append((what, median(values)))
        if rows:
            groups.append((f"over {peer}", rows))
    return charts.ratios("CPU and memory of ours over that of a peer (left of the line: less)", groups)


def picture(cycles: _Cycles) -> str:
    """CPU per delivered event, one bar a contender."""
    rows = []
    for name in cycles.names():
        if values := cycles.values(name, "cpu_us_per_event"):
            colour = charts.PLAIN
            if name.startswith(("ours", "C ")):
                colour = charts.OURS if name.startswith("ours") else charts.FLOOR
            rows.append((name, median(values), f"{median(values):.1f}", colour))
    return charts.bars("CPU µs for one delivered event (shorter is better)", rows)


def _head(results: dict[str, Result]) -> Iterator[str]:
    newest = max(results.values(), key=lambda result: result["when"], default=None)
    if newest is None:
        return
    machine = newest["machine"]
    where = ", ".join(machine[key] for key in ("cores", "memory", "system"))
    yield f"Machine: {where}; descriptors: {machine['descriptors']}."
    yield f"Python {machine['python']}, {machine['packages']}; nginx {machine['nginx'] or 'not installed'}."
    yield ""
    for scenario, result in results.items():
        ran = f"- `{scenario}`: {result['when']}, commit `{result['commit']}`, {len(result['cycles'])} cycles"
        yield ran + _disturbed(result)


def _disturbed(result: Result) -> str:
    """Return disk and CPU disturbances, if measured."""
    if "disk_sync_ms" not in result:
        return ""
    usual, worst = result["disk_sync_ms"]
    stolen = f"{result['stolen']:.0%} of the CPU time was stolen"
    return f"; a disk sync took {usual:.1f} ms, p99 {worst:.1f} ms; {stolen}"


def _target_table(rows: list[Target]) -> Iterator[str]:
    yield "| met | measured | target | median (range) |"
    yield "|---|---|---|---|"
    for one in rows:
        mark = "" if not one.bound else "yes" if one.holds else "**no**"
        yield f"| {mark} | {one.what} | {one.bound} | {_value(one)} |"


def _measurements(cycles: list[Cycle]) -> Iterator[str]:
    of = _Cycles(cycles)
    rows = {name: [row for cycle in cycles if (row := cycle.get(name))] for name in of.names()}
    keys = [key for key in _COLUMNS if any(key in row for group in rows.values() for row in group)]
    if "events_per_second" in keys:
        keys = [key for key in keys if key != "seconds"]
    if not any(row.get("skipped") for group in rows.values() for row in group) and "meant_per_second" in keys:
        keys.remove("meant_per_second")
    yield "| | " + " | ".join(_COLUMNS[key][0] for key in keys) + " |"
    yield "|---" * (len(keys) + 1) + "|"
    for name, group in rows.items():
        cells = []
        for key in keys:
            values = [row[key] for row in group if key in row]
            cells.append(_COLUMNS[key][1](median(values)) if values else "")
        yield f"| {name} | " + " | ".join(cells) + " |"


def _value(one: Target) -> str:
    unit = _space(one.unit)
    if len(one.values) == 1:
        return f"{_short(one.typical)}{unit}"
    return f"{_short(one.typical)}{unit} ({_short(min(one.values))}-{_short(max(one.values))})"


def _space(unit: str) -> str:
    return unit if unit in ("x", "") else f" {unit}"


def _short(value: float) -> str:
    if math.isnan(value):
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
