"""The TLS of one connection over real sockets: its write buffer, its end, and the places of handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, cast

import pytest

from bridge.config.certificate import make_certificate
from bridge.server import handshakes as module
from bridge.server.acceptor import Acceptor
from bridge.server.connection import HttpConnection
from bridge.server.handshakes import HANDSHAKES_PER_TURN, Handshakes
from bridge.server.listeners import listen
from bridge.server.tls import RECORD, TlsConnection
from tests.fakes.certificates import Authority

pytestmark = pytest.mark.anyio

AUTHORITY = Authority()
SERVED = AUTHORITY.pair()
CERTIFICATE = make_certificate(SERVED.certificate, SERVED.key)
PATIENCE = 20.0


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Served(asyncio.Protocol):
    """The HTTP connection behind the handshake."""

    def __init__(self, made: list[Served]) -> None:
        self.paused = False
        self.received = b""
        self.ended = self.lost = False
        made.append(self)

    def connection_made(self, transport: Any) -> None:
        self.transport: TlsConnection = transport

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        self.ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False


class Site:
    """A listener that speaks TLS, and the connections it has made."""

    def __init__(self) -> None:
        self.made: list[Served] = []
        self.clients: list[asyncio.StreamWriter] = []
        self.handshakes = Handshakes(
            lambda: CERTIFICATE.context, lambda: cast(HttpConnection, Served(self.made))
        )
        self.listener = listen("127.0.0.1", 0)
        self.address = self.listener.getsockname()
        self.acceptor = Acceptor(self.listener, partial(TlsConnection, self.handshakes))

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Served]:
        reader, writer = await self.open(ssl=AUTHORITY.trust)
        await until(lambda: bool(self.made))
        return reader, writer, self.made[-1]

    async def open(self, **more: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address, limit=4096, **more)
        self.clients.append(writer)
        return reader, writer

    async def close(self) -> None:
        self.acceptor.close()
        self.handshakes.close()
        self.listener.close()
        for writer in self.clients:
            with contextlib.suppress(AttributeError):  # of Python 3.11.2: it is lost already
                writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        await until(lambda: all(served.lost for served in self.made))
        await asyncio.sleep(0.01)  # for those that were still shaking hands


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - nobody tells us
            await asyncio.sleep(0.001)


@pytest.fixture
async def site(anyio_backend: str) -> AsyncIterator[Site]:
    made = Site()
    yield made
    await made.close()


def hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    client = AUTHORITY.trust.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("size", [1, RECORD, RECORD + 1, 3_000_000])
async def test_what_was_written_before_the_end_arrives_whole(site: Site, size: int) -> None:
    reader, writer, served = await site.connect()
    served.transport.write(b"x" * size)
    served.transport.write(b"end")
    served.transport.close()
    served.transport.write(b"too late")
    async with asyncio.timeout(PATIENCE):
        said = await reader.read()
    assert said == b"x" * size + b"end"
    writer.close()
    await until(lambda: served.lost)


async def test_what_a_client_does_not_take_is_not_encrypted(site: Site) -> None:
    reader, writer, served = await site.connect()
    cast(Any, writer.transport).pause_reading()
    transport, document = served.transport, b"x" * 4_000_000
    transport.write(document)
    await until(lambda: served.paused)
    before = transport.get_write_buffer_size()
    assert transport.transport.get_write_buffer_size() < 64 * 1024 + 2 * RECORD
    transport.write(document)
    assert transport.get_write_buffer_size() >= before + len(document) - 2 * RECORD
    assert transport.transport.get_write_buffer_size() < 64 * 1024 + 2 * RECORD
    cast(Any, writer.transport).resume_reading()
    async with asyncio.timeout(PATIENCE):
        assert await reader.readexactly(2 * len(document)) == document * 2
        await until(lambda: not served.paused)
        assert transport.get_write_buffer_size() == 0
        transport.close()
        assert await reader.read() == b""


async def test_an_abort_drops_what_waits(site: Site) -> None:
    _, writer, served = await site.connect()
    cast(Any, writer.transport).pause_reading()
    served.transport.write(b"x" * 4_000_000)
    served.transport.close()
    assert served.transport.is_closing()
    assert not served.lost
    served.transport.abort()
    await until(lambda: served.lost)
    assert served.transport.get_write_buffer_size() == 0


async def test_bytes_that_are_no_tls_break_the_connection_alone(site: Site) -> None:
    _, writer, served = await site.connect()
    os.write(writer.get_extra_info("socket").fileno(), b"GET / HTTP/1.1\r\n\r\n" * 10)
    await until(lambda: served.lost)
    assert served.received == b""


async def test_handshakes_that_arrive_together_are_done_over_several_turns(site: Site) -> None:
    begun: list[int] = []
    clients = [await site.open() for _ in range(3 * HANDSHAKES_PER_TURN)]
    await until(lambda: len(site.handshakes) == len(clients))
    connections = list(site.handshakes._open)
    for connection in connections:
        connection.data_received(hello())
    for _ in range(4):
        begun.append(sum(connection._answered for connection in connections))
        await asyncio.sleep(0)
    assert begun[:3] == [number * HANDSHAKES_PER_TURN for number in (1, 2, 3)]


async def test_the_oldest_handshake_of_the_largest_crowd_makes_room(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BEGUN", 3)
    clients = []
    for number in range(1, 5):
        clients.append(await site.open())
        clients[-1][1].write(hello())
        if number < 4:
            await until(lambda number=number: site.handshakes._count == number)  # type: ignore[misc]
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            while await clients[0][0].read(65536):
                pass  # what the server said before
    assert site.handshakes._count == 3
    assert len(site.handshakes) == 3
    site.handshakes.check_timeout(asyncio.get_running_loop().time() + 10, 10)
    assert len(site.handshakes) == site.handshakes._count == 0


async def test_each_reason_of_failed_handshakes_is_logged_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        reader, writer = await site.open()
        writer.write(hello()[:5] + b"\0" * 600)
        async with asyncio.timeout(PATIENCE):
            await reader.read()
    assert [record.getMessage() for record in caplog.records] == ["TLS handshake failed"]
