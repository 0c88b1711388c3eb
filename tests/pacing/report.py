"""The tables of `make pacing`, for a terminal and for docs/pacing.md."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.pacing.bars import Bar, known, ratios
from tests.pacing.measure import Numbers, Results
from tests.pacing.numbers import geometric_mean

BEGIN, END = "<!-- pacing:begin -->", "<!-- pacing:end -->"
PARTS = {
    "fast": "Workloads",
    "flood": "Thousands of tasks of seconds that come at once",
    "misleading": "Providers that mislead",
    "cold": "The first 25 tasks of a fresh process",
    "whole": "The whole bridge",
}
HEADS = (
    "polls", "mean", "p50", "p95", "p99", "start", "share", "p95 share",
    "polls /", "mean /", "p95 /", "start /", "before eta_at", "before eta_by", "ETA error", "error /",
)  # fmt: skip
CLIENT_HEADS = ("workload", "client", "polls", "mean", "p95", "start")
ETA = 4  # the last columns
COLUMNS = (
    "Delays are in seconds, from the provider's change until it is seen; `start` is that of processing."
    " `share` is the mean delay over that of a fixed poller of random phase with as many polls, `p95 share`"
    " the same of the 95th percentile."
)
MEANS = ("polls", "mean", "p50", "p95", "p99", "start", "share", "share95")
COMPARED = ("polls", "mean", "p95", "start")

Row = tuple[str, ...]


def rows(ours: dict[str, Numbers], theirs: dict[str, Numbers]) -> Iterator[Row]:
    """One row of cells per workload, and their geometric means."""
    compared = {name: ratios(ours, theirs, name) for name in (*COMPARED, "eta_error")}
    for row, numbers in ours.items():
        share = _text(numbers["share"]) + (
            f" ± {numbers['share_interval']:.2f}" if known(numbers.get("share_interval")) else ""
        )
        yield (
            row,
            *(_text(numbers[name]) for name in MEANS[:-2]),
            share,
            _text(numbers["share95"]),
            *(_text(compared[name].get(row)) for name in COMPARED),
            _text(numbers.get("before_eta_at")),
            _text(numbers.get("before_eta_by")),
            _text(numbers.get("eta_error")),
            _text(compared["eta_error"].get(row)),
        )
    if len(ours) > 1:
        yield (
            "geometric mean",
            *(
                _text(geometric_mean(one[name] for one in ours.values() if known(one[name])))
                for name in MEANS
            ),
            *(_text(geometric_mean(compared[name].values())) for name in COMPARED),
            "",
            "",
            "",
            _text(geometric_mean(compared["eta_error"].values())),
        )


def _text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def client_rows(clients: dict[str, Numbers], ours: Results) -> Iterator[Row]:
    """What other clients do by themselves, workload by workload, and the bridge beside them."""
    for on in dict.fromkeys(row.partition(" on ")[2] for row in clients):
        of_workload = {name: one for name, one in clients.items() if name.endswith(f" on {on}")}
        if on in ours.get("fast", {}):
            of_workload[f"**this bridge** on {on}"] = ours["fast"][on]
        for name, numbers in of_workload.items():
            cells = (_text(numbers[key]) for key in ("polls", "mean", "p95", "start"))
            yield (on, name.removesuffix(f" on {on}"), *cells)


def bar_rows(bars: Iterable[Bar]) -> Iterator[Row]:
    """Every demand, held or missed."""
    for bar in bars:
        held = "held" if bar.held else "**missed**"
        yield (held, bar.what, f"{bar.value:.3g}", f"at most {bar.most:g}", "; ".join(bar.rows))


def printed(ours: Results, theirs: Results, bars: Iterable[Bar], before: str) -> str:
    """Everything, for a terminal."""
    parts = []
    for part, title in PARTS.items():
        if part in ours:
            head = (f"{title} (/: ratio to {before})", *HEADS)
            parts.append(_aligned([head, *rows(ours[part], theirs.get(part, {}))]))
    if "clients" in ours:
        parts.append(
            _aligned([("on", "client", "polls", "mean", "p95", "start"), *client_rows(ours["clients"], ours)])
        )
    parts.append(_aligned([("", "bar", "value", "demanded", "rows that miss it"), *bar_rows(bars)]))
    return "\n\n".join(parts)


def _aligned(table: list[Row]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    )


def page(ours: Results, theirs: Results, bars: Iterable[Bar], before: str, commit: str) -> str:
    """The generated part of docs/pacing.md."""
    parts = [
        f"Measured at commit `{commit}`. A column with `/` is the ratio to `{before}`, before. {COLUMNS}",
        _markdown(("", "demand", "value", "demanded", "rows that miss it"), bar_rows(bars)),
    ]
    for part, title in PARTS.items():
        if part in ours:
            table = list(rows(ours[part], theirs.get(part, {})))
            parts += [f"### {title}", _markdown(("workload", *HEADS[:-ETA]), [row[:-ETA] for row in table])]
    if "fast" in ours:
        table = list(rows(ours["fast"], theirs.get("fast", {})))
        eta = [(row[0], *row[-ETA:]) for row in table]
        sentence = (
            "At every poll after the first 60 tasks: how many of the tasks end before `eta_at` and before"
            " `eta_by`, and the error of the ETA in run times."
        )
        parts += ["### How honest the ETA is", sentence, _markdown(("workload", *HEADS[-ETA:]), eta)]
    if "clients" in ours:
        parts.append("### What clients do on their own")
        parts.append(_markdown(CLIENT_HEADS, client_rows(ours["clients"], ours)))
    return "\n\n".join(parts)


def _markdown(heads: Row, table: Iterable[Row]) -> str:
    lines = [heads, tuple("---" for _ in heads), *table]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write(path: Path, text: str) -> None:
    """Put `text` between the markers of a page, where it has them."""
    old = path.read_text("utf-8")
    head, begin, rest = old.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if begin and end:
        path.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", "utf-8")
