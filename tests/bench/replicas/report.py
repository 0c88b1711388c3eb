"""Turns the results of `make bench replicas` into targets met or missed, and tables."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

BEGIN, END = "<!-- replicas:begin -->", "<!-- replicas:end -->"
Rows = dict[str, dict[str, float]]
Results = dict[str, dict[str, Any]]

_WHOLE, _ONE, _TWO, _PERCENT = "{:,.0f}", "{:,.1f}", "{:,.2f}", "{:.1%}"
COLUMNS: dict[str, tuple[str, str]] = {
    "engine_us": ("engine CPU µs/change", _WHOLE),
    "engine_us_beyond_idle": ("of these for the change", _WHOLE),
    "commands_per_change": ("commands/change", _ONE),
    "engine_share": ("engine core", _PERCENT),
    "changes": ("changes/s", _WHOLE),
    "delivered": ("states delivered", _WHOLE),
    "commands": ("commands/s", _ONE),
    "memory_mb": ("engine MB", _WHOLE),
    "p50_s": ("p50 s", _TWO),
    "worst_s": ("worst s", _TWO),
    "doubled": ("polls doubled", _WHOLE),
    "per_second": ("polls/s", _ONE),
    "most_in_a_second": ("most in a second", _WHOLE),
    "most_in_a_tenth": ("most in 0.1 s", _WHOLE),
    "least": ("least in a second", _WHOLE),
    "met": ("polls answered 429", _WHOLE),
    "late": ("later than 50 ms", _WHOLE),
    "last_ms": ("last after ms", _ONE),
    "resumes": ("resumes", _WHOLE),
    "p50_ms": ("p50 ms", _ONE),
    "p99_ms": ("p99 ms", _ONE),
    "resets": ("resets", _WHOLE),
    "failed": ("failed", _WHOLE),
    "sockets": ("sockets", _WHOLE),
    "first_to_last_ms": ("first to last socket ms", _ONE),
    "change_to_last_ms": ("change to last socket ms", _ONE),
    "seen_to_last_ms": ("seen by the bridge to last socket ms", _ONE),
    "follower_us": ("follower CPU µs/entry", _ONE),
    "writer_us": ("writer CPU µs/change", _ONE),
    "lag_p99_ms": ("log to follower p99 ms", _ONE),
    "ceiling": ("changes/s at 70 % of the core", _WHOLE),
}


class Target(NamedTuple):
    """One target and what was measured."""

    what: str
    bound: str
    value: float
    holds: bool


def targets(results: Results) -> Iterator[Target]:
    """Yield all targets that the results cover."""
    for part, judge in _JUDGES.items():
        if part in results:
            yield from judge(results[part]["rows"])


def _at_most(what: str, bound: float, value: float) -> Target:
    return Target(what, f"at most {bound:g}", value, value <= bound)


def _cost(rows: Rows) -> Iterator[Target]:
    flat = [row["commands_per_change"] for name, row in rows.items() if name.endswith("viewers")][:3]
    if len(flat) > 1:
        yield _at_most("engine commands a change, many viewers over few", 1.15, flat[-1] / flat[0])


def _quiet(rows: Rows) -> Iterator[Target]:
    for name, row in rows.items():
        yield _at_most(f"{name}: engine commands a second", 30, row["commands"])


def _failover(rows: Rows) -> Iterator[Target]:
    for name, row in rows.items():
        lease = float(name.split()[1])
        yield _at_most(f"{name}: longest time without a poll after kill -9, s", lease + 1, row["worst_s"])
        yield _at_most(f"{name}: polls doubled", 0, row["doubled"])


def _limit(rows: Rows) -> Iterator[Target]:
    first, refused, killed = rows.values()
    yield _at_most("3 replicas at one rate limit of 40/s: polls in any second", 41, first["most_in_a_second"])
    yield _at_most("429: polls begun later than 50 ms after the first", 0, refused["late"])
    yield _at_most("after kill -9 of one: polls in any second", 41, killed["most_in_a_second"])


def _resume(rows: Rows) -> Iterator[Target]:
    for name, row in rows.items():
        yield _at_most(f"resume at another replica, p99 ms ({name})", 50, row["p99_ms"])


def _workers(rows: Rows) -> Iterator[Target]:
    if len(rows) == 2 and all("seen_to_last_ms" in row for row in rows.values()):
        one, two = rows.values()
        ratio = two["seen_to_last_ms"] / one["seen_to_last_ms"]
        yield _at_most("2 workers over 1: from seen by the bridge to the last socket", 0.62, ratio)


def _busy(rows: Rows) -> Iterator[Target]:
    for name, row in rows.items():
        followers = int(name.split()[0])
        yield _at_most(f"{name}: engine CPU µs a change", 50 + 10 * followers, row["engine_us"])
        if followers:
            yield _at_most(f"{name}: follower CPU µs an entry", 40, row["follower_us"])


_JUDGES: dict[str, Callable[[Rows], Iterator[Target]]] = {
    "cost": _cost,
    "busy": _busy,
    "quiet": _quiet,
    "failover": _failover,
    "limit": _limit,
    "resume": _resume,
    "workers": _workers,
}


def text(results: Results) -> str:
    """The targets as text for a terminal."""
    return "\n".join(
        f"{'yes' if one.holds else 'NO ':3}  {one.what}: {one.value:,.4g}, {one.bound}"
        for one in targets(results)
    )


def markdown(results: Results) -> str:
    """The section between the markers of docs/benchmarks.md."""
    lines = ["| met | measured | target | value |", "|---|---|---|---|"]
    lines += [
        f"| {'yes' if one.holds else '**no**'} | {one.what} | {one.bound} | {one.value:,.4g} |"
        for one in targets(results)
    ]
    for part, result in results.items():
        lines += ["", f"### replicas: {part}", "", f"{result['when']}, commit `{result['commit']}`.", ""]
        lines += _table(result["rows"])
    return "\n".join(lines)


def _table(rows: Rows) -> Iterator[str]:
    keys = [key for key in COLUMNS if any(key in row for row in rows.values())]
    yield "| | " + " | ".join(COLUMNS[key][0] for key in keys) + " |"
    yield "|---" * (len(keys) + 1) + "|"
    for name, row in rows.items():
        cells = [COLUMNS[key][1].format(row[key]) if key in row else "" for key in keys]
        yield f"| {name} | " + " | ".join(cells) + " |"


def read(page: Path) -> Results:
    """The results that a page has, with the digits it shows: the reverse of `write`."""
    section = page.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    keys = {head: key for key, (head, _) in COLUMNS.items()}
    results: Results = {}
    for part, when, commit, table in _SECTION.findall(section):
        head, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
        results[part] = {
            "when": when,
            "commit": commit,
            "rows": {
                line[0]: {
                    keys[column]: _number(cell)
                    for column, cell in zip(head[1:], line[1:], strict=True)
                    if cell and column in keys
                }
                for line in lines
            },
        }
    return results


_SECTION = re.compile(r"^### replicas: (\w+)\n\n(.+?), commit `(.+?)`\.\n\n((?:\|.*\n)+)", re.MULTILINE)


def _number(cell: str) -> float:
    digits = cell.replace(",", "")
    return float(digits[:-1]) / 100 if digits.endswith("%") else float(digits)


def newest(*several: Results) -> Results:
    """Of each part the results that were measured last."""
    parts: Results = {}
    for results in several:
        for part, result in results.items():
            if part not in parts or result["when"] >= parts[part]["when"]:
                parts[part] = result
    return parts


def write(results: Results, page: Path) -> None:
    """Write the tables between the markers."""
    before, rest = page.read_text("utf-8").split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}", "utf-8")
