"""Turns what the cycles brought into promises kept or broken, a table, and one picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

from bench.scenarios import FULL, Sizes

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
MEMORY_BOUND_KB = 256  # 64 KiB asked of the kernel, which doubles it; 64 KiB of ours; the rest is bookkeeping

Cycle = dict[str, dict[str, Any]]
Result = dict[str, Any]


@dataclass(frozen=True)
class Promise:
    """One number that must hold, as every cycle had it."""

    what: str
    wanted: str
    values: list[float]
    holds: bool
    unit: str = "x"

    @property
    def typical(self) -> float:
        """The median of the cycles."""
        return median(self.values)


def promises(results: dict[str, Result], sizes: Sizes = FULL) -> Iterator[Promise]:
    """All promises that the results can answer."""
    for scenario, judge in _JUDGES.items():
        if scenario in results:
            yield from judge(_Cycles(results[scenario]["cycles"]), sizes)


def wrongs(results: dict[str, Result]) -> list[str]:
    """Every client that did not end right, or was told something twice."""
    found = []
    for scenario, result in results.items():
        for number, cycle in enumerate(result["cycles"], start=1):
            for name, row in cycle.items():
                bad = {
                    key: row[key]
                    for key in ("repeats", "backwards", "foreign", "missing_last")
                    if row.get(key)
                }
                if row.get("command") == "lock" and "10 a turn" not in name and row.get("skipped"):
                    bad["skipped"] = row["skipped"]
                if row.get("closed") and scenario != "slow":
                    bad["closed"] = row["closed"]
                if bad:
                    found.append(f"{scenario}, cycle {number}, {name}: {bad}")
    return found


class _Cycles:
    """Numbers of one scenario, compared within each cycle."""

    def __init__(self, cycles: list[Cycle]) -> None:
        self._cycles = cycles

    def values(self, name: str, key: str | Callable[[dict[str, Any]], float]) -> list[float]:
        """One contender's number in every cycle that has it."""
        read = key if callable(key) else lambda row: float(row[key])
        return [read(row) for row in self.rows(name)]

    def rows(self, name: str) -> list[dict[str, Any]]:
        """All numbers of one contender, cycle by cycle."""
        return [cycle[name] for cycle in self._cycles if name in cycle]

    def ratio(self, one: str, other: str, key: str) -> list[float]:
        """One contender over another, cycle by cycle."""
        return [
            cycle[one][key] / cycle[other][key]
            for cycle in self._cycles
            if one in cycle and other in cycle and cycle[other][key]
        ]

    def names(self) -> list[str]:
        """Contenders, in the order of their first run."""
        return list(dict.fromkeys(name for cycle in self._cycles for name in cycle))


def _at_least(what: str, bound: float, values: list[float], unit: str = "x") -> Iterator[Promise]:
    if values:
        yield Promise(what, f"at least {_short(bound)}{_space(unit)}", values, median(values) >= bound, unit)


def _at_most(what: str, bound: float, values: list[float], unit: str = "x") -> Iterator[Promise]:
    if values:
        yield Promise(what, f"at most {_short(bound)}{_space(unit)}", values, median(values) <= bound, unit)


def _told(what: str, values: list[float], unit: str = "x") -> Iterator[Promise]:
    if values:
        yield Promise(what, "", values, holds=True, unit=unit)


