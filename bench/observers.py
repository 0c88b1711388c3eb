"""Observed beside a scenario: latency of other requests, memory, and the server's own metrics."""

from __future__ import annotations

import http.client
import re
import threading
import time

from bench import machine
from bench.contenders import REQUEST_SECONDS, get


class LatencyProbe:
    """Requests `/livez` repeatedly on one connection and records the latency."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self._took: list[float] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=REQUEST_SECONDS)
        while not self._over.wait(0.001):
            started_at = time.perf_counter()
            line.request("GET", "/livez")
            line.getresponse().read()
            self._took.append(time.perf_counter() - started_at)
        line.close()

    def stop(self) -> list[float]:
        """Stop; return the latencies in seconds."""
        self._over.set()
        self._thread.join()
        return self._took


class MemoryPeaks:
    """Records the peak memory while it runs, relative to its start."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._base = (machine.memory_kb(pids), machine.tcp_memory_kb())
        self._max = [0.0, 0.0]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(0.5):
            now = (machine.memory_kb(self._pids), machine.tcp_memory_kb())
            self._max = [
                max(old, new - base) for old, new, base in zip(self._max, now, self._base, strict=True)
            ]

    def stop(self) -> dict[str, float]:
        """Stop; return the peaks."""
        self._over.set()
        self._thread.join()
        return {"grown_kb": self._max[0], "kernel_grown_kb": self._max[1]}


class Histograms:
    """One scrape of `/metrics`."""

    def __init__(self, port: int) -> None:
        self._page = get(port, "/metrics")

    def buckets(self, name: str) -> list[tuple[float, float]]:
        """Return upper bounds and counts, summed over all labels."""
        found: dict[float, float] = {}
        pattern = rf'^{name}_bucket{{[^}}]*le="([^"]+)"[^}}]*}} (\S+)$'
        for bound, count in re.findall(pattern, self._page, re.MULTILINE):
            found[float(bound)] = found.get(float(bound), 0) + float(count)
        return sorted(found.items())

    def quantile(self, before: Histograms, name: str, share: float) -> float:
        """Return a quantile as Prometheus does: with linear interpolation within the bucket."""
        old = dict(before.buckets(name))
        rows = [(bound, count - old.get(bound, 0)) for bound, count in self.buckets(name)]
        if not rows or rows[-1][1] <= 0:
            return float("nan")
        wanted, lower, below = share * rows[-1][1], 0.0, 0.0
        for bound, count in rows:
            if count >= wanted:
                upper = lower if bound == float("inf") else bound
                return lower + (upper - lower) * (wanted - below) / max(count - below, 1e-9)
            lower, below = bound, count
        return lower


def metric(port: int, series: str) -> float:
    """Return the current value of one series of `/metrics`."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", get(port, "/metrics"), re.MULTILINE)
    return float(found[1]) if found else float("nan")


def quantile(values: list[float], share: float) -> float:
    """Return the value at a quantile."""
    return sorted(values)[int(share * (len(values) - 1))]
