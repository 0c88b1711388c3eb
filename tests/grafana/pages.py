"""The files of grafana/: the dashboard, the rules, and the expressions in both."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from bridge.telemetry.engine_metrics import EngineMetrics

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "grafana"
RULES = GRAFANA / "rules" / "bridge.rules.yaml"
RULE_TESTS = sorted((GRAFANA / "rules" / "tests").glob("*.yaml"))
DASHBOARD = GRAFANA / "dashboards" / "bridge.json"

# what the bridge gives examples of
EXEMPLARS = {
    "bridge_delivery_seconds_bucket",
    "bridge_detection_seconds_bucket",
    "bridge_task_seconds_bucket",
    "bridge_upstream_request_seconds_bucket",
}

board: dict[str, Any] = json.loads(DASHBOARD.read_text("utf-8"))
rows: list[dict[str, Any]] = [panel for panel in board["panels"] if panel["type"] == "row"]
panels: list[dict[str, Any]] = [
    panel for place in board["panels"] for panel in (place["panels"] if place in rows else [place])
]
rules: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]
]
alerts = [rule for rule in rules if "alert" in rule]
records = [rule for rule in rules if "record" in rule]

_SELECTOR = re.compile(r"\b((?:bridge_|process_|job|instance|up\b)[\w:]*)(?:\{([^}]*)\})?(\[[^\]]+\])?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Selector:
    """A metric as an expression asks for it."""

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    text: str


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the dashboard, and its panel."""
    for panel in panels:
        for target in panel["targets"]:
            yield f"{panel['title']}: {target['refId']}", target["expr"]
    for annotation in board["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            (inner,) = re.findall(r"^label_values\((.+), \w+\)$", variable["query"]["query"])
            yield f"variable {variable['name']}", inner


def rule_expressions() -> Iterator[tuple[str, str]]:
    """Each expression of the rules, and whose it is."""
    for rule in rules:
        yield rule.get("alert") or rule["record"], rule["expr"]


def filled_in(expr: str, *, window: str) -> str:
    """An expression of the dashboard with every variable at *All*."""
    filled = expr.replace("$__rate_interval", window)
    for name in ("instance", "upstream"):
        filled = filled.replace(f"${name}", ".+")
    assert "$" not in filled, filled
    return filled


def selectors(expr: str) -> list[Selector]:
    """Every metric an expression asks for."""
    without_groups = _GROUPED.sub("", expr)
    return [
        Selector(found[1], tuple(_MATCHER.findall(found[2] or "")), found[0].removesuffix(found[3] or ""))
        for found in _SELECTOR.finditer(without_groups)
    ]


def grouped_labels(expr: str) -> set[str]:
    """Every label an expression groups or joins by."""
    return {label.strip() for inner in _GROUPED.findall(expr) for label in inner.split(",") if label.strip()}


def engine_metrics() -> set[str]:
    """The series that only a bridge with a shared engine has."""
    registry = CollectorRegistry()
    EngineMetrics(registry)
    return {sample.name for family in registry.collect() for sample in family.samples}
