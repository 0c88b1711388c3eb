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

    Each is kept as a hash, with a key of this process, and not as the names it consists of:
    those are as long as clients make them. With more than `size` answers a second, the oldest are forgotten.

    Args:
        size: The most answers kept.
    """

    size: int = MAX_ANSWERS
    _times: OrderedDict[int, float] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._times)

    def give(self, answer: Hashable, *, now: float) -> None:
        """Remember that an answer is given now.

        Args:
            answer: The client and what it gets.
            now: Monotonic seconds, never less than before.
        """
        number = hash(answer)
        self._times[number] = now
        self._times.move_to_end(number)
        oldest = next(iter(self._times))
        while len(self._times) > self.size or self._times[oldest] + REPEAT_SECONDS <= now:
            del self._times[oldest]
            oldest = next(iter(self._times))

    def wait(self, answer: Hashable, *, now: float) -> float:
        """Seconds until an answer may be given again; 0 for at once."""
        given_at = self._times.get(hash(answer))
        return 0.0 if given_at is None else max(given_at + REPEAT_SECONDS - now, 0.0)
