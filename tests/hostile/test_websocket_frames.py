"""Floods of WebSocket frames: above the rate reading pauses, between slices others have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from bridge.server.flow_control import (
    BURST_FRAMES,
    FRAMES_PER_SECOND,
    MAX_FRAGMENTS,
    SLICE_BYTES,
    FlowControlledWebSocket,
    FrameRate,
)
from tests.fakes.virtual import VirtualLoop
from tests.unit.server.test_request_head import Wire

HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
CONTINUED, TEXT, CLOSE, PING, PONG = 0, 1, 8, 9, 10


def frame(opcode: int, payload: bytes = b"", *, last: bool = True) -> bytes:
    """One frame of a client, with a mask that changes nothing."""
    assert len(payload) < 126
    return bytes([last << 7 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload


FLOODS = {
    "empty-fragments": frame(TEXT, b"{", last=False) + frame(CONTINUED, last=False) * 5000,
    "small-fragments": frame(TEXT, b"{", last=False) + frame(CONTINUED, b"x", last=False) * 5000,
    "pings": frame(PING) * 5000,
    "full-pongs": frame(PONG, b"x" * 125) * 5000,
    "messages": frame(TEXT, b"{}") * 5000,
}


class Client:
    """A WebSocket whose application keeps what it gets, on a loop whose time jumps."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        config = uvicorn.Config(self.app, log_config=None, interface="asgi3", proxy_headers=False)
        self.protocol = FlowControlledWebSocket(config, ServerState(), {})
        self.wire = Wire()
        self.protocol.connection_made(self.wire)
        self.protocol.data_received(HANDSHAKE)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        del scope
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            self.got.append(message)

    read = 0  # frames, as the parser counts them

    async def opened(self) -> Client:
        await asyncio.sleep(0.001)
        assert self.wire.written.startswith(b"HTTP/1.1 101 ")
        received = self.protocol.conn.recv_frame

        def count(one: Any) -> None:
            self.read += 1
            received(one)

        self.protocol.conn.recv_frame = count  # type: ignore[method-assign]
        return self


def virtually(run: Callable[[Client], Coroutine[Any, Any, None]]) -> None:
    """Run it on a loop of its own, whose time jumps."""

    async def whole() -> None:
        client = await Client().opened()
        try:
            await run(client)
        finally:
            client.protocol.connection_lost(None)
            await asyncio.sleep(1)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(whole())


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_read_at_the_rate_and_never_at_once(flood: str) -> None:
    async def run(client: Client) -> None:
        client.protocol.data_received(FLOODS[flood])
        smallest = 6 + (125 if flood == "full-pongs" else 0)
        assert client.read <= SLICE_BYTES / smallest + 1
        assert not client.wire.reading
        await asyncio.sleep(10)
        most = BURST_FRAMES + 10 * FRAMES_PER_SECOND + SLICE_BYTES / smallest
        assert client.read <= most
        assert client.read > most / 2
        assert not client.wire.closed
        assert not client.wire.reading
        await asyncio.sleep(15)
        assert client.read >= 5000
        assert client.wire.reading
        client.protocol.data_received(frame(PING, b"still?"))
        await asyncio.sleep(1)
        assert client.wire.written.endswith(b"\x8a\x06still?")
        assert not client.wire.closed

    virtually(run)


def test_a_client_that_reads_nothing_is_not_read_from() -> None:
    async def run(client: Client) -> None:
        client.protocol.pause_writing()
        client.protocol.data_received(FLOODS["pings"])
        await asyncio.sleep(5)
        assert client.read <= SLICE_BYTES
        client.protocol.resume_writing()
        await asyncio.sleep(30)
        assert client.read == 5000

    virtually(run)


def test_a_message_of_many_fragments_is_one_and_keeps_few() -> None:
    async def run(client: Client) -> None:
        parts = frame(TEXT, b"a", last=False) + frame(CONTINUED, b"b", last=False) * 900
        client.protocol.data_received(parts)
        await asyncio.sleep(30)
        assert len(client.protocol.frames) <= MAX_FRAGMENTS + 1
        client.protocol.data_received(frame(CONTINUED, b"c"))
        await asyncio.sleep(1)
        assert client.got == [{"type": "websocket.receive", "text": "a" + "b" * 900 + "c"}]

    virtually(run)


def test_the_answer_to_our_ping_may_wait_behind_what_we_have_not_read() -> None:
    async def run(client: Client) -> None:
        client.protocol.data_received(frame(PONG) * 20_000)
        await asyncio.sleep(90)
        assert not client.wire.closed
        assert client.read < 20_000

    virtually(run)


def test_a_client_that_does_not_answer_our_ping_is_closed() -> None:
    async def run(client: Client) -> None:
        await asyncio.sleep(50)
        assert client.wire.closed

    virtually(run)


@settings(max_examples=30)
@given(
    texts=st.lists(st.text(max_size=20), max_size=40),
    cuts=st.lists(st.integers(1, 3000), max_size=5),
)
def test_messages_are_the_same_in_any_portions(texts: list[str], cuts: list[int]) -> None:
    data = b"".join(frame(TEXT, text.encode()) + frame(PONG) for text in texts)
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]

    async def run(client: Client) -> None:
        for start, end in pairwise(edges):
            client.protocol.data_received(data[start:end])
            await asyncio.sleep(0)
        await asyncio.sleep(1)
        assert [one["text"] for one in client.got] == texts

    virtually(run)


@given(steps=st.lists(st.tuples(st.integers(0, 400), st.floats(0, 10)), max_size=60))
def test_the_rate_holds_over_any_time(steps: list[tuple[int, float]]) -> None:
    now, rate, spent = 50.0, FrameRate(50.0), 0
    for frames, pause in steps:
        now += pause
        now += rate.spend(frames, now)
        spent += frames
        assert spent <= BURST_FRAMES + FRAMES_PER_SECOND * (now - 50.0) + 1e-6
