"""Process metrics, under the names that every Prometheus client uses.

The library's own collector lists the open descriptors one by one, which blocks the event loop for 16 ms at
20,000 connections. Linux reports their number directly since version 6.2.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_CPU, _STARTED, _VIRTUAL, _RESIDENT = slice(11, 13), 19, 20, 21  # fields of `stat` after the name


class Process(Collector):
    """Memory, CPU and descriptors, read at each scrape; empty without `/proc`."""

    def __init__(self, registry: CollectorRegistry, proc: Path = Path("/proc")) -> None:
        self._own = proc / "self"
        self._booted = _booted(proc)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """The families, for a scrape."""
        if self._booted is None:
            return
        fields = (self._own / "stat").read_bytes().rpartition(b")")[2].split()
        ticks = os.sysconf("SC_CLK_TCK")
        folder = self._own / "fd"
        # Before Linux 6.2 the size is 0.
        descriptors = folder.stat().st_size or len(os.listdir(folder))  # noqa: PTH208 - no `Path` for each
        cpu = sum(map(int, fields[_CPU])) / ticks
        yield CounterMetricFamily("process_cpu_seconds", "User and system CPU time in seconds.", value=cpu)
        for name, documentation, value in (
            ("resident_memory_bytes", "Resident memory in bytes.", int(fields[_RESIDENT]) * _PAGE),
            ("virtual_memory_bytes", "Virtual memory in bytes.", int(fields[_VIRTUAL])),
            (
                "start_time_seconds",
                "Start time of the process in Unix seconds.",
                self._booted + int(fields[_STARTED]) / ticks,
            ),
            ("open_fds", "Open file descriptors.", descriptors),
            (
                "max_fds",
                "Maximum number of open file descriptors.",
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            ),
        ):
            yield GaugeMetricFamily(f"process_{name}", documentation, value=value)


_PAGE = resource.getpagesize()


def _booted(proc: Path) -> float | None:
    """Unix time at which the system booted; None if unknown."""
    try:
        lines = (proc / "stat").read_text().splitlines()
    except OSError:
        return None
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), None)