def _fanout(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    rate, cpu = "events_per_second", "cpu_us_per_event"
    for number in (sizes.few, sizes.many):  # nothing of a size is judged that was not run
        at = f"{number:,}"
        ours, limit = f"ours SSE, {at}", f"C limit SSE, {at}"
        yield from _at_least(
            f"1. {at} SSE: events/s over the C limit's", 0.65, cycles.ratio(ours, limit, rate)
        )
        yield from _at_most(
            f"1. {at} SSE: CPU an event over the C limit's", 1.5, cycles.ratio(ours, limit, cpu)
        )
        yield from _at_least(
            f"1. {at} SSE: events/s over nchan's", 1.0, cycles.ratio(ours, f"nchan SSE, {at}", rate)
        )
        yield from _at_least(
            f"1. {at} SSE: events/s over naive sse-starlette's",
            3.5,
            cycles.ratio(ours, f"naive SSE, {at}", rate),
        )
        forgetful = f"ours SSE, memory journal, {at}"
        yield from _told(
            f"1. {at} SSE, memory journal: events/s over the C limit's", cycles.ratio(forgetful, limit, rate)
        )
        ours, limit = f"ours WebSocket, {at}", f"C limit WebSocket, {at}"
        yield from _at_least(
            f"1. {at} WebSocket: events/s over the C limit's", 0.6, cycles.ratio(ours, limit, rate)
        )
        yield from _told(
            f"1. {at} WebSocket: events/s over nchan's", cycles.ratio(ours, f"nchan WebSocket, {at}", rate)
        )


def _many(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    del sizes
    cpu, ours = "cpu_us_per_event", "ours, many tasks"
    yield from _at_most(
        "2. many tasks: CPU an event over the one-task case's", 1.3, cycles.ratio(ours, "ours, one task", cpu)
    )
    yield from _told(
        "2. the same for the C limit", cycles.ratio("C limit, many tasks", "C limit, one task", cpu)
    )
    memory, alone = ", memory journal", "ours, one task, memory journal"
    for what, name in (
        ("the same with the memory journal", f"{ours}{memory}"),
        ("memory journal, one change a turn", f"{ours}, one change a turn{memory}"),
    ):
        yield from _told(f"2. {what}", cycles.ratio(name, alone, cpu))
    few = f"ours, one task of two viewers, one change a turn{memory}"
    yield from _told(
        "2. memory journal, one change a turn, over one task with as few viewers",
        cycles.ratio(f"{ours}, one change a turn{memory}", few, cpu),
    )
    yield from _told(
        "2. memory journal, five times the tasks and viewers: CPU an event",
        cycles.ratio(f"{ours}{memory}", f"ours, a fifth of the tasks{memory}", cpu),
    )
    yield from _told("2. many tasks: CPU an event over nchan's", cycles.ratio(ours, "nchan, many tasks", cpu))


def _burst(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    del sizes
    rate = "meant_per_second"
    for name in ("ours, in-process publisher", "ours", "ours, memory journal"):
        ten, one = f"{name}, 10 a turn", f"{name}, 1 a turn"
        over = cycles.ratio(ten, "nchan, 10 a turn", rate)
        yield from _at_least(f"3. {name}, ten changes a turn: events/s over nchan's", 5, over)
        yield from _told(f"3. {name}, ten changes over one: events/s", cycles.ratio(ten, one, rate))


def _idle(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    del sizes
    bounds = {"ours SSE": 14.0, "ours WebSocket": 20.0}
    for name in cycles.names():
        what, values = f"4. idle {name}: memory a connection", cycles.values(name, "kb_per_connection")
        bound = bounds.get(name.partition(",")[0])
        yield from _at_most(what, bound, values, "KB") if bound else _told(what, values, "KB")
        if name.startswith("ours"):
            left = cycles.values(name, lambda row: max(row["after_kb"]) / row["before_kb"])
            yield from _at_most(f"4. {name}: memory after all left over before", 1.1, left)
        if name.endswith("most"):
            yield from _told(f"4. {name}: connections of one process", cycles.values(name, "connections"), "")


def _slow(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    name = f"{max(sizes.few // 100, 2)} readers stopped"
    yield from _at_most(
        "5. slow readers: p99 of the others", 1.1, cycles.ratio(name, "nobody stopped", "p99_us")
    )
    each = [
        (one["grown_kb"] - none["grown_kb"] + one["kernel_grown_kb"] - none["kernel_grown_kb"])
        / (one["sleepers"] + one["wakers"])
        for one, none in zip(
            cycles.rows(name),
            cycles.rows("nobody stopped"),
            strict=False,
        )
    ]
    yield from _at_most("5. memory for a stopped reader, the kernel's included", MEMORY_BOUND_KB, each, "KB")
    share = cycles.values(name, lambda row: row["aborted"] / row["sleepers"])
    yield from _at_least("5. stopped readers aborted as `slow`", 1.0, share)
    woken = cycles.values(
        name,
        lambda row: min(row["woken"]["have_last"], row["final"]["woken_ended"]) / max(row["wakers"], 1),
    )
    yield from _at_least("5. woken readers that got the newest and the final state", 1.0, woken)


def _connect(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    del sizes
    yield from _at_least("6. new SSE streams a second", 3000, cycles.values("ours SSE", "per_second"), "")
    yield from _told("6. new WebSockets a second", cycles.values("ours WebSocket", "per_second"), "")
    yield from _told("6. new SSE streams over nchan's", cycles.ratio("ours SSE", "nchan SSE", "per_second"))
    yield from _told("6. new SSE streams over naive's", cycles.ratio("ours SSE", "naive SSE", "per_second"))


def _restart(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    del sizes
    back = cycles.values("ours", lambda row: row["back"] / row["connections"])
    yield from _at_least("6. after a kill and a start: share of clients back", 1.0, back)
    yield from _at_most(
        "6. after a kill and a start: all back after", 15, cycles.values("ours", "seconds"), "s"
    )
    asked = cycles.values("ours", lambda row: row["asked"]["status"] / row["tasks"])
    yield from _at_most("6. after a start: status calls a task", 2, asked, "")


def _answer(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    del sizes
    for name in cycles.names():
        what = f"7. answer to the last socket, p99 ({name})"
        values = cycles.values(name, lambda row: row["all_p99_us"] / 1000)
        judged = name.startswith("ours") and "memory" not in name
        yield from _at_most(what, 20, values, "ms") if judged else _told(what, values, "ms")


def _upstream(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    del sizes
    ratio = cycles.ratio("ours, as fast as it can", "bare aiohttp", "per_second")
    yield from _at_least("8. status calls over a bare aiohttp loop's", 0.8, ratio)
    many = "ours, many tasks"
    yield from _at_most("8. many watched tasks: loop lag p99", 50, cycles.values(many, "lag_p99_ms"), "ms")
    yield from _told("8. many watched tasks: mean interval", cycles.values(many, "mean_interval_s"), "s")
    yield from _told(
        "8. many watched tasks: wait for the budget, p99", cycles.values(many, "budget_wait_p99_ms"), "ms"
    )


def _scrape(cycles: _Cycles, sizes: Sizes) -> Iterator[Promise]:
    del sizes
    one, many = "one watched task", "many watched tasks"
    yield from _at_most("9. CPU of a scrape, many watched tasks", 50, cycles.values(many, "cpu_ms"), "ms")
    yield from _told("9. the same with one watched task", cycles.values(one, "cpu_ms"), "ms")
    yield from _told("9. others during scrapes, p99", cycles.values(many, "beside_p99_ms"), "ms")
    yield from _told("9. the same without scrapes", cycles.values(many, "alone_p99_ms"), "ms")


_JUDGES: dict[str, Callable[[_Cycles, Sizes], Iterator[Promise]]] = {
    "fanout": _fanout,
    "many": _many,
    "burst": _burst,
    "idle": _idle,
    "slow": _slow,
    "connect": _connect,
    "restart": _restart,
    "answer": _answer,
    "upstream": _upstream,
    "scrape": _scrape,
}

_COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "events_per_second": ("events/s", lambda value: f"{value:,.0f}"),
    "meant_per_second": ("with conflated", lambda value: f"{value:,.0f}"),
    "cpu_us_per_event": ("CPU µs/event", lambda value: f"{value:.1f}"),
    "p50_us": ("p50 ms", lambda value: f"{value / 1000:.2f}"),
    "p99_us": ("p99 ms", lambda value: f"{value / 1000:.2f}"),
    "max_us": ("max ms", lambda value: f"{value / 1000:.2f}"),
    "all_p99_us": ("last socket p99 ms", lambda value: f"{value / 1000:.2f}"),
    "server_util": ("server busy", lambda value: f"{value:.2f}"),
    "load_util": ("load busy", lambda value: f"{value:.2f}"),
    "connections": ("connections", lambda value: f"{value:,.0f}"),
    "kb_per_connection": ("KB a connection", lambda value: f"{value:.1f}"),
    "kernel_kb_per_connection": ("kernel KB", lambda value: f"{value:.1f}"),
    "per_second": ("a second", lambda value: f"{value:,.0f}"),
    "cpu_us_per_connection": ("CPU µs/connection", lambda value: f"{value:.0f}"),
    "first_p99_us": ("first state p99 ms", lambda value: f"{value / 1000:.1f}"),
    "cpu_us": ("CPU µs/call", lambda value: f"{value:.0f}"),
    "watches": ("watches", lambda value: f"{value:,.0f}"),
    "series": ("lines", lambda value: f"{value:,.0f}"),
    "cpu_ms": ("CPU ms/scrape", lambda value: f"{value:.1f}"),
    "scrape_ms": ("a scrape ms", lambda value: f"{value:.1f}"),
    "alone_p99_ms": ("others p99 ms, no scrapes", lambda value: f"{value:.1f}"),
    "beside_p99_ms": ("others p99 ms, scrapes", lambda value: f"{value:.1f}"),
    "lag_p99_ms": ("loop lag p99 ms", lambda value: f"{value:.1f}"),
    "back": ("back", lambda value: f"{value:,.0f}"),
    "seconds": ("seconds", lambda value: f"{value:.2f}"),
}


def markdown(results: dict[str, Result]) -> str:
    """What stands between the markers of docs/performance.md."""
    kept = list(promises(results))
    lines = [*_head(results), "", *_promise_table(kept), ""]
    if "fanout" in results:
        lines += ["![CPU for one delivered event](performance.svg)", ""]
    bad = wrongs(results)
    if bad:
        lines += ["**Clients that did not end right:**", "", *(f"- {one}" for one in bad), ""]
    else:
        lines += [
            "In every run every client ended with the last state, and nothing came twice or out of order.",
            "",
        ]
    lost = [one for one in kept if not one.holds]
    if lost:
        lines += [
            "Where we lose:",
            "",
            *(f"- {one.what}: {_value(one)}, wanted {one.wanted}" for one in lost),
            "",
        ]
    for scenario, result in results.items():
        lines += [f"### {scenario}", "", *_measurements(result["cycles"]), ""]
    return "\n".join(lines)


def text(results: dict[str, Result]) -> str:
    """The same for a terminal: promises, then what was measured."""
    rows = [("kept", "promise", "wanted", "median (range)")]
    rows += [("yes" if one.holds else "NO", one.what, one.wanted, _value(one)) for one in promises(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    lines += [f"WRONG: {one}" for one in wrongs(results)]
    return "\n".join(lines)


def write(results: dict[str, Result], page: Path) -> None:
    """Put the table between the markers, and the picture beside the page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{markdown(results).rstrip()}\n{END}{after}")
    if "fanout" in results:
        page.with_suffix(".svg").write_text(picture(_Cycles(results["fanout"]["cycles"])))


def picture(cycles: _Cycles) -> str:
    """CPU for one delivered event, one bar a contender."""
    names = [name for name in cycles.names() if cycles.values(name, "cpu_us_per_event")]
    bars = [(name, median(cycles.values(name, "cpu_us_per_event"))) for name in names]
    longest = max((value for _, value in bars), default=1.0) or 1.0
    left, width, row = 210, 480, 24
    height = 64 + row * len(bars)
    box = left + width + 80
    title = "CPU µs for one delivered event (shorter is better)"
    frame = f'viewBox="0 0 {box} {height}" role="img" aria-label="{title}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {frame} font-family="sans-serif" font-size="13">',
        f'<rect width="{box}" height="{height}" fill="#fff"/>',
        f'<text x="12" y="26" font-size="15" fill="#222">{title}</text>',
    ]
    for number, (name, value) in enumerate(bars):
        top = 44 + row * number
        colour = "#1f6feb" if name.startswith("ours") else "#8b949e" if name.startswith("C ") else "#c9ced6"
        long = max(width * value / longest, 1)
        parts += [
            f'<text x="{left - 8}" y="{top + 14}" text-anchor="end" fill="#222">{escape(name)}</text>',
            f'<rect x="{left}" y="{top}" width="{long:.1f}" height="{row - 6}" rx="2" fill="{colour}"/>',
            f'<text x="{left + long + 6:.1f}" y="{top + 14}" fill="#222">{value:.1f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


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
    """How quiet it was, where that was measured."""
    if "disk_sync_ms" not in result:
        return ""
    usual, worst = result["disk_sync_ms"]
    stolen = f"{result['stolen']:.0%} of the time went to neighbours"
    return f"; a sync of the disk took {usual:.1f} ms, p99 {worst:.1f} ms; {stolen}"


def _promise_table(kept: list[Promise]) -> Iterator[str]:
    yield "| | measured | wanted | median (range) |"
    yield "|---|---|---|---|"
    for one in kept:
        mark = "" if not one.wanted else "yes" if one.holds else "**no**"
        yield f"| {mark} | {one.what} | {one.wanted} | {_value(one)} |"


def _measurements(cycles: list[Cycle]) -> Iterator[str]:
    of = _Cycles(cycles)
    rows = {name: [row for cycle in cycles if (row := cycle.get(name))] for name in of.names()}
    keys = [key for key in _COLUMNS if any(key in row for some in rows.values() for row in some)]
    if "events_per_second" in keys:
        keys = [key for key in keys if key != "seconds"]
    if not any(row.get("skipped") for some in rows.values() for row in some) and "meant_per_second" in keys:
        keys.remove("meant_per_second")
    yield "| | " + " | ".join(_COLUMNS[key][0] for key in keys) + " |"
    yield "|---" * (len(keys) + 1) + "|"
    for name, some in rows.items():
        cells = []
        for key in keys:
            values = [row[key] for row in some if key in row]
            cells.append(_COLUMNS[key][1](median(values)) if values else "")
        yield f"| {name} | " + " | ".join(cells) + " |"


def _value(one: Promise) -> str:
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
