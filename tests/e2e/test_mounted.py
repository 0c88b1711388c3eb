"""The bridge inside somebody else's app, under a server that is not ours."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from yarl import URL

from bridge.app import Bridge
from bridge.config.load import load
from tests.harness import PATIENCE, Provider, qingbo, qingbo_done, running_simulator, upstreams_of

pytestmark = pytest.mark.anyio


def free_port() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


@asynccontextmanager
async def under_uvicorn(app: Any) -> AsyncIterator[str]:
    """Plain uvicorn, with a parser that is not ours."""
    listener = free_port()
    server = uvicorn.Server(uvicorn.Config(app, http="h11", log_config=None, access_log=False))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def under_hypercorn(app: Any) -> AsyncIterator[str]:
    """Another server altogether: no transport to be seen."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    listener = free_port()
    port = listener.getsockname()[1]
    listener.close()
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.errorlog = None
    ended = asyncio.Event()
    serving = asyncio.ensure_future(serve(app, config, shutdown_trigger=ended.wait))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        ended.set()
        await serving


@asynccontextmanager
async def under_granian(app: Any) -> AsyncIterator[str]:
    """A server in Rust, whose `send` returns no coroutine."""
    embed = pytest.importorskip("granian.server.embed")
    listener = free_port()
    port = listener.getsockname()[1]
    listener.close()
    server = embed.Server(app, address="127.0.0.1", port=port, interface="asgi", log_enabled=False)
    serving = asyncio.ensure_future(server.serve())
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()
        await serving


@asynccontextmanager
async def mounted(bridge: Bridge) -> AsyncIterator[Starlette]:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with bridge.running():
            yield

    yield Starlette(routes=[Mount("/bridge", app=bridge)], lifespan=lifespan)


async def connected(http: aiohttp.ClientSession, url: str) -> aiohttp.ClientResponse:
    """The first answer of a server that may only just begin to listen."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                return await http.get(url)


@pytest.mark.parametrize(
    "server", [under_uvicorn, under_hypercorn, under_granian], ids=["uvicorn", "hypercorn", "granian"]
)
async def test_a_mounted_bridge_streams_to_its_end(server: Any, http: aiohttp.ClientSession) -> None:
    async with running_simulator() as simulator:
        provider = Provider(simulator, "qingbo", http)
        ref = await provider.script("a/b", qingbo("a/b", "queued"), qingbo("a/b", "processing", 40))
        wishes = upstreams_of(simulator, poll_min_seconds=0.05, poll_max_seconds=0.05)
        settings = load(None, environment={}, journal="memory", upstreams=wishes)
        async with mounted(Bridge(settings)) as app, server(app) as url:
            events = f"{url}/bridge/v1/tasks/qingbo/a%2Fb/events"
            async with await connected(http, events) as stream:
                assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
                seen = b""
                while b'"progress":40' not in seen:
                    seen += await stream.content.readany()
                await provider.then("a/b", qingbo_done("a/b"))
                seen += await stream.content.read()
            assert seen.startswith(b": ok\nretry: ")
            assert seen.endswith(b'event: end\ndata: {"tasks":1}\n\n')
            assert seen.count(b"\nevent: done\n") == 1
            async with http.ws_connect(f"{url}/bridge/v1/ws", protocols=["bridge.v1.json"]) as socket_:
                await socket_.send_json({"type": "subscribe", "id": 1, "tasks": [ref]})
                types = [(await socket_.receive_json())["type"] for _ in range(3)]
            assert types == ["subscribed", "state", "done"]
            async with http.post(f"{url}/bridge/v1/tasks/qingbo", json={"model": "veo3"}) as created:
                links, location = (await created.json())["links"], created.headers["location"]
            assert created.status == 201
            assert location == links["self"]
            for name in ("self", "events"):  # as they are: where the bridge is mounted is part of them
                async with http.get(URL(url + links[name], encoded=True)) as followed:
                    assert followed.status == 200
            assert links["ws"].startswith("/bridge/v1/ws?")
