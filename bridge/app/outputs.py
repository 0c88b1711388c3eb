"""Builds what reads outputs from providers and copies them into a store, if one is configured."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from bridge.app.webhooks import Shared
from bridge.clock import Clock
from bridge.config.settings import Settings
from bridge.outputs.configured import open_store
from bridge.outputs.copier import Copier, CopyLimits, CopyPlanner, CopyResult
from bridge.outputs.copies import Copies
from bridge.outputs.source import OutputSource
from bridge.telemetry.metrics import Metrics
from bridge.watchers.pool import Pool


async def build_copies(
    settings: Settings,
    shared: Shared,
    pool: Pool,
    source: OutputSource,
    metrics: Metrics,
    clock: Clock,
    stack: AsyncExitStack,
    *,
    rng: Callable[[], float],
) -> Copies | None:
    """What copies the outputs of tasks that end; their ends wait for it from now on. None without a store.

    Args:
        rng: Returns 0-1, for jitter.
    """
    store = open_store(settings.outputs, clock)
    if store is None:
        return None
    stack.push_async_callback(store.close)
    outputs = settings.outputs
    counts = _CopyCounts(metrics)
    copier = Copier(
        source,
        store,
        shared.journal,
        clock,
        CopyLimits(
            wait_seconds=outputs.wait_seconds,
            max_bytes=outputs.max_bytes,
            max_bytes_per_task=outputs.max_bytes_per_task,
            in_flight=outputs.copies_in_flight,
        ),
        upstream_of=lambda key: pool.upstream(key.upstream, key.account),
        counts=counts,
        random=rng,
    )
    kind = (outputs.store or "").partition(":")[0]
    copies = Copies(copier, store, shared.ledger, clock, kind=kind, retention_days=outputs.retention_days)
    planner = CopyPlanner(
        now=shared.ledger.now,
        wrote=copies.runner.wake,
        dropped=lambda number: counts.failed(CopyResult.FAILED, number),
    )
    await copies.check()
    shared.planners.use(planner, used=True)
    for upstream in pool.upstreams.values():
        upstream.before_end = copier.before_end
    metrics.output_copies_in_flight.set_function(lambda: copier.in_flight)
    metrics.output_copies_waiting.set_function(lambda: copies.waiting[0])
    metrics.output_copies_oldest_seconds.set_function(lambda: copies.waiting[1])

    async def close() -> None:
        copier.drain()
        await pool.finish_ends()
        await copier.close()

    stack.push_async_callback(close)
    return copies


class _CopyCounts:
    """Satisfies `bridge.outputs.copier.CopyCounts`."""

    def __init__(self, metrics: Metrics) -> None:
        self._results = {result: metrics.output_copies.labels(result.value) for result in CopyResult}
        self._bytes = metrics.output_copy_bytes
        self._seconds = metrics.output_copy_seconds

    def copied(self, result: CopyResult, size: int, seconds: float) -> None:
        self._results[result].inc()
        self._bytes.inc(size)
        self._seconds.observe(seconds)

    def failed(self, result: CopyResult, number: int = 1) -> None:
        self._results[result].inc(number)
