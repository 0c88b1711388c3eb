"""Counters and histograms as plain numbers.

The library's own take a lock at every count; the bridge counts on one thread, several times a look and a
broadcast. Only what they say to a scrape is the library's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Exemplar, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

MOST_EXEMPLAR_CHARACTERS = (
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
    room = MOST_EXEMPLAR_CHARACTERS - sum(map(len, labels))
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
