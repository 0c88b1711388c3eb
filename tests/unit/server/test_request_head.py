"""The framing of a request as its head decides it; and a connection that reads the same in any portions."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from bridge.server import connection
from bridge.server.connection import CHUNKED_PIECE, HttpConnection
from bridge.server.request_head import Framing, Malformed, ends_in_handshake, framing

HOST = (b"host", b"x")
CORPUS = Path(__file__).parents[2] / "hostile" / "corpus" / "heads"
READ = sorted((CORPUS / "read").iterdir())
STAR, WEBSOCKET_POST = (
    (CORPUS / "read" / name).read_bytes() for name in ("star.txt", "websocket-of-a-post.txt")
)
MESSAGES = [path.read_bytes() for path in [*READ, *sorted((CORPUS / "refused").iterdir())]]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([HOST], Framing(0, keep_alive=True, websocket=False, expects_continue=False)),
        ([HOST, (b"content-length", b" 3\t")], Framing(3, True, False, False)),
        ([HOST, (b"transfer-encoding", b"Chunked")], Framing(None, True, False, False)),
        ([HOST, (b"connection", b"a"), (b"connection", b"b, Close")], Framing(0, False, False, False)),
        ([HOST, (b"expect", b"100-Continue")], Framing(0, True, False, True)),
        ([HOST, (b"upgrade", b"WebSocket"), (b"connection", b"Upgrade")], Framing(0, True, True, False)),
        ([HOST, (b"upgrade", b"websocket")], Framing(0, True, False, False)),
        ([HOST, (b"upgrade", b"h2c"), (b"connection", b"Upgrade")], Framing(0, True, False, False)),
    ],
)
def test_the_framing(fields: list[tuple[bytes, bytes]], found: Framing) -> None:
    assert framing(b"GET", "1.1", b"/", fields) == found


CHUNKED = (b"transfer-encoding", b"chunked")
LENGTH = (b"content-length", b"3")


@pytest.mark.parametrize(
    ("version", "fields"),
    [
        ("1.1", [HOST, LENGTH, CHUNKED]),
        ("1.1", [HOST, CHUNKED, CHUNKED]),
        ("1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")]),
        ("1.1", [HOST, (b"transfer-encoding", b"identity")]),
        ("1.0", [HOST, CHUNKED]),
        ("1.1", [HOST, LENGTH, LENGTH]),
        *(
            ("1.1", [HOST, (b"content-length", value)])
            for value in (b"", b"+3", b"-3", b"0x3", b"3, 3", b"3.0")
        ),
        ("1.1", [HOST, HOST]),
        ("1.1", []),
    ],
)
def test_an_ambiguous_end_is_refused_whatever_the_parser_takes(
    version: str, fields: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(Malformed):
        framing(b"POST", version, b"/", fields)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        (b"http://x/a", b"X"),
        (b"HTTP://x:80/a?b", b"x"),
        (b"https://[::1]:8443", b"[::1]:8443"),
        (b"*", b""),
        (b"//x", b"y"),
    ],
)
def test_targets_that_are_read(target: bytes, host: bytes) -> None:
    assert framing(b"OPTIONS", "1.1", target, [(b"host", host)]).content_length == 0


@settings(max_examples=50)
@given(
    version=st.sampled_from(["1.0", "1.1", "2.0"]),
    fields=st.lists(
        st.tuples(
            st.sampled_from([b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade"]),
            st.sampled_from([b"x", b"3", b"chunked", b"close", b"upgrade", b"websocket"])
            | st.binary(max_size=6),
        ),
        max_size=5,
    ),
)
def test_what_is_read_has_one_host_and_one_length(version: str, fields: list[tuple[bytes, bytes]]) -> None:
    try:
        decided = framing(b"GET", version, b"/", fields)
    except Malformed:
        return
    names = [name for name, _ in fields]
    assert names.count(b"host") == 1 or (version == "1.0" and b"host" not in names)
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert decided.content_length is None or decided.content_length >= 0
    assert not (decided.websocket and decided.content_length != 0)
    assert version == "1.1" or not (decided.keep_alive or decided.websocket or decided.expects_continue)


UPGRADE = b"Host: x\r\nUPGRADE: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n"


@pytest.mark.parametrize(
    ("received", "is_one"),
    [
        (b"GET /v1/ws HTTP/1.1\r\n" + UPGRADE, True),
        (b"abcGET /v1/ws HTTP/1.1\r\n" + UPGRADE, True),
        (b"a\r\nGET /v1/ws HTTP/1.1\r\nA: GET / HTTP/1\r\n" + UPGRADE, True),
        (b"POST /v1/ws HTTP/1.1\r\n" + UPGRADE, False),
        (b"GET /v1/ws HTTP/1.0\r\n" + UPGRADE, False),
        (b"GET /v1/ws HTTP/1.1\r\nHost: y\r\n" + UPGRADE, False),
        (b"GET /v1/ws HTTP/1.1\r\n" + UPGRADE.replace(b"Connection", b"X"), False),
        (UPGRADE, False),
        (b"\r\n\r\n", False),
    ],
)
def test_the_end_of_a_handshake(received: bytes, is_one: bool) -> None:
    assert ends_in_handshake(received) == is_one


@pytest.mark.parametrize("cut", range(0, 140, 7))
def test_a_handshake_behind_an_open_response_ends_it_and_a_post_does_not(cut: int) -> None:
    async def closes(behind: bytes) -> bool:
        served = Served(holds=True)
        served.connection.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + STAR)
        await served.settle()
        served.connection.data_received(behind[:cut])
        served.connection.data_received(behind[cut:])
        await served.settle()
        served.go.set()
        await served.settle(100)
        return len(served.requests) == 1 and served.wire.closed

    assert asyncio.run(closes(b"GET /v1/ws HTTP/1.1\r\n" + UPGRADE))
    assert not asyncio.run(closes(WEBSOCKET_POST))


class Wire(asyncio.Transport):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        del name
        return default

    def write(self, data: Any) -> None:
        assert not self.closed
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Served:
    """A connection and the requests its application got."""

    def __init__(self, *, holds: bool = False) -> None:
        self.requests: list[tuple[str, bytes, bytes]] = []
        self.go = asyncio.Event()
        if not holds:
            self.go.set()
        config = uvicorn.Config(self.app, log_config=None, interface="asgi3", proxy_headers=False)
        self.connection = HttpConnection(config, ServerState(), {})
        self.wire = Wire()
        self.connection.connection_made(self.wire)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Keep the request, and answer with its number."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        names = b",".join(name for name, _ in scope["headers"])
        self.requests.append((f"{scope['method']} {scope['path']}", names, body))
        await self.go.wait()
        head = [(b"content-length", b"1")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"%d" % (len(self.requests) % 10)})

    async def settle(self, rounds: int = 20) -> None:
        """Let everything happen that can."""
        for _ in range(rounds):
            await asyncio.sleep(0)


async def _read(parts: list[bytes]) -> tuple[list[tuple[str, bytes, bytes]], bytes, bool]:
    served = Served()
    for part in parts:
        if not served.wire.closed:
            served.connection.data_received(part)
        await served.settle()
    return served.requests, served.wire.written, served.wire.closed


def _parts(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@settings(max_examples=40)
@given(
    messages=st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 10_000), max_size=4),
)
@example(messages=[STAR, WEBSOCKET_POST], cuts=[31])
def test_requests_are_the_same_in_any_portions(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(messages)
    whole = asyncio.run(_read([data]))
    assert asyncio.run(_read(_parts(data, cuts))) == whole


@pytest.mark.parametrize("message", [path.read_bytes() for path in READ], ids=[path.stem for path in READ])
def test_every_cut_of_a_request_gives_the_same(message: bytes) -> None:
    follower = b"GET /after HTTP/1.1\r\nHost: x\r\n\r\n"
    requests, _, _ = asyncio.run(_read([message + follower]))
    assert len(requests) >= 1

    async def all_cuts() -> None:
        for cut in range(1, len(message) + 4, 1 if len(message) < 80 else 3):
            found = await _read([(message + follower)[:cut], (message + follower)[cut:]])
            assert found[0] == requests

    asyncio.run(all_cuts())


def test_trailers_are_no_header_fields() -> None:
    chunked = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
    requests, _, _ = asyncio.run(_read([chunked, b"0\r\nAuthorization: Bearer x\r\nHost: y\r\n\r\n"]))
    assert requests == [("POST /", b"host,transfer-encoding", b"a")]


@pytest.mark.parametrize("where", ["head", "trailer"])
def test_the_parser_stops_at_too_many_fields(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    count = HttpConnection.on_header

    def counted(self: HttpConnection, name: bytes, value: bytes) -> None:
        seen.append(name)
        count(self, name, value)

    monkeypatch.setattr(HttpConnection, "on_header", counted)
    begin = b"POST / HTTP/1.1\r\nHost: x\r\n"
    body = b"Transfer-Encoding: chunked\r\n\r\n0\r\n" if where == "trailer" else b""
    requests, written, closed = asyncio.run(_read([begin + body + b"A: b\r\n" * 40_000 + b"\r\n"]))
    assert len(seen) < 1100
    assert closed
    assert written.startswith(b"HTTP/1.1 400 ") or where == "trailer"
    assert not requests


def test_a_wave_of_requests_is_kept_as_bytes_and_then_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MAX_AHEAD", 1000)

    async def run() -> None:
        served = Served(holds=True)
        request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        served.connection.data_received(request * 100)
        await served.settle()
        served.connection.data_received(request)
        assert len(served.requests) == 1
        assert not served.wire.reading
        served.go.set()
        await served.settle(1000)
        assert len(served.requests) == 101
        assert served.wire.reading

    asyncio.run(run())


def test_a_body_of_tiny_chunks_is_read_in_slices() -> None:
    async def run() -> None:
        served = Served()
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        served.connection.data_received(head + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n")
        assert not served.wire.reading  # the rest has to wait for its turn
        await served.settle(200)
        assert served.requests == [("POST /", b"host,transfer-encoding", b"x" * 20_000)]
        assert served.wire.reading

    assert CHUNKED_PIECE < 6 * 20_000
    asyncio.run(run())
