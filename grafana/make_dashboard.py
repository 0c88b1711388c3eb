"""Writes grafana/dashboards/bridge.json.

Run `python -m grafana.make_dashboard` after a change; a test fails if the file differs from its output.
The first row says what runs, the second has one number per question of an operator; those below the causes.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from grafana.panels import COLOURS, GREEN, GREY, OF, OURS, RATE, RED, Panel, Target
from grafana.rows import ENGINE, ROWS

HERE = Path(__file__).parent
OUTPUT = HERE / "dashboards" / "bridge.json"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
NO_ADDRESS = "https://example.com/task-event-bridge/docs"


def docs_address() -> str:
    """Where the pages of docs/ are; a placeholder while the project has no public address."""
    build = runpy.run_path(str(HERE.parent / "hatch_build.py"))
    address = build["address"](HERE.parent)
    return build["file_address"]("docs", address, build["version"](HERE.parent)) if address else NO_ADDRESS


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
        "query": docs_address(),
        "current": {"text": docs_address(), "value": docs_address()},
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
    """All rows and panels with their grid positions, from left to right.

    The panels of a closed row are in the row, as Grafana stores them: most bridges share no engine.
    """
    number, top = 1, 0
    for title, make in ROWS:
        closed, inside = title == ENGINE, list[dict[str, Any]]()
        row = {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": closed,
            "panels": inside,
            "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1},
        }
        yield row
        number, top, left, height = number + 1, top + 1, 0, 0
        for panel in make():
            if left + panel.width > COLUMNS:
                left, top = 0, top + height
            made = _written(panel, number, {"x": left, "y": top, "w": panel.width, "h": panel.height})
            if closed:
                inside.append(made)
            else:
                yield made
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
