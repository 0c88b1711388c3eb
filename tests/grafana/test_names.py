"""The dashboard and the rules, statically: names, labels, texts, positions, links. No server is called."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from itertools import combinations

import pytest
import yaml
from prometheus_client import CollectorRegistry

from bridge.telemetry.metrics import Metrics
from grafana import make_dashboard
from tests.docs.pages import PAGES, anchors, snippets
from tests.grafana.pages import (
    EXEMPLARS,
    GRAFANA,
    ROOT,
    RULE_TESTS,
    alerts,
    board,
    dashboard_expressions,
    filled_in,
    grouped_labels,
    panels,
    records,
    rows,
    rule_expressions,
    selectors,
)

EXPRESSIONS = [*dashboard_expressions(), *rule_expressions()]
TARGET_LABELS = {"job", "instance"}  # what Prometheus itself adds
OPERATIONS = PAGES["docs/operations.md"]
UNITS = {"s", "none", "short", "percentunit", "bytes", "reqps", "cps"}


def known() -> dict[str, dict[str, set[str]]]:
    """Each metric of a scrape: its labels and their values; no values if a label is open-ended."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    metrics = Metrics(CollectorRegistry(), ["an-upstream"])
    metrics.report_certificate(lambda: 0.0)
    metrics.report_engine()
    for family in metrics.exposition(openmetrics=False).collect():
        for sample in family.samples:
            labels = found[sample.name]
            for label, value in sample.labels.items():
                labels[label].add(value)
    for labels in found.values():
        for free in labels.keys() & {"upstream", "version"}:
            labels[free].clear()
    for rule in records:
        found[rule["record"]] = defaultdict(set, {label: set() for label in grouped_labels(rule["expr"])})
    found["up"] = defaultdict(set)
    found["ALERTS"] = defaultdict(set)
    return found


KNOWN = known()


@pytest.mark.parametrize(("where", "expr"), EXPRESSIONS)
def test_every_metric_label_and_value_is_one_that_the_bridge_has(where: str, expr: str) -> None:
    asked = selectors(expr)
    assert asked or "ALERTS" in expr
    labels = set(TARGET_LABELS)
    for selector in asked:
        assert selector.name in KNOWN, f"no metric {selector.name}"
        has = KNOWN[selector.name]
        labels |= has.keys()
        for label, operator, value in selector.matchers:
            assert label in has.keys() | TARGET_LABELS, f"{selector.name} has no label {label}"
            if has.get(label) and not value.startswith("$"):
                wanted = value.split("|") if "~" in operator else [value]
                assert set(wanted) <= has[label], f"{label} is never {value}"
    assert grouped_labels(expr) <= labels


@pytest.mark.parametrize(("where", "expr"), EXPRESSIONS)
def test_a_counter_is_read_by_its_increase_and_nothing_else_is(where: str, expr: str) -> None:
    for found in re.finditer(r"(\w+)\s*\(\s*((?:bridge|process)_\w+)", expr):
        counts = found[2].endswith(("_total", "_bucket", "_count", "_sum"))
        assert counts == (found[1] in {"rate", "increase", "irate"}) or found[1] in {"by", "on", "changes"}


@pytest.mark.parametrize("panel", panels, ids=lambda panel: panel["title"])
def test_a_legend_names_only_labels_that_are_left(panel: dict) -> None:
    for target in panel["targets"]:
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert target["legendFormat"], "a line without a name"
        left = grouped_labels(target["expr"]) if "by (" in target["expr"] else TARGET_LABELS
        assert named <= left


@pytest.mark.parametrize("panel", panels, ids=lambda panel: panel["title"])
def test_every_panel_says_what_it_shows_in_which_unit_and_what_to_do(panel: dict) -> None:
    assert len(panel["description"].split()) >= 4
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["datasource"]["uid"] == "${datasource}"
    (link,) = panel["links"]
    assert leads_somewhere(link["url"].removeprefix("${docs}/"))


def test_the_links_of_the_dashboard_lead_somewhere() -> None:
    assert board["links"]
    for link in board["links"]:
        assert leads_somewhere(link["url"].removeprefix("${docs}/"))


def leads_somewhere(target: str) -> bool:
    page, _, anchor = target.partition("#")
    return anchor in anchors(PAGES[f"docs/{page}"])


def test_panels_stand_side_by_side_and_have_numbers_of_their_own() -> None:
    assert len({panel["id"] for panel in panels + rows}) == len(panels + rows)
    for one, other in combinations((panel["gridPos"] for panel in panels + rows), 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels + rows)


def test_only_the_row_that_most_bridges_have_no_numbers_for_is_closed() -> None:
    assert [row["title"] for row in rows if row["collapsed"]] == ["Engine (several bridges)"]
    assert all(bool(row["panels"]) == row["collapsed"] for row in rows)


