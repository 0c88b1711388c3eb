"""Which due poll of one credential starts next: first polls beside repeats, and parties in turn.

Rule 1: while repeats wait, every fourth start is a first poll; without repeats every start is.
Rule 2: while repeats wait, one connection gets at most every second of those (one start in eight), so that a
        flood of random ids leaves repeats seven starts of eight, and a newcomer the next turn.
Rule 3: inside their share callers and addresses take turns, and inside those their connections; one that had
        nothing waiting goes before the others, and no connection holds more than half of the places in
        flight: first polls may hang, too. So a flood by ever new connections is still one party.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

REPEATS_PER_FIRST = 3
REPEATS_PER_FIRST_OF_ONE = 7
NEW_PER_ROUND = 3
"""Turns in a row of connections that had nothing waiting, while others wait."""

Item = TypeVar("Item")

_NO_CONNECTION = object()  # None is a connection: the bridge itself


class _Turns:
    """Names that take turns; one that had nothing waiting goes before the others, within limits."""

    __slots__ = ("_names", "_new", "new_in_a_row")

    def __init__(self) -> None:
        self._names: dict[Hashable, None] = {}  # dicts keep their order
        self._new: dict[Hashable, None] = {}
        self.new_in_a_row = 0

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Hashable]:
        return chain(self._new if self.new_in_a_row < NEW_PER_ROUND else (), self._names)

    def add(self, name: Hashable) -> None:
        """It has something waiting."""
        if name not in self._names:
            self._names[name] = self._new[name] = None

    def took(self, name: Hashable, *, waits: bool) -> None:
        """It had its turn, and goes behind all others if it still waits."""
        self.new_in_a_row = self.new_in_a_row + 1 if name in self._new else 0
        self.remove(name)
        if waits:
            self._names[name] = None

    def remove(self, name: Hashable) -> None:
        """Nothing of it waits any longer."""
        self._names.pop(name, None)
        self._new.pop(name, None)


@dataclass(slots=True)
class FairShare(Generic[Item]):
    """First polls that are due, by the connection that asked for them.

    The caller keeps the repeats; it asks `next_first` before it starts one of them.
    """

    _queues: dict[Hashable, deque[Item]] = field(default_factory=dict)
    _party_of: dict[Hashable, Hashable] = field(default_factory=dict)
    _parties: _Turns = field(default_factory=_Turns)
    _connections: dict[Hashable, _Turns] = field(default_factory=dict)
    _waiting: int = 0
    _holding: dict[Hashable, int] = field(default_factory=dict)
    _since_first: int = REPEATS_PER_FIRST_OF_ONE
    _before: tuple[int, int, Hashable] = (REPEATS_PER_FIRST_OF_ONE, 0, _NO_CONNECTION)
    _last: Hashable = _NO_CONNECTION

    def __len__(self) -> int:
        return self._waiting

    def add(self, connection: Hashable, item: Item, *, party: Hashable = None) -> None:
        """A first poll is due.

        Args:
            connection: The subscriber that asked for the task.
            party: Whose connection it is, if that is known: parties take turns, and the connections of one
                inside its turns.
        """
        queue = self._queues.get(connection)
        if queue is None:
            queue = self._queues[connection] = deque()
            party = connection if party is None else party
            self._party_of[connection] = party
            self._parties.add(party)
            self._connections.setdefault(party, _Turns()).add(connection)
        queue.append(item)
        self._waiting += 1

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
        chosen = next(
            (
                connection
                for party in self._parties
                for connection in self._connections[party]
                if connection != self._last and self._holding.get(connection, 0) < each
            ),
            _NO_CONNECTION if self._holding.get(fallback, 0) >= each else fallback,
        )
        if chosen not in self._queues:
            return None
        self._before = self._since_first, self._parties.new_in_a_row, self._last
        item = self._take(chosen)
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
        self._since_first, self._parties.new_in_a_row, self._last = self._before

    def drop(self, connection: Hashable) -> None:
        """The connection is gone: its first polls wait no longer."""
        queue = self._queues.pop(connection, None)
        if queue is not None:
            self._waiting -= len(queue)
            self._forget(connection)

    def _take(self, connection: Hashable) -> Item:
        queue, party = self._queues[connection], self._party_of[connection]
        item = queue.popleft()
        self._waiting -= 1
        connections = self._connections[party]
        connections.took(connection, waits=bool(queue))
        self._parties.took(party, waits=len(connections) > 0)
        if not queue:
            del self._queues[connection], self._party_of[connection]
        if not connections:
            del self._connections[party]
        return item

    def _forget(self, connection: Hashable) -> None:
        party = self._party_of.pop(connection)
        self._connections[party].remove(connection)
        if not self._connections[party]:
            del self._connections[party]
            self._parties.remove(party)
