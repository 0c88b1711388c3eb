"""The chaos proxy does what its verbs say, or the other tests here would prove nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.chaos.proxy import DEAF, GOOD, HOLE, SPLIT, Manners, Proxy, Whims, abort, proxied
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio


class _Echo:
    """Answers with what it hears, and remembers what it was told."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.resets = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.heard += data
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            self.resets += 1
        finally:
            writer.transport.abort()


@asynccontextmanager
async def _scene() -> AsyncIterator[tuple[Proxy, _Echo]]:
    echo = _Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with proxied(f"http://127.0.0.1:{port}") as proxy:
        yield proxy, echo
    server.close()


@asynccontextmanager
async def _client(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def test_without_a_verb_it_passes_on_what_comes_and_its_end() -> None:
    async with _scene() as (proxy, _), _client(proxy) as (reader, writer):
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"


async def test_a_split_answer_is_the_same_answer_in_single_bytes() -> None:
    async with _scene() as (proxy, _), _client(proxy) as (reader, writer):
        proxy.behave(SPLIT)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"


async def test_a_delay_comes_before_each_write() -> None:
    async with _scene() as (proxy, _):
        proxy.behave(Manners(delay=0.05, split=True))
        async with _client(proxy) as (reader, writer):
            loop = asyncio.get_running_loop()
            began = loop.time()
            writer.write(b"four")
            await reader.readexactly(4)
            assert loop.time() - began >= 5 * 0.05  # four bytes there, the last of them back


async def test_after_so_many_bytes_both_sides_are_reset() -> None:
    async with _scene() as (proxy, echo):
        proxy.behave(Manners(reset_after=3))
        async with _client(proxy) as (reader, writer):
            writer.write(b"hello")
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(5)
        await proxy.until(lambda: not proxy.lines, PATIENCE)
        assert echo.heard == b"hello"


async def test_a_half_close_ends_the_answer_and_nothing_else() -> None:
    async with _scene() as (proxy, echo):
        proxy.behave(Manners(half_close_after=3))
        async with _client(proxy) as (reader, writer):
            writer.write(b"hello")
            assert await reader.read() == b"hel"
            writer.write(b" again")
            await proxy.until(lambda: echo.heard == b"hello again", PATIENCE)


async def test_a_black_hole_takes_everything_and_says_nothing() -> None:
    async with _scene() as (proxy, echo), _client(proxy) as (reader, writer):
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        proxy.behave(HOLE)
        writer.write(b"y" * 1000)
        writer.write_eof()
        await proxy.until(lambda: len(next(iter(proxy.lines)).head) == 1001, PATIENCE)
        assert echo.heard == b"x"


async def test_a_deaf_connection_takes_nothing_and_goes_on_where_it_stopped() -> None:
    async with _scene() as (proxy, echo):
        proxy.behave(DEAF)
        async with _client(proxy) as (reader, writer):
            writer.write(b"hello")
            await proxy.until(lambda: len(proxy.lines) == 1, PATIENCE)
            assert not echo.heard
            proxy.behave(GOOD)
            assert await reader.readexactly(5) == b"hello"


async def test_who_connects_is_refused_and_later_accepted_on_the_same_port() -> None:
    async with _scene() as (proxy, _):
        async with _client(proxy) as (reader, writer):
            proxy.refuse()
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
        await proxy.listen()
        async with _client(proxy) as (reader, writer):
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"


async def test_one_connection_can_be_cut_alone() -> None:
    async with _scene() as (proxy, _), _client(proxy) as (one, to_one), _client(proxy) as (two, to_two):
        to_one.write(b"a")
        to_two.write(b"b")
        assert (await one.readexactly(1), await two.readexactly(1)) == (b"a", b"b")
        next(line for line in proxy.lines if line.head == b"a").reset()
        with pytest.raises(ConnectionResetError):
            await one.read()
        to_two.write(b"c")
        assert await two.readexactly(1) == b"c"


async def test_a_client_that_aborts_is_a_reset_and_leaves_no_line() -> None:
    async with _scene() as (proxy, _):
        async with _client(proxy) as (reader, writer):
            writer.write(b"x")
            await reader.readexactly(1)
            abort(writer)
        await proxy.until(lambda: not proxy.lines, PATIENCE)


def test_the_same_seed_has_the_same_whims() -> None:
    assert [Whims(7)(number) for number in range(50)] == [Whims(7)(number) for number in range(50)]
    assert [Whims(7)(number) for number in range(50)] != [Whims(8)(number) for number in range(50)]
    assert len({Whims(7)(number) for number in range(50)}) > 10
