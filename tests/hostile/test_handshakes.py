"""A WebSocket handshake ends the same whether our reader takes it or the library's parser does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
import uvicorn
import websockets

from bridge.server import flow_control
from bridge.server.listeners import listen
from bridge.server.server import _config
from bridge.server.upgrade import MAX_FIELDS, MAX_VALUE, read_upgrade

pytestmark = pytest.mark.anyio

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    b"Host": b"x",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Version": b"13",
    b"Sec-WebSocket-Key": KEY,
}
MASKED_TEXT = b"\x81\x82\x00\x00\x00\x00{}"
MASKED_PING = b"\x89\x81\x00\x00\x00\x00p"
CLOSE = b"\x88\x02\x03\xe8"
MASKED_CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"


def handshake(
    change: dict[bytes, bytes | None] | None = None,
    *more: tuple[bytes, bytes],
    target: bytes = b"/v1/ws?a=%20b",
    behind: bytes = MASKED_TEXT,
) -> bytes:
    fields = [(name, value) for name, value in (GOOD | (change or {})).items() if value is not None]
    lines = [b"%b: %b" % field for field in [*fields, *more]]
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, *lines, b"", b""]) + behind


USUAL = {
    "plain": handshake(),
    "frames-behind": handshake(behind=MASKED_PING + MASKED_TEXT),
    "the-end-behind": handshake(behind=MASKED_TEXT + MASKED_PING + MASKED_CLOSE),
    "half-a-frame-behind": handshake(behind=MASKED_TEXT[:5]),
    "capitals": handshake({b"Upgrade": b"WebSocket", b"Connection": b"keep-alive, Upgrade"}),
    "extensions": handshake({}, (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits")),
    "broken-extensions": handshake({}, (b"Sec-WebSocket-Extensions", b";;=,")),
    "subprotocols": handshake({}, (b"Sec-WebSocket-Protocol", b"other, bridge.v1.json")),
    "subprotocols-in-two": handshake(
        {}, (b"Sec-WebSocket-Protocol", b"other"), (b"Sec-WebSocket-Protocol", b"bridge.v1.json")
    ),
    "origin": handshake({}, (b"Origin", b"https://example.com")),
    "empty-field": handshake({}, (b"X-Empty", b"")),
}
ENDED = {"the-end-behind", "half-a-frame-behind"}  # by the client: the application has no time to answer
UNUSUAL = {
    "no-key": handshake({b"Sec-WebSocket-Key": None}),
    "short-key": handshake({b"Sec-WebSocket-Key": b"c2hvcnQ="}),
    "bad-key": handshake({b"Sec-WebSocket-Key": b"!" * 24}),
    "two-keys": handshake({}, (b"Sec-WebSocket-Key", KEY)),
    "version-8": handshake({b"Sec-WebSocket-Version": b"8"}),
    "no-version": handshake({b"Sec-WebSocket-Version": None}),
    "two-versions": handshake({}, (b"Sec-WebSocket-Version", b"13")),
    "list-of-versions": handshake({b"Sec-WebSocket-Version": b"13, 8"}),
    "two-origins": handshake({}, (b"Origin", b"https://a"), (b"Origin", b"https://b")),
    "broken-subprotocol": handshake({}, (b"Sec-WebSocket-Protocol", b"a b")),
    "empty-subprotocol": handshake({}, (b"Sec-WebSocket-Protocol", b"")),
    "odd-connection": handshake({b"Connection": b"foo, Upgrade"}),
    "broken-connection": handshake({b"Connection": b"Upgrade, @"}),
    "many-fields": handshake({}, *[(b"X-%d" % number, b"1") for number in range(MAX_FIELDS)]),
    "too-many-fields": handshake({}, *[(b"X-%d" % number, b"1") for number in range(200)]),
    "long-value": handshake({}, (b"X-Long", b"x" * (MAX_VALUE + 1))),
    "long-target": handshake(target=b"/" + b"x" * MAX_VALUE),
    "latin-1": handshake({}, (b"X-Name", b"\xe9")),
    "absolute-target": handshake(target=b"http://x/v1/ws"),
    "no-body": handshake({}, (b"Content-Length", b"0")),
    "empty-body-in-two-digits": handshake({}, (b"Content-Length", b"00")),
}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Accepts, and answers each message with what the handshake was to the application."""
    ending = {"lifespan.shutdown", "websocket.disconnect"}
    while (said := await receive())["type"] not in ending:
        if said["type"] == "websocket.receive":
            named = ("path", "raw_path", "query_string", "subprotocols", "headers", "scheme", "http_version")
            await send({"type": "websocket.send", "text": repr([scope[name] for name in named])})
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "websocket":
            if scope["path"] == "/refused":
                await send({"type": "websocket.close", "code": 1008})
                return
            offered = scope["subprotocols"]
            chosen = "bridge.v1.json" if "bridge.v1.json" in offered else None
            await send(
                {"type": "websocket.accept", "subprotocol": chosen, "headers": [(b"x-request-id", b"1")]}
            )
            if scope["path"] == "/broken":
                raise RuntimeError("it fails behind its acceptance")
        else:
            await send({"type": "lifespan.startup.complete"})
    if scope["type"] == "lifespan":
        await send({"type": "lifespan.shutdown.complete"})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Our own kind of socket and server."""
    config = _config(application, max_head_bytes=65_536)
    server, listener = uvicorn.Server(config), listen("127.0.0.1", 0)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    serving = asyncio.create_task(server._serve([listener]))
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0)
    yield listener.getsockname()[1]
    server.should_exit = True
    await serving


async def answer(port: int, sent: bytes, *, half_closed: bool = False) -> tuple[bytes, list[bytes], bytes]:
    """The status line, the fields in order of their names, and everything behind them; without the time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    if half_closed:
        writer.write_eof()
    received = b""
    while not received.endswith(CLOSE) and (data := await reader.read(65_536)):
        received += data
    writer.close()
    head, _, rest = received.partition(b"\r\n\r\n")
    status, *fields = re.sub(rb"(?i)\r\ndate: [^\r]*", b"", head).split(b"\r\n")
    return status, sorted(field.lower() for field in fields), rest


