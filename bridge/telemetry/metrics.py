"""Every metric, declared once; every series there from the start.

No label ever holds a task id, an account, a user or a URL: their values are few and known.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from bridge import __version__
from bridge.core.event import Closing, NoticeCode
from bridge.core.resume import Resume
from bridge.core.task import Source, Status
from bridge.telemetry.process import Process

CALLS = ("status", "submit", "cancel", "stream", "alias")
OUTCOMES = ("ok", "not_modified", "refused", "not_found", "busy", "error", "timeout", "unreadable")
POLL_RESULTS = ("changed", "unchanged", "failed")
DELIVERIES = ("sse", "websocket", "longpoll", "ndjson")
CALLBACK_RESULTS = ("accepted", "forged", "unknown_task", "challenge")
LEFT = "left"

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_REQUEST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_RUN = (1, 2.5, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 1800, 3600)
_DETECTION = (0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300)


class Metrics:
    """Attributes named after what they count; see docs/metrics.md for how to read each.

    Args:
        upstreams: Names of the configured upstreams; the only values their label ever has.

    Attributes:
        trace_of: Set by whoever traces: the id of the trace (32 hex digits) in which something was last
            seen of a task, given its ref. Exemplars then name it.
    """

    def __init__(self, registry: CollectorRegistry, upstreams: Iterable[str]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library leaves it unannotated
        self.registry = registry
        names = list(upstreams)
        self._declare_upstream(registry)
        self._declare_fanout(registry)
        self.trace_of: Callable[[str], str | None] | None = None
        self.journal_append_seconds = Histogram(
            "bridge_journal_append_seconds",
            "Time to record a state durably.",
            buckets=_FAST,
            registry=registry,
        ).labels()
        self.journal_failures = Counter(
            "bridge_journal_failures_total", "States that could not be recorded.", registry=registry
        ).labels()
        self.loop_lag_seconds = Histogram(
            "bridge_loop_lag_seconds", "How late the event loop wakes.", buckets=_FAST, registry=registry
        ).labels()
        build = Gauge("bridge_build_info", "The running version.", ["version"], registry=registry)
        build.labels(__version__).set(1)
        self.saved = SavedPolls(names)
        registry.register(self.saved)
        self.watches = Watches(names)
        registry.register(self.watches)
        Process(registry)
        self._prepare(names)
        self._per_delivery = {delivery: _Delivery(self, delivery) for delivery in DELIVERIES}

    def _declare_upstream(self, registry: CollectorRegistry) -> None:
        self.upstream_requests = Counter(
            "bridge_upstream_requests_total",
            "Requests to a provider, by call and outcome.",
            ["upstream", "call", "outcome"],
            registry=registry,
        )
        self.upstream_request_seconds = Histogram(
            "bridge_upstream_request_seconds",
            "Time a provider took to answer.",
            ["upstream", "call"],
            buckets=_REQUEST,
            registry=registry,
        )
        self.polls = Counter(
            "bridge_polls_total",
            "Looks at a task, by what they brought.",
            ["upstream", "result"],
            registry=registry,
        )
        self.interests = Gauge("bridge_interests", "Viewers of tasks.", ["upstream"], registry=registry)
        self.task_transitions = Counter(
            "bridge_task_transitions_total",
            "Changes of status seen, by the new status.",
            ["upstream", "status"],
            registry=registry,
        )
        self.task_seconds = Histogram(
            "bridge_task_seconds",
            "Time tasks spent in a status.",
            ["upstream", "status"],
            buckets=_RUN,
            registry=registry,
        )
        self.detection_seconds = Histogram(
            "bridge_detection_seconds",
            "From the provider's own time of a change until it was seen.",
            ["upstream", "source"],
            buckets=_DETECTION,
            registry=registry,
        )
        self.callbacks = Counter(
            "bridge_callbacks_total",
            "Callbacks received, by result.",
            ["upstream", "result"],
            registry=registry,
        )
        self.budget_wait_seconds = Histogram(
            "bridge_budget_wait_seconds",
            "How long a due look waited for the budget of its provider.",
            ["upstream"],
            buckets=_FAST,
            registry=registry,
        )
        self.budget_paused_seconds = Gauge(
            "bridge_budget_paused_seconds",
            "How long a provider is left alone: its Retry-After, or after failures.",
            ["upstream"],
            registry=registry,
        )
        self.circuit_open = Gauge(
            "bridge_circuit_open",
            "1 while a provider gets one probe at a time.",
            ["upstream"],
            registry=registry,
        )

    def _declare_fanout(self, registry: CollectorRegistry) -> None:
        self.delivery_seconds = Histogram(
            "bridge_delivery_seconds",
            "From a state being seen to its last subscriber's socket.",
            ["delivery"],
            buckets=_FAST,
            registry=registry,
        )
        self.connections = Gauge("bridge_connections", "Open connections.", ["delivery"], registry=registry)
        self._opened = dict.fromkeys(DELIVERIES, 0)
        self.ended = dict.fromkeys(DELIVERIES, 0)
        self.disconnects = Counter(
            "bridge_disconnects_total",
            "Connections ended, by reason.",
            ["delivery", "reason"],
            registry=registry,
        )
        self.resumes = Counter(
            "bridge_resumes_total",
            "Clients that came back with a cursor, by what they got.",
            ["delivery", "result"],
            registry=registry,
        )
        self.events = Counter("bridge_events_total", "States delivered.", ["delivery"], registry=registry)
        self.conflated = Counter(
            "bridge_conflated_total", "States skipped for a newer one.", ["delivery"], registry=registry
        )
        self.notices = Counter("bridge_notices_total", "Notices given.", ["code"], registry=registry)

    def _prepare(self, upstreams: list[str]) -> None:
        """Make every series exist, so that a rate is right from its first event."""
        for upstream in upstreams:
            _touch(
                self.upstream_requests, ((upstream, call, outcome) for call in CALLS for outcome in OUTCOMES)
            )
            _touch(self.upstream_request_seconds, ((upstream, call) for call in CALLS))
            _touch(self.polls, ((upstream, result) for result in POLL_RESULTS))
            _touch(self.interests, ((upstream,),))
            _touch(self.task_transitions, ((upstream, status.value) for status in Status))
            _touch(self.task_seconds, ((upstream, status) for status in ("queued", "processing")))
            _touch(self.detection_seconds, ((upstream, source.value) for source in Source))
            _touch(self.callbacks, ((upstream, result) for result in CALLBACK_RESULTS))
            _touch(self.budget_wait_seconds, ((upstream,),))
            _touch(self.circuit_open, ((upstream,),))
            _touch(self.budget_paused_seconds, ((upstream,),))
        for delivery in DELIVERIES:
            for metric in (
                self.delivery_seconds,
                self.connections,
                self.events,
                self.conflated,
            ):
                _touch(metric, ((delivery,),))
            _touch(
                self.disconnects,
                ((delivery, reason) for reason in (LEFT, *(closing.value for closing in Closing))),
            )
            _touch(self.resumes, ((delivery, result.value) for result in Resume))
        _touch(self.notices, ((code.value,) for code in NoticeCode))

    def exposition(self, *, openmetrics: bool) -> Exposition:
        """Everything, for an encoder."""
        return Exposition(self.registry, self._opened, openmetrics=openmetrics)

    def example(self, task: str) -> dict[str, str]:
        """What an exemplar says of one observation: whose it was, and the trace that tells more.

        Args:
            task: Its ref.
        """
        trace = self.trace_of(task) if self.trace_of is not None else None
        return {"task": task} if trace is None else {"task": task, "trace_id": trace}

    def connected(self, delivery: str) -> None:
        """A connection opened."""
        self._per_delivery[delivery].open += 1
        self._opened[delivery] += 1

    def disconnected(self, delivery: str, reason: str) -> None:
        """A connection ended."""
        self.ended[delivery] += 1
        self._per_delivery[delivery].open -= 1
        self.disconnects.labels(delivery, reason).inc()

    def rejected(self, delivery: str) -> None:
        """A newcomer found no place: it was answered, and nothing was opened for it."""
        self._opened[delivery] += 1
        self.disconnects.labels(delivery, Closing.OVER_CAPACITY.value).inc()

    def sent(self, delivery: str, events: int) -> None:
        """States went to one connection."""
        self._per_delivery[delivery].events.inc(events)

    def record_broadcast(
        self,
        counted: Mapping[str, int],
        conflated: Mapping[str, int],
        seconds: float | None,
        *,
        task: str | None = None,
    ) -> None:
        """One event reached all its subscribers; counted once for all of them.

        Args:
            task: Its ref, for the exemplar.
        """
        example = self.example(task) if counted and task is not None else None
        for delivery, number in counted.items():
            series = self._per_delivery[delivery]
            series.events.inc(number)
            if seconds is not None:
                series.seconds.observe(seconds, example)
        for delivery, number in conflated.items():
            if number:
                self._per_delivery[delivery].conflated.inc(number)


class _Delivery:
    """The series of one delivery, looked up once: that costs more than to count."""

    __slots__ = ("conflated", "events", "open", "seconds")

    def __init__(self, metrics: Metrics, delivery: str) -> None:
        self.open = 0
        metrics.connections.labels(delivery).set_function(lambda: self.open)
        self.events = metrics.events.labels(delivery)
        self.conflated = metrics.conflated.labels(delivery)
        self.seconds = metrics.delivery_seconds.labels(delivery)


class UpstreamSeries:
    """The series of one upstream that every look counts in, looked up once."""

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
    """What the viewers would have polled at the provider's advice, less what was polled."""

    def __init__(self, upstreams: Iterable[str]) -> None:
        self._wished = dict.fromkeys(upstreams, 0.0)
        self._polled = dict.fromkeys(self._wished, 0)
        self._shown = dict.fromkeys(self._wished, 0.0)

    def viewed(self, upstream: str, *, seconds: float, interval: float) -> None:
        """Viewers waited `seconds` in all and would have polled every `interval`."""
        self._wished[upstream] += seconds / interval

    def polled(self, upstream: str) -> None:
        """One look was made."""
        self._polled[upstream] += 1

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The counter, which never goes down although looks without viewers save nothing."""
        family = CounterMetricFamily(
            "bridge_polls_saved",
            "Polls the viewers would have made, less those the bridge made.",
            labels=["upstream"],
        )
        for upstream, wished in self._wished.items():
            self._shown[upstream] = max(self._shown[upstream], wished - self._polled[upstream])
            family.add_metric([upstream], self._shown[upstream])
        yield family


class Watches(Collector):
    """How many tasks are watched, counted anew for each scrape.

    Attributes:
        census: Set by whoever watches: how many by upstream and source.
    """

    def __init__(self, upstreams: Iterable[str]) -> None:
        self.census: Callable[[], Mapping[tuple[str, str], int]] = dict
        self._rows = [(upstream, source.value) for upstream in upstreams for source in Source]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The gauge."""
        family = GaugeMetricFamily(
            "bridge_watches", "Tasks being watched, by their liveliest source.", labels=["upstream", "source"]
        )
        counted = self.census()
        for row in self._rows:
            family.add_metric(row, counted.get(row, 0))
        yield family


