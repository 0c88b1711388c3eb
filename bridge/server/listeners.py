"""Listening sockets: one, or one for each worker on the same port."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from bridge.server.peers import watch_peers

BACKLOG = 4096
LISTENERS = ("bridge", "bridge operations")  # of callers; of operators, where they have their own
SEND_BUFFER = 64 * 1024

RELEASE_SECONDS = 5.0
"""So long the workers of a killed service may keep its address: one that has just started notices late."""

_RETRY_SECONDS = 0.1

_Listening = TypeVar("_Listening")

logger = logging.getLogger(__name__)

# Elsewhere the kernel does not spread connections over sockets of one port.
_SPREADS = sys.platform == "linux"


def listen(
    host: str, port: int, vanish_seconds: float = 30.0, *, beside: socket.socket | None = None
) -> socket.socket:
    """A listening socket whose connections have small kernel send buffers, and notice vanished clients.

    By default the kernel buffers megabytes for a client that has stopped reading, and hides that from us.

    Args:
        vanish_seconds: How long a client that has vanished may keep its connection.
        beside: A listener of the same address: the kernel spreads new connections over both.

    Raises:
        OSError: The address cannot be bound; its `filename` is the address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        if beside is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        watch_peers(listener, vanish_seconds)
        listener.bind((host.strip("[]"), port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from error
    listener.setblocking(False)
    return listener


def listen_together(host: str, port: int, number: int, vanish_seconds: float = 30.0) -> list[socket.socket]:
    """Listeners of one address, one for each of `number` workers; only one where that is not possible.

    They belong to the process that restarts the workers, which outlive none of its queues: a connection that
    waits for a worker that has died, or is replaced, is accepted by another one.

    Raises:
        OSError: As `listen`; also if another program, such as this one started twice, has the address.
    """
    # The first one is bound alone: otherwise a second start would silently take half of the connections.
    first = listen(host, port, vanish_seconds)
    if not _SPREADS:
        return [first]
    listeners = [first]
    try:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        port = first.getsockname()[1]
        listeners += [listen(host, port, vanish_seconds, beside=first) for _ in range(number - 1)]
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def listen_when_released(
    bind: Callable[[], _Listening], *, sleep: Callable[[float], None] = time.sleep
) -> _Listening:
    """Call `bind`, and again for some seconds while its address is in use.

    Raises:
        OSError: As `bind`.
    """
    for _ in range(round(RELEASE_SECONDS / _RETRY_SECONDS)):
        try:
            return bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        sleep(_RETRY_SECONDS)
    return bind()


def report_listening(listener: socket.socket, name: str, *, tls: bool, announces: bool) -> None:
    """Log the address of a listener, and print it."""
    host, port = listener.getsockname()[:2]
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    scheme = "https" if tls else "http"
    if announces:
        _announce(f"{name} listening on {scheme}://{address}")
    logger.info("listening", extra={"listener": name, "address": address, "scheme": scheme})


def _announce(sentence: str) -> None:
    """Print to standard output, where scripts read it; a closed standard output is not an error."""
    try:
        print(sentence, flush=True)  # noqa: T201 - see above
    except OSError:
        # The sentence is still in Python's buffer, and flushing it at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
