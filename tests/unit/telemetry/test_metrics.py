"""The metrics by themselves; those of a running bridge: tests/contract/test_metrics_exposition.py."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from bridge.core.event import Closing, NoticeCode
from bridge.core.resume import Resume
from bridge.core.task import Source, Status
from bridge.engine.base import ApplyOutcome, Engine
from bridge.telemetry.engine_metrics import APPLY_OUTCOMES, ENGINE_OUTCOMES, OPERATIONS, REAPPLIED
from bridge.telemetry.instruments import Counter, Histogram, fitting
from bridge.telemetry.metrics import CALLS, DELIVERIES, LEFT, OUTCOMES, Metrics, SavedPolls

PROMISED = {
    "bridge_upstream_requests_total": {"upstream", "call", "outcome"},
    "bridge_upstream_request_seconds": {"upstream", "call"},
    "bridge_lenient_readings_total": {"upstream"},
    "bridge_polls_total": {"upstream", "result"},
    "bridge_polls_saved_total": {"upstream"},
    "bridge_polls_per_task": {"upstream"},
    "bridge_poll_price_factor": {"upstream"},
    "bridge_eta_error_ratio": {"upstream"},
    "bridge_polls_wished_total": {"upstream"},
    "bridge_watches": {"upstream", "source"},
    "bridge_interests": {"upstream"},
    "bridge_task_transitions_total": {"upstream", "status"},
    "bridge_task_seconds": {"upstream", "status"},
    "bridge_detection_seconds": {"upstream", "source"},
    "bridge_delivery_seconds": {"delivery"},
    "bridge_connections": {"delivery"},
    "bridge_connections_total": {"delivery"},
    "bridge_disconnects_total": {"delivery", "reason"},
    "bridge_resumes_total": {"delivery", "result"},
    "bridge_events_total": {"delivery"},
    "bridge_conflated_total": {"delivery"},
    "bridge_webhook_deliveries_total": {"result"},
    "bridge_cost_total": {"upstream"},
    "bridge_output_copies_total": {"result"},
    "bridge_output_copy_bytes_total": set(),
    "bridge_output_copy_seconds": set(),
    "bridge_output_copies_in_flight": set(),
    "bridge_output_copies_waiting": set(),
    "bridge_output_copies_oldest_seconds": set(),
    "bridge_files_total": {"upstream", "result"},
    "bridge_file_bytes_total": {"upstream", "origin"},
    "bridge_files_in_flight": set(),
    "bridge_webhook_attempt_seconds": set(),
    "bridge_webhook_waiting": set(),
    "bridge_webhook_oldest_seconds": set(),
    "bridge_webhooks_disabled": set(),
    "bridge_callbacks_total": {"upstream", "result"},
    "bridge_notices_total": {"code"},
    "bridge_budget_wait_seconds": {"upstream"},
    "bridge_circuit_open": {"upstream"},
    "bridge_upstream_state": {"upstream", "state"},
    "bridge_budget_paused_seconds": {"upstream"},
    "bridge_journal_failures_total": set(),
    "bridge_journal_append_seconds": set(),
    "bridge_loop_lag_seconds": set(),
    "bridge_build_info": {"version"},
}

OF_AN_ENGINE = {
    "bridge_engine_connected": set(),
    "bridge_engine_calls_total": {"operation", "outcome"},
    "bridge_engine_call_seconds": {"operation"},
    "bridge_engine_lag_seconds": set(),
    "bridge_engine_gaps_total": set(),
    "bridge_engine_epochs_total": set(),
    "bridge_engine_memory_used_bytes": set(),
    "bridge_engine_memory_limit_bytes": set(),
    "bridge_engine_unrecorded": set(),
    "bridge_engine_reapplied_total": {"how"},
    "bridge_applies_total": {"verdict"},
    "bridge_lease_seconds": set(),
    "bridge_leases_lost_total": set(),
    "bridge_owned": set(),
    "bridge_adopted_total": set(),
    "bridge_orphans": set(),
    "bridge_oldest_orphan_seconds": set(),
    "bridge_replicas": set(),
}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry(), ["qingbo", "vapi"])


def plain(metrics: Metrics) -> str:
    """A scrape, without what the system says of the process, which is never the same twice."""
    text = generate_latest(metrics.exposition(openmetrics=False)).decode()  # type: ignore[arg-type]
    return "".join(line for line in text.splitlines(keepends=True) if "process_" not in line)


def scraped(families: Iterable[Any]) -> dict[str, set[frozenset[tuple[str, str]]]]:
    """Each metric's series: the name of the contract, and the labels of its own."""
    series: dict[str, set[frozenset[tuple[str, str]]]] = {}
    for family in families:
        for sample in family.samples:
            name = sample.name
            if family.type == "histogram":
                name = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
            labels = {label: value for label, value in sample.labels.items() if label != "le"}
            series.setdefault(name, set()).add(frozenset(labels.items()))
    return series


