"""Writes grafana/dashboards/bridge.json.

Run `python grafana/make_dashboard.py` after a change; a test fails when the file is not what this makes.
First come the questions of an operator, one number each; below them, room by room, why it is so.
"""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PLACE = HERE / "dashboards" / "bridge.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24

# what every expression is narrowed to
OF = 'instance=~"$instance"'
UP = f'{OF}, upstream=~"$upstream"'
OURS = "bridge_build_info"  # processes that are bridges, among those that tell of their memory
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
    """One expression, and what its lines are called."""

    expr: str
    legend: str = ""
    exemplar: bool = False
    heatmap: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel; where it stands is found by `rows`.

    Args:
        steps: Colours by value, the first without one.
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
    runbook: str = "operations.md#what-to-look-at-when-"
    options: dict[str, Any] = field(default_factory=dict)
    custom: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)


def quantile(share: float, metric: str, labels: str, *by: str) -> str:
    """A quantile of a histogram."""
    grouped = ", ".join(("le", *by))
    return f"histogram_quantile({share:g}, sum by ({grouped}) (rate({metric}_bucket{{{labels}}}[{RATE}])))"


def quantiles(metric: str, labels: str, *, examples: bool = False) -> tuple[Target, ...]:
    """The usual one, the slow one, the slowest that still counts; with points that name their task."""
    return tuple(
        Target(quantile(share, metric, labels), name, exemplar=examples and share == 0.99)
        for share, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    )


def rate(metric: str, labels: str, *by: str) -> str:
    """A counter's increase a second, summed."""
    inner = f"sum by ({', '.join(by)}) " if by else "sum"
    return f"{inner}(rate({metric}{{{labels}}}[{RATE}]))"


