"""Instruments with all their series, declared at the start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from prometheus_client import CollectorRegistry, Gauge

from bridge.telemetry.instruments import Counter, Histogram


class Declare:
    """Creates instruments with all their series, so that a rate is right from its first event.

    Each label is given with all its values.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, documentation: str, **labels: Iterable[str]) -> Counter:
        metric = Counter(name, documentation, list(labels), registry=self._registry)
        for values in product(*labels.values()):
            metric.labels(*values)
        return metric

    def histogram(
        self, name: str, documentation: str, buckets: Sequence[float], **labels: Iterable[str]
    ) -> Histogram:
        metric = Histogram(name, documentation, list(labels), buckets=buckets, registry=self._registry)
        for values in product(*labels.values()):
            metric.labels(*values)
        return metric

    def gauge(self, name: str, documentation: str, **labels: Iterable[str]) -> Gauge:
        metric = Gauge(name, documentation, list(labels), registry=self._registry)
        for values in product(*labels.values()):
            if values:  # without labels the library's gauge is its own series
                metric.labels(*values)
        return metric
