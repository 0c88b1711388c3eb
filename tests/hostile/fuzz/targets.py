"""What is fuzzed: each target takes bytes and raises when a promise is broken.

A target never needs a network, a clock or chance, so that a file of its corpus always does the same.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import orjson

from bridge.auth.signing_keys import SharedSecrets
from bridge.auth.tokens import Tokens, mint
from bridge.client.errors import BridgeError as ClientError
from bridge.client.watch_state import WatchState
from bridge.core.cursor import Cursor
from bridge.dialects.base import HttpResponse, Submission
from bridge.dialects.dialect import Dialect
from bridge.dialects.registry import load_preset, preset_names
from bridge.errors import BridgeError, Unauthenticated, UnreadablePayload
from bridge.wire.sse import Decoder, ServerSentEvent
from tests.fakes.clock import FakeClock

Target = Callable[[bytes], None]

SECRET = b"a secret of the tests, of 32 bytes or more"
ISSUER, AUDIENCE = "tests", "task-event-bridge"
MAX_HEAD = 16 * 1024
ROUNDS = 6
_STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) ")

_PRESETS = tuple(sorted(preset_names()))
_LOOP = asyncio.new_event_loop()


@lru_cache
def _preset(name: str) -> Dialect:
    return load_preset(name)


# Request heads and WebSocket frames: the real protocol classes over a connection in memory


class Wire(asyncio.Transport):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False
        self.protocol: Any = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """There is no socket; addresses are those of a test."""
        return ("127.0.0.1", 1) if name in {"peername", "sockname"} else default

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += data

    def writelines(self, data: Any) -> None:
        """Keep them."""
        for part in data:
            self.write(part)

    def get_write_buffer_size(self) -> int:
        """Everything is sent at once."""
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """There is no limit."""

    def close(self) -> None:
        """Close it."""
        self.closed = True

    def abort(self) -> None:
        """Close it at once."""
        self.closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def pause_reading(self) -> None:
        """The fuzzer sends all the same."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    def set_protocol(self, protocol: Any) -> None:
        """The connection becomes a WebSocket."""
        self.protocol = protocol