def stat(title: str, description: str, *targets: Target, **more: Any) -> Panel:
    """One number, coloured, over its own recent past."""
    options = {
        "graphMode": "area",
        "colorMode": "value",
        "textMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    wide = {"width": 5, "height": 5} | more
    return Panel("stat", title, description, targets, options=options, **wide)


def lines(title: str, description: str, *targets: Target, stacked: bool = False, **more: Any) -> Panel:
    """Something over time; stacked where the parts make a whole."""
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
    """How a histogram is spread over time."""
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
    """What an operator wants to know at one glance."""
    ended = rate("bridge_task_transitions_total", f"{UP}, {ENDS}")
    well = rate("bridge_task_transitions_total", f'{UP}, status="completed"')
    yield stat(
        "Are tasks finishing?",
        "Tasks that ended, a minute, and the share of them that completed. Zero with tasks watched means "
        "that nothing finishes: see *Open tasks* below.",
        Target(f"60 * {ended}", "a minute"),
        Target(f"100 * {well} / {ended}", "% completed"),
        unit="none",
        defaults={"decimals": 1},
        runbook="operations.md#tasks-stalled",
    )
    yield stat(
        "How late do we notice?",
        "95 of 100 changes are seen within this time of the provider's own timestamp, where it gives one. "
        "The interval of polls is most of it.",
        Target(quantile(0.95, "bridge_detection_seconds", UP), "p95"),
        unit="s",
        steps=((GREEN, None), (YELLOW, 15), (RED, 30)),
        runbook="operations.md#detection-late",
    )
    yield stat(
        "How late do viewers hear?",
        "99 of 100 changes reach the socket of their last viewer within this time of being seen, the journal "
        "included. The objective is half a second.",
        Target(quantile(0.99, "bridge_delivery_seconds", OF), "p99"),
        unit="s",
        steps=((GREEN, None), (YELLOW, 0.25), (RED, 0.5)),
        runbook="operations.md#deliveries-late",
    )
    saved = rate("bridge_polls_saved_total", UP)
    made = rate("bridge_polls_total", UP)
    yield stat(
        "What do we save?",
        "The share of polls that viewers would have made at the provider's recommended interval and that "
        "nobody had to make.",
        Target(f"{saved} / ({saved} + {made})", "of the polls"),
        unit="percentunit",
        defaults={"min": 0, "max": 1, "decimals": 1},
        runbook="metrics.md#how-to-read-each",
    )
    asked = rate("bridge_upstream_requests_total", f'{UP}, call="status"', "upstream")
    wrong = rate(
        "bridge_upstream_requests_total",
        f'{UP}, call="status", outcome=~"error|timeout|unreadable"',
        "upstream",
    )
    yield stat(
        "Is a provider ill?",
        "The share of status calls that failed, one number a provider: no answer, an answer too late, or one "
        "that could not be read. Above half of them for five minutes is an outage.",
        Target(f"{wrong} / {asked}", "{{upstream}}"),
        unit="percentunit",
        width=4,
        defaults={"decimals": 0},
        steps=((GREEN, None), (YELLOW, 0.05), (RED, 0.5)),
        runbook="operations.md#provider-down",
    )


def tasks() -> Iterator[Panel]:
    """What becomes of tasks."""
    yield lines(
        "Tasks ended, a minute",
        "By how they ended. `lost` are tasks the provider no longer shows, or whose deadline passed.",
        Target(f"60 * {rate('bridge_task_transitions_total', f'{UP}, {ENDS}', 'status')}", "{{status}}"),
        stacked=True,
        runbook="operations.md#tasks-stalled",
    )
    yield lines(
        "Open tasks and their viewers",
        "Tasks being watched, lingering ones included, and viewers of tasks. Viewers over tasks is how many "
        "share a look.",
        Target(f"sum(bridge_watches{{{UP}}})", "tasks"),
        Target(f"sum(bridge_interests{{{UP}}})", "viewers"),
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Notices, a minute",
        "What viewers were told besides states. `stalled` and `upstream_unavailable` are trouble, "
        "`credential_refused` wants you, `fresh` takes the others back.",
        Target(f"60 * {rate('bridge_notices_total', OF, 'code')}", "{{code}}"),
        runbook="operations.md#tasks-stalled",
    )
    yield lines(
        "Change noticed after",
        "From the provider's own timestamp of a change until the bridge saw it. A provider that stamps whole "
        "seconds adds up to one.",
        *quantiles("bridge_detection_seconds", UP, examples=True),
        unit="s",
        steps=(("transparent", None), (RED, 15)),
        runbook="operations.md#detection-late",
    )
    yield lines(
        "Time in the queue, time in work",
        "Half of the tasks, and nine of ten, spent no longer in that status. A growing queue is a provider "
        "that is full.",
        Target(quantile(0.5, "bridge_task_seconds", UP, "status"), "{{status}} p50"),
        Target(quantile(0.9, "bridge_task_seconds", UP, "status"), "{{status}} p90", exemplar=True),
        unit="s",
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Looks, by what they brought",
        "`unchanged` is what waiting costs; more than nine in ten of it says that `poll_max_seconds` could "
        "be larger.",
        Target(rate("bridge_polls_total", UP, "result"), "{{result}}"),
        unit="reqps",
        stacked=True,
        runbook="operations.md#budgets",
    )


def upstreams() -> Iterator[Panel]:
    """The way to the providers."""
    yield lines(
        "Requests, by outcome",
        "Calls of all kinds. `busy` are limits of the provider, `unreadable` says that the dialect no longer "
        "fits what it answers.",
        Target(rate("bridge_upstream_requests_total", UP, "outcome"), "{{outcome}}"),
        unit="reqps",
        stacked=True,
        runbook="operations.md#provider-down",
    )
    yield heatmap(
        "How long providers take to answer",
        "Every call by the time to its answer; the darker, the more. The points are single calls, with the "
        "task they were about.",
        "bridge_upstream_request_seconds",
        UP,
        runbook="operations.md#provider-down",
    )
    yield lines(
        "Answer time, by provider",
        "99 of 100 status calls are answered within this time. Near `timeout_seconds` looks begin to fail.",
        Target(
            quantile(0.99, "bridge_upstream_request_seconds", f'{UP}, call="status"', "upstream"),
            "{{upstream}}",
        ),
        unit="s",
        runbook="operations.md#provider-down",
    )
    yield lines(
        "Wait for the budget",
        "How long a look that was due waited until its provider might be asked. Above a second, states come "
        "late.",
        *quantiles("bridge_budget_wait_seconds", UP),
        unit="s",
        steps=(("transparent", None), (RED, 1)),
        runbook="operations.md#budget-exhausted",
    )
    yield states(
        "Circuit",
        "Open while looks failed eight times in a row and only one probe at a time goes out.",
        Target(f"max by (upstream) (bridge_circuit_open{{{UP}}})", "{{upstream}}"),
        runbook="operations.md#provider-down",
    )
    yield lines(
        "Left alone",
        "For how long nothing may be asked: what the provider wished with `Retry-After`, or the time between "
        "probes after failures.",
        Target(f"max by (upstream) (bridge_budget_paused_seconds{{{UP}}})", "{{upstream}}"),
        unit="s",
        runbook="operations.md#budget-exhausted",
    )


def fanout() -> Iterator[Panel]:
    """The way to the viewers."""
    yield lines(
        "Open connections",
        "Streams, WebSockets and long-polls that are open now, by delivery.",
        Target(f"sum by (delivery) (bridge_connections{{{OF}}})", "{{delivery}}"),
        stacked=True,
        runbook="operations.md#no-traffic",
    )
    yield lines(
        "Connections opened and ended, a second",
        "Ended ones below the line, by reason. `left` far above the others is something between you and the "
        "clients.",
        Target(rate("bridge_connections_total", OF), "opened"),
        Target(f"-{rate('bridge_disconnects_total', OF, 'reason')}", "{{reason}}"),
        runbook="operations.md#what-to-look-at-when-",
    )
    yield lines(
        "States delivered, a second",
        "To all viewers together.",
        Target(rate("bridge_events_total", OF, "delivery"), "{{delivery}}"),
        unit="cps",
        stacked=True,
        runbook="metrics.md#how-to-read-each",
    )
    yield lines(
        "Viewers hear after",
        "From a state being seen to the socket of its last viewer. The points are single changes, with their "
        "task.",
        *quantiles("bridge_delivery_seconds", OF, examples=True),
        unit="s",
        steps=(("transparent", None), (RED, 0.5)),
        runbook="operations.md#deliveries-late",
    )
    yield lines(
        "Slow readers, a minute",
        "States that were skipped for a newer one of the same task, and connections aborted because they "
        "took nothing.",
        Target(f"60 * {rate('bridge_conflated_total', OF)}", "states skipped"),
        Target(f"60 * {rate('bridge_disconnects_total', SLOW)}", "connections aborted"),
        runbook="operations.md#what-happens-when-things-die",
    )
    yield lines(
        "Clients that came back, a minute",
        "By what they got. `reset` jumps after a restart without its journal; `ended` are browsers "
        "told to stop.",
        Target(f"60 * {rate('bridge_resumes_total', OF, 'result')}", "{{result}}"),
        runbook="metrics.md#how-to-read-each",
    )


def process() -> Iterator[Panel]:
    """The process itself."""
    yield lines(
        "Event loop late by",
        "Above 50 ms at p99 it has more to do than one core can.",
        *quantiles("bridge_loop_lag_seconds", OF),
        unit="s",
        steps=(("transparent", None), (RED, 0.25)),
        runbook="operations.md#loop-lag",
    )
    yield lines(
        "Recording a state takes",
        "The disk, with a commit shared by what came together; above 20 ms it is too slow or too busy.",
        *quantiles("bridge_journal_append_seconds", OF),
        unit="s",
        runbook="operations.md#journal-failing",
    )
    yield lines(
        "States not recorded, a minute",
        "Nobody hears of a state that could not be recorded: anything above zero needs you.",
        Target(f"60 * {rate('bridge_journal_failures_total', OF, 'instance')}", "{{instance}}"),
        steps=(("transparent", None), (RED, 0.001)),
        runbook="operations.md#journal-failing",
    )
    yield lines(
        "Memory",
        "Resident, by instance. After a crowd has left, Python keeps a part of what it held.",
        Target(f"process_resident_memory_bytes{{{OF}}} and on (job, instance) {OURS}", "{{instance}}"),
        unit="bytes",
        runbook="operations.md#memory-growing",
    )
    yield lines(
        "Descriptors in use",
        "Each connection takes one, of as many as the system allows.",
        Target(
            f"process_open_fds{{{OF}}} / process_max_fds{{{OF}}} and on (job, instance) {OURS}",
            "{{instance}}",
        ),
        unit="percentunit",
        defaults={"min": 0, "max": 1},
        steps=(("transparent", None), (RED, 0.9)),
        runbook="operations.md#what-happens-when-things-die",
    )
    yield lines(
        "CPU",
        "Of one core: the bridge uses no second one, the journal's threads aside.",
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
    ("Is it well?", questions),
    ("Tasks", tasks),
    ("Upstream", upstreams),
    ("Fan-out", fanout),
    ("Process", process),
)


def dashboard() -> dict[str, Any]:
    """The whole of it."""
    return {
        "uid": "task-event-bridge",
        "title": "Task event bridge",
        "description": "Are tasks finishing, how late do we notice, how late do viewers hear, what do we "
        "save, is a provider ill; and below, why.",
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
            _link("What to do", "operations.md#alerts"),
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
        "description": "Where you keep the pages of docs/; the links of panels lead there.",
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
    """Row after row, from left to right."""
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


def _written(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
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
        "gridPos": place,
        "targets": [_asked(target, letter) for target, letter in zip(panel.targets, "ABCDEF", strict=False)],
        "fieldConfig": {"defaults": defaults, "overrides": list(_colours(panel.targets))},
        "options": panel.options,
        "links": [
            {"title": "What to do", "url": f"${{docs}}/{panel.runbook}", "targetBlank": True},
        ],
    }


def _asked(target: Target, letter: str) -> dict[str, Any]:
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
    """What has the same name has the same colour everywhere; only names that can occur."""
    legends = {target.legend for target in targets}
    by_label = legends & {"{{status}}", "{{outcome}}", "{{result}}"}
    for name, colour in COLOURS.items():
        if name in legends or (by_label and not name.startswith("p")):
            yield {
                "matcher": {"id": "byName", "options": name.replace(" ", "_")},
                "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
            }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write the file anew."""
    PLACE.write_text(text(), "utf-8")


if __name__ == "__main__":
    main()
