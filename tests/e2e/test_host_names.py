"""Without `auth`, loopback keeps strangers out; `Host` keeps out their pages in somebody's browser."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import websockets

from tests.e2e.scene import Scene, path_of, stage, until
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
]
REFUSED = "host name refused"
PATHS = [
    "/",
    "/v1/tasks/qingbo/a",
    "/v1/events?task=qingbo/a",
    "/status",
    "/metrics",
    "/livez",
    "/inspector/tasks",
    "/docs",
    "/docs/docs.js",
    "/openapi.json",
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


async def test_off_loopback_only_what_operators_read_is_checked_and_a_refusal_is_logged_once() -> None:
    async with stage(host="0.0.0.0", insecure=True) as scene:
        for path in ("/status", "/metrics"):
            for _ in range(3):
                reply = await scene.get(path, Host="Evil.example:8080")
                assert (reply.status, reply.json["code"]) == (403, "forbidden")
                assert "allowed_hosts" in reply.json["detail"]
            assert (await scene.get(path, Host="bridge:8080")).status == 200
        for path in ("/livez", "/", "/v1/tasks/qingbo/a"):
            assert (await scene.get(path, Host="evil.example")).status != 403

        async def logged() -> list[bool]:
            return [
                "evil.example" in line and "allowed_hosts" in line
                for line in scene.bridge.log
                if REFUSED in line
            ]

        await until(logged, [True])


async def test_the_admin_address_is_checked_where_it_asks_for_no_credential() -> None:
    for auth, status in (({"auth": "upstream-key"}, 403), (TOKEN_SETTINGS, 401), ({"auth": "none"}, 403)):
        async with stage(admin_port=0, **auth) as scene:
            assert scene.bridge.process.stdout is not None
            line = (await scene.bridge.process.stdout.readline()).decode()
            for path in ("/status", "/metrics"):
                url = line.rpartition(" ")[2].strip() + path
                async with scene.http.get(url, headers={"Host": "rebound.example"}) as reply:
                    assert reply.status == status
                if status == 403:
                    async with scene.http.get(url) as reply:
                        assert reply.status == 200