class Exposition:
    """What one scrape reads.

    OpenMetrics takes `_total` off a counter's name, which would make the counter
    `bridge_connections_total` and the gauge `bridge_connections` one family. There it goes
    out as `unknown`, under its whole name.
    """

    def __init__(self, registry: CollectorRegistry, opened: Mapping[str, int], *, openmetrics: bool) -> None:
        self._registry = registry
        self._opened = opened
        self._openmetrics = openmetrics

    def collect(self) -> Iterable[Metric]:
        """Every family once."""
        yield from self._registry.collect()
        family: Metric
        if self._openmetrics:
            family = UnknownMetricFamily(
                "bridge_connections_total", "Connections opened.", labels=["delivery"]
            )
        else:
            family = CounterMetricFamily(
                "bridge_connections_total", "Connections opened.", labels=["delivery"]
            )
        for delivery, number in self._opened.items():
            family.add_metric([delivery], number)
        yield family


def _touch(metric: Counter | Gauge | Histogram, rows: Iterable[tuple[str, ...]]) -> None:
    for row in rows:
        metric.labels(*row)


MAX_EXEMPLAR_CHARACTERS = (
    128  # OpenMetrics: names and values of its labels together; more, and a scrape fails
)
_GAP = "…"


class CounterSeries:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Count; `amount` is never negative."""
        self.value += amount


class Counter(Collector):
    """A counter: `bridge_things_total` by its labels."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._series: dict[tuple[str, ...], CounterSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> CounterSeries:
        """The series of these values, made at the first asking."""
        series = self._series.get(values)
        if series is None:
            series = self._series[_checked(values, self._labels)] = CounterSeries()
        return series

    def collect(self) -> Iterable[CounterMetricFamily]:
        """For a scrape."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, series in self._series.items():
            family.add_metric(values, series.value)
        yield family


class HistogramSeries:
    """One series of a histogram."""

    __slots__ = ("_bounds", "_newest", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self._newest: list[tuple[Mapping[str, str], float] | None] = [None] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, example: Mapping[str, str] | None = None) -> None:
        """Take in one value.

        Args:
            example: Labels that say whose it was, for the exemplar of its bucket. They are kept as they are,
                and brought into the form that a scrape allows only when one comes.
        """
        place = bisect_left(self._bounds, value)
        self.counts[place] += 1
        self.total += value
        if example is not None:
            self._newest[place] = (example, value)

    @property
    def examples(self) -> list[Exemplar | None]:
        """The newest example of each bucket."""
        return [Exemplar(fitting(one[0]), one[1]) if one is not None else None for one in self._newest]


class Histogram(Collector):
    """A histogram by its labels; without any it is its own only series."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._bounds = list(buckets)
        self._said = [*map(floatToGoString, self._bounds), "+Inf"]
        self._series: dict[tuple[str, ...], HistogramSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> HistogramSeries:
        """The series of these values, made at the first asking."""
        series = self._series.get(values)
        if series is None:
            series = self._series[_checked(values, self._labels)] = HistogramSeries(self._bounds)
        return series

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """For a scrape."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, series in self._series.items():
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for bound, count, example in zip(
                self._said, accumulate(series.counts), series.examples, strict=True
            ):
                buckets.append((bound, count, example) if example is not None else (bound, count))
            family.add_metric(values, buckets, series.total)
        yield family


def fitting(example: Mapping[str, str]) -> dict[str, str]:
    """Labels as OpenMetrics allows them: encodable, and the longest values cut so that all fit.

    What a provider or a caller chose as a task id is hostile until proven otherwise, and one exemplar
    that is too long, or cannot be encoded, would cost the whole scrape.
    """
    labels = {name: value.encode(errors="replace").decode() for name, value in example.items()}
    room = MAX_EXEMPLAR_CHARACTERS - sum(map(len, labels))
    while (over := sum(map(len, labels.values())) - room) > 0:
        longest = max(labels, key=lambda name: len(labels[name]))
        labels[longest] = _cut(labels[longest], max(len(labels[longest]) - over, room // len(labels)))
    return labels


def _cut(text: str, size: int) -> str:
    """Beginning and end: ids that begin alike differ at the end."""
    head = size // 2
    tail = size - head - len(_GAP)
    return text[:head] + _GAP + text[len(text) - tail :]


def _checked(values: tuple[str, ...], labels: Sequence[str]) -> tuple[str, ...]:
    if len(values) != len(labels):
        raise ValueError(f"{len(labels)} labels take as many values, not {values!r}")
    return values
