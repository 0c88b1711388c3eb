"""How soon to look again."""

from __future__ import annotations

from dataclasses import dataclass

MAX_WAIT = 300.0

_GROWTH = 1.25
_MAX_STEPS = 40
_MAX_BACKOFF = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The bounds of one upstream, in seconds.

    Args:
        min_seconds: Never look more often than this.
        max_seconds: Never look less often, unless the provider or an error asks for it.
        recommended_seconds: What the provider's own documentation advises.
        safety_net_seconds: How often to look while a healthy stream tells us everything.
    """

    min_seconds: float = 2.0
    max_seconds: float = 10.0
    recommended_seconds: float = 2.0
    safety_net_seconds: float = 60.0

    def delay(
        self, *, rng: float, unchanged: int, eta_seconds: float | None, poll_after: float | None
    ) -> float:
        """Seconds until the next look at an open task.

        Args:
            chance: 0-1, for jitter; many tasks started together must not stay together.
            unchanged: Looks in a row that brought no news.
            eta_seconds: Estimated time left. Looking at half of what is left finds the end
                soon without asking often in the middle.
            poll_after: What the provider asked for with its last answer.
        """
        if poll_after is not None:
            return min(max(poll_after, self.min_seconds), MAX_WAIT)
        if eta_seconds is not None and eta_seconds > 0:
            wish = eta_seconds / 2
        else:
            wish = self.recommended_seconds * _GROWTH ** min(unchanged, _MAX_STEPS)
        return min(max(wish * (0.9 + 0.2 * rng), self.min_seconds), self.max_seconds)

    def backoff(self, *, rng: float, failures: int, retry_after: float | None) -> float:
        """Seconds until the next look after `failures` looks in a row saw nothing."""
        wish = min(self.min_seconds * 2.0 ** min(failures - 1, 10), _MAX_BACKOFF) * (0.75 + rng / 2)
        return min(max(wish, self.min_seconds, retry_after or 0.0), MAX_WAIT)


@dataclass(slots=True)
class CallbackSupport:
    """Whether the callbacks of one upstream come, as far as the ends of its tasks showed.

    Attributes:
        come: True until a look finds an end that nobody called about, and again once somebody calls.
    """

    come: bool = True
