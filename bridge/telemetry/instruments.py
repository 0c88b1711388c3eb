"""Counters and histograms as plain numbers, with the exposition of prometheus_client.

Measured against the library's own classes: 0.10 instead of 0.68 µs per count, and 0.19 instead of 2.4 µs
per observation with an exemplar. They take no lock: everything that counts runs on the event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

# OpenMetrics: names and values of an exemplar's labels together. With more, the whole scrape fails.
MAX_EXEMPLAR_CHARACTERS = 128
_GAP = "…"


class CounterSeries:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add `amount`, which must not be negative."""
        self.value += amount


class Counter(Collector):
    """A counter and its series, one for each combination of label values."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._series: dict[tuple[str, ...], CounterSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> CounterSeries:
        """The series of these label values, created at the first call."""
        series = self._series.get(values)
        if series is None:
            series = self._series[_checked(values, self._labels)] = CounterSeries()
        return series

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The family, for a scrape."""
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
        """Count one value in its bucket.

        Args:
            example: Labels for the exemplar of that bucket. They are stored as they are, and only a scrape
                brings them into the form that OpenMetrics allows.
        """
        bucket = bisect_left(self._bounds, value)
        self.counts[bucket] += 1
        self.total += value
        if example is not None:
            # Replaced without a copy: one dictionary serves the observations of a whole broadcast.
            self._newest[bucket] = (example, value)

    @property
    def examples(self) -> list[Exemplar | None]:
        """The newest exemplar of each bucket."""
        return [
            Exemplar(fitting(newest[0]), newest[1]) if newest is not None else None for newest in self._newest
        ]


class Histogram(Collector):
    """A histogram and its series, one for each combination of label values."""

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
        self._bound_texts = [*map(floatToGoString, self._bounds), "+Inf"]
        self._series: dict[tuple[str, ...], HistogramSeries] = {}
        registry.register(self)

    def labels(self, *values: str) -> HistogramSeries:
        """The series of these label values, created at the first call."""
        series = self._series.get(values)
        if series is None:
            series = self._series[_checked(values, self._labels)] = HistogramSeries(self._bounds)
        return series

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The family, for a scrape."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, series in self._series.items():
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            for bound, count, example in zip(
                self._bound_texts, accumulate(series.counts), series.examples, strict=True
            ):
                buckets.append((bound, count, example) if example is not None else (bound, count))
            family.add_metric(values, buckets, series.total)
        yield family


def fitting(example: Mapping[str, str]) -> dict[str, str]:
    """Labels as OpenMetrics allows them: encodable, and the longest values cut so that all fit.

    A task id may be chosen by a provider or a client. One exemplar that is too long, or cannot be encoded,
    would fail the whole scrape.
    """
    labels = {name: value.encode(errors="replace").decode() for name, value in example.items()}
    available = MAX_EXEMPLAR_CHARACTERS - sum(map(len, labels))
    while (excess := sum(map(len, labels.values())) - available) > 0:
        longest = max(labels, key=lambda name: len(labels[name]))
        size = max(len(labels[longest]) - excess, available // len(labels))
        # Keep both ends: ids that begin alike differ at the end.
        start = size // 2
        end = size - start - len(_GAP)
        labels[longest] = labels[longest][:start] + _GAP + labels[longest][len(labels[longest]) - end :]
    return labels


def _checked(values: tuple[str, ...], labels: Sequence[str]) -> tuple[str, ...]:
    if len(values) != len(labels):
        raise ValueError(f"expected {len(labels)} label values, got {values!r}")
    return values
