"""A client may come with a cursor that this replica has not received yet: what it waits for, and how long."""

from __future__ import annotations

from collections.abc import Callable

from bridge.clock import Clock
from bridge.core.cursor import Cursor, is_later
from bridge.replica.connection import Connection

CAUGHT_UP_SECONDS = 2.0


class Cursors:
    """Waits until this replica knows what the client with a cursor has seen.

    Args:
        head: The newest offset up to which everything is known here.
    """

    def __init__(self, connection: Connection, clock: Clock, head: Callable[[], int]) -> None:
        self._connection = connection
        self._clock = clock
        self._head = head

    async def caught_up(self, cursor: Cursor) -> bool:
        """See `Journal`."""
        connection = self._connection
        if cursor.epoch != connection.epoch:
            if is_later(cursor.epoch, connection.epoch):
                return await self._epoch_came(cursor.epoch)
            return await self._settling_over()
        if cursor.offset <= self._head():
            return True
        await self._ahead(cursor)
        if cursor.epoch != connection.epoch or not connection.current:
            return False
        # What it has received is all there is: an offset beyond it is of no history here.
        return cursor.offset <= self._head() or self._head() >= connection.head

    async def _ahead(self, cursor: Cursor) -> None:
        """Wait for a while until an offset was received, also through a short outage."""
        connection = self._connection
        until = self._clock.monotonic() + CAUGHT_UP_SECONDS
        while connection.epoch == cursor.epoch and self._head() < cursor.offset:
            left = until - self._clock.monotonic()
            away = connection.away_since
            if left <= 0 or (away is not None and self._clock.monotonic() - away > CAUGHT_UP_SECONDS):
                return
            await self._clock.wait(connection.news, left)

    async def _settling_over(self) -> bool:
        """Wait until who knows more than the engine has recorded it; whether that was, in time.

        That takes a second from each return of the engine. While it is away, no bridge can.
        """
        connection = self._connection
        until = self._clock.monotonic() + CAUGHT_UP_SECONDS
        while connection.settles_in > 0 and (left := until - self._clock.monotonic()) > 0:
            if connection.up:
                await self._clock.sleep(min(connection.settles_in, left))
            else:
                await self._clock.wait(connection.news, left)
        return connection.settles_in == 0

    async def _epoch_came(self, epoch: str) -> bool:
        """Wait until this replica is in that epoch, or is known to be in the newest one."""
        connection = self._connection
        until = self._clock.monotonic() + CAUGHT_UP_SECONDS
        while connection.epoch != epoch and (left := until - self._clock.monotonic()) > 0:
            # A renewal within this time says which epoch it is.
            await self._clock.sleep(min(left, 0.05))
        return connection.up