@pytest.mark.parametrize("name", [*USUAL, *UNUSUAL])
async def test_both_readers_end_a_handshake_the_same(
    port: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[bool] = []

    def ours(*words: Any) -> Any:
        found = read_upgrade(*words)
        taken.append(found is not None)
        return found

    sent = (USUAL | UNUSUAL)[name]
    monkeypatch.setattr(flow_control, "read_upgrade", ours)
    half_closed = name == "half-a-frame-behind"
    found = await answer(port, sent, half_closed=half_closed)
    assert taken in ([], [name in USUAL])  # none: it does not get as far as that
    assert found[0].startswith(b"HTTP/1.1 101") or name not in USUAL
    assert b"['/v1/ws', b'/v1/ws'" in found[2] or name not in USUAL or name in ENDED
    monkeypatch.setattr(flow_control, "read_upgrade", lambda *_: None)
    assert await answer(port, sent, half_closed=half_closed) == found


@pytest.mark.parametrize("path", [b"/refused", b"/broken"])
async def test_an_application_that_refuses_or_fails_is_answered_the_same(
    port: int, path: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = handshake(target=path, behind=b"")
    found = await answer(port, sent)
    assert found[0].startswith(b"HTTP/1.1 403" if path == b"/refused" else b"HTTP/1.1 101")
    monkeypatch.setattr(flow_control, "read_upgrade", lambda *_: None)
    assert await answer(port, sent) == found


async def _by_websockets(port: int) -> str:
    address = f"ws://127.0.0.1:{port}/v1/ws?task=a"
    async with websockets.connect(address, subprotocols=["bridge.v1.json"]) as client:  # type: ignore[list-item]
        await client.send("{}")
        assert client.subprotocol == "bridge.v1.json"
        return str(await client.recv())


async def _by_aiohttp(port: int) -> str:
    address = f"http://127.0.0.1:{port}/v1/ws?task=a"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address, protocols=["bridge.v1.json"]) as client,
    ):
        await client.send_str("{}")
        assert client.protocol == "bridge.v1.json"
        return await client.receive_str()


@pytest.mark.parametrize("connect", [_by_websockets, _by_aiohttp])
async def test_the_handshakes_of_client_libraries_are_usual(
    port: int, connect: Callable[[int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []

    def ours(*words: Any) -> Any:
        taken.append(read_upgrade(*words))
        return taken[-1]

    monkeypatch.setattr(flow_control, "read_upgrade", ours)
    assert "task=a" in await connect(port)
    assert None not in taken
    assert len(taken) == 1
