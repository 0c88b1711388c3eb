"""Takes plain connections and passes each on to a server with TLS, so that the load needs none.

python -m bench.peers.decrypt PORT SERVER_PORT
"""

from __future__ import annotations

import asyncio
import resource
import ssl
import sys
from typing import cast

import uvloop

MAX_SECONDS = 900


class Side(asyncio.Protocol):
    """One side of a connection; what it receives goes to the other."""

    def __init__(self, server_port: int | None = None) -> None:
        self._server_port = server_port
        self._early: list[bytes] = []
        self.transport: asyncio.Transport
        self.other: Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """On the plain side, connect to the server."""
        self.transport = cast("asyncio.Transport", transport)
        if self._server_port is not None:
            self._connecting = asyncio.ensure_future(self._connect(self._server_port))

    async def _connect(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        _, other = await loop.create_connection(
            Side, "127.0.0.1", port, ssl=ssl._create_unverified_context(), server_hostname="localhost"
        )
        other.other, self.other = self, other
        other.transport.write(b"".join(self._early))

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        if self.other is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        """Close the other side too."""
        del error
        if self.other is not None:
            self.other.transport.close()


async def serve(port: int, server_port: int) -> None:
    """Pass connections on."""
    loop = asyncio.get_running_loop()
    await loop.create_server(lambda: Side(server_port), "127.0.0.1", port, backlog=4096)
    await asyncio.sleep(MAX_SECONDS)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
