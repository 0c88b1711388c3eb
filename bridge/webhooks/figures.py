"""What operators see of an endpoint beside its settings: what is waiting, and its last attempts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from bridge.engine.base import Waiting
from bridge.webhooks.endpoint import Webhook
from bridge.wire.document import timestamp

_NOTHING = Waiting()


class LastAttempts(NamedTuple):
    """When this process was last answered by an endpoint; Unix seconds, None for never.

    Args:
        success_at: With success.
        failure_at: Otherwise, or not at all.
    """

    success_at: float | None = None
    failure_at: float | None = None


_NONE = LastAttempts()


class EndpointFigures:
    """The figures of all endpoints.

    Attributes:
        waiting: What is in each queue, as the deliverer last read it.
    """

    def __init__(self) -> None:
        self.waiting: Mapping[str, Waiting] = {}
        self._last: dict[str, LastAttempts] = {}

    def succeeded(self, name: str, now: float) -> None:
        """A delivery has arrived."""
        self._last[name] = self._last.get(name, _NONE)._replace(success_at=now)

    def failed(self, name: str, now: float) -> None:
        """An attempt has failed."""
        self._last[name] = self._last.get(name, _NONE)._replace(failure_at=now)

    def keep(self, names: Collection[str]) -> None:
        """Forget the endpoints that no longer exist."""
        for name in self._last.keys() - set(names):
            del self._last[name]

    def total(self, queues: Collection[str]) -> int:
        """How many deliveries are waiting in some queues."""
        return sum(self.waiting.get(queue, _NOTHING).jobs for queue in queues)

    def of(self, endpoint: Webhook, *, failing_since: float | None, now: int) -> dict[str, object]:
        """As JSON.

        Args:
            now: Microseconds of the ledger's clock.
        """
        jobs, oldest = self.waiting.get(endpoint.queue, _NOTHING)
        last = self._last.get(endpoint.id, _NONE)
        return {
            "waiting": jobs,
            "oldest_waiting_seconds": round(max(now - oldest, 0) / 1e6, 3) if jobs and oldest else None,
            "failing_since": timestamp(failing_since),
            "last_success_at": timestamp(last.success_at),
            "last_failure_at": timestamp(last.failure_at),
        }
