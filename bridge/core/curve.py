"""The distribution of a time, estimated from a few samples, and the best schedule of polls for it.

A poll costs a price `c`, in seconds of delay; a delay costs its seconds. With the hazard `h` of the end, the
best density of polls is `sqrt(h / 2c)` (J. B. Keller, Optimum inspection policies, Management Science 21,
1974). Its integral without the price, `effort`, is kept per knot, so the next poll is one search away.

Between knots the density is constant. A few samples claim no more than they show: a part `1 / (n + 1)` lies
before the first and as much after the last, where the hazard falls off slowly.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Final

MIN_SAMPLES = 3
_TAIL_SHAPE: Final = 1.5
_TAIL_WIDTH = 0.05  # of the greatest sample, at least: equal samples do not promise the next one
_NARROWEST = 1e-6  # of the greatest sample: the width of a cell whose samples are equal


class Curve:
    """A distribution of positive values.

    Args:
        samples: At least `MIN_SAMPLES` values of 0 and more, in any order.
        root: Mean square root of the seconds that a unit meant for each sample; 1.0 for samples in seconds.

    Attributes:
        size: Number of samples.
        cost: What the best schedule costs, by a price of 1/2, over all values.
    """

    __slots__ = ("_effort", "_falls", "_knots", "_narrow", "_survival", "_tail", "cost", "root", "size")

    def __init__(self, samples: Iterable[float], root: float = 1.0) -> None:
        ordered = sorted(samples)
        self.size = size = len(ordered)
        self.root = root
        greatest = max(ordered[-1], 1e-9)
        self._tail = _TAIL_SHAPE * max((ordered[-1] - ordered[0]) / 2, _TAIL_WIDTH * greatest)
        step = max(1, round(math.sqrt(size) / 2))
        places = [*range(0, size - 1, step), size - 1]
        self._knots = knots = [0.0]
        self._survival = survival = [1.0]
        self._effort = effort = [0.0]
        self._narrow: list[float] = []  # of each cell, the inverse of its density's square root
        self.cost = 0.0
        for place in places:
            width = max(ordered[place] - knots[-1], _NARROWEST * greatest)
            before, after = survival[-1], 1.0 - (place + 1) / (size + 1)
            narrow = math.sqrt(width / (before - after))
            self._narrow.append(narrow)
            knots.append(knots[-1] + width)
            survival.append(after)
            effort.append(effort[-1] + 2 * narrow * (math.sqrt(before) - math.sqrt(after)))
            self.cost += 2 / 3 * narrow * (before * math.sqrt(before) - after * math.sqrt(after))
        self._falls = [-one for one in survival]  # in the order that `bisect` needs
        # Of the tail, where the density is that of a Pareto distribution.
        self.cost += math.sqrt(_TAIL_SHAPE * self._tail) / (_TAIL_SHAPE - 0.5) * survival[-1]

    def survival(self, x: float) -> float:
        """The part of values above `x`."""
        cell, knots = self._cell(x), self._knots
        if cell is None:
            tail: float = (self._tail / (x - knots[-1] + self._tail)) ** _TAIL_SHAPE
            return self._survival[-1] * tail
        part = (x - knots[cell]) / (knots[cell + 1] - knots[cell])
        before, after = self._survival[cell], self._survival[cell + 1]
        return before + part * (after - before)

    def effort(self, x: float) -> float:
        """Polls until `x` of the best schedule, times the square root of twice the price."""
        cell = self._cell(x)
        if cell is None:
            beyond = math.sqrt(x - self._knots[-1] + self._tail) - math.sqrt(self._tail)
            return self._effort[-1] + 2 * math.sqrt(_TAIL_SHAPE) * beyond
        spent = math.sqrt(self._survival[cell]) - math.sqrt(self.survival(x))
        return self._effort[cell] + 2 * self._narrow[cell] * spent

    def when(self, effort: float) -> float:
        """The value at which `effort` is reached."""
        if effort >= self._effort[-1]:
            more = (effort - self._effort[-1]) / (2 * math.sqrt(_TAIL_SHAPE))
            return self._knots[-1] + (more + math.sqrt(self._tail)) ** 2 - self._tail
        cell = bisect_right(self._effort, effort) - 1
        before, after = self._survival[cell], self._survival[cell + 1]
        reached = (math.sqrt(before) - (effort - self._effort[cell]) / (2 * self._narrow[cell])) ** 2
        width = self._knots[cell + 1] - self._knots[cell]
        return self._knots[cell] + width * (before - reached) / (before - after)

    def quantile(self, part: float, *, after: float = 0.0) -> float:
        """The value that `part` (0-1) of those above `after` do not exceed."""
        return self._where(self.survival(after) * (1 - part))

    def due_and_quantiles(self, x: float, more: float, p50: float, p90: float) -> tuple[float, float, float]:
        """The value at which `more` effort is spent than at `x`, and two quantiles of those above `x`.

        Args:
            p50: The part (0-1) of the values above `x` that the first quantile is for.
            p90: The same for the second.
        """
        knots, survivals = self._knots, self._survival
        if x >= knots[-1]:
            survival, effort = self.survival(x), self.effort(x)
        else:
            # As in `survival` and `effort`, without calls: this runs for every poll.
            cell = bisect_right(knots, x) - 1
            survival = before = survivals[cell]
            survival += (x - knots[cell]) / (knots[cell + 1] - knots[cell]) * (survivals[cell + 1] - before)
            effort = self._effort[cell] + 2 * self._narrow[cell] * (math.sqrt(before) - math.sqrt(survival))
        due = self.when(effort + more)
        return due, self._where(survival * (1 - p50)), self._where(survival * (1 - p90))

    def _where(self, left: float) -> float:
        """The value above which `left` of all lie."""
        last = self._survival[-1]
        if left < last:
            beyond: float = (last / left) ** (1 / _TAIL_SHAPE) - 1
            return self._knots[-1] + self._tail * beyond
        low = bisect_left(self._falls, -left, 1) - 1
        high = low + 1
        before, rest = self._survival[low], self._survival[high]
        return self._knots[low] + (self._knots[high] - self._knots[low]) * (before - left) / (before - rest)

    @property
    def sharpness(self) -> float:
        """Of the cost of a poller with fixed intervals, what the best schedule costs: 0 to about 1."""
        spread = [
            (self._survival[cell] + self._survival[cell + 1])
            / 2
            * (self._knots[cell + 1] - self._knots[cell])
            for cell in range(len(self._knots) - 1)
        ]
        mean = sum(spread) + self._survival[-1] * self._tail / (_TAIL_SHAPE - 1)
        return self.cost**2 / mean if mean else 1.0

    def _cell(self, x: float) -> int | None:
        """The number of the cell that `x` is in; None beyond the last knot."""
        if x >= self._knots[-1]:
            return None
        return max(bisect_right(self._knots, x) - 1, 0)
