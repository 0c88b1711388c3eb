"""A request that has arrived waits for its turn as long as it takes; one that has not arrived is late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from uvicorn.server import ServerState

from bridge.server.connection import HttpConnection
from bridge.server.turns import RequestTurns
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n"
LIMIT = 10.0


class Closed(RequestTurns):
    """Nothing begins before `open` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[HttpConnection] = []
        self.came = asyncio.Event()

    def may_begin(self, connection: HttpConnection, data: bytes) -> bool:  # type: ignore[override]
        """Never."""
        return False

    def wait(self, connection: HttpConnection) -> None:  # type: ignore[override]
        """Until `open`."""
        self.waiting.append(connection)
        self.came.set()

    def open(self) -> None:
        """Everything that waits begins."""
        for connection in self.waiting:
            connection.continue_reading()


@asynccontextmanager
async def connected(
    kind: type[HttpConnection],
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, Callable[[], HttpConnection]]]:
    """A client, and its connection at the other end."""
    config = uvicorn.Config(PlainTextResponse("served"), log_config=None)
    made: list[HttpConnection] = []

    def accept() -> HttpConnection:
        made.append(kind(config=config, server_state=ServerState(), app_state={}))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        yield reader, writer, lambda: made[0]
        writer.close()


async def test_what_waits_for_its_turn_is_served_however_long_that_takes() -> None:
    turns = Closed()
    kind = type("Waiting", (HttpConnection,), {"turns": turns})
    async with connected(kind) as (reader, writer, connection):
        writer.write(REQUEST)
        await turns.came.wait()
        for seconds in (LIMIT, 5 * LIMIT, 100 * LIMIT):
            connection().check_timeout(asyncio.get_running_loop().time() + seconds, LIMIT, LIMIT)
        assert not connection().transport.is_closing()
        turns.open()
        assert (await reader.read()).endswith(b"served")


async def test_half_a_request_that_waited_for_its_turn_is_late_afterwards() -> None:
    turns = Closed()
    kind = type("Waiting", (HttpConnection,), {"turns": turns})
    async with connected(kind) as (reader, writer, connection):
        writer.write(REQUEST[:20])
        await turns.came.wait()
        now = asyncio.get_running_loop().time()
        connection().check_timeout(now + 5 * LIMIT, LIMIT, LIMIT)
        turns.open()
        connection().check_timeout(now + LIMIT / 2, LIMIT, LIMIT)
        assert not connection().transport.is_closing()
        connection().check_timeout(asyncio.get_running_loop().time() + LIMIT, LIMIT, LIMIT)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
