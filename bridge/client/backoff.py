"""How long to wait before connecting again: what the stream asked for, then decorrelated jitter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

MAX_RETRY = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How a watch waits, in seconds.

    Args:
        silence: Without a single byte for so long the connection is taken for dead; the bridge says
            something every 15 s.
        first_delay: Wait before the first reconnect, unless the stream named one with `retry:`.
        shortest_delay: No wait is shorter, whatever the stream asks for.
        longest_delay: Waits grow up to this.
        farewell: How long to stay for the bridge's `end` once every task is over.
    """

    silence: float = 45.0
    first_delay: float = 1.0
    shortest_delay: float = 0.1
    longest_delay: float = 30.0
    farewell: float = 2.0


class Backoff:
    """The waits of one watch (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/)."""

    def __init__(self, patience: Timeouts, rng: random.Random) -> None:
        self.patience = patience
        self._base = patience.first_delay
        self._longest = patience.longest_delay
        self._rng = rng
        self._last: float | None = None

    def asked(self, milliseconds: int) -> None:
        """The stream said `retry:`."""
        self._base = max(self.patience.shortest_delay, min(milliseconds / 1000, MAX_RETRY))

    def worked(self) -> None:
        """A connection brought an event: the next trouble starts small again."""
        self._last = None

    def next(self, at_least: float | None = None) -> float:
        """The wait before the next attempt.

        Args:
            at_least: What a refusal asked for (`Retry-After`); spread a little, as others heard it too.
        """
        # the bridge's own `retry:` is jittered already, so the first wait stays near it
        top = 1.5 * self._base if self._last is None else 3 * self._last
        self._last = min(max(self._longest, self._base), self._rng.uniform(self._base, max(self._base, top)))
        if at_least is None:
            return self._last
        return max(self._last, at_least + self._rng.uniform(0, self._base))
