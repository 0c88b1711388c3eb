"""A real Prometheus scrapes a real bridge under load, and every question we ask of it has an answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.grafana.crowd import Crowd, busy_bridge
from tests.grafana.pages import (
    EXEMPLARS,
    RULES,
    alerts,
    dashboard_expressions,
    engine_metrics,
    filled_in,
    records,
    rule_expressions,
    selectors,
)
from tests.grafana.prometheus import Prometheus, scraping
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

WINDOW = "5s"
ONLY_WITH_TLS = {"bridge_tls_certificate_expiry_timestamp_seconds"}
ONLY_WITH_AN_ENGINE = engine_metrics()
EMPTY_IN_GOOD_TIMES = ("annotation Alerts", "annotation Starts")  # no alert fires, no instance restarts


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """All tests here share one site."""
    return "asyncio"


@dataclass(frozen=True)
class Site:
    """Who asks and who is asked."""

    prometheus: Prometheus
    crowd: Crowd


@pytest.fixture(scope="module")
async def site(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder: Path = tmp_path_factory.mktemp("prometheus")
    async with (
        busy_bridge(folder) as (bridge, crowd),
        scraping(urlsplit(bridge.url).netloc, folder) as running,
    ):
        yield Site(running, crowd)


@pytest.fixture(scope="module")
def prometheus(site: Site) -> Prometheus:
    return site.prometheus


async def unanswered(prometheus: Prometheus, expressions: dict[str, str]) -> dict[str, str]:
    """What has brought no number within a while; each has as long as it needs, and no longer."""
    left = dict(expressions)
    until = asyncio.get_running_loop().time() + PATIENCE
    while left and asyncio.get_running_loop().time() < until:
        for where, expr in list(left.items()):
            if any(map(math.isfinite, await prometheus.value(expr))):
                del left[where]
        if left:
            await asyncio.sleep(0.25)
    return left


async def test_every_expression_of_the_dashboard_brings_numbers(prometheus: Prometheus) -> None:
    wanted = {
        where: filled_in(expr, window=WINDOW)
        for where, expr in dashboard_expressions()
        if where not in EMPTY_IN_GOOD_TIMES
        and "bridge_output_copy_seconds" not in expr  # without a store nothing is copied
        and not ONLY_WITH_AN_ENGINE & {selector.name for selector in selectors(expr)}
    }
    assert len(wanted) > 40
    assert await unanswered(prometheus, wanted) == {}


async def test_the_annotations_can_be_asked(prometheus: Prometheus) -> None:
    for where, expr in dashboard_expressions():
        if where in EMPTY_IN_GOOD_TIMES:
            await prometheus.value(filled_in(expr, window=WINDOW))


async def test_every_recording_rule_records(prometheus: Prometheus) -> None:
    assert await unanswered(prometheus, {rule["record"]: rule["record"] for rule in records}) == {}


async def test_what_alerts_ask_for_is_there(prometheus: Prometheus) -> None:
    """An alert brings nothing while all is well; what it compares does."""
    wanted = {
        f"{where}: {selector.text}": selector.text
        for where, expr in rule_expressions()
        for selector in selectors(expr)
        if selector.name not in ONLY_WITH_TLS | ONLY_WITH_AN_ENGINE
    }
    assert len(wanted) >= len(alerts)
    assert await unanswered(prometheus, wanted) == {}


async def test_prometheus_has_no_trouble_with_the_rules(prometheus: Prometheus) -> None:
    async def states() -> list[dict[str, Any]]:
        groups = (await prometheus.ask("rules"))["groups"]
        assert {group["file"] for group in groups} == {str(RULES)}
        return [rule for group in groups for rule in group["rules"]]

    async with asyncio.timeout(PATIENCE):
        while any(rule["health"] == "unknown" for rule in await states()):  # noqa: ASYNC110 - it sends no event
            await asyncio.sleep(0.1)
    evaluated = await states()
    assert len(evaluated) == len(alerts) + len(records)
    assert [rule["name"] for rule in evaluated if rule["health"] != "ok"] == []


async def test_a_misspelt_expression_brings_nothing(prometheus: Prometheus) -> None:
    assert await unanswered(prometheus, {"right": 'bridge_notices_total{code="stalled"}'}) == {}
    assert await prometheus.value('bridge_notices_total{code="stall"}') == []


async def exemplars(prometheus: Prometheus) -> dict[str, list[str]]:
    """Which tasks Prometheus has examples of, by metric."""
    query = " or ".join(EXEMPLARS)
    data = await prometheus.ask("query_exemplars", query=query, start="0", end="9999999999")
    kept: dict[str, list[str]] = {}
    for series in data:
        assert all(one["labels"].keys() == {"task"} for one in series["exemplars"])
        tasks = kept.setdefault(series["seriesLabels"]["__name__"], [])
        tasks += [one["labels"]["task"] for one in series["exemplars"]]
    return kept


async def slow_tasks(prometheus: Prometheus) -> list[str]:
    return (await exemplars(prometheus)).get("bridge_upstream_request_seconds_bucket", [])


async def test_prometheus_keeps_the_exemplars_of_every_latency(prometheus: Prometheus) -> None:
    async with asyncio.timeout(PATIENCE):
        while (await exemplars(prometheus)).keys() != EXEMPLARS:  # noqa: ASYNC110 - it sends no event
            await asyncio.sleep(0.25)
    for tasks in (await exemplars(prometheus)).values():
        assert all(task.startswith(("qingbo/", "vapi/", "bytespike/")) for task in tasks)


@pytest.mark.parametrize(
    ("task_id", "kept"),
    [
        ('a" 1 # b="c', 'qingbo/a" 1 # b="c'),
        ("任务-🎬/n%", "qingbo/任务-🎬/n%"),
        ("x" * 200 + "y" * 56, "qingbo/" + "x" * 55 + "…" + "x" * 5 + "y" * 56),
    ],
    ids=["quotes", "unicode", "long"],
)
async def test_a_hostile_task_id_costs_no_scrape(site: Site, task_id: str, kept: str) -> None:
    await site.crowd.ask_slowly(task_id, 1.2)  # a bucket that few others reach
    escaped = kept.replace("\\", "\\\\").replace('"', '\\"')  # as Prometheus 2 keeps it, unread
    async with asyncio.timeout(PATIENCE):
        while not {kept, escaped}.intersection(await slow_tasks(site.prometheus)):  # noqa: ASYNC110 - it sends no event
            await asyncio.sleep(0.25)
    (target,) = (await site.prometheus.ask("targets"))["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
