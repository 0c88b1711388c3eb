"""One queue of deliveries as this process works on it: what it has claimed, and when to claim again."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from bridge.engine.base import Job
from bridge.webhooks.message import DeliveryMessage


class ClaimedDelivery(NamedTuple):
    """A delivery that this process has claimed.

    Args:
        until: Monotonic seconds until which it may begin.
    """

    job: Job
    message: DeliveryMessage
    until: float


class DeliveryLane:
    """A queue.

    Attributes:
        begin: Begins the attempts for which there is room.
        armed: The earliest moment at which the deliverer claims again, monotonic seconds.
        early: How many deliveries are claimed although they are not due yet.
        claimed: What has not begun yet, in order.
        claiming: Whether the ledger is being asked.
        again: Whether there may be more by now.
        unfinished: Attempts that are made, or whose result is not noted yet.
    """

    __slots__ = (
        "_moments",
        "_times",
        "again",
        "armed",
        "begin",
        "claimed",
        "claiming",
        "early",
        "queue",
        "unfinished",
    )

    def __init__(self, queue: str, begin: Callable[[DeliveryLane], None]) -> None:
        self.queue = queue
        self.begin = partial(begin, self)
        self.armed: float | None = None
        self.claimed: deque[ClaimedDelivery] = deque()
        self.claiming = False
        self.early = 0
        self.again = False
        self.unfinished = 0
        self._times: list[float] = []
        self._moments: set[float] = set()

    def claim_at(self, moment: float) -> None:
        """Claim again then, monotonic seconds."""
        if moment not in self._moments:
            self._moments.add(moment)
            heapq.heappush(self._times, moment)

    @property
    def next_claim(self) -> float | None:
        """When to claim again."""
        return self._times[0] if self._times else None

    def passed(self, now: float) -> None:
        """Forget the moments that have passed."""
        while self._times and self._times[0] <= now:
            self._moments.discard(heapq.heappop(self._times))
