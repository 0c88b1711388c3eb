"""Who may watch a task when several replicas could."""

from __future__ import annotations

from typing import Protocol

from bridge.core.task import TaskKey


class Leases(Protocol):
    """At most one holder of a task over all replicas."""

    async def acquire(self, key: TaskKey) -> bool:
        """Take the right to watch `key`; False when another replica has it."""

    async def release(self, key: TaskKey) -> None:
        """Give it back. Idempotent."""
