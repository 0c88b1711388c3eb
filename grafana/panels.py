"""What panels are made of: expressions and the kinds of panels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# label matchers that every expression has
OF = 'instance=~"$instance"'
UP = f'{OF}, upstream=~"$upstream"'
OURS = "bridge_build_info"  # selects bridges among all processes with memory metrics
SLOW = f'{OF}, reason="slow"'
FAILED_CALLS = f'{OF}, outcome!="ok"'
ENDS = 'status=~"completed|failed|cancelled|lost"'
RATE = "$__rate_interval"

GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "text"
COLOURS = {
    "completed": GREEN,
    "failed": RED,
    "lost": "dark-red",
    "cancelled": GREY,
    "ok": GREEN,
    "not modified": "dark-green",
    "changed": BLUE,
    "unchanged": GREY,
    "error": RED,
    "timeout": "dark-red",
    "unreadable": "purple",
    "busy": YELLOW,
    "refused": "orange",
    "not found": GREY,
    "p50": "light-blue",
    "p90": BLUE,
    "p99": "dark-blue",
}


@dataclass(frozen=True)
class Target:
    """One expression and the legend of its series."""

    expr: str
    legend: str = ""
    exemplar: bool = False
    heatmap: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel; `_placed` computes its position.

    Args:
        steps: Threshold colours by value; the first has no value.
        runbook: An anchor of docs/operations.md, or another page with one.
    """

    kind: str
    title: str
    description: str
    targets: tuple[Target, ...]
    unit: str = "short"
    width: int = 8
    height: int = 8
    steps: tuple[tuple[str, float | None], ...] = ()
    runbook: str = "operations.md#what-to-check-when-"
    options: dict[str, Any] = field(default_factory=dict)
    custom: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


def quantile(share: float, metric: str, labels: str, *by: str) -> str:
    """A quantile of a histogram."""
    grouped = ", ".join(("le", *by))
    return f"histogram_quantile({share:g}, sum by ({grouped}) (rate({metric}_bucket{{{labels}}}[{RATE}])))"


def quantiles(metric: str, labels: str, *, examples: bool = False) -> tuple[Target, ...]:
    """p50, p90 and p99; p99 with exemplars that name their task."""
    return tuple(
        Target(quantile(share, metric, labels), name, exemplar=examples and share == 0.99)
        for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    )


def rate(metric: str, labels: str, *by: str) -> str:
    """A counter's increase per second, summed."""
    inner = f"sum by ({', '.join(by)}) " if by else "sum"
    return f"{inner}(rate({metric}{{{labels}}}[{RATE}]))"


def stat(title: str, description: str, *targets: Target, **more: Any) -> Panel:
    """One coloured number with a sparkline."""
    options = {
        "graphMode": "area",
        "colorMode": "value",
        "textMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    } | more.pop("options", {})
    wide = {"width": 5, "height": 5} | more
    return Panel("stat", title, description, targets, options=options, **wide)


def lines(title: str, description: str, *targets: Target, stacked: bool = False, **more: Any) -> Panel:
    """A time series; stacked if the series add up to a whole."""
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never", "spanNulls": False}
    if stacked:
        custom |= {"fillOpacity": 40, "stacking": {"mode": "normal", "group": "A"}}
    if more.get("steps"):
        custom["thresholdsStyle"] = {"mode": "dashed"}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel("timeseries", title, description, targets, options=options, custom=custom, **more)


def heatmap(title: str, description: str, metric: str, labels: str, **more: Any) -> Panel:
    """A histogram over time."""
    target = Target(rate(f"{metric}_bucket", labels, "le"), "{{le}}", exemplar=True, heatmap=True)
    options = {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Blues", "steps": 32, "exponent": 0.5},
        "yAxis": {"unit": "s", "axisPlacement": "left"},
        "cellGap": 1,
        "legend": {"show": True},
        "tooltip": {"show": True, "yHistogram": True},
        "exemplars": {"color": "rgba(255,127,14,0.8)"},
    }
    return Panel("heatmap", title, description, (target,), unit="s", options=options, **more)


def states(
    title: str, description: str, *targets: Target, words: tuple[tuple[str, str], ...], **more: Any
) -> Panel:
    """A state over time, one bar each.

    Args:
        words: The word and colour of 0, 1 and so on.
    """
    options = {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
    }
    mapped = {"mappings": value_names(*words)}
    return Panel(
        "state-timeline", title, description, targets, options=options, defaults=mapped, unit="none", **more
    )


def value_names(*names: tuple[str, str]) -> list[dict[str, Any]]:
    """Words and colours for the values 0, 1, 2 and so on."""
    options = {
        str(value): {"text": text, "color": colour, "index": value}
        for value, (text, colour) in enumerate(names)
    }
    return [{"type": "value", "options": options}]
