"""The bridge below whatever calls itself an ASGI server: nothing about its `send` or its scope is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from bridge.app import Bridge
from bridge.config.load import load
from tests.harness import PATIENCE, Provider, qingbo_done, running_simulator, upstreams_of

pytestmark = pytest.mark.anyio

Send = Callable[[Any], Any]


class _Awaitable:
    """An awaitable that is no coroutine, as granian's."""

    def __init__(self, done: Callable[[], None]) -> None:
        self._done = done

    def __await__(self) -> Generator[Any, None, None]:
        yield from asyncio.sleep(0).__await__()
        self._done()


def bound_to_no_coroutine(take: Send) -> Send:
    return lambda message: _Awaitable(lambda: take(message))


def a_future(take: Send) -> Send:
    def send(message: Any) -> asyncio.Future[None]:
        take(message)
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    return send


def only_in_a_task(take: Send) -> Send:
    async def send(message: Any) -> None:
        assert asyncio.current_task() is not None
        async with asyncio.timeout(PATIENCE):
            await asyncio.sleep(0)
        take(message)

    return send


def one_at_a_time(take: Send) -> Send:
    busy = asyncio.Lock()

    async def send(message: Any) -> None:
        assert not busy.locked(), "two messages of one connection at once"
        async with busy:
            await asyncio.sleep(0)
            take(message)

    return send


SENDS = [bound_to_no_coroutine, a_future, only_in_a_task, one_at_a_time]
SCOPES: dict[str, dict[str, Any]] = {
    "bare": {},
    "no extensions": {"extensions": None, "client": None, "server": None, "root_path": ""},
    "headers in a tuple": {"headers": ((b"host", b"127.0.0.1"),), "extensions": {}, "state": {}},
}


@asynccontextmanager
async def bridge_with_a_finished_task(http: Any) -> AsyncIterator[Bridge]:
    async with running_simulator() as simulator:
        await Provider(simulator, "qingbo", http).script("a", qingbo_done("a"))
        settings = load(
            None,
            environment={},
            journal="memory",
            upstreams=upstreams_of(simulator, poll_min_seconds=0.05, poll_max_seconds=0.05),
        )
        bridge = Bridge(settings)
        async with bridge.running():
            yield bridge


async def call(
    bridge: Bridge, scope: dict[str, Any], make: Callable[[Send], Send], incoming: list[Any]
) -> list[Any]:
    """All messages of one connection; `receive` never tells that it has ended."""
    taken: list[Any] = []

    async def receive() -> Any:
        if incoming:
            return incoming.pop(0)
        return await asyncio.get_running_loop().create_future()

    basis = {
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
    }
    async with asyncio.timeout(PATIENCE):
        await bridge(basis | scope, receive, make(taken.append))
    return taken


@pytest.fixture(scope="module")
async def bridge(anyio_backend: str) -> AsyncIterator[Bridge]:
    import aiohttp

    async with aiohttp.ClientSession() as http, bridge_with_a_finished_task(http) as made:
        yield made


@pytest.mark.parametrize("extra", SCOPES.values(), ids=SCOPES)
@pytest.mark.parametrize("make", SENDS, ids=lambda make: make.__name__)
async def test_a_stream_reaches_its_end(
    bridge: Bridge, make: Callable[[Send], Send], extra: dict[str, Any]
) -> None:
    path = "/v1/tasks/qingbo/a/events"
    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode()} | extra
    start, *parts = await call(bridge, scope, make, [{"type": "http.request", "body": b""}])
    assert (start["type"], start["status"]) == ("http.response.start", 200)
    body = b"".join(part.get("body", b"") for part in parts)
    assert body.startswith(b": ok\n")
    assert body.endswith(b'retry: 86400000\nevent: end\ndata: {"tasks":1}\n\n')
    assert [part.get("more_body", False) for part in parts] == [True] * (len(parts) - 1) + [False]


@pytest.mark.parametrize("make", SENDS, ids=lambda make: make.__name__)
async def test_a_socket_gets_its_messages_whole(bridge: Bridge, make: Callable[[Send], Send]) -> None:
    subscribe = orjson.dumps({"type": "subscribe", "id": 1, "tasks": ["qingbo/a"]}).decode()
    incoming = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": subscribe},
        {"type": "websocket.receive", "bytes": b'{"type":"ping","id":2}'},
    ]
    scope = {"type": "websocket", "path": "/v1/ws", "raw_path": b"/v1/ws", "scheme": "ws"}
    ended = asyncio.Event()

    def making(take: Send) -> Send:
        def noting(message: Any) -> None:
            take(message)
            if "pong" in message.get("text", ""):
                incoming.append({"type": "websocket.disconnect", "code": 1000})
                ended.set()

        return make(noting)

    taken: list[Any] = []

    async def receive() -> Any:
        if not incoming:
            await ended.wait()
        return incoming.pop(0)

    basis = {"asgi": {"version": "3.0"}, "http_version": "1.1", "query_string": b"", "subprotocols": []}
    async with asyncio.timeout(PATIENCE):
        await bridge(basis | scope | {"headers": [(b"host", b"127.0.0.1")]}, receive, making(taken.append))
    assert taken[0]["type"] == "websocket.accept"
    said = [orjson.loads(message["text"])["type"] for message in taken[1:]]
    assert said == ["subscribed", "state", "done", "pong"]