def use(metrics: Metrics) -> None:
    """Count something of everything."""
    for upstream in ("qingbo", "vapi"):
        for call in CALLS:
            for outcome in OUTCOMES:
                metrics.upstream_requests.labels(upstream, call, outcome).inc()
        for status in Status:
            metrics.task_transitions.labels(upstream, status.value).inc()
        for source in Source:
            metrics.detection_seconds.labels(upstream, source.value).observe(1.0, {"task": "qingbo/1"})
    for delivery in DELIVERIES:
        metrics.connected(delivery)
        metrics.record_broadcast({delivery: 3}, {delivery: 1}, 0.01, task="qingbo/task-1")
        metrics.sent(delivery, 2)
        for reason in (LEFT, *Closing):
            metrics.disconnected(delivery, str(reason))
        for result in Resume:
            metrics.resumes.labels(delivery, result.value).inc()
    for code in NoticeCode:
        metrics.notices.labels(code.value).inc()


def test_every_series_of_the_contract_is_there_from_the_start_and_use_adds_none(metrics: Metrics) -> None:
    before = scraped(parse_text(plain(metrics)))
    assert {name: {label for label, _ in next(iter(rows))} for name, rows in before.items()} == PROMISED
    assert len(before["bridge_upstream_requests_total"]) == 2 * 6 * 8
    use(metrics)
    assert scraped(parse_text(plain(metrics))) == before


def test_a_process_that_shares_nothing_has_no_series_of_an_engine_and_a_replica_has_all(
    metrics: Metrics,
) -> None:
    assert metrics.engine is None
    assert metrics.report_engine() is metrics.report_engine() is metrics.engine
    before = scraped(parse_text(plain(metrics)))
    named = {name: {label for label, _ in next(iter(rows))} for name, rows in before.items()}
    assert named == PROMISED | OF_AN_ENGINE
    engine = metrics.engine
    for operation in OPERATIONS:
        for outcome in ENGINE_OUTCOMES:
            engine.called(operation, outcome, 0.004)
    for counter in (*engine.applies.values(), *engine.reapplied.values()):
        counter.inc()
    assert scraped(parse_text(plain(metrics))) == before


def test_the_words_of_an_engine_are_those_of_its_interface() -> None:
    assert set(APPLY_OUTCOMES) == {verdict.value for verdict in ApplyOutcome}
    operations = {name for name in vars(Engine) if not name.startswith("_")} - {"close"}
    assert set(OPERATIONS) == operations
    assert REAPPLIED == ("same", "merged")


def test_a_call_to_the_engine_is_timed_unless_nothing_was_there_or_it_waits_on_purpose(
    metrics: Metrics,
) -> None:
    engine, read = metrics.report_engine(), metrics.registry.get_sample_value
    engine.called("apply", "ok", 0.0004)
    engine.called("apply", "timeout", 1.0)
    engine.called("apply", "unavailable", 9.0)
    engine.called("read", "ok", 0.5)
    assert read("bridge_engine_call_seconds_count", {"operation": "apply"}) == 2
    assert read("bridge_engine_call_seconds_sum", {"operation": "apply"}) == pytest.approx(1.0004)
    assert read("bridge_engine_call_seconds_count", {"operation": "read"}) is None
    assert read("bridge_engine_calls_total", {"operation": "read", "outcome": "ok"}) == 1
    assert read("bridge_engine_calls_total", {"operation": "apply", "outcome": "unavailable"}) == 1
    with pytest.raises(KeyError):
        engine.called("apply", "a word of another version", 0.1)


