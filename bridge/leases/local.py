"""One process alone: everything may be watched."""

from __future__ import annotations

from bridge.core.task import TaskKey


class LocalLeases:
    """Always says yes."""

    async def acquire(self, key: TaskKey) -> bool:  # noqa: ARG002 - the protocol's signature
        """Nobody else could watch `key`."""
        return True

    async def release(self, key: TaskKey) -> None:
        """Nothing to give back."""
