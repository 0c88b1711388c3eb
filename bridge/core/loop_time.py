"""How much of the event loop's time the bytes of one provider's connection may take.

What a provider sends is parsed in slices of a few milliseconds. A connection that keeps within its rate
is parsed at once. One that was above it in the last seconds rests between two slices, and all such take
turns, so that together they get a fixed part of the loop, no matter how many they are. Billed is time, not
bytes or events: a megabyte of one string costs less than a kilobyte of empty events.
"""

from __future__ import annotations

SLICE_SECONDS = 0.002
CONNECTION_RATE = 0.1
CONNECTION_BURST_SECONDS = 0.02
HEAVY_RATE = 0.2
HEAVY_SECONDS = 5.0
TOTAL_RATE = 0.4
TOTAL_BURST_SECONDS = 0.05
CONTENDED_RATE = 0.005  # of one connection, once all together are above `TOTAL_RATE`

MIN_PIECE = 512
MAX_PIECE = 256 * 1024
_FIRST_PIECE = 1024


class LoopTime:
    """The time of one event loop that all connections share."""

    __slots__ = ("_all_until", "_heavy_until")

    def __init__(self) -> None:
        self._all_until = self._heavy_until = float("-inf")

    def spend(self, seconds: float, now: float) -> bool:
        """Bill time of any connection; returns whether all of them together are above their rate."""
        self._all_until = max(self._all_until, now) + seconds / TOTAL_RATE
        return self._all_until - now > TOTAL_BURST_SECONDS / TOTAL_RATE

    def turn(self, seconds: float, now: float) -> float:
        """When the next turn of a connection above its rate comes, after a slice that took so long."""
        self._heavy_until = max(self._heavy_until, now) + seconds / HEAVY_RATE
        return self._heavy_until


class ConnectionTime:
    """The time of the event loop that one connection takes.

    Args:
        shared: The time of all connections.

    Attributes:
        piece: How many bytes to parse before the clock is read again: what lately took half a slice.
    """

    __slots__ = ("_contended_until", "_heavy_until", "_rests_until", "_shared", "_until", "piece")

    def __init__(self, shared: LoopTime) -> None:
        self._shared = shared
        self._until = self._contended_until = self._rests_until = self._heavy_until = float("-inf")
        self.piece = _FIRST_PIECE

    def spend(self, seconds: float, now: float) -> None:
        """Bill what was just parsed.

        Args:
            seconds: How long it took.
            now: When it ended, in monotonic seconds.
        """
        self._until = max(self._until, now) + seconds / CONNECTION_RATE
        over = self._until - now - CONNECTION_BURST_SECONDS / CONNECTION_RATE
        # Under contention a small response is still read at once: it is not what takes the time.
        self._contended_until = max(self._contended_until, now) + seconds / CONTENDED_RATE
        in_the_way = self._contended_until - now > SLICE_SECONDS / CONTENDED_RATE
        contended = self._shared.spend(seconds, now)
        if over > 0 or (contended and in_the_way):
            self._heavy_until = now + HEAVY_SECONDS
        if now < self._heavy_until:
            self._rests_until = max(now + over, self._shared.turn(seconds, now))

    def measured(self, size: int, seconds: float) -> None:
        """Adapt `piece` to what a piece of `size` bytes took."""
        if seconds > SLICE_SECONDS / 2:
            self.piece = max(self.piece // 2, MIN_PIECE)
        elif seconds < SLICE_SECONDS / 8 and size >= self.piece:
            self.piece = min(self.piece * 2, MAX_PIECE)

    def rest(self, now: float) -> float:
        """Seconds until this connection may be parsed again; 0 for at once."""
        return max(self._rests_until - now, 0.0)
