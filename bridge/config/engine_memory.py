"""Whether the ended tasks that a shared engine keeps fit into its memory.

A warning at most: how many tasks will come is not known at the start.
"""

from __future__ import annotations

from bridge.config.settings import Settings

TASK_BYTES = 14_000
"""What the engine keeps of a task with 20 states."""

TASKS_PER_SECOND = 0.1
"""A service of any use has that many."""

LARGE_BYTES = 1024**3


def retention_warning(settings: Settings, limit: int = 0) -> str | None:
    """What is wrong with `retention_seconds`, if so few tasks already take more than there is.

    Args:
        limit: Bytes the engine may use; 0 if that is not known.
    """
    if not settings.has_shared_engine:
        return None
    needed = settings.retention_seconds * TASKS_PER_SECOND * TASK_BYTES
    if needed <= (limit or LARGE_BYTES):
        return None
    above = f", more than its maxmemory of {_mebibytes(limit)}" if limit else ""
    return (
        f"retention_seconds: one task every {1 / TASKS_PER_SECOND:g} seconds, kept for"
        f" {settings.retention_seconds:,.0f} seconds after its end, takes {_mebibytes(needed)} of the"
        f" engine's memory ({TASK_BYTES // 1000} KB each){above}; make it shorter"
    )


def _mebibytes(size: float) -> str:
    return f"{size / 1024**2:,.0f} MiB"
