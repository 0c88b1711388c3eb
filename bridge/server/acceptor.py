"""Accepts connections: a few at each turn of the event loop, and none that its client has reset already."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

ACCEPTED_PER_TURN = 16
TRIED_PER_TURN = 256  # with those that were reset while they waited
PAUSE_SECONDS = 0.2  # after an error, such as no free file descriptor

logger = logging.getLogger(__name__)


class Acceptor:
    """Takes the place of the event loop's own server, which takes one per turn, or the whole backlog.

    With one, the queue of the listening socket grows behind clients that open and reset connections, and a
    new client waits for all of it.
    """

    def __init__(self, listener: socket.socket, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make_protocol = make_protocol
        self._starting: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Accept no more; the socket stays open. Idempotent."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()

    async def wait_closed(self) -> None:
        """Return at once: the connections are counted elsewhere."""

    def _accept(self) -> None:
        started = 0
        for _ in range(TRIED_PER_TURN):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError as error:
                self._loop.remove_reader(self._listener)
                self._pause = self._loop.call_later(PAUSE_SECONDS, self._resume)
                logger.warning("connections cannot be accepted", extra={"why": str(error)})
                return
            if _is_reset(connection):
                connection.close()
                continue
            starting = self._loop.create_task(self._start(connection))
            self._starting.add(starting)
            starting.add_done_callback(self._starting.discard)
            started += 1
            if started == ACCEPTED_PER_TURN:
                return

    async def _start(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection)
        except OSError:
            connection.close()  # the client has left meanwhile

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)


def _is_reset(connection: socket.socket) -> bool:
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return False  # also at the end of what it sends: its requests are answered
