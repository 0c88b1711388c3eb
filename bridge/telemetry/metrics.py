"""Every metric, declared once with all its series. docs/metrics.md says how to read each.

No label holds a task id, an account, a user or a URL: its values are few and known at the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from bridge import __version__
from bridge.core.event import Closing, NoticeCode
from bridge.core.resume import Resume
from bridge.core.task import Source, Status
from bridge.telemetry.declare import Declare
from bridge.telemetry.engine_metrics import EngineMetrics
from bridge.telemetry.process import Process
from bridge.wire.formats import FORMATS

CALLS = ("status", "submit", "cancel", "stream", "alias", "status_many")
OUTCOMES = ("ok", "not_modified", "refused", "not_found", "busy", "error", "timeout", "unreadable")
UPSTREAM_STATES = ("VALID", "INITIALIZING", "INTERRUPTED", "OFF")  # as in `/status`
POLL_RESULTS = ("changed", "unchanged", "failed")
DELIVERIES = tuple(kind.label for kind in FORMATS)
CALLBACK_RESULTS = ("accepted", "forged", "unknown_task", "challenge")
WEBHOOK_RESULTS = ("delivered", "failed", "expired", "gone", "dropped")
COPY_RESULTS = ("in_time", "later", "error", "failed")
FILE_RESULTS = ("sent", "not_modified", "refused", "unavailable", "timeout", "cut", "left")
FILE_ORIGINS = ("provider", "store", "inline")
LEFT = "left"

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REQUEST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COPY = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
_RUN = (1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 1800, 3600)
_POLLS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000)
_ERROR = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2, 5)
_DETECTION = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300)


class Metrics:
    """The metrics of one bridge, as attributes named after what they count.

    Args:
        upstreams: Names of the configured upstreams; the only values of that label.
        cost_units: What costs are counted in, by upstream, where it is known.

    Attributes:
        trace_of: Set if traces are exported: returns the id (32 hex digits) of the newest trace of a task,
            given its ref. Exemplars then name it.
        engine: Set by `report_engine`; None in a process that shares nothing.
    """

    def __init__(  # noqa: PLR0915 - one metric after the other
        self,
        registry: CollectorRegistry,
        upstreams: Iterable[str],
        cost_units: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library leaves it unannotated
        self.registry = registry
        self.trace_of: Callable[[str], str | None] | None = None
        self.engine: EngineMetrics | None = None
        self.ended = dict.fromkeys(DELIVERIES, 0)
        self._opened = dict.fromkeys(DELIVERIES, 0)
        names = list(upstreams)
        declare = Declare(registry)

        # Providers
        self.upstream_requests = declare.counter(
            "bridge_upstream_requests_total",
            "Requests to providers, by call and outcome.",
            upstream=names,
            call=CALLS,
            outcome=OUTCOMES,
        )
        self.lenient_readings = declare.counter(
            "bridge_lenient_readings_total",
            "Responses of providers that only a lenient reading of their JSON could read.",
            upstream=names,
        )
        self.upstream_request_seconds = declare.histogram(
            "bridge_upstream_request_seconds",
            "Response time of providers, by call.",
            _REQUEST,
            upstream=names,
            call=CALLS,
        )
        self.polls = declare.counter(
            "bridge_polls_total", "Polls by result.", upstream=names, result=POLL_RESULTS
        )
        self.polls_per_task = declare.histogram(
            "bridge_polls_per_task", "Polls of a task until its end.", _POLLS, upstream=names
        )
        self.poll_price_factor = declare.gauge(
            "bridge_poll_price_factor",
            "How many times the price of a poll is what it would be without a rate limit; at least 1.",
            upstream=names,
        )
        self.eta_error_ratio = declare.histogram(
            "bridge_eta_error_ratio",
            "Error of the estimated end at one random poll of a task, as a part of its run time.",
            _ERROR,
            upstream=names,
        )
        self.cost = declare.counter("bridge_cost_total", _cost_documentation(cost_units), upstream=names)
        self.interests = declare.gauge("bridge_interests", "Subscribers of tasks.", upstream=names)
        self.task_transitions = declare.counter(
            "bridge_task_transitions_total",
            "Status changes of tasks, by new status.",
            upstream=names,
            status=[status.value for status in Status],
        )
        self.task_seconds = declare.histogram(
            "bridge_task_seconds",
            "Time that tasks spent in a status.",
            _RUN,
            upstream=names,
            status=["queued", "processing"],
        )
        self.detection_seconds = declare.histogram(
            "bridge_detection_seconds",
            "Delay from a change, by the provider's own timestamp, to its detection.",
            _DETECTION,
            upstream=names,
            source=[source.value for source in Source],
        )
        self.callbacks = declare.counter(
            "bridge_callbacks_total",
            "Callbacks received, by result.",
            upstream=names,
            result=CALLBACK_RESULTS,
        )
        self.budget_wait_seconds = declare.histogram(
            "bridge_budget_wait_seconds",
            "Time that due polls waited for the rate limit of their provider.",
            _FAST,
            upstream=names,
        )
        self.budget_paused_seconds = declare.gauge(
            "bridge_budget_paused_seconds",
            "Remaining back-off of a provider, after Retry-After or failures.",
            upstream=names,
        )
        self.circuit_open = declare.gauge(
            "bridge_circuit_open",
            "1 while the circuit breaker of a provider allows one probe at a time.",
            upstream=names,
        )
        self.upstream_state = declare.gauge(
            "bridge_upstream_state",
            "1 for the state that a provider is in, as in /status; 0 for the others.",
            upstream=names,
            state=UPSTREAM_STATES,
        )

        # Fan-out
        self.delivery_seconds = declare.histogram(
            "bridge_delivery_seconds",
            "Delay from detecting a state to writing it to its last subscriber.",
            _FAST,
            delivery=DELIVERIES,
        )
        self.connections = declare.gauge("bridge_connections", "Open connections.", delivery=DELIVERIES)
        self.disconnects = declare.counter(
            "bridge_disconnects_total",
            "Connections closed, by reason.",
            delivery=DELIVERIES,
            reason=[LEFT, *(closing.value for closing in Closing)],
        )
        self.resumes = declare.counter(
            "bridge_resumes_total",
            "Clients that reconnected with a cursor, by result.",
            delivery=DELIVERIES,
            result=[result.value for result in Resume],
        )
        self.events = declare.counter("bridge_events_total", "States delivered.", delivery=DELIVERIES)
        self.conflated = declare.counter(
            "bridge_conflated_total", "States skipped for a newer one.", delivery=DELIVERIES
        )
        self.notices = declare.counter(
            "bridge_notices_total", "Notices sent, by code.", code=[code.value for code in NoticeCode]
        )

        # Files of results
        self.files = declare.counter(
            "bridge_files_total",
            "Requests for files of results, by how they ended.",
            upstream=names,
            result=FILE_RESULTS,
        )
        self.file_bytes = declare.counter(
            "bridge_file_bytes_total",
            "Bytes of files sent to clients, by where they were read.",
            upstream=names,
            origin=FILE_ORIGINS,
        )
        self.files_in_flight = declare.gauge(
            "bridge_files_in_flight", "Files of results on their way through the bridge."
        )

        # Webhooks
        self.webhook_deliveries = declare.counter(
            "bridge_webhook_deliveries_total",
            "Attempts to deliver to webhooks, by result; `dropped`: deliveries that ended without one.",
            result=WEBHOOK_RESULTS,
        )
        self.webhook_attempt_seconds = declare.histogram(
            "bridge_webhook_attempt_seconds", "Response time of the receivers of webhooks.", _REQUEST
        ).labels()
        self.webhook_waiting = declare.gauge(
            "bridge_webhook_waiting", "Deliveries that wait for their next attempt, over all bridges."
        )
        self.webhook_oldest_seconds = declare.gauge(
            "bridge_webhook_oldest_seconds",
            "Age of the delivery that has waited for longest, except for disabled webhooks.",
        )
        self.webhooks_disabled = declare.gauge(
            "bridge_webhooks_disabled", "Webhooks to which nothing is delivered, besides those of operators."
        )

        # Copies of outputs
        self.output_copies = declare.counter(
            "bridge_output_copies_total",
            "Copies of outputs, by result: `in_time` for the end, `later`, attempts that failed (`error`),"
            " copies that were given up (`failed`).",
            result=COPY_RESULTS,
        )
        self.output_copy_bytes = declare.counter(
            "bridge_output_copy_bytes_total", "Bytes of the outputs that were copied."
        ).labels()
        self.output_copy_seconds = declare.histogram(
            "bridge_output_copy_seconds", "Time to copy an output, its wait for a turn included.", _COPY
        ).labels()
        self.output_copies_in_flight = declare.gauge(
            "bridge_output_copies_in_flight", "Outputs that are being copied."
        )
        self.output_copies_waiting = declare.gauge(
            "bridge_output_copies_waiting",
            "Ended tasks with outputs still to be copied, over all bridges.",
        )
        self.output_copies_oldest_seconds = declare.gauge(
            "bridge_output_copies_oldest_seconds",
            "Time since the end of the task that has waited for its copies for longest.",
        )

        # The process
        self.journal_append_seconds = declare.histogram(
            "bridge_journal_append_seconds", "Time to record a state durably.", _FAST
        ).labels()
        self.journal_failures = declare.counter(
            "bridge_journal_failures_total", "States that could not be recorded."
        ).labels()
        self.loop_lag_seconds = declare.histogram(
            "bridge_loop_lag_seconds", "Delay of the event loop's wake-ups.", _FAST
        ).labels()
        declare.gauge("bridge_build_info", "The running version.", version=[__version__]).labels(
            __version__
        ).set(1)
        self.saved = SavedPolls(names)
        registry.register(self.saved)
        self.watches = WatchCount(names)
        registry.register(self.watches)
        Process(registry)
        self._per_delivery = {delivery: _Delivery(self, delivery) for delivery in DELIVERIES}

    def report_certificate(self, valid_until: Callable[[], float]) -> None:
        """Report when the server's certificate expires (Unix seconds); without TLS there is no series."""
        name = "bridge_tls_certificate_expiry_timestamp_seconds"
        Gauge(
            name,
            "When the certificate expires that the bridge serves; only with TLS.",
            registry=self.registry,
        ).set_function(valid_until)

    def report_engine(self) -> EngineMetrics:
        """Report what a shared engine does; without one there are no such series."""
        if self.engine is None:
            self.engine = EngineMetrics(self.registry)
        return self.engine

    def exposition(self, *, openmetrics: bool) -> Exposition:
        """Everything that one scrape reads."""
        return Exposition(self.registry, self._opened, openmetrics=openmetrics)

    def collect(self, *, openmetrics: bool) -> Iterable[Metric]:
        """Every family once, for a scrape."""
        return self.exposition(openmetrics=openmetrics).collect()

    def example(self, task: str) -> dict[str, str]:
        """The exemplar labels of an observation about a task: its ref and its newest trace."""
        trace = self.trace_of(task) if self.trace_of is not None else None
        return {"task": task} if trace is None else {"task": task, "trace_id": trace}

    def connected(self, delivery: str) -> None:
        """Count an opened connection."""
        self._per_delivery[delivery].open += 1
        self._opened[delivery] += 1

    def disconnected(self, delivery: str, reason: str) -> None:
        """Count a closed connection."""
        self.ended[delivery] += 1
        self._per_delivery[delivery].open -= 1
        self.disconnects.labels(delivery, reason).inc()

    def rejected(self, delivery: str) -> None:
        """Count a connection rejected at a limit: it got a response, and no subscription."""
        self._opened[delivery] += 1
        self.disconnects.labels(delivery, Closing.OVER_CAPACITY.value).inc()

    def sent(self, delivery: str, events: int) -> None:
        """Count states written to one connection."""
        self._per_delivery[delivery].events.inc(events)

    def record_broadcast(
        self,
        sent: Mapping[str, int],
        conflated: Mapping[str, int],
        seconds: float | None,
        *,
        task: str | None = None,
    ) -> None:
        """Count one event for all its subscribers at once.

        Args:
            sent: Subscribers the event was written to, by delivery.
            conflated: Subscribers for which an older event was skipped, by delivery.
            seconds: Since the state was seen; None if unknown.
            task: The task ref, for the exemplar.
        """
        example = self.example(task) if sent and task is not None else None
        for delivery, number in sent.items():
            series = self._per_delivery[delivery]
            series.events.inc(number)
            if seconds is not None:
                series.seconds.observe(seconds, example)
        for delivery, number in conflated.items():
            if number:
                self._per_delivery[delivery].conflated.inc(number)


