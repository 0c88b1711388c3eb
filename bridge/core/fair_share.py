"""Which due poll of one credential starts next: first polls beside repeats, and connections in turn.

Rule 1: while repeats wait, every fourth start is a first poll; without repeats every start is.
Rule 2: while repeats wait, one connection gets at most every second of those (one start in eight), so that a
        flood of random ids leaves repeats seven starts of eight, and a newcomer the next turn.
Rule 3: inside their share connections take turns, one that had nothing waiting before the others, and none
        holds more than half of the places in flight: first polls may hang, too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

REPEATS_PER_FIRST = 3
REPEATS_PER_FIRST_OF_ONE = 7
NEW_PER_ROUND = 3
"""Turns in a row of connections that had nothing waiting, while others wait."""

Item = TypeVar("Item")

_NO_CONNECTION = object()  # None is a connection: the bridge itself


@dataclass(slots=True)
class FairShare(Generic[Item]):
    """First polls that are due, by the connection that asked for them.

    The caller keeps the repeats; it asks `next_first` before it starts one of them.
    """

    _queues: dict[Hashable, deque[Item]] = field(default_factory=dict)
    _new: dict[Hashable, None] = field(default_factory=dict)
    _new_in_a_row: int = 0
    _holding: dict[Hashable, int] = field(default_factory=dict)
    _since_first: int = REPEATS_PER_FIRST_OF_ONE
    _before: tuple[int, int, Hashable] = (REPEATS_PER_FIRST_OF_ONE, 0, _NO_CONNECTION)
    _last: Hashable = _NO_CONNECTION

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def add(self, connection: Hashable, item: Item) -> None:
        """A first poll is due. `connection` is the subscriber (or caller) that asked for the task."""
        if connection not in self._queues:
            self._queues[connection] = deque()
            self._new[connection] = None
        self._queues[connection].append(item)

    def queued_by(self, connection: Hashable) -> int:
        """First polls of this connection that wait for their turn."""
        return len(self._queues.get(connection, ()))

    def next_first(self, *, repeats_wait: bool, in_flight: int, share: int, limit: int) -> Item | None:
        """The first poll to start now; None when a repeat goes first, or nothing may start.

        Args:
            repeats_wait: Whether a repeat is due.
            in_flight: First polls on their way.
            share: Places in flight for first polls while repeats wait.
            limit: Places in flight for first polls while no repeat waits.
        """
        places = share if repeats_wait else limit
        if in_flight >= places or (repeats_wait and self._since_first < REPEATS_PER_FIRST):
            return None
        each = max(places // 2, 1)
        # The connection served last has its turn after all others, so a newcomer gets the next one.
        again = not repeats_wait or self._since_first >= REPEATS_PER_FIRST_OF_ONE
        fallback = self._last if again and self._last in self._queues else _NO_CONNECTION
        new_first = self._new if self._new_in_a_row < NEW_PER_ROUND else ()
        chosen = next(
            (
                connection
                for connection in chain(new_first, self._queues)
                if connection != self._last and self._holding.get(connection, 0) < each
            ),
            _NO_CONNECTION if self._holding.get(fallback, 0) >= each else fallback,
        )
        queue = self._queues.pop(chosen, None)
        if queue is None:
            return None
        self._before = self._since_first, self._new_in_a_row, self._last
        self._new_in_a_row = self._new_in_a_row + 1 if chosen in self._new else 0
        self._new.pop(chosen, None)
        item = queue.popleft()
        if queue:
            self._queues[chosen] = queue  # behind all others: dicts keep their order
        self._holding[chosen] = self._holding.get(chosen, 0) + 1
        self._since_first, self._last = 0, chosen
        return item

    def repeat_started(self) -> None:
        """A repeat went out: first polls come a step nearer to their turn."""
        self._since_first += 1

    def finished(self, connection: Hashable) -> None:
        """A first poll of this connection has ended."""
        left = self._holding.get(connection, 0) - 1
        if left > 0:
            self._holding[connection] = left
        else:
            self._holding.pop(connection, None)

    def not_started(self, connection: Hashable) -> None:
        """The first poll that `next_first` gave out last is needed no more: the turn is another's."""
        self.finished(connection)
        self._since_first, self._new_in_a_row, self._last = self._before

    def drop(self, connection: Hashable) -> None:
        """The connection is gone: its first polls wait no longer."""
        self._queues.pop(connection, None)
        self._new.pop(connection, None)
