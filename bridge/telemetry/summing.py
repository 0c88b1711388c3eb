"""The metrics of several processes as those of one service.

Rule 1: no counter of the service ever falls: what a process has counted stays in the sum when it ends.
Rule 2: a gauge is of the processes that run: their sum, unless `MAX_GAUGES`, `MIN_GAUGES` or `WORST`
        names it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from prometheus_client import Metric
from prometheus_client.core import Exemplar

from bridge.telemetry.metrics import Metrics
from bridge.telemetry.process import Process

SAMPLES_PER_SLICE = 200

# What every process says of the same thing, or where one is enough to be concerned.
MAX_GAUGES = frozenset(
    {
        "bridge_budget_paused_seconds",
        "bridge_build_info",
        "bridge_circuit_open",
        "bridge_engine_lag_seconds",
        "bridge_engine_memory_limit_bytes",
        "bridge_engine_memory_used_bytes",
        "bridge_oldest_orphan_seconds",
        "bridge_orphans",
        "bridge_output_copies_oldest_seconds",
        "bridge_output_copies_waiting",
        "bridge_poll_price_factor",
        "bridge_replicas",
        "bridge_webhook_oldest_seconds",
        "bridge_webhook_waiting",
        "bridge_webhooks_disabled",
    }
)
MIN_GAUGES = frozenset(
    {
        "bridge_engine_connected",
        "bridge_lease_seconds",
        "bridge_tls_certificate_expiry_timestamp_seconds",
        "process_start_time_seconds",
    }
)
# One series of a label is 1: the worst of those that are 1 anywhere. A process that has not called the
# provider yet knows nothing.
WORST = {"bridge_upstream_state": ("state", ("INTERRUPTED", "OFF", "VALID", "INITIALIZING"))}
WISHED, POLLS, SAVED = "bridge_polls_wished_total", "bridge_polls_total", "bridge_polls_saved_total"

_SUMMED_TYPES = frozenset({"counter", "histogram"})

_Labels = tuple[tuple[str, str], ...]


class _SummedSeries(NamedTuple):
    """One sample of a family."""

    labels: dict[str, str]
    value: float
    exemplar: list[Any] | None


class _SummedFamily:
    """One family over all processes."""

    def __init__(self, name: str, kind: str, documentation: str) -> None:
        self.name = name
        self.kind = kind
        self.documentation = documentation
        self.series: dict[tuple[str, _Labels], _SummedSeries] = {}

    def add(self, sample: str, labels: dict[str, str], value: float, exemplar: list[Any] | None) -> None:
        """Take in a sample of one process."""
        key = sample, tuple(sorted(labels.items()))
        before = self.series.get(key)
        if before is not None:
            value = _joined(sample, before.value, value)
            exemplar = before.exemplar or exemplar
        self.series[key] = _SummedSeries(labels, value, exemplar)


def _joined(sample: str, one: float, other: float) -> float:
    if sample in MAX_GAUGES or sample in WORST:
        return max(one, other)
    return min(one, other) if sample in MIN_GAUGES else one + other


async def snapshot(metrics: Metrics) -> bytes:
    """The metrics of this process, for `SummedMetrics`."""
    families = []
    samples = 0
    for family in metrics.collect(openmetrics=False):
        families.append(_row(family))
        samples += len(family.samples)
        if samples >= SAMPLES_PER_SLICE:
            samples = 0
            await asyncio.sleep(0)
    return orjson.dumps(families)


def process_snapshot(process: Process) -> bytes:
    """Memory, CPU and descriptors of this process alone, for `SummedMetrics`."""
    return orjson.dumps([_row(family) for family in process.collect()])


def _row(family: Metric) -> tuple[str, str, str, list[tuple[Any, ...]]]:
    rows = [
        (
            sample.name,
            sample.labels,
            sample.value,
            sample.exemplar and (sample.exemplar.labels, sample.exemplar.value),
        )
        for sample in family.samples
    ]
    return family.name, family.type, family.documentation, rows


class SummedMetrics:
    """The metrics of several processes; an exposition, as that of one."""

    def __init__(self) -> None:
        self._families: dict[tuple[str, str], _SummedFamily] = {}

    def add(self, families: list[Any], *, ended: bool = False) -> None:
        """Add the snapshot of a process, decoded.

        Args:
            ended: Only what counts: the process no longer has a state or current exemplars.
        """
        for name, kind, documentation, rows in families:
            if ended and kind not in _SUMMED_TYPES:
                continue
            family = self._families.get((name, kind))
            if family is None:
                family = self._families[name, kind] = _SummedFamily(name, kind, documentation)
            for sample, labels, value, exemplar in rows:
                # JSON has no number for NaN.
                number = math.nan if value is None else value
                family.add(sample, labels, number, None if ended else exemplar)

    def encoded(self) -> bytes:
        """As the snapshot of a process."""
        return orjson.dumps(
            [
                (
                    family.name,
                    family.kind,
                    family.documentation,
                    [(name, *series) for (name, _), series in family.series.items()],
                )
                for family in self._families.values()
            ]
        )

    def correct_saved(self, reported: dict[str, float]) -> None:
        """Compute the polls saved for all processes: one may poll for the viewers of another.

        Args:
            reported: What was reported last, by upstream: a counter must not fall. Updated.
        """
        totals: dict[str, float] = {}
        for sample, sign in ((WISHED, 1), (POLLS, -1)):
            for series in self._of(sample):
                upstream = series.labels["upstream"]
                totals[upstream] = totals.get(upstream, 0.0) + sign * series.value
        family = self._families.get((SAVED.removesuffix("_total"), "counter"))
        for key, series in list(family.series.items()) if family is not None else ():
            upstream = series.labels["upstream"]
            reported[upstream] = max(reported.get(upstream, 0.0), totals.get(upstream, 0.0))
            assert family is not None
            family.series[key] = series._replace(value=reported[upstream])

    def _of(self, sample: str) -> Iterator[_SummedSeries]:
        family = self._families.get((sample.removesuffix("_total"), "counter"))
        yield from family.series.values() if family is not None else ()

    def collect(self, *, openmetrics: bool) -> Iterable[Metric]:
        """Every family once.

        Args:
            openmetrics: As in `bridge.telemetry.metrics.Exposition`: a counter whose family would have the
                name of a gauge keeps its whole name, and the type `unknown`.
        """
        gauges = {name for name, kind in self._families if kind == "gauge"}
        for family in self._families.values():
            name, kind = family.name, family.kind
            if openmetrics and kind == "counter" and name in gauges:
                name, kind = f"{name}_total", "unknown"
            metric = Metric(name, family.documentation, kind)
            for (sample, _), series in _worst(family):
                exemplar = None if series.exemplar is None else Exemplar(*series.exemplar)
                metric.add_sample(sample, series.labels, series.value, exemplar=exemplar)
            yield metric


def _worst(family: _SummedFamily) -> Sequence[tuple[tuple[str, _Labels], _SummedSeries]]:
    """The series of a family; of the states of one thing only the worst is 1."""
    rows = list(family.series.items())
    if family.name not in WORST:
        return rows
    label, order = WORST[family.name]
    worst: dict[_Labels, str] = {}
    for _, series in rows:
        if series.value:
            thing = _without(series.labels, label)
            worst[thing] = min(worst.get(thing, order[-1]), series.labels[label], key=order.index)
    return [
        (key, series._replace(value=float(worst.get(_without(series.labels, label)) == series.labels[label])))
        for key, series in rows
    ]


def _without(labels: dict[str, str], name: str) -> _Labels:
    return tuple(sorted((label, value) for label, value in labels.items() if label != name))
