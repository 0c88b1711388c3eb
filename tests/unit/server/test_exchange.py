"""In how many writes a response leaves: a client that reads once gets a short document whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from bridge.server.connection import HttpConnection

Send = Callable[[dict[str, Any]], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n"


class Writes(asyncio.Transport):
    """A connection that keeps each write on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del name
        return default

    def write(self, data: Any) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""


def _writes(respond: Callable[[Send, Writes], Awaitable[None]], method: bytes = b"GET") -> Writes:
    """What is written when `respond` is the application."""

    async def run() -> Writes:
        wire = Writes()

        async def app(_scope: Any, _receive: Any, send: Send) -> None:
            await respond(send, wire)

        config = uvicorn.Config(app, log_config=None, interface="asgi3", proxy_headers=False)
        connection = HttpConnection(config, ServerState(), {})
        connection.connection_made(wire)
        connection.data_received(method + b" / HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        return wire

    return asyncio.run(run())


async def _begin(send: Send, length: int | None) -> None:
    headers = [] if length is None else [(b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})


async def _part(send: Send, body: bytes, *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def test_a_short_document_leaves_in_one_write() -> None:
    async def respond(send: Send, _wire: Writes) -> None:
        await _begin(send, 3)
        await _part(send, b"abc")

    assert _writes(respond).writes == [HEAD % 3 + b"abc"]


def test_the_head_does_not_wait_for_a_slow_body() -> None:
    async def respond(send: Send, wire: Writes) -> None:
        await _begin(send, 3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert wire.writes == [HEAD % 3]
        await _part(send, b"a", more=True)
        await _part(send, b"bc")

    assert _writes(respond).writes == [HEAD % 3, b"a", b"bc"]


def test_the_head_of_a_stream_leaves_with_what_follows_in_the_same_turn() -> None:
    async def respond(send: Send, wire: Writes) -> None:
        await _begin(send, None)
        await _part(send, b"abc", more=True)
        assert len(wire.writes) == 1
        await _part(send, b"de")

    found = _writes(respond).writes
    assert found[0].endswith(b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    assert found[1:] == [b"2\r\nde\r\n0\r\n\r\n"]


def test_the_head_of_a_stream_does_not_wait_for_its_first_part() -> None:
    async def respond(send: Send, wire: Writes) -> None:
        await _begin(send, None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(wire.writes) == 1
        await _part(send, b"abc")

    assert _writes(respond).writes[1:] == [b"3\r\nabc\r\n0\r\n\r\n"]


def test_a_large_body_is_not_copied_behind_its_head() -> None:
    body = b"x" * 1_000_000

    async def respond(send: Send, _wire: Writes) -> None:
        await _begin(send, len(body))
        await _part(send, body)

    assert _writes(respond).writes == [HEAD % len(body), body]


def test_a_head_alone_is_written_once() -> None:
    async def respond(send: Send, _wire: Writes) -> None:
        await _begin(send, 3)
        await _part(send, b"abc")

    assert _writes(respond, b"HEAD").writes in ([HEAD % 3], [HEAD % 3, b""])


@pytest.mark.parametrize("body", [b"", b"abcd"], ids=["none", "too-long"])
def test_an_application_that_fails_behind_the_head_leaves_the_head(body: bytes) -> None:
    async def respond(send: Send, _wire: Writes) -> None:
        await _begin(send, 3)
        if body:
            await _part(send, body)
        raise RuntimeError("the body is lost")

    found = _writes(respond)
    assert found.writes == [HEAD % 3]
    assert found.closed


def test_nothing_is_written_behind_a_refusal_of_what_the_client_sent_next() -> None:
    async def run() -> list[bytes]:
        wire = Writes()

        async def app(_scope: Any, _receive: Any, send: Send) -> None:
            await _begin(send, 3)
            connection.refuse("it was not HTTP")
            await _part(send, b"abc")

        config = uvicorn.Config(app, log_config=None, interface="asgi3", proxy_headers=False)
        connection = HttpConnection(config, ServerState(), {})
        connection.connection_made(wire)
        connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for _ in range(20):
            await asyncio.sleep(0)
        assert wire.closed
        return wire.writes

    assert b"abc" not in b"".join(asyncio.run(run()))