class App:
    """Answers each request with its number once its body has come, and echoes WebSocket messages.

    Attributes:
        requests: Method, target and body of each.
        failures: Exceptions that reached the event loop.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, bytes]] = []
        self.messages = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] == "websocket":
            await self._websocket(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.requests.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b"."})

    async def _websocket(self, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.messages += 1
            await send({"type": "websocket.send", "text": str(len(message.get("text") or ""))})


def _settled(*, rounds: int = ROUNDS) -> None:
    async def turns() -> None:
        for _ in range(rounds):
            await asyncio.sleep(0)

    _LOOP.run_until_complete(turns())


@lru_cache
def _server() -> tuple[App, Any]:
    from bridge.server.server import _config

    app = App()
    config = _config(app, max_head_bytes=MAX_HEAD)  # type: ignore[arg-type]
    config.lifespan = "off"
    config.load()
    config.loaded_app = app  # without middleware
    return app, config


def _connected(portions: list[bytes], *, eof: bool) -> tuple[Wire, App]:
    from uvicorn.server import ServerState

    app, config = _server()
    app.requests.clear()
    app.messages = 0
    raised: list[Any] = []
    _LOOP.set_exception_handler(lambda _, context: raised.append(context))

    async def talk() -> Wire:
        wire = Wire()
        protocol: Any = config.http_protocol_class(config=config, server_state=ServerState(), app_state={})  # type: ignore[call-arg]
        wire.protocol = protocol
        protocol.connection_made(wire)
        for portion in portions:
            if wire.closed:
                break
            wire.protocol.data_received(portion)
            for _ in range(ROUNDS):
                await asyncio.sleep(0)
        for _ in range(4 * ROUNDS):
            await asyncio.sleep(0)
        if eof and not wire.closed:
            wire.protocol.eof_received()
            for _ in range(ROUNDS):
                await asyncio.sleep(0)
        wire.protocol.connection_lost(None)
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        return wire

    wire = _LOOP.run_until_complete(talk())
    assert not raised, raised
    return wire, app


def _portions(data: bytes) -> tuple[list[bytes], bool]:
    """The first byte says how the rest is cut, and whether the client ends its half."""
    how, rest = (data[0], data[1:]) if data else (0, b"")
    size = (len(rest) or 1, 1, 7, 64)[how & 3] if len(rest) < 600 else max(len(rest) // (1 + (how & 7)), 1)
    return [rest[at : at + size] for at in range(0, len(rest), size)], bool(how & 0x80)


def heads(data: bytes) -> None:
    """No exception leaves the protocol; each request that was read has one answer, a refusal is the last."""
    portions, eof = _portions(data)
    wire, app = _connected(portions, eof=eof)
    written = bytes(wire.written)
    statuses = [int(status) for status in _STATUS_LINE.findall(written)]
    good, switched = statuses.count(200), statuses.count(101)
    refused = len(statuses) - good - switched - statuses.count(100)
    assert good == len(app.requests), (written, app.requests)
    assert refused <= 1, written
    assert not refused or (wire.closed and statuses[-1] >= 400), written
    assert not switched or not refused or statuses[-1] >= 400
    for method, path, body in app.requests:
        assert method
        assert path.startswith(("/", "*")) or method in {"CONNECT", "OPTIONS"}, path
        assert len(body) <= len(data)


HANDSHAKE = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def frames(data: bytes) -> None:
    """After a handshake any bytes are frames or a protocol error; no more answers than messages."""
    portions, eof = _portions(data)
    wire, app = _connected([HANDSHAKE, *portions], eof=eof)
    assert wire.written.startswith(b"HTTP/1.1 101 ")
    assert app.messages <= len(data)
    assert len(wire.written) < 2048 + 130 * (app.messages + 1) + 140 * len(data)


# Event streams: the decoder, and the Python client behind it


def _decoded(chunks: list[bytes], limit: int) -> tuple[list[ServerSentEvent], Decoder | None]:
    decoder = Decoder(max_event_bytes=limit)
    events: list[ServerSentEvent] = []
    try:
        for chunk in chunks:
            events += decoder.feed(chunk)
    except UnreadablePayload:
        return events, None
    return events, decoder


def events(data: bytes) -> None:
    """However a stream is cut, it has the same events; the client takes them, or says what it cannot read."""
    at = data[0] if data else 0
    stream = data[1:]
    whole, decoder = _decoded([stream], 4096)
    for size in {1, 1 + at % 13, 512}:
        cut, other = _decoded([stream[i : i + size] for i in range(0, len(stream), size)], 4096)
        if decoder is not None and other is not None:
            assert cut == whole
            assert other.last_event_id == decoder.last_event_id
            assert (other.comments, other.retry) == (decoder.comments, decoder.retry)
    watch = WatchState(["a/1", "a/2"])
    for event in whole:
        assert "\n" not in (event.id or "")
        try:
            watch.accept(event)
        except (BridgeError, ClientError):
            continue


# Dialects: every preset, every kind of answer


def dialects(data: bytes) -> None:
    """Whatever a provider answers is an observation or one of our errors about the upstream."""
    if len(data) < 3:
        return
    dialect = _preset(_PRESETS[data[0] % len(_PRESETS)])
    kind, status, body = data[1] % 6, (200, 200, 200, 201, 400, 401, 404, 429, 500)[data[2] % 9], data[3:]
    answer = HttpResponse(status, {"content-type": "application/json"}, body)
    try:
        if kind == 0:
            reading = dialect.read_status(answer, "task-1")
            _checked(reading.observation)
        elif kind == 1:
            _checked(dialect.read_submitted(answer, Submission(body=b"{}")))
        elif kind == 2:
            observation = dialect.read_stream_event(None, body.decode("utf-8", "replace"))
            if observation is not None:
                _checked(observation)
        elif kind == 3:
            name, _, text = body.partition(b"\n")
            dialect.read_stream_event(name.decode("utf-8", "replace"), text.decode("utf-8", "replace"))
        elif kind == 4:
            dialect.read_callback(body)
        else:
            dialect.check_result(answer)
    except BridgeError as error:
        str(error).encode("utf-8", "surrogatepass")


def _checked(observation: Any) -> None:
    assert observation.progress is None or 0 <= observation.progress <= 100
    for output in observation.outputs or ():
        assert output.url is None or isinstance(output.url, str)
    for text in (observation.task_id, observation.upstream_status, observation.model):
        if text is not None:
            orjson.dumps(text)


# Cursors, tokens and the providers' own URLs


def cursors(data: bytes) -> None:
    """A cursor that is read is written as it came, apart from its mark; nothing else is ever raised."""
    text = data.decode("utf-8", "surrogateescape")
    cursor = Cursor.parse(text)
    if cursor is not None:
        assert text.startswith(f"{cursor.epoch}-{cursor.offset}")
        assert str(text).isascii()
        assert len(text) <= 128
        orjson.dumps(str(cursor))


def _tokens() -> Tokens:
    return Tokens(SharedSecrets([SECRET]), FakeClock(), issuer=ISSUER, audience=AUDIENCE)


def tokens(data: bytes) -> None:
    """Bytes that are no token are refused; claims that somebody else signed too; signed ones open no more."""
    text = data.decode("utf-8", "surrogateescape")
    source = _tokens()
    try:
        _LOOP.run_until_complete(source.caller(text))
    except Unauthenticated as error:
        quoted = len(text) >= 20 and text in str(error)
    else:
        raise AssertionError("nobody but us knows the secret")
    assert not quoted
    # What a careless issuer signs: any claims at all.
    try:
        claims = json.loads(data)
        signed = mint(SECRET, claims)
    except (ValueError, TypeError, RecursionError, AttributeError, OverflowError):
        return
    try:
        caller = _LOOP.run_until_complete(source.caller(signed))
    except Unauthenticated:
        return
    assert claims["iss"] == ISSUER
    assert claims["exp"] > source._clock.time() - 61
    assert caller.name


def proxied(data: bytes) -> None:
    """A path of a provider is one of its calls or none; what is then sent stays below the paths we know."""
    if not data:
        return
    dialect = _preset(_PRESETS[data[0] % len(_PRESETS)])
    text = data[1:].decode("latin-1")
    path, _, rest = text.partition("?")
    query, _, body = rest.partition("\n")
    for method in ("GET", "POST"):
        try:
            match = dialect.match(method, "/" + path, query, body.encode() if method == "POST" else b"")
        except BridgeError:
            continue
        if match is None or match.task_id is None:
            continue
        try:
            request = dialect.status_request(match.task_id)
        except BridgeError:
            continue
        segments = unquote(unquote(request.path.partition("?")[0])).split("/")
        assert not {".", ".."} & set(segments), request.path
        assert "\\" not in unquote(unquote(request.path)), request.path
        assert request.path.isascii()
        assert not any(character <= " " for character in request.path), request.path


TARGETS: dict[str, Target] = {
    target.__name__: target for target in (heads, frames, events, dialects, cursors, tokens, proxied)
}
