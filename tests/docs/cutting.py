"""A connection that breaks at the worst moment: the final state has come, the end has not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_FINAL_STATE = re.compile(rb'[^\n]*"status":"completed"[^\n]*\n')
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass
class Cut:
    """What went through.

    Attributes:
        statuses: How each request was answered, first to last.
    """

    target: str
    url: str = ""
    statuses: list[int] = field(default_factory=list)
    _cut: bool = False
    _relays: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Relay one connection, up to the first final state that ever comes."""
        relay = asyncio.current_task()
        self._relays.add(relay)
        place = urlsplit(self.target)
        bridge, to_bridge = await asyncio.open_connection(place.hostname, place.port)
        asking = asyncio.create_task(_copy(client, to_bridge))
        try:
            await self._answer(bridge, to_client)
        except ConnectionError:
            pass  # either side may leave at any moment
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            to_bridge.close()
            to_client.close()
            self._relays.discard(relay)

    async def stop(self) -> None:
        """Cut what is left."""
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _answer(self, bridge: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while data := await bridge.read(65_536):
            self.statuses += map(int, _STATUS.findall(data))
            final = _FINAL_STATE.search(data)
            if final is not None and not self._cut:
                self._cut = True
                to_client.write(data[: final.end()])
                await to_client.drain()
                return
            to_client.write(data)
            await to_client.drain()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        sink.write(data)
        await sink.drain()


@asynccontextmanager
async def cut_after_the_final_state(target: str) -> AsyncIterator[Cut]:
    """A way to the bridge that breaks once."""
    cut = Cut(target)
    server = await asyncio.start_server(cut.serve, "127.0.0.1", 0)
    cut.url = "http://{}:{}".format(*server.sockets[0].getsockname())
    try:
        yield cut
    finally:
        server.close()
        await cut.stop()
        await server.wait_closed()
