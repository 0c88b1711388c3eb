"""Clients that have vanished: no FIN and no RST ever comes from a phone without network.

Written bytes that nobody acknowledges end a connection after `TCP_USER_TIMEOUT`; an idle connection is
probed by the kernel (`SO_KEEPALIVE`). Both are set on the listening socket, whose connections inherit them.
They add up, so the time since the last acknowledgement is also read from the kernel.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

PROBES = 3  # of an idle connection, within the write timeout
MARGIN_SECONDS = 2.0  # by which the kernel is later than our own checks, which report why

_LINUX = sys.platform == "linux"
_TCP_INFO_BYTES = 60
_STATE_AND_LAST_ACK = struct.Struct("=B55xI")  # struct tcp_info of linux/tcp.h
_HALF_CLOSED, _CLOSED = 8, 7  # include/net/tcp_states.h


def watch_peers(listener: socket.socket, timeout: float) -> None:
    """Let the kernel end connections whose client has vanished for `timeout` seconds."""
    if not _LINUX:
        return
    interval = max(1, round(timeout / PROBES))
    milliseconds = int((timeout + MARGIN_SECONDS) * 1000)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


class Peer:
    """What the kernel knows about the other end of a connection.

    Attributes:
        has_closed: Whether it has closed its half or all of it; shows even while nothing is read.
        silent_seconds: Time since its last acknowledgement; None if unknown.
    """

    __slots__ = ("has_closed", "silent_seconds")

    def __init__(self, transport: Any) -> None:
        self.has_closed = False
        self.silent_seconds: float | None = None
        if not _LINUX:
            return
        try:
            raw = transport.get_extra_info("socket").getsockopt(
                socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES
            )
        except (OSError, AttributeError):  # closed meanwhile, or not TCP
            return
        if len(raw) == _TCP_INFO_BYTES:
            state, last_ack = _STATE_AND_LAST_ACK.unpack(raw)
            self.has_closed = state in {_HALF_CLOSED, _CLOSED}
            self.silent_seconds = last_ack / 1000
