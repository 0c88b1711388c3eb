"""Writes grafana/dashboards/bridge.json.

Run `python grafana/make_dashboard.py` after a change; a test fails if the file differs from its output.
The first row has one number per question of an operator; the rows below show the causes.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OUTPUT = HERE / "dashboards" / "bridge.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24

# label matchers that every expression has
OF = 'instance=~"$instance"'
UP = f'{OF}, upstream=~"$upstream"'
OURS = "bridge_build_info"  # selects bridges among all processes with memory metrics
SLOW = f'{OF}, reason="slow"'
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
    }
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


def states(title: str, description: str, *targets: Target, **more: Any) -> Panel:
    """A state over time, one bar each."""
    options = {
        "mergeValues": True,
        "showValue": "never",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
    }
    mapped = {
        "mappings": [
            {
                "type": "value",
                "options": {
                    "0": {"text": "closed", "color": GREEN, "index": 0},
                    "1": {"text": "open", "color": RED, "index": 1},
                },
            }
        ]
    }
    return Panel(
        "state-timeline", title, description, targets, options=options, defaults=mapped, unit="none", **more
    )


def questions() -> Iterator[Panel]:
    """The overview: one number per question of an operator."""
    ended = rate("bridge_task_transitions_total", f"{UP}, {ENDS}")
    completed = rate("bridge_task_transitions_total", f'{UP}, status="completed"')
    yield stat(
        "Tasks finished",
        "Tasks that ended per minute, and the share of them that completed. Zero while tasks are watched "
        "means that none finishes: see *Open tasks and subscribers* below.",
        Target(f"60 * {ended}", "per minute"),
        Target(f"100 * {completed} / {ended}", "% completed"),
        unit="none",
        defaults={"decimals": 1},
        runbook="operations.md#tasks-stalled",
    )
    yield stat(
        "Detection latency p95",
        "95 of 100 changes are seen within this time of the provider's own timestamp, if it sends one. "
        "Most of it is the poll interval.",
        Target(quantile(0.95, "bridge_detection_seconds", UP), "p95"),
        unit="s",
        steps=((GREEN, None), (YELLOW, 15), (RED, 30)),
        runbook="operations.md#detection-late",
    )
    yield stat(
        "Delivery latency p99",
        "99 of 100 changes reach the socket of their last subscriber within this time of being seen, the "
        "journal included. The objective is half a second.",
        Target(quantile(0.99, "bridge_delivery_seconds", OF), "p99"),
        unit="s",
        steps=((GREEN, None), (YELLOW, 0.25), (RED, 0.5)),
        runbook="operations.md#deliveries-late",
    )
    saved = rate("bridge_polls_saved_total", UP)
    made = rate("bridge_polls_total", UP)
    yield stat(
        "Polls avoided",
        "The share of polls that subscribers would have made at the provider's recommended interval and that "
        "were not needed.",
        Target(f"{saved} / ({saved} + {made})", "of all polls"),
        unit="percentunit",
        defaults={"min": 0, "max": 1, "decimals": 1},
        runbook="metrics.md#how-to-read-each",
    )
    calls = rate("bridge_upstream_requests_total", f'{UP}, call="status"', "upstream")
    failed = rate(
        "bridge_upstream_requests_total",
        f'{UP}, call="status", outcome=~"error|timeout|unreadable"',
        "upstream",
    )
    yield stat(
        "Provider error rate",
        "The share of status calls that failed, one number per provider: no response, a late one, or one "
        "that could not be parsed. Above half of them for five minutes is an outage.",
        Target(f"{failed} / {calls}", "{{upstream}}"),
        unit="percentunit",
        width=4,
        defaults={"decimals": 0},
        steps=((GREEN, None), (YELLOW, 0.05), (RED, 0.5)),
        runbook="operations.md#provider-down",
    )


def tasks() -> Iterator[Panel]:
    """Life cycle of tasks."""
    yield lines(
        "Tasks ended per minute",
        "By final status. `lost` are tasks that the provider no longer returns, or whose deadline passed.",
        Target(f"60 * {rate('bridge_task_transitions_total', f'{UP}, {ENDS}', 'status')}", "{{status}}"),
        stacked=True,
        runbook="operations.md#tasks-stalled",
    )
    yield lines(
        "Open tasks and subscribers",
        "Tasks being watched, lingering ones included, and their subscribers. Subscribers divided by tasks "
        "is how many share one poll.",
        Target(f"sum(bridge_watches{{{UP}}})", "tasks"),
        Target(f"sum(bridge_interests{{{UP}}})", "subscribers"),
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Notices per minute",
        "Notices sent to subscribers. `stalled` and `upstream_unavailable` are provider problems, "
        "`credential_refused` needs an operator, `fresh` clears the others.",
        Target(f"60 * {rate('bridge_notices_total', OF, 'code')}", "{{code}}"),
        runbook="operations.md#tasks-stalled",
    )
    yield lines(
        "Detection latency",
        "From the provider's own timestamp of a change until the bridge saw it. A provider that stamps whole "
        "seconds adds up to one.",
        *quantiles("bridge_detection_seconds", UP, examples=True),
        unit="s",
        steps=(("transparent", None), (RED, 15)),
        runbook="operations.md#detection-late",
    )
    yield lines(
        "Time queued and processing",
        "p50 and p90 of the time that tasks spent in that status. A growing queue is a provider at capacity.",
        Target(quantile(0.5, "bridge_task_seconds", UP, "status"), "{{status}} p50"),
        Target(quantile(0.9, "bridge_task_seconds", UP, "status"), "{{status}} p90", exemplar=True),
        unit="s",
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Polls by result",
        "`unchanged` is the cost of waiting; a share above nine in ten means that `poll_max_seconds` could "
        "be larger.",
        Target(rate("bridge_polls_total", UP, "result"), "{{result}}"),
        unit="reqps",
        stacked=True,
        runbook="operations.md#provider-rate-limits",
    )


def upstreams() -> Iterator[Panel]:
    """Calls to the providers."""
    yield lines(
        "Requests by outcome",
        "Calls of all kinds. `busy` are rate limits of the provider, `unreadable` means that the dialect no "
        "longer matches its responses.",
        Target(rate("bridge_upstream_requests_total", UP, "outcome"), "{{outcome}}"),
        unit="reqps",
        stacked=True,
        runbook="operations.md#provider-down",
    )
    yield heatmap(
        "Provider response time",
        "All calls by response time; the darker, the more. The points are single calls, with their task.",
        "bridge_upstream_request_seconds",
        UP,
        runbook="operations.md#provider-down",
    )
    yield lines(
        "Response time p99 by provider",
        "99 of 100 status calls get a response within this time. Near `timeout_seconds` polls begin to fail.",
        Target(
            quantile(0.99, "bridge_upstream_request_seconds", f'{UP}, call="status"', "upstream"),
            "{{upstream}}",
        ),
        unit="s",
        runbook="operations.md#provider-down",
    )
    yield lines(
        "Wait for the rate limit",
        "How long a due poll waited for the rate limit of its provider. Above a second, states are late.",
        *quantiles("bridge_budget_wait_seconds", UP),
        unit="s",
        steps=(("transparent", None), (RED, 1)),
        runbook="operations.md#budget-exhausted",
    )
    yield states(
        "Circuit breaker",
        "Open after eight failures in a row of different tasks, while only one probe at a time is sent.",
        Target(f"max by (upstream) (bridge_circuit_open{{{UP}}})", "{{upstream}}"),
        runbook="operations.md#provider-down",
    )
    yield lines(
        "Provider back-off",
        "For how long no call may be sent: the provider's `Retry-After`, or the time between probes after "
        "failures.",
        Target(f"max by (upstream) (bridge_budget_paused_seconds{{{UP}}})", "{{upstream}}"),
        unit="s",
        runbook="operations.md#budget-exhausted",
    )


def fanout() -> Iterator[Panel]:
    """Delivery to subscribers."""
    yield lines(
        "Open connections",
        "Streams, WebSockets and long-polls that are open now, by delivery.",
        Target(f"sum by (delivery) (bridge_connections{{{OF}}})", "{{delivery}}"),
        stacked=True,
        runbook="operations.md#no-traffic",
    )
    yield lines(
        "Connections opened and closed per second",
        "Closed ones below the line, by reason. If `left` is far above the others, something between you and "
        "the clients disconnects them.",
        Target(rate("bridge_connections_total", OF), "opened"),
        Target(f"-{rate('bridge_disconnects_total', OF, 'reason')}", "{{reason}}"),
        runbook="operations.md#what-to-check-when-",
    )
    yield lines(
        "States delivered per second",
        "To all subscribers together.",
        Target(rate("bridge_events_total", OF, "delivery"), "{{delivery}}"),
        unit="cps",
        stacked=True,
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Delivery latency",
        "From a state being seen to the socket of its last subscriber. The points are single changes, with "
        "their task.",
        *quantiles("bridge_delivery_seconds", OF, examples=True),
        unit="s",
        steps=(("transparent", None), (RED, 0.5)),
        runbook="operations.md#deliveries-late",
    )
    yield lines(
        "Slow clients per minute",
        "States that were skipped for a newer one of the same task, and connections aborted at the write "
        "timeout.",
        Target(f"60 * {rate('bridge_conflated_total', OF)}", "states skipped"),
        Target(f"60 * {rate('bridge_disconnects_total', SLOW)}", "connections aborted"),
        runbook="operations.md#failure-modes",
    )
    yield lines(
        "Resumes per minute",
        "By result. `reset` jumps after a restart without its journal; `ended` are browsers that got 204 and "
        "stop.",
        Target(f"60 * {rate('bridge_resumes_total', OF, 'result')}", "{{result}}"),
        runbook="metrics.md#how-to-read-each",
    )


def process() -> Iterator[Panel]:
    """The process itself."""
    yield lines(
        "Event loop lag",
        "Above 50 ms at p99 it has more work than one core can do.",
        *quantiles("bridge_loop_lag_seconds", OF),
        unit="s",
        steps=(("transparent", None), (RED, 0.25)),
        runbook="operations.md#loop-lag",
    )
    yield lines(
        "Journal append time",
        "The disk, with one commit for all states that arrived together; above 20 ms it is too slow or too "
        "busy.",
        *quantiles("bridge_journal_append_seconds", OF),
        unit="s",
        runbook="operations.md#journal-failing",
    )
    yield lines(
        "Failed journal appends per minute",
        "A state that could not be recorded is not announced: anything above zero needs an operator.",
        Target(f"60 * {rate('bridge_journal_failures_total', OF, 'instance')}", "{{instance}}"),
        steps=(("transparent", None), (RED, 0.001)),
        runbook="operations.md#journal-failing",
    )
    yield lines(
        "Memory",
        "Resident, by instance. After many connections have closed, Python keeps a part of their memory.",
        Target(f"process_resident_memory_bytes{{{OF}}} and on (job, instance) {OURS}", "{{instance}}"),
        unit="bytes",
        runbook="operations.md#memory-growing",
    )
    yield lines(
        "File descriptors in use",
        "The share of the system's limit. Each connection needs one.",
        Target(
            f"process_open_fds{{{OF}}} / process_max_fds{{{OF}}} and on (job, instance) {OURS}",
            "{{instance}}",
        ),
        unit="percentunit",
        defaults={"min": 0, "max": 1},
        steps=(("transparent", None), (RED, 0.9)),
        runbook="operations.md#failure-modes",
    )
    yield lines(
        "CPU",
        "Of one core: apart from the journal's threads the bridge uses only one.",
        Target(
            f"rate(process_cpu_seconds_total{{{OF}}}[{RATE}]) and on (job, instance) {OURS}",
            "{{instance}}",
        ),
        unit="percentunit",
        defaults={"min": 0},
        steps=(("transparent", None), (RED, 0.9)),
        runbook="operations.md#loop-lag",
    )


ROWS = (
    ("Overview", questions),
    ("Tasks", tasks),
    ("Upstream", upstreams),
    ("Fan-out", fanout),
    ("Process", process),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "task-event-bridge",
        "title": "Task event bridge",
        "description": "Finished tasks, detection and delivery latency, polls avoided and provider error "
        "rate; below, the causes.",
        "tags": ["task-event-bridge"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "annotations": {"list": list(_annotations())},
        "links": [
            _link("How to read each metric", "metrics.md#how-to-read-each"),
            _link("Runbook", "operations.md#alerts"),
        ],
        "panels": list(_placed()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }
    for name, label, query in (
        ("instance", "Instance", "label_values(bridge_build_info, instance)"),
        ("upstream", "Upstream", 'label_values(bridge_watches{instance=~"$instance"}, upstream)'),
    ):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": "All", "value": "$__all"},
            "hide": 0,
        }
    yield {
        "name": "docs",
        "label": "Docs at",
        "description": "URL of the pages of docs/; the links of panels lead there.",
        "type": "textbox",
        "query": "https://example.com/task-event-bridge/docs",
        "current": {
            "text": "https://example.com/task-event-bridge/docs",
            "value": "https://example.com/task-event-bridge/docs",
        },
        "hide": 0,
    }


def _annotations() -> Iterator[dict[str, Any]]:
    yield {
        "name": "Alerts",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": RED,
        "expr": 'ALERTS{alertname=~"Bridge.+", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{upstream}} {{instance}}",
    }
    yield {
        "name": "Starts",
        "datasource": DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": GREY,
        "expr": f"changes(process_start_time_seconds{{{OF}}}[{RATE}]) > 0 and on (job, instance) {OURS}",
        "titleFormat": "started",
        "textFormat": "{{instance}}",
    }


def _link(title: str, target: str) -> dict[str, Any]:
    return {"title": title, "url": f"${{docs}}/{target}", "type": "link", "targetBlank": True, "icon": "doc"}


def _placed() -> Iterator[dict[str, Any]]:
    """All rows and panels with their grid positions, from left to right."""
    number, top = 1, 0
    for title, make in ROWS:
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
        }
        number, top, left, height = number + 1, top + 1, 0, 0
        for panel in make():
            if left + panel.width > COLUMNS:
                left, top = 0, top + height
            yield _written(panel, number, {"x": left, "y": top, "w": panel.width, "h": panel.height})
            number, left, height = number + 1, left + panel.width, panel.height
        top += height


def _written(panel: Panel, number: int, grid: dict[str, int]) -> dict[str, Any]:
    steps = panel.steps or ((GREEN if panel.kind == "stat" else "transparent", None),)
    defaults = {
        "unit": panel.unit,
        "thresholds": {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for colour, value in steps],
        },
        "color": {"mode": "thresholds" if panel.kind == "stat" else "palette-classic"},
        "custom": panel.custom,
        "mappings": [],
    } | panel.defaults
    if panel.kind == "timeseries" and not panel.title.startswith("Connections opened"):
        defaults = {"min": 0} | defaults
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": grid,
        "targets": [
            _target_json(target, letter) for target, letter in zip(panel.targets, "ABCDEF", strict=False)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": list(_colours(panel.targets))},
        "options": panel.options,
        "links": [
            {"title": "Runbook", "url": f"${{docs}}/{panel.runbook}", "targetBlank": True},
        ],
    }


def _target_json(target: Target, letter: str) -> dict[str, Any]:
    return {
        "refId": letter,
        "datasource": DATASOURCE,
        "expr": target.expr,
        "legendFormat": target.legend,
        "exemplar": target.exemplar,
        "format": "heatmap" if target.heatmap else "time_series",
        "range": True,
        "instant": False,
    }


def _colours(targets: Iterable[Target]) -> Iterator[dict[str, Any]]:
    """One colour per name everywhere; only for names that can occur."""
    legends = {target.legend for target in targets}
    by_label = legends & {"{{status}}", "{{outcome}}", "{{result}}"}
    for name, colour in COLOURS.items():
        if name in legends or (by_label and not name.startswith("p")):
            yield {
                "matcher": {"id": "byName", "options": name.replace(" ", "_")},
                "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
            }


def text() -> str:
    """The content of the file."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the file."""
    OUTPUT.write_text(text(), "utf-8")


if __name__ == "__main__":
    main()
