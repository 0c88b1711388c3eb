"""Which answers were given a moment ago, so that a loop gets each of them once a second at most."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

REPEAT_SECONDS = 1.0
MAX_ANSWERS = 16_384


@dataclass(slots=True)
class RecentAnswers:
    """The answers of the last second, in a memory of fixed size.

    Each is kept as a hash, which Python keys anew in every process, and not as the names it consists of:
    those are as long as clients make them. With more than `size` answers a second, the oldest are forgotten.

    Args:
        size: The most answers kept.
    """

    size: int = MAX_ANSWERS
    _given: OrderedDict[int, float] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._given)

    def give(self, answer: Hashable, *, now: float) -> None:
        """Remember that an answer is given now.

        Args:
            answer: To whom, and what.
            now: Monotonic seconds, never less than before.
        """
        number = hash(answer)
        self._given[number] = now
        self._given.move_to_end(number)
        oldest = next(iter(self._given))
        while len(self._given) > self.size or self._given[oldest] + REPEAT_SECONDS <= now:
            del self._given[oldest]
            oldest = next(iter(self._given))

    def wait(self, answer: Hashable, *, now: float) -> float:
        """Seconds until an answer may be given again; 0 for at once."""
        given_at = self._given.get(hash(answer))
        return 0.0 if given_at is None else max(given_at + REPEAT_SECONDS - now, 0.0)
