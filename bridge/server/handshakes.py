"""TLS handshakes that are not complete: how many begin at each turn, how many are kept, and for how long."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from bridge.server.turns import RequestTurns

if TYPE_CHECKING:
    from bridge.server.connection import HttpConnection
    from bridge.server.tls import TlsConnection

HANDSHAKES_PER_TURN = 2  # the signature of one takes a millisecond with an RSA key
MAX_BEGUN = 1000  # each holds about 50 KB
MAX_LOGGED = 64  # reasons; a client can send some of them at will

logger = logging.getLogger(__name__)


class Handshakes:
    """The connections of all listeners that have not shaken hands.

    A handshake costs a signature, as much time as a request or two, so they take turns like requests. A
    client that begins one and does not continue holds more memory than an idle connection: above `MAX_BEGUN`
    the oldest of the address that has the most of them ends. Others need one round trip.

    Args:
        context: The newest context, for the next handshake.
        make_protocol: Makes the HTTP connection behind a complete one.
    """

    def __init__(
        self, context: Callable[[], ssl.SSLContext], make_protocol: Callable[[], HttpConnection]
    ) -> None:
        self.context = context
        self.make_protocol = make_protocol
        self.turns = RequestTurns(HANDSHAKES_PER_TURN)
        self._open: dict[TlsConnection, None] = {}  # in the order they were accepted
        self._begun: dict[str, dict[TlsConnection, None]] = {}  # by address
        self._count = 0
        self._logged: set[str] = set()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: TlsConnection) -> None:
        """A connection was accepted."""
        self._open[connection] = None

    def begin(self, connection: TlsConnection) -> None:
        """It has sent the first bytes of a handshake."""
        self._begun.setdefault(connection.address, {})[connection] = None
        self._count += 1
        if self._count > MAX_BEGUN:
            crowd = max(self._begun.values(), key=len)
            next(iter(crowd)).abort()

    def discard(self, connection: TlsConnection) -> None:
        """Its handshake is complete, or it has ended. Idempotent."""
        self._open.pop(connection, None)
        of_address = self._begun.get(connection.address)
        if of_address is None or connection not in of_address:
            return
        del of_address[connection]
        self._count -= 1
        if not of_address:
            del self._begun[connection.address]

    def check_timeout(self, now: float, timeout: float) -> None:
        """End those that were accepted `timeout` seconds before `now` (the event loop's time)."""
        for connection in list(self._open):
            if now - connection.since < timeout:
                return
            connection.close()

    def close(self) -> None:
        """End all of them."""
        for connection in list(self._open):
            connection.abort()

    def failed(self, reason: str) -> None:
        """Log why a handshake failed, each reason once: scanners fail all day."""
        if reason not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(reason)
            logger.warning("TLS handshake failed", extra={"error": reason})
        else:
            logger.debug("TLS handshake failed", extra={"error": reason})