def _cost_documentation(units: Mapping[str, str]) -> str:
    """The HELP text: a label for the unit would be one more word of providers in every query."""
    known = ", ".join(f"{upstream} in {unit}" for upstream, unit in sorted(units.items()) if unit)
    return f"Final costs that providers reported{f': {known}' if known else ''}."


class _Delivery:
    """The series of one delivery, looked up once: the lookup costs more than the count."""

    __slots__ = ("conflated", "events", "open", "seconds")

    def __init__(self, metrics: Metrics, delivery: str) -> None:
        self.open = 0
        metrics.connections.labels(delivery).set_function(lambda: self.open)
        self.events = metrics.events.labels(delivery)
        self.conflated = metrics.conflated.labels(delivery)
        self.seconds = metrics.delivery_seconds.labels(delivery)


class UpstreamSeries:
    """The series of one upstream that every poll counts in, looked up once."""

    def __init__(self, metrics: Metrics, upstream: str) -> None:
        self.requests = {
            (call, outcome): metrics.upstream_requests.labels(upstream, call, outcome)
            for call in CALLS
            for outcome in OUTCOMES
        }
        self.seconds = {call: metrics.upstream_request_seconds.labels(upstream, call) for call in CALLS}
        self.polls = {result: metrics.polls.labels(upstream, result) for result in POLL_RESULTS}
        self.budget_wait = metrics.budget_wait_seconds.labels(upstream)
        self.circuit_open = metrics.circuit_open.labels(upstream)


