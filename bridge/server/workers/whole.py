"""What the supervisor knows of all workers, for whichever of them is asked."""

from __future__ import annotations

from collections.abc import Iterable

from bridge.server.workers.control import Message
from bridge.server.workers.process import WorkerProcess


class WholeService:
    """Collects what workers report, and answers what one asks about all.

    Args:
        running: All workers that have not ended, as they are at each moment.
    """

    def __init__(self, running: Iterable[WorkerProcess]) -> None:
        self._running = running

    def handle(self, worker: WorkerProcess, message: Message) -> None:
        """A report, or a question."""

    def ended(self, worker: WorkerProcess) -> None:
        """What a worker has counted stays in the sum."""
