"""The providers' 404s that are believed without another poll."""

from __future__ import annotations

from collections import OrderedDict

from bridge.core.task import TaskKey
from bridge.errors import BridgeError

BELIEVED_SECONDS = 60.0
MAX_BELIEVED = 10_000


class MissingTasks:
    """Tasks whose watch ended with a 404; the oldest is forgotten first.

    Args of all methods:
        now: Monotonic seconds.
    """

    def __init__(self) -> None:
        self._errors: OrderedDict[TaskKey, tuple[BridgeError, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._errors)

    def add(self, key: TaskKey, error: BridgeError, polled_at: float) -> None:
        """Believe that a task does not exist, from its last poll on (monotonic seconds)."""
        self._errors[key] = error, polled_at
        if len(self._errors) > MAX_BELIEVED:
            self._errors.popitem(last=False)

    def error(self, key: TaskKey, now: float) -> BridgeError | None:
        """The 404 about a task; None if there is none, or it is too old."""
        error, at = self._errors.get(key, (None, 0.0))
        return error if now - at < BELIEVED_SECONDS else None

    def take(self, key: TaskKey, now: float) -> tuple[BridgeError, float] | None:
        """The same, with the time of its poll; it is no longer kept."""
        found = self._errors.pop(key, None)
        return found if found is not None and now - found[1] < BELIEVED_SECONDS else None

    def forget_old(self, now: float) -> None:
        """Forget those that are no longer believed."""
        while self._errors:
            key, (_, at) = next(iter(self._errors.items()))
            if now - at < BELIEVED_SECONDS:
                return
            del self._errors[key]