def test_the_lag_is_of_the_moment_of_the_scrape_though_nothing_arrives(metrics: Metrics) -> None:
    engine, seconds = metrics.report_engine(), iter([0.5, 31.5])
    engine.lag_seconds.set_function(lambda: next(seconds))
    lags = [metrics.registry.get_sample_value("bridge_engine_lag_seconds") for _ in range(2)]
    assert lags == [0.5, 31.5]


def test_openmetrics_has_the_same_series_and_exemplars(metrics: Metrics) -> None:
    use(metrics)
    text = openmetrics.generate_latest(metrics.exposition(openmetrics=True)).decode()  # type: ignore[arg-type]
    families = list(parse_openmetrics(text))
    assert scraped(one for one in families if one.name.startswith("bridge")) == scraped(
        parse_text(plain(metrics))
    )
    exemplars = [s.exemplar for family in families for s in family.samples if s.exemplar is not None]
    assert {"task": "qingbo/task-1"} in [one.labels for one in exemplars]
    assert text.endswith("# EOF\n")


def test_a_label_has_only_the_values_it_was_made_for(metrics: Metrics) -> None:
    for strange in (
        lambda: metrics.connected("carrier-pigeon"),
        lambda: metrics.sent("carrier-pigeon", 1),
        lambda: metrics.saved.record_poll("nobody"),
    ):
        with pytest.raises(KeyError):
            strange()


def test_what_left_a_connection_is_counted_for_its_delivery(metrics: Metrics) -> None:
    metrics.connected("sse")
    metrics.record_broadcast({"sse": 5}, {"sse": 2}, None)
    metrics.sent("sse", 1)
    metrics.disconnected("sse", "age")
    read = metrics.registry.get_sample_value
    assert read("bridge_connections", {"delivery": "sse"}) == 0
    assert 'bridge_connections_total{delivery="sse"} 1.0' in plain(metrics)
    assert read("bridge_events_total", {"delivery": "sse"}) == 6
    assert read("bridge_conflated_total", {"delivery": "sse"}) == 2
    assert read("bridge_disconnects_total", {"delivery": "sse", "reason": "age"}) == 1
    assert read("bridge_delivery_seconds_count", {"delivery": "sse"}) == 0


@given(st.lists(st.one_of(st.just(None), st.floats(0, 1000)), max_size=50))
def test_saved_polls_never_go_down_and_are_what_was_wished_less_what_was_made(
    steps: list[float | None],
) -> None:
    saved, shown = SavedPolls(["qingbo"]), [0.0]
    wished = made = 0.0
    for seconds in steps:
        if seconds is None:
            saved.record_poll("qingbo")
            made += 1
        else:
            saved.viewed("qingbo", seconds=seconds, interval=2.0)
            wished += seconds / 2.0
        [asked, family] = saved.collect()
        assert asked.samples[0].value == pytest.approx(wished)
        shown.append(family.samples[0].value)
        assert shown[-1] >= wished - made
    assert shown == sorted(shown)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HOSTILE = (
    "q/" + "a" * 300,
    "q/" + "\U0001f3ac" * 200,
    "q/\\",
    "q/\ud800",
    "q/\x85\u2028",
    "q/",
)


