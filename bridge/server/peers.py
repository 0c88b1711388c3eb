"""Clients that have vanished: no FIN and no RST ever comes from a phone without network.

Written bytes that are never acknowledged end a connection after `TCP_USER_TIMEOUT`; an idle connection is
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
_CLOSED = 7
_LEFT = frozenset({_CLOSED, 8})  # TCP_CLOSE and TCP_CLOSE_WAIT of include/net/tcp_states.h


def watch_peers(listener: socket.socket, timeout: float) -> None:
    """Let the kernel end connections whose client has vanished for `timeout` seconds."""
    if not _LINUX:
        return
    interval = _probe_interval(timeout)
    milliseconds = int((timeout + MARGIN_SECONDS) * 1000)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, interval)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def silence_limit(timeout: float) -> float:
    """Seconds without an acknowledgement after which a client has vanished: at least those of all probes.

    The kernel probes once a second at most, so with a shorter timeout an idle client would seem to be gone.
    """
    return max(timeout, float(PROBES * _probe_interval(timeout)))


def _probe_interval(timeout: float) -> int:
    return max(1, round(timeout / PROBES))


def peer_status(transport: Any) -> tuple[bool, float]:
    """What the kernel knows about the other end of a connection.

    Returns:
        Whether it has closed its half or all of it, which shows even while nothing is read; and the seconds
        since its last acknowledgement. Nothing is known on other systems than Linux.
    """
    if not _LINUX:
        return False, 0.0
    try:
        raw = transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES
        )
        state, milliseconds = _STATE_AND_LAST_ACK.unpack(raw)
    except (OSError, AttributeError, struct.error):  # closed meanwhile, or not TCP
        return False, 0.0
    return state in _LEFT, milliseconds / 1000


def peer_address(transport: Any) -> tuple[str, int] | None:
    """Address and port of the other end, as the transport keeps them; None if it has none."""
    return _host_and_port(transport.get_extra_info("peername"))


def own_address(transport: Any) -> tuple[str, int] | None:
    """Address and port at which the client reached us."""
    return _host_and_port(transport.get_extra_info("sockname"))


def _host_and_port(name: Any) -> tuple[str, int] | None:
    # Of IPv6 there are four: the rest says nothing to the application.
    return (str(name[0]), int(name[1])) if isinstance(name, tuple | list) and len(name) > 1 else None


def was_reset(transport: Any) -> bool:
    """Whether the connection has ended, which the event loop has not noticed while nothing is read."""
    try:
        raw = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
    except (OSError, AttributeError, ValueError):  # closed meanwhile, or not TCP
        return False
    return _LINUX and raw[0] == _CLOSED
