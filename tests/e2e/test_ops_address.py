"""An address of its own for operators: what is there, what is not, and that it outlives the drain."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from bridge.config.load import load
from bridge.errors import ConfigError
from tests.e2e.scene import Scene, stage, until
from tests.harness import PATIENCE, qingbo

pytestmark = pytest.mark.anyio

UPSTREAMS = {"qingbo": {"api_key": "test-key"}}
MANY, DRAIN_SECONDS = 300, 2


@asynccontextmanager
async def apart(**settings: Any) -> AsyncIterator[tuple[Scene, str]]:
    """A scene and the address it says operators have."""
    async with stage(admin_port=0, **settings) as scene:
        stdout = scene.bridge.process.stdout
        assert stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await stdout.readline()).decode()
        found = re.fullmatch(r"bridge operations listening on (http://127\.0\.0\.1:\d+)\n", line)
        assert found, line
        yield scene, found[1]


async def _status(scene: Scene, url: str) -> int:
    async with scene.http.get(url) as answer:
        await answer.read()
        return answer.status


async def test_what_tells_about_the_bridge_is_there_and_not_here_and_probes_are_at_both() -> None:
    async with apart() as (scene, operations):
        assert operations != scene.bridge.url
        documents = ("/openapi.yaml", "/openapi.json", "/asyncapi.yaml", "/state.schema.json")
        for path in ("/metrics", "/status", "/docs", "/docs/docs.js", *documents):
            assert (await _status(scene, operations + path), (await scene.get(path)).status) == (200, 404)
        for path in ("/livez", "/readyz"):
            assert (await _status(scene, operations + path), (await scene.get(path)).status) == (200, 200)
        for path in ("/v1/tasks/qingbo/x", "/v1/tasks/qingbo/x/events", "/v1/ws", "/proxy/qingbo/v1/tasks/x"):
            assert await _status(scene, operations + path) == 404


async def test_what_a_client_writes_as_host_or_address_does_not_bring_it_there() -> None:
    async with apart() as (scene, operations):
        place = operations.removeprefix("http://")
        for headers in ({"Host": place}, {"X-Forwarded-Host": place, "Forwarded": f"host={place}"}):
            assert (await scene.call("GET", "/metrics", headers=headers)).status == 404
        async with scene.stream(f"{operations}/metrics") as stream:
            assert stream.status == 400  # a target that names another host than `Host`
        async with scene.stream(f"{scene.bridge.url}/metrics") as stream:
            assert stream.status == 404


async def test_without_it_everything_is_at_one_address() -> None:
    async with stage() as scene:
        for path in ("/metrics", "/status", "/livez", "/readyz"):
            assert (await scene.get(path)).status == 200


async def test_it_answers_until_the_drain_is_over() -> None:
    async with apart(drain_seconds=DRAIN_SECONDS) as (scene, operations), AsyncExitStack() as stack:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
        streams = [await stack.enter_async_context(scene.events(ref)) for _ in range(MANY)]
        ending = asyncio.ensure_future(scene.bridge.stop())
        await until(lambda: _status(scene, operations + "/readyz"), 503)
        assert await _status(scene, operations + "/metrics") == 200
        assert await _status(scene, operations + "/status") == 200
        for stream in streams:
            last = (await stream.rest())[-1]
            assert last.data["reason"] == "drain"
        assert await ending == 0


async def test_an_address_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            async with stage(admin_port=port):
                pass


@pytest.mark.parametrize(
    ("wishes", "address"),
    [
        ({}, None),
        ({"admin_port": 9100}, ("127.0.0.1", 9100)),
        ({"admin_host": "0.0.0.0"}, ("0.0.0.0", 8081)),
        ({"admin_host": "::1", "admin_port": 9100}, ("::1", 9100)),
        ({"admin_port": 0}, ("127.0.0.1", 0)),
        ({"port": 0, "admin_host": "127.0.0.1"}, ("127.0.0.1", 0)),
    ],
)
async def test_where_it_is(wishes: dict[str, Any], address: tuple[str, int] | None) -> None:
    assert load(None, environment={}, upstreams=UPSTREAMS, **wishes).admin_address == address


async def test_with_callers_who_must_say_who_they_are_it_is_there_by_default() -> None:
    settings = load(None, environment={}, upstreams=UPSTREAMS, port=9000)
    asked = settings.model_copy(update={"auth": "token"})
    assert asked.admin_address == ("127.0.0.1", 9001)


@pytest.mark.parametrize(
    "wishes",
    [
        {"port": 9000, "admin_port": 9000},
        {"port": 65_535, "admin_host": "127.0.0.1"},
        {"admin_port": 70_000},
    ],
)
async def test_an_address_that_cannot_be_is_a_mistake(wishes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="admin_port"):
        load(None, environment={}, upstreams=UPSTREAMS, **wishes)
