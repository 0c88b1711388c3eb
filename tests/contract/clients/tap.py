"""A relay between a client and the bridge that records the bytes and can delay them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from tests.harness import PATIENCE

KEEPALIVE_CHUNK = b"\r\n2\r\n:\n\r\n"
CLOSED_BY_AGE = b'"reason":"age"'
_A_DAY, _A_MOMENT = b"retry: 86400000", b"retry: 00000100"

_REQUEST = re.compile(rb"GET \S+ HTTP/1\.1\r\n(?:.*?\r\n)?\r\n", re.DOTALL)
_LAST_ID = re.compile(rb"\r\nlast-event-id: *(\S+)\r\n", re.IGNORECASE)
_ANSWER = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass
class Tap:
    """What one client and the bridge said to each other, but for the day's `retry:` of an end, made short.

    Attributes:
        asked: All bytes of the client that came through.
        heard: All bytes of the bridge.
    """

    target: str
    url: str = ""
    asked: bytearray = field(default_factory=bytearray)
    heard: bytearray = field(default_factory=bytearray)
    _door: asyncio.Event = field(default_factory=asyncio.Event)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _relays: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def last_ids(self) -> list[str | None]:
        """With which Last-Event-ID each request came."""
        found = [_LAST_ID.search(head) for head in _REQUEST.findall(self.asked)]
        return [one[1].decode() if one else None for one in found]

    @property
    def statuses(self) -> list[int]:
        """How each request was answered."""
        return [int(code) for code in _ANSWER.findall(self.heard)]

    def heard_times(self, what: bytes) -> int:
        """How often the bridge said something."""
        return self.heard.count(what)

    async def until(self, told: Callable[[], bool]) -> None:
        """Wait for the conversation to come to a point."""
        async with asyncio.timeout(PATIENCE):
            while not told():
                self._moved.clear()
                await self._moved.wait()

    def shut(self) -> None:
        """From now on nothing that the client says comes through, so it is away once it is cut off."""
        self._door.clear()

    def open(self) -> None:
        """Let through what waits."""
        self._door.set()

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Relay one connection."""
        relay = asyncio.current_task()
        self._relays.add(relay)
        host, port = urlsplit(self.target).hostname, urlsplit(self.target).port
        bridge, to_bridge = await asyncio.open_connection(host, port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(client, to_bridge, self.asked, self._door))
                both.create_task(self._copy(bridge, to_client, self.heard, None))
        finally:
            to_bridge.close()
            to_client.close()
            self._relays.discard(relay)

    async def stop(self) -> None:
        """Cut every connection."""
        relays = list(self._relays)
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _copy(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        record: bytearray,
        door: asyncio.Event | None,
    ) -> None:
        try:
            while data := await source.read(65_536):
                if door is not None:
                    await door.wait()
                record += data
                self._moved.set()
                # Who comes back after `end` waits for a day: not in a test.
                sink.write(data.replace(_A_DAY, _A_MOMENT))
                await sink.drain()
        except ConnectionError:
            pass  # either side may leave at any moment
        finally:
            sink.close()


@asynccontextmanager
async def tapped(target: str) -> AsyncIterator[Tap]:
    """A tap in front of a bridge."""
    tap = Tap(target)
    tap.open()
    server = await asyncio.start_server(tap.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    tap.url = f"http://{host}:{port}"
    try:
        yield tap
    finally:
        server.close()
        await tap.stop()
        await server.wait_closed()
