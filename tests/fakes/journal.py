"""Journals as tests read them."""

from __future__ import annotations

from bridge.core.event import Event
from bridge.core.task import TaskKey
from bridge.journal.base import Journal


async def recorded_after(journal: Journal, key: TaskKey, after: int) -> list[Event]:
    """Every retained event of a task after an offset, oldest first."""
    return list(await journal.read(await journal.history([key], after)))
