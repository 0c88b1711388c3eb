"""How much begins at each turn of the event loop: a few requests, and a few TLS handshakes."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Any, Protocol

from bridge.server.peers import was_reset

REQUESTS_PER_TURN = 4  # each counts once more per kilobyte
PROBES = (b"GET /livez ", b"GET /readyz ")
MAX_WEIGHED = 64 * 1024  # bytes


class WaitingConnection(Protocol):
    """A connection with bytes that it has not processed yet."""

    loop: asyncio.AbstractEventLoop
    client: tuple[str, int] | None
    transport: Any

    def continue_reading(self) -> int:
        """Process them; how much of a turn that takes."""
        ...


class RequestTurns:
    """Which requests begin at this turn of the event loop: a few, by turns of addresses.

    Otherwise a thousand connections whose requests arrive together would have a thousand requests under way,
    and all others would wait for each step of all of them. A probe of an orchestrator has a share of its own.

    Args:
        per_turn: How many begin at one turn.
    """

    def __init__(self, per_turn: int = REQUESTS_PER_TURN) -> None:
        self._per_turn = per_turn
        self._waiting: OrderedDict[str, deque[WaitingConnection]] = OrderedDict()
        self._begun = self._probes = 0
        self._scheduled = False

    def may_begin(self, connection: WaitingConnection, data: bytes) -> bool:
        """Whether a request that has just arrived begins now; if not, let it `wait`."""
        self._schedule(connection)
        if data.startswith(PROBES):
            self._probes += 1
            return self._probes <= self._per_turn
        begun, self._begun = self._begun, self._begun + weight(data)
        return begun < self._per_turn and not self._waiting

    def wait(self, connection: WaitingConnection) -> None:
        """Continue `connection` when its turn comes."""
        address = connection.client[0] if connection.client else ""
        self._waiting.setdefault(address, deque()).append(connection)
        self._schedule(connection)

    def _schedule(self, connection: WaitingConnection) -> None:
        if not self._scheduled:
            self._scheduled = True
            connection.loop.call_soon(self._turn, connection.loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = self._probes = 0
        self._scheduled = False
        try:
            while self._waiting and self._begun < self._per_turn:
                self._begun += self._continue(self._next())
        finally:  # also when one of them raised: the others continue
            if self._waiting and not self._scheduled:
                self._scheduled = True
                loop.call_soon(self._turn, loop)

    def _next(self) -> WaitingConnection:
        address, connections = next(iter(self._waiting.items()))
        connection = connections.popleft()
        if connections:
            self._waiting.move_to_end(address)
        else:
            del self._waiting[address]
        return connection

    def _continue(self, connection: WaitingConnection) -> int:
        if connection.transport.is_closing():
            return 0
        if was_reset(connection.transport):
            connection.transport.abort()
            return 0
        return connection.continue_reading()


def weight(data: bytes) -> int:
    """How many requests a request counts as: one with a list of many tasks takes longer."""
    return 1 + min(len(data), MAX_WEIGHED) // 1024