class SavedPolls(Collector):
    """Polls that clients would have made at the recommended interval, and how many fewer were made.

    Of several processes only the first may be summed: one may poll for the clients of another, so the sum of
    their differences is more than the difference of their sums.
    """

    def __init__(self, upstreams: Iterable[str]) -> None:
        self._wished = dict.fromkeys(upstreams, 0.0)
        self._polls = dict.fromkeys(self._wished, 0)
        self._reported = dict.fromkeys(self._wished, 0.0)

    def viewed(self, upstream: str, *, seconds: float, interval: float) -> None:
        """Add clients that waited `seconds` in total and would have polled every `interval` seconds."""
        self._wished[upstream] += seconds / interval

    def record_poll(self, upstream: str, tasks: int = 1) -> None:
        """Count one poll of the bridge, or one of each of so many tasks."""
        self._polls[upstream] += tasks

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Both families, for a scrape."""
        wished = CounterMetricFamily(
            "bridge_polls_wished",
            "Polls that clients would have made at the recommended interval.",
            labels=["upstream"],
        )
        saved = CounterMetricFamily(
            "bridge_polls_saved",
            "Polls that clients would have made, minus the polls made.",
            labels=["upstream"],
        )
        for upstream, number in self._wished.items():
            wished.add_metric([upstream], number)
            # Polls without a subscriber lower the difference, but a counter must never decrease.
            self._reported[upstream] = max(self._reported[upstream], number - self._polls[upstream])
            saved.add_metric([upstream], self._reported[upstream])
        yield wished
        yield saved


class WatchCount(Collector):
    """How many tasks are watched, counted at each scrape.

    Attributes:
        census: Set by the pool: returns the number of watches by upstream and source.
    """

    def __init__(self, upstreams: Iterable[str]) -> None:
        self.census: Callable[[], Mapping[tuple[str, str], int]] = dict
        self._rows = [(upstream, source.value) for upstream in upstreams for source in Source]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The family, for a scrape."""
        family = GaugeMetricFamily(
            "bridge_watches",
            "Tasks being watched, by the fastest source of each.",
            labels=["upstream", "source"],
        )
        watches = self.census()
        for row in self._rows:
            family.add_metric(row, watches.get(row, 0))
        yield family


class Exposition:
    """The families of one scrape.

    OpenMetrics strips `_total` from the name of a counter, so that the counter `bridge_connections_total` and
    the gauge `bridge_connections` would be one family. There the counter has the type `unknown` and keeps its
    whole name (docs/decisions/2026-11-21-connections-total-as-unknown.md).
    """

    def __init__(self, registry: CollectorRegistry, opened: Mapping[str, int], *, openmetrics: bool) -> None:
        self._registry = registry
        self._opened = opened
        self._family = UnknownMetricFamily if openmetrics else CounterMetricFamily

    def collect(self) -> Iterable[Metric]:
        """Every family once."""
        yield from self._registry.collect()
        family = self._family("bridge_connections_total", "Connections opened.", labels=["delivery"])
        for delivery, number in self._opened.items():
            family.add_metric([delivery], number)
        yield family
