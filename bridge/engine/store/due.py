"""Things that become due, the earliest first."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

_REBUILT_ABOVE = 64


class DueQueue(Generic[Item]):
    """Items by the time at which they are due; of equal times the one added first."""

    __slots__ = ("_count", "_due", "_heap")

    def __init__(self) -> None:
        self._due: dict[Item, tuple[int, int]] = {}
        # Outdated entries stay until they come to the top, or until they are most of it.
        self._heap: list[tuple[int, int, Item]] = []
        self._count = itertools.count()

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._due)

    def __contains__(self, item: Item) -> bool:
        return item in self._due

    def add(self, item: Item, due: int) -> None:
        """Add an item, or change when it is due."""
        order = next(self._count)
        self._due[item] = (due, order)
        heapq.heappush(self._heap, (due, order, item))
        if len(self._heap) > 2 * len(self._due) + _REBUILT_ABOVE:
            self._heap = [(due, order, item) for item, (due, order) in self._due.items()]
            heapq.heapify(self._heap)

    def remove(self, item: Item) -> bool:
        """Remove an item; False if it is not in it."""
        return self._due.pop(item, None) is not None

    def first(self) -> tuple[int, Item] | None:
        """The earliest, with its time."""
        while self._heap:
            due, order, item = self._heap[0]
            if self._due.get(item) == (due, order):
                return due, item
            heapq.heappop(self._heap)
        return None

    def pop(self, now: int) -> Item | None:
        """Take the earliest that is due."""
        first = self.first()
        if first is None or first[0] > now:
            return None
        heapq.heappop(self._heap)
        del self._due[first[1]]
        return first[1]