@pytest.mark.parametrize("trace", [None, TRACE, "0" * 400])
@pytest.mark.parametrize("task", HOSTILE)
def test_whatever_a_task_is_called_its_exemplar_is_one_that_openmetrics_allows(
    metrics: Metrics, task: str, trace: str | None
) -> None:
    metrics.trace_of = lambda _: trace
    metrics.record_broadcast({"sse": 1}, {}, 0.3, task=task)
    text = openmetrics.generate_latest(metrics.exposition(openmetrics=True)).decode()  # type: ignore[arg-type]
    (exemplar,) = (
        sample.exemplar
        for family in parse_openmetrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    )
    assert exemplar.value == 0.3
    assert exemplar.labels.keys() == ({"task"} if trace is None else {"task", "trace_id"})
    assert sum(len(name) + len(value) for name, value in exemplar.labels.items()) <= 128
    if trace == TRACE:
        assert exemplar.labels["trace_id"] == TRACE
    if len(task) < 50:
        assert exemplar.labels["task"] == task.replace("\ud800", "?")


def test_an_exemplar_cannot_end_its_line_or_its_labels(metrics: Metrics) -> None:
    metrics.record_broadcast({"sse": 1}, {}, 0.3, task='q/"} 1\nevil 1 # {a="b"}')
    text = openmetrics.generate_latest(metrics.exposition(openmetrics=True)).decode()  # type: ignore[arg-type]
    assert text.count(r'# {task="q/\"} 1\nevil 1 # {a=\"b\"}"} 0.3') == 1
    assert "\nevil" not in text


@given(
    st.dictionaries(
        st.sampled_from(["task", "trace_id"]),
        # without the mark of a cut, or the test could not find where a value was cut
        st.text(st.characters(codec="utf-8", exclude_characters="…"), max_size=300),
        min_size=1,
    )
)
def test_labels_that_fit_stay_and_others_lose_their_middle(example: dict[str, str]) -> None:
    fitted = fitting(example)
    size = sum(len(name) + len(value) for name, value in example.items())
    if size <= 128:
        assert fitted == example
    for name, value in fitted.items():
        head, gap, tail = value.partition("…") if value != example[name] else (value, "", "")
        assert example[name].startswith(head)
        assert example[name].endswith(tail) or not gap


def test_an_observation_that_is_nobodys_keeps_the_example_before_it() -> None:
    histogram = Histogram("h", "help", buckets=(1.0,), registry=CollectorRegistry())
    histogram.labels().observe(0.5, {"task": "q/0"})
    histogram.labels().observe(0.5)
    histogram.labels().observe(0.6, {"task": "q/1"})
    histogram.labels().observe(2.0)
    first, other = histogram.labels().examples
    assert other is None
    assert first is not None
    assert (first.labels, first.value) == ({"task": "q/1"}, 0.6)


def test_one_example_serves_a_whole_broadcast() -> None:
    metrics, asked = Metrics(CollectorRegistry(), []), []
    metrics.trace_of = asked.append
    metrics.record_broadcast({"sse": 5000, "websocket": 200}, {}, 0.1, task="q/1")
    metrics.record_broadcast({}, {"sse": 3}, None, task="q/2")
    assert asked == ["q/1"]


@given(st.lists(st.floats(0, 20) | st.sampled_from([0.1, 1.0, 10.0]), max_size=40))
def test_counting_in_plain_numbers_says_what_the_librarys_own_say(values: list[float]) -> None:
    own, theirs = CollectorRegistry(), CollectorRegistry()
    ours = Histogram("h", "help", ["a"], buckets=(0.1, 1.0, 10.0), registry=own)
    library = prometheus_client.Histogram("h", "help", ["a"], buckets=(0.1, 1.0, 10.0), registry=theirs)
    counter = Counter("c_total", "help", registry=own)
    known = prometheus_client.Counter("c_total", "help", registry=theirs)
    for value in values:
        for observer in (ours.labels("x"), library.labels("x")):
            observer.observe(value)
        counter.labels().inc(value)
        known.inc(value)
    assert said(own) == said(theirs)


def said(registry: CollectorRegistry) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    } - {("c_total", frozenset(), 0.0)}


def test_a_series_needs_a_value_for_each_label() -> None:
    counter = Counter("c_total", "help", ["a", "b"], registry=CollectorRegistry())
    with pytest.raises(ValueError, match="2 label values"):
        counter.labels("x")
