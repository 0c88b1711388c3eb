"""The lease of this replica, judged by its own clock."""

from __future__ import annotations

import secrets


class Lease:
    """Whether this replica may poll what it owns.

    Rule 1: a lease runs from the moment its renewal was sent, never from the answer: the engine counts from
            some moment in between.
    Rule 2: after a pause of the whole process the clock has leapt: nothing is polled before the next renewal.

    Args:
        seconds: How long a renewal lasts.

    Attributes:
        session: Random, never used again once it has expired; empty while none is open.
        until: Monotonic seconds at which it ends by this clock.
        renewed_at: Monotonic seconds at which the newest renewal was sent that the engine has answered.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.session = ""
        self.until = self.renewed_at = float("-inf")

    @property
    def confirmed(self) -> bool:
        """Whether the engine has ever answered for this session; if not, it may not have opened it."""
        return self.until > float("-inf")

    def fresh_session(self) -> str:
        """A new session id. What the last one owned is lost."""
        self.session = secrets.token_hex(8)
        self.until = float("-inf")
        return self.session

    def renewed(self, sent_at: float) -> None:
        """The engine renewed it.

        Args:
            sent_at: Monotonic seconds at which the renewal was sent.
        """
        self.until = max(self.until, sent_at + self.seconds)
        self.renewed_at = max(self.renewed_at, sent_at)

    def left(self, now: float) -> float:
        """Seconds for which this replica may still poll; 0.0 without a lease."""
        return max(self.until - now, 0.0)
