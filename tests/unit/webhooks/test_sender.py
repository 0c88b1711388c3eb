"""One attempt against receivers that misbehave, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from standardwebhooks import Webhook as Verifier

from bridge.clock import SystemClock
from bridge.sources.outbound import OutboundClient
from bridge.webhooks.sender import Answered, Sender
from bridge.webhooks.signature import new_secret

pytestmark = pytest.mark.anyio

BODY = b'{"type":"task.final"}'
DRIP = "drip"


class RawReceiver:
    """Answers each request with the same bytes, and keeps what came."""

    def __init__(self, reply: bytes, *, drips: bool) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.reply = reply
        self._drips = drips

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append(head + await reader.readexactly(len(BODY)))
                writer.write(self.reply)
                await writer.drain()
                while self._drips:
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.sleep(0.01)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def receiving(reply: bytes, *, drips: bool = False) -> AsyncIterator[tuple[RawReceiver, Sender, str]]:
    """A receiver, a sender, and the URL between them."""
    receiver = RawReceiver(reply, drips=drips)
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    client = OutboundClient(["127.0.0.1"])
    port = server.sockets[0].getsockname()[1]
    try:
        yield receiver, Sender(client, SystemClock()), f"http://127.0.0.1:{port}/hook?a=b"
    finally:
        await client.close()
        server.close()
        await server.wait_closed()


async def send(sender: Sender, url: str, secret: str) -> Answered:
    return await sender.send(url, "msg_1", BODY, (secret,))


async def test_an_attempt_is_signed_and_its_connection_used_again() -> None:
    secret = new_secret()
    async with receiving(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok") as (receiver, sender, url):
        for _ in range(3):
            assert (await send(sender, url, secret)).delivered
        assert receiver.connections == 1
        head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines)}
    assert line == "POST /hook?a=b HTTP/1.1"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == "task-event-bridge"
    assert headers["webhook-id"] == "msg_1"
    Verifier(secret).verify(body, headers)


@pytest.mark.parametrize(
    ("reply", "status", "error"),
    [
        (
            b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
            302,
            "the receiver answered 302",
        ),
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n", 410, "the receiver answered 410"),
        (b"nonsense\r\n\r\n", None, "its response is not valid HTTP, or its headers are too large"),
    ],
)
async def test_what_is_no_success(reply: bytes, status: int | None, error: str) -> None:
    async with receiving(reply) as (_, sender, url):
        answered = await send(sender, url, new_secret())
    assert (answered.status, answered.error) == (status, error)


async def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    async with receiving(b"HTTP/1.1 200 OK\r\n\r\n", drips=True) as (_, sender, url):
        answered = await send(sender, url, new_secret())
    assert answered.delivered
    assert answered.seconds < 5


async def test_a_receiver_says_when_to_come_again() -> None:
    reply = b"HTTP/1.1 503 Busy\r\nretry-after: 17\r\ncontent-length: 0\r\n\r\n"
    async with receiving(reply) as (receiver, sender, url):
        assert (await send(sender, url, new_secret())).retry_after == 17
        for odd in (b"soon", b"-1", b"9" * 400, b"Fri, 99 Nov 2026 00:00:00 GMT"):
            receiver.reply = reply.replace(b"17", odd)
            assert (await send(sender, url, new_secret())).status == 503


async def test_a_receiver_that_is_not_there_and_one_inside() -> None:
    client = OutboundClient()
    sender = Sender(client, SystemClock())
    answered = await send(sender, "https://127.0.0.1:1/", new_secret())
    assert answered.status is None
    assert answered.error is not None
    assert "127.0.0.1" not in answered.error
    await client.close()


async def test_a_204_with_a_body_is_delivered() -> None:
    reply = b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello"
    async with receiving(reply) as (receiver, sender, url):
        for _ in range(3):
            answered = await send(sender, url, new_secret())
            assert (answered.status, answered.error) == (204, None)
        assert receiver.connections == 3
