"""Very many clients that ask for one stream and read nothing of it but its first bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Self

from tests.chaos.proxy import LINGER_0
from tests.harness import PATIENCE

_AT_ONCE = 200


class Crowd:
    """Bare sockets: a client costs a descriptor and nothing else.

    Args:
        receive_buffer: The size of each one's kernel buffer; small for those who are to get stuck.
    """

    def __init__(self, address: tuple[str, int], path: str, *, receive_buffer: int | None = None) -> None:
        self._address = address
        self._request = f"GET {path} HTTP/1.1\r\nHost: bridge\r\n\r\n".encode()
        self._receive_buffer = receive_buffer
        self.sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no socket to be collected in another test, whatever failed in this one."""
        self.vanish()

    async def come(self, number: int) -> None:
        """So many more; returns once each was answered."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def one() -> None:
            async with at_once, asyncio.timeout(PATIENCE):
                self.sockets.append(await self._connected())

        await asyncio.gather(*(one() for _ in range(number)))

    def vanish(self) -> None:
        """All of them, at once, by a reset."""
        for one in self.sockets:
            one.close()
        self.sockets = []

    async def _connected(self) -> socket.socket:
        loop = asyncio.get_running_loop()
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if self._receive_buffer is not None:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
            made.setblocking(False)
            await loop.sock_connect(made, self._address)
            await loop.sock_sendall(made, self._request)
            said = await loop.sock_recv(made, 32)
        except BaseException:
            made.close()
            raise
        if not said.startswith(b"HTTP/1.1 200"):
            with contextlib.suppress(OSError):
                made.close()
            raise ConnectionError(f"answered with {said!r}")
        return made
