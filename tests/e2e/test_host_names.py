"""Without `auth`, loopback keeps strangers out; `Host` keeps out their pages in somebody's browser."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import websockets

from tests.e2e.scene import Scene, path_of, stage
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.harness import qingbo

pytestmark = pytest.mark.anyio

OURS = [
    "127.0.0.1",
    "127.0.0.1:8080",
    "[::1]:8080",
    "localhost:8080",
    "LOCALHOST.",
    "app.localhost:1",
    "bridge:8080",
    "bridge.example.com",
    "Bridge.Example.Com.:443",
    "a.corp.example",
    "",
]
STRANGE = [
    "evil.example",
    "evil.example:8080",
    "bridge.example.com.evil.example",
    "127.0.0.1.nip.io",
    "corp.example",
    "x]y.z",
]
PATHS = [
    "/",
    "/v1/tasks/qingbo/a",
    "/v1/events?task=qingbo/a",
    "/status",
    "/metrics",
    "/livez",
    "/inspector/tasks",
]


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(allowed_hosts=["bridge.example.com", "*.corp.example"]) as made:
        yield made


@pytest.mark.parametrize("host", OURS)
async def test_names_of_this_machine_and_those_allowed_are_let_in(scene: Scene, host: str) -> None:
    assert (await scene.get("/livez", Host=host)).status == 200


@pytest.mark.parametrize("host", STRANGE)
async def test_a_strange_name_is_refused(scene: Scene, host: str) -> None:
    reply = await scene.get("/livez", Host=host)
    assert (reply.status, reply.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize("path", PATHS)
async def test_on_every_route(scene: Scene, path: str) -> None:
    reply = await scene.get(path, Host="evil.example")
    assert (reply.status, reply.json["code"]) == (403, "forbidden")
    assert scene.ledger.of("qingbo", "a") == 0


async def test_on_a_websocket_too(scene: Scene) -> None:
    url = scene.bridge.url.replace("http", "ws") + "/v1/ws"
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(url.replace("127.0.0.1", "evil.example"), host="127.0.0.1"):
            pass
    assert refused.value.response.status_code == 403


async def test_whoever_asks_for_credentials_need_not_know_its_name() -> None:
    async with stage(**TOKEN_SETTINGS) as scene:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
        headers = bearer(ref) | {"Host": "bridge.example.com"}
        assert (await scene.call("GET", path_of(ref), headers=headers)).status == 200