def test_the_first_row_is_the_overview() -> None:
    overview = [panel["title"] for panel in panels if panel["type"] == "stat"]
    assert overview == [panel["title"] for panel in panels[: len(overview)]]
    assert overview == [
        "Upstreams",
        "Version",
        "Uptime",
        "Alerts firing",
        "Tasks finished",
        "Detection latency p95",
        "Delivery latency p99",
        "Polls avoided",
        "Provider error rate",
    ]


def test_every_variable_is_used() -> None:
    text = yaml.safe_dump([panels, board["templating"], board["annotations"]])
    for variable in board["templating"]["list"]:
        assert re.search(rf"\$\{{?{variable['name']}\b", text)


def test_points_stand_where_the_bridge_gives_examples_and_nowhere_else() -> None:
    pointed = {
        selector.name
        for panel in panels
        for target in panel["targets"]
        if target["exemplar"]
        for selector in selectors(target["expr"])
    }
    assert pointed == EXEMPLARS


def test_the_dashboard_is_the_one_that_the_script_makes() -> None:
    written = (GRAFANA / "dashboards" / "bridge.json").read_text("utf-8")
    assert written == make_dashboard.text(), "run `python -m grafana.make_dashboard`"


def test_the_picture_of_the_docs_knows_every_kind_of_panel_and_is_small_enough_for_a_page() -> None:
    draws = (GRAFANA / "picture.py").read_text("utf-8")
    assert "drawn by grafana/picture.py" in draws  # below the picture, in it
    shown = PAGES["docs/operations.md"].partition("(pictures/dashboard.png)")[2]
    assert "drew it" in shown[:300], "the page says that Grafana did not draw the picture"
    assert all(f'"{panel["type"]}": _' in draws for panel in panels)
    assert 20_000 < (ROOT / "docs" / "pictures" / "dashboard.png").stat().st_size < 250_000


def test_grafana_is_told_where_dashboards_and_data_are() -> None:
    (provider,) = yaml.safe_load((GRAFANA / "provisioning/dashboards/bridge.yaml").read_text())["providers"]
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert source["type"] == "prometheus"


# The rules


@pytest.mark.parametrize("rule", alerts, ids=lambda rule: rule["alert"])
def test_every_alert_says_how_urgent_it_is_and_what_to_do(rule: dict) -> None:
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.endswith("docs/operations.md")  # below the project's public address, once it has one
    assert anchor in anchors(OPERATIONS)
    paragraph = re.split(r"\n#+ ", OPERATIONS.split(f"\n### {heading(anchor)}\n")[1])[0]
    assert f"`{rule['alert']}`" in paragraph
    for word in ("Means", "Check", "Do"):
        assert f"**{word}**" in paragraph
    assert f"a {rule['labels']['severity']}" in paragraph


def heading(anchor: str) -> str:
    return anchor.replace("-", " ").capitalize()


def test_operations_names_no_alert_that_is_not_there() -> None:
    assert set(re.findall(r"`(Bridge\w+)`", OPERATIONS)) == {rule["alert"] for rule in alerts}


def cases(alert: str) -> list[bool]:
    """Whether the alert is expected to fire, for each evaluation of a rule test."""
    return [
        bool(look.get("exp_alerts"))
        for path in RULE_TESTS
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]
        for look in test["alert_rule_test"]
        if look["alertname"] == alert
    ]


@pytest.mark.parametrize("alert", sorted({rule["alert"] for rule in alerts}))
def test_every_alert_is_seen_firing_and_seen_quiet(alert: str) -> None:
    assert set(cases(alert)) == {True, False}


def test_every_recorded_series_is_used() -> None:
    used = {selector.name for rule in alerts for selector in selectors(rule["expr"])}
    assert {rule["record"] for rule in records} == {name for name in used if ":" in name}


def test_a_variable_that_is_not_filled_in_is_noticed() -> None:
    assert filled_in('x{instance=~"$instance"}[$__rate_interval]', window="4s") == 'x{instance=~".+"}[4s]'
    with pytest.raises(AssertionError):
        filled_in("x{a=$b}", window="4s")


def test_the_command_of_the_page_makes_every_runbook_lead_to_the_operators_pages() -> None:
    (snippet,) = (one for one in snippets("sh", page="docs/operations.md") if "runbook_url" in one.text)
    command = snippet.text.partition(" > ")[0]
    done = subprocess.run(["/bin/sh", "-ec", command], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = yaml.safe_load(done.stdout)
    every = [rule for group in changed["groups"] for rule in group["rules"]]
    found = [rule["annotations"]["runbook_url"] for rule in every if "alert" in rule]
    assert len(found) == len(alerts)
    assert all(one.startswith("https://wiki.example.com/bridge/operations.md#") for one in found)
