"""The metrics of several processes as those of one service."""

from __future__ import annotations

import re

import orjson
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bridge.telemetry.exposition import scraped
from bridge.telemetry.metrics import Metrics
from bridge.telemetry.summing import MAX_GAUGES, MIN_GAUGES, WORST, SummedMetrics, snapshot

pytestmark = pytest.mark.anyio

OPENMETRICS = "application/openmetrics-text"
# Of the gauges those that are added up; every other one is named in `bridge.telemetry.summing`.
ADDED = {
    "bridge_connections",
    "bridge_engine_unrecorded",
    "bridge_files_in_flight",
    "bridge_interests",
    "bridge_output_copies_in_flight",
    "bridge_owned",
    "bridge_watches",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
}


def metrics() -> Metrics:
    made = Metrics(CollectorRegistry(), ["fal", "qingbo"])
    made.report_engine()
    return made


async def summed(*processes: Metrics, ended: Metrics | None = None) -> SummedMetrics:
    total = SummedMetrics()
    if ended is not None:
        total.add(orjson.loads(await snapshot(ended)), ended=True)
    for one in processes:
        total.add(orjson.loads(await snapshot(one)))
    return total


async def text_of(total: SummedMetrics, accept: str = "") -> str:
    return (await scraped(total, accept=accept))[0].decode()


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)", text, re.MULTILINE)
    assert found, series
    return float(found[1])


def test_every_gauge_has_its_rule() -> None:
    gauges = {family.name for family in metrics().collect(openmetrics=False) if family.type == "gauge"}
    named = MAX_GAUGES | MIN_GAUGES | set(WORST)
    assert gauges | {"bridge_tls_certificate_expiry_timestamp_seconds"} == named | ADDED
    assert not named & ADDED
    assert not MAX_GAUGES & MIN_GAUGES


async def test_counters_and_histograms_are_added_and_those_of_the_dead_stay() -> None:
    one, other, dead = metrics(), metrics(), metrics()
    for each, number in ((one, 1), (other, 10), (dead, 100)):
        for _ in range(number):
            each.polls.labels("fal", "changed").inc()
            each.delivery_seconds.labels("sse").observe(0.004)
        each.connected("sse")
    text = await text_of(await summed(one, other, ended=dead))
    assert value(text, 'bridge_polls_total{result="changed",upstream="fal"}') == 111
    assert value(text, 'bridge_delivery_seconds_count{delivery="sse"}') == 111
    assert value(text, 'bridge_delivery_seconds_bucket{delivery="sse",le="0.005"}') == 111
    assert value(text, 'bridge_delivery_seconds_bucket{delivery="sse",le="0.0025"}') == 0
    assert value(text, 'bridge_connections_total{delivery="sse"}') == 3
    assert value(text, 'bridge_connections{delivery="sse"}') == 2, "the dead one has none"


async def test_gauges_by_their_rule() -> None:
    one, other = metrics(), metrics()
    for each, state, connected, lag in ((one, "VALID", 1, 0.5), (other, "INTERRUPTED", 0, 3.0)):
        each.upstream_state.labels("fal", state).set(1)
        assert each.engine is not None
        each.engine.connected.set(connected)
        each.engine.lag_seconds.set(lag)
        each.engine.owned.set(7)
        each.engine.orphans.set(4)
    one.upstream_state.labels("qingbo", "INITIALIZING").set(1)
    other.upstream_state.labels("qingbo", "VALID").set(1)
    text = await text_of(await summed(one, other))
    assert value(text, "bridge_engine_connected") == 0
    assert value(text, "bridge_engine_lag_seconds") == 3
    assert value(text, "bridge_owned") == 14
    assert value(text, "bridge_orphans") == 4
    states = {
        (upstream, state): value(text, f'bridge_upstream_state{{state="{state}",upstream="{upstream}"}}')
        for upstream in ("fal", "qingbo")
        for state in ("VALID", "INITIALIZING", "INTERRUPTED", "OFF")
    }
    assert {key for key, number in states.items() if number} == {("fal", "INTERRUPTED"), ("qingbo", "VALID")}
    assert re.search(r"^bridge_build_info\{.*\} 1\.0$", text, re.MULTILINE)


async def test_polls_saved_are_those_of_the_whole_service_and_never_fall() -> None:
    one, other = metrics(), metrics()
    one.saved.viewed("fal", seconds=100, interval=1)  # its viewers, polled for by the other
    for _ in range(60):
        other.polls.labels("fal", "changed").inc()
        other.saved.record_poll("fal")
    reported: dict[str, float] = {}
    total = await summed(one, other)
    total.correct_saved(reported)
    assert value(await text_of(total), 'bridge_polls_saved_total{upstream="fal"}') == 40
    for _ in range(20):
        other.polls.labels("fal", "changed").inc()
    total = await summed(one, other)
    total.correct_saved(reported)
    assert value(await text_of(total), 'bridge_polls_saved_total{upstream="fal"}') == 40


async def test_both_formats_are_valid_and_an_exemplar_survives() -> None:
    one, other = metrics(), metrics()
    other.delivery_seconds.labels("sse").observe(0.004, {"task": "fal/a"})
    other.connected("sse")
    total = await summed(one, other)
    names = {family.name for family in parse_text(await text_of(total))}
    assert {"bridge_connections", "bridge_polls"} <= names
    text = await text_of(total, OPENMETRICS)
    families = {family.name: family.type for family in parse_openmetrics(text)}
    assert families["bridge_connections"] == "gauge"
    assert families["bridge_connections_total"] == "unknown"
    assert '# {task="fal/a"} 0.004' in text
    alone = await scraped(one, accept=OPENMETRICS)
    assert {family.name for family in parse_openmetrics(alone[0].decode())} == set(families)


async def test_the_sum_of_the_dead_grows_with_each_that_ends() -> None:
    total = SummedMetrics()
    for number in (1, 2, 3):
        dead = metrics()
        dead.notices.labels("stale").inc(number)
        total.add(orjson.loads(await snapshot(dead)), ended=True)
        again = SummedMetrics()
        again.add(orjson.loads(total.encoded()), ended=True)
        total = again
    assert value(await text_of(total), 'bridge_notices_total{code="stale"}') == 6
