"""Counters and histograms as plain numbers.

The library's own take a lock at every count; the bridge counts on one thread, several times a look and a
broadcast. Only what they say to a scrape is the library's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_LONGEST_EXEMPLAR = 120  # OpenMetrics allows 128 characters, the label's name among them


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
        self._newest: list[tuple[str, float] | None] = [None] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, task: str | None = None) -> None:
        """Take in one value.

        Args:
            task: Its ref, as the bucket's newest example.
        """
        place = bisect_left(self._bounds, value)
        self.counts[place] += 1
        self.total += value
        if task is not None:
            self._newest[place] = (task, value)

    @property
    def examples(self) -> list[Exemplar | None]:
        """The newest example of each bucket, where the format allows it."""
        return [
            Exemplar({"task": one[0]}, one[1])
            if one is not None and len(one[0]) <= _LONGEST_EXEMPLAR
            else None
            for one in self._newest
        ]


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


def _checked(values: tuple[str, ...], labels: Sequence[str]) -> tuple[str, ...]:
    if len(values) != len(labels):
        raise ValueError(f"{len(labels)} labels take as many values, not {values!r}")
    return values
