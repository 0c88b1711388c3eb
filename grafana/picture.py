"""Draws the dashboard with the data of a Prometheus, as a preview.

    python grafana/picture.py http://127.0.0.1:9090 --minutes 10 dashboard.png

It reads the same file and sends the same queries as Grafana, but is not Grafana: good enough for a docs page.
It needs matplotlib (`pip install --group pictures`).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit
from urllib.request import urlopen

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

HERE = Path(__file__).parent
BOARD = HERE / "dashboards" / "bridge.json"

WIDE, ROW = 1360, 27  # pixels: the picture, and one row of Grafana's grid
DOTS = 100
GAP = 6
FOOT = 16  # pixels for the line that says what drew it
DRAWN_BY = (
    "drawn by grafana/picture.py from the dashboard's own queries; Grafana draws the same panels its own way"
)
MAX_NAMES = 5
PAGE, CARD, LINE, TEXT, FAINT = "#111217", "#181b1f", "#2c3235", "#d8d9da", "#8e9297"
PALETTE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#b877d9", "#5794f2", "#ff7383", "#c0d8ff", "#fade2a")
NAMED = {
    "green": "#73bf69",
    "dark-green": "#37872d",
    "yellow": "#f2cc0c",
    "red": "#f2495c",
    "dark-red": "#a5303f",
    "orange": "#ff9830",
    "blue": "#5794f2",
    "light-blue": "#a7c8f7",
    "dark-blue": "#3274d9",
    "purple": "#b877d9",
    "text": "#9fa3a8",
    "transparent": "none",
}


@dataclass(frozen=True)
class Line:
    """One series over time."""

    name: str
    labels: dict[str, str]
    times: list[float]
    values: list[float]


@dataclass(frozen=True)
class Prometheus:
    """The Prometheus to query.

    Args:
        window: What `$__rate_interval` becomes.
    """

    url: str
    start: float
    end: float
    step: float
    window: str

    def lines(self, target: dict[str, Any]) -> list[Line]:
        """The result of an expression of the dashboard."""
        expr = target["expr"].replace("$__rate_interval", self.window)
        expr = re.sub(r"\$(instance|upstream)\b", ".+", expr)
        data = self._ask("query_range", query=expr, start=self.start, end=self.end, step=self.step)
        found = []
        for one in data["result"]:
            pairs = [(float(at), float(value)) for at, value in one["values"]]
            name = _filled(target["legendFormat"], one["metric"])
            found.append(Line(name, one["metric"], [at for at, _ in pairs], [value for _, value in pairs]))
        return found

    def examples(self, target: dict[str, Any]) -> list[tuple[float, float]]:
        """Time and value of the exemplars of an expression."""
        (name,) = set(re.findall(r"\b(bridge_\w+_bucket)", target["expr"]))
        data = self._ask("query_exemplars", query=name, start=self.start, end=self.end)
        return [
            (float(one["timestamp"]), float(one["value"])) for series in data for one in series["exemplars"]
        ]

    def _ask(self, path: str, **fields: Any) -> Any:
        with urlopen(f"{self.url}/api/v1/{path}?{urlencode(fields)}", timeout=30) as answer:  # noqa: S310 - checked
            return json.load(answer)["data"]


def draw(board: dict[str, Any], prometheus: Prometheus, output: Path) -> None:
    """The whole dashboard as one PNG."""
    mpl.rcParams.update({"font.size": 6.5, "font.family": "DejaVu Sans", "text.parse_math": False})
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    tall = rows * ROW + 2 * GAP + FOOT
    figure = Figure(figsize=(WIDE / DOTS, tall / DOTS), dpi=DOTS, facecolor=PAGE)
    for panel in board["panels"]:
        grid = panel["gridPos"]
        left, wide = grid["x"] * WIDE / 24 + GAP / 2, grid["w"] * WIDE / 24 - GAP
        top, high = grid["y"] * ROW + GAP, grid["h"] * ROW - GAP
        box = (left / WIDE, 1 - (top + high) / tall, wide / WIDE, high / tall)
        if panel["type"] == "row":
            figure.text(
                box[0] + 4 / WIDE, box[1] + box[3] / 2, panel["title"], color=TEXT, size=8.5, va="center"
            )
        else:
            _panel(figure, panel, prometheus, box, (wide, high))
    figure.text(1 - 8 / WIDE, 8 / tall, DRAWN_BY, color=FAINT, size=6.5, ha="right", va="center")
    figure.savefig(output)
    Image.open(output).convert("RGB").quantize(224, dither=Image.Dither.NONE).save(output, optimize=True)


def _panel(
    figure: Figure,
    panel: dict[str, Any],
    prometheus: Prometheus,
    box: tuple[float, float, float, float],
    size: tuple[float, float],
) -> None:
    x, y, wide, high = box
    card = figure.add_axes(box, facecolor=CARD)
    card.set_xticks([])
    card.set_yticks([])
    for spine in card.spines.values():
        spine.set_color(LINE)
    card.text(8 / size[0], 1 - 8 / size[1], panel["title"], color=TEXT, size=7.5, weight="bold", va="top")
    _KINDS[panel["type"]](figure, panel, prometheus, (x, y, wide, high), size)


def _inside(
    figure: Figure, box: tuple[float, float, float, float], size: tuple[float, float], *, below: float = 34
) -> Axes:
    """The plot area of a panel."""
    x, y, wide, high = box
    left, right, above = 52 / size[0], 10 / size[0], 28 / size[1]
    low = below / size[1]
    axes = figure.add_axes(
        (x + left * wide, y + low * high, (1 - left - right) * wide, (1 - above - low) * high), facecolor=CARD
    )
    axes.tick_params(colors=FAINT, length=0, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    return axes


def _time_axis(axes: Axes, prometheus: Prometheus) -> None:
    axes.set_xlim(prometheus.start, prometheus.end)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 3, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: time.strftime("%H:%M:%S", time.gmtime(at))))


def _timeseries(figure: Figure, panel: dict[str, Any], prometheus: Prometheus, box: Any, size: Any) -> None:
    axes = _inside(figure, box, size)
    found = [line for target in panel["targets"] for line in prometheus.lines(target)]
    found = [line for line in found if any(map(math.isfinite, line.values))]
    defaults = panel["fieldConfig"]["defaults"]
    stacked = "stacking" in defaults["custom"]
    found.sort(key=lambda line: line.name)
    if len(found) > MAX_NAMES:  # the picture is narrower than a screen
        found = [line for line in found if any(line.values)]
    if stacked:
        times = sorted({at for line in found for at in line.times})
        layers = [_on(line, times) for line in found]
        colours = [_colour(panel, line.name, number) for number, line in enumerate(found)]
        axes.stackplot(times, layers, colors=colours, alpha=0.55, labels=[line.name for line in found], lw=0)
    else:
        for number, line in enumerate(found):
            colour = _colour(panel, line.name, number)
            axes.plot(line.times, line.values, color=colour, lw=0.9, label=line.name)
            axes.fill_between(line.times, line.values, color=colour, alpha=0.06, lw=0)
    top = axes.get_ylim()[1]
    for step in defaults["thresholds"]["steps"]:
        if step["value"] and step["value"] <= top * 1.5:
            axes.axhline(step["value"], color=NAMED[step["color"]], lw=0.8, ls=(0, (4, 3)))
    if "min" in defaults:
        axes.set_ylim(defaults["min"], defaults.get("max", max(axes.get_ylim()[1], 1e-9)))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: said(value, defaults["unit"])))
    _time_axis(axes, prometheus)
    for target in panel["targets"]:
        if target["exemplar"]:
            points = prometheus.examples(target)
            axes.scatter(
                *zip(*points, strict=True), s=3, marker="D", color="#ff9830", lw=0, alpha=0.7, zorder=3
            )
            axes.set_ylim(0, axes.get_ylim()[1])
    _legend(axes, len(found))


def _legend(axes: Axes, number: int) -> None:
    if number:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(-0.12, -0.09),
            ncols=min(number, 6),
            frameon=False,
            labelcolor=FAINT,
            fontsize=5.6,
            handlelength=1.0,
            handletextpad=0.4,
            columnspacing=0.9,
        )


def _stat(figure: Figure, panel: dict[str, Any], prometheus: Prometheus, box: Any, _size: Any) -> None:
    x, y, wide, high = box
    found = [line for target in panel["targets"] for line in prometheus.lines(target)]
    found = [line for line in found if any(map(math.isfinite, line.values))]
    defaults = panel["fieldConfig"]["defaults"]
    for number, line in enumerate(found):
        part = wide / len(found)
        axes = figure.add_axes((x + number * part, y + 0.03 * high, part, 0.27 * high), facecolor="none")
        axes.axis("off")
        newest = next(value for value in reversed(line.values) if math.isfinite(value))
        colour = _step(defaults["thresholds"]["steps"], newest)
        if panel["options"]["graphMode"] != "none":
            axes.fill_between(line.times, line.values, color=colour, alpha=0.22, lw=0)
            axes.plot(line.times, line.values, color=colour, lw=0.8)
        axes.set_xlim(prometheus.start, prometheus.end)
        axes.set_ylim(0, max(axes.get_ylim()[1], 1e-9) * 1.05)
        middle = x + (number + 0.5) * part
        value = _worded(newest, defaults) or said(newest, defaults["unit"], defaults.get("decimals"))
        name = line.name
        if panel["options"]["textMode"] == "name":
            value, name = name, ""
        big = 21 if len(found) == 1 else 14
        figure.text(
            middle, y + 0.58 * high, value, color=colour, size=big, weight="bold", ha="center", va="center"
        )
        figure.text(middle, y + 0.38 * high, name, color=FAINT, size=6, ha="center", va="center")


def _heatmap(figure: Figure, panel: dict[str, Any], prometheus: Prometheus, box: Any, size: Any) -> None:
    axes = _inside(figure, box, size, below=20)
    (target,) = panel["targets"]
    found = sorted(prometheus.lines(target), key=lambda line: float(line.labels["le"]))
    times = sorted({at for line in found for at in line.times})
    totals = [_on(line, times) for line in found]
    counts = [
        [max(value - below, 0.0) for value, below in zip(row, under, strict=True)]
        for row, under in zip(totals, [[0.0] * len(times), *totals], strict=False)
    ]
    spans = [*times, times[-1] + prometheus.step]
    shown = [[value if value > 0 else math.nan for value in row] for row in counts]
    axes.grid(visible=False)
    axes.pcolormesh(spans, range(len(found) + 1), shown, cmap="Blues_r", norm=PowerNorm(0.4))
    bounds = [float(line.labels["le"]) for line in found]
    points = [(at, _height(value, bounds)) for at, value in prometheus.examples(target)]
    if points:
        axes.scatter(*zip(*points, strict=True), s=3, marker="D", color="#ff9830", lw=0, alpha=0.7, zorder=3)
    axes.set_yticks(range(1, len(found) + 1, 2), [_bound(line.labels["le"]) for line in found][::2])
    _time_axis(axes, prometheus)


def _states(figure: Figure, panel: dict[str, Any], prometheus: Prometheus, box: Any, size: Any) -> None:
    axes = _inside(figure, box, size)
    found = sorted(
        (line for target in panel["targets"] for line in prometheus.lines(target)), key=lambda one: one.name
    )
    shown = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    for number, line in enumerate(found):
        for value, style in shown.items():
            spans = [
                (at, prometheus.step)
                for at, is_ in zip(line.times, line.values, strict=True)
                if is_ == float(value)
            ]
            colour = NAMED[style["color"]]
            axes.broken_barh(
                spans, (number - 0.36, 0.72), facecolor=colour, alpha=0.75, label=style["text"] * (not number)
            )
    axes.set_yticks(range(len(found)), [line.name for line in found])
    axes.grid(visible=False)
    _time_axis(axes, prometheus)
    _legend(axes, len(shown))


_KINDS: dict[str, Callable[..., None]] = {
    "timeseries": _timeseries,
    "stat": _stat,
    "heatmap": _heatmap,
    "state-timeline": _states,
}


def said(value: float, unit: str, decimals: int | None = None) -> str:
    """A number formatted as in Grafana."""
    if unit == "percentunit":
        return f"{100 * value:.{decimals or 0}f} %"
    if unit == "s":
        size = abs(value)
        if size >= 120:
            return f"{value / 3600:.1f} h" if size >= 7200 else f"{value / 60:.1f} min"
        return f"{value:.3g} s" if size >= 1 or size == 0 else f"{1000 * value:.3g} ms"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    per = {"reqps": " req/s", "cps": "/s"}.get(unit, "")
    return f"{value:.3g}{per}" if decimals is None else f"{value:.{decimals}f}{per}"


def _worded(value: float, defaults: dict[str, Any]) -> str:
    """The word that the panel maps a value to; empty if it maps none."""
    options = defaults["mappings"][0]["options"] if defaults["mappings"] else {}
    return str(options.get(f"{value:g}", {}).get("text", ""))


def _height(value: float, bounds: Sequence[float]) -> float:
    """Where a value is among the rows of a heat map, one row a bucket."""
    row = next(number for number, bound in enumerate(bounds) if value <= bound)
    low, high = bounds[row - 1] if row else 0.0, bounds[row]
    return row + (0.5 if math.isinf(high) else (value - low) / (high - low))


def _bound(text: str) -> str:
    return "∞" if text == "+Inf" else said(float(text), "s")


def _filled(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), legend)


def _on(line: Line, times: Sequence[float]) -> list[float]:
    """The values at these times; 0.0 where there is none."""
    known = dict(zip(line.times, line.values, strict=True))
    return [value if math.isfinite(value := known.get(at, 0.0)) else 0.0 for at in times]


def _colour(panel: dict[str, Any], name: str, number: int) -> str:
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"]["options"] == name:
            return NAMED[override["properties"][0]["value"]["fixedColor"]]
    return PALETTE[number % len(PALETTE)]


def _step(steps: list[dict[str, Any]], value: float) -> str:
    return NAMED[[step for step in steps if step["value"] is None or value >= step["value"]][-1]["color"]]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("prometheus", help="URL of the Prometheus")
    parser.add_argument("output", type=Path, help="the PNG to write")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the time range")
    parser.add_argument(
        "--window", default="1m", help="rate window, four times the scrape interval in Grafana"
    )
    asked = parser.parse_args()
    if urlsplit(asked.prometheus).scheme not in {"http", "https"}:
        parser.error("the address begins with http:// or https://")
    end = time.time()  # noqa: TID251 - no bridge here
    seconds = asked.minutes * 60
    prometheus = Prometheus(asked.prometheus, end - seconds, end, max(seconds / 240, 1.0), asked.window)
    draw(json.loads(BOARD.read_text("utf-8")), prometheus, asked.output)


if __name__ == "__main__":
    main()
