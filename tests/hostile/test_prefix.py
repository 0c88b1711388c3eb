"""Links begin with the prefix that a proxy left out, if a trusted proxy or the operator names it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from tests.e2e.scene import Scene, stage
from tests.harness import qingbo

pytestmark = pytest.mark.anyio

SUBMIT = {"model": "m", "prompt": "p"}
HOSTILE = [
    *("//evil.example", "https://evil.example", "/a//b", "/..", "/a/../b", "/%2e%2e", "/a\\b", "/a?b", "a"),
    *(
        '/"><script>',
        "/a b",
        "/" + "x" * 300,
        "/a, //evil.example",
        "/é",
        "\\evil.example",
        "/a;b",
        "/.",
        "/#",
    ),
]


@pytest.fixture(scope="module")
async def behind(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(trusted_proxies=["127.0.0.1"]) as made:
        yield made


async def _links(scene: Scene, **headers: str) -> tuple[str, dict[str, str]]:
    wanted = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = await scene.call("POST", "/v1/tasks/qingbo", json=SUBMIT, headers=wanted)
    assert reply.status == 201
    assert reply.headers["Location"] == reply.json["links"]["self"]
    return reply.json["state"]["task_id"], reply.json["links"]


def _under(prefix: str, task_id: str) -> dict[str, str]:
    path = f"{prefix}/v1/tasks/qingbo/{task_id}"
    socket = f"{prefix}/v1/ws?task=qingbo/{task_id}"
    return {"self": path, "events": f"{path}/events", "ws": socket, "cancel": f"{path}/cancel"}


@pytest.mark.parametrize(
    ("named", "prefix"),
    [
        ("/bridge", "/bridge"),
        ("/bridge/", "/bridge"),
        ("/a, /b-c", "/a/b-c"),
        ("/", ""),
        ("", ""),
        ("/v1", "/v1"),
    ],
)
async def test_a_trusted_proxy_names_it(behind: Scene, named: str, prefix: str) -> None:
    task_id, links = await _links(behind, X_Forwarded_Prefix=named)
    assert links == _under(prefix, task_id)
    ticketless = await behind.get("/openapi.yaml", X_Forwarded_Prefix=named)
    assert f"\n  - url: {prefix or '/'}\n".encode() in ticketless.body
    same = await behind.get("/openapi.json", X_Forwarded_Prefix=named)
    assert [server["url"] for server in same.json["servers"]] == [prefix or "/"]
    assert [server["url"] for server in same.json["paths"]["/livez"]["servers"]] == [prefix or "/"]
    assert yaml.safe_load(ticketless.body) == same.json
    messages = yaml.safe_load((await behind.get("/asyncapi.yaml", X_Forwarded_Prefix=named)).body)
    assert messages["servers"]["http"].get("pathname") == (prefix or None)
    assert messages["servers"]["ws"].get("pathname") == (prefix or None)


@pytest.mark.parametrize("hostile", HOSTILE)
async def test_what_is_no_prefix_is_none(behind: Scene, hostile: str) -> None:
    task_id, links = await _links(behind, X_Forwarded_Prefix=hostile)
    assert links == _under("", task_id)


async def test_links_to_the_provider_carry_it_too(behind: Scene) -> None:
    task = behind.id()
    url = f"{behind.simulator.url}/qingbo/v1/tasks/{task}"
    await behind.script("qingbo", task, qingbo(task, "processing", 1, status_url=url))
    reply = await behind.get(f"/proxy/qingbo/v1/tasks/{task}", X_Forwarded_Prefix="/bridge", Host="bridge:1")
    assert reply.json["status_url"] == f"http://bridge:1/bridge/proxy/qingbo/v1/tasks/{task}"
    refused = await behind.get("/proxy/qingbo/nowhere", X_Forwarded_Prefix="/bridge")
    assert refused.json == {"error": {"message": refused.json["error"]["message"], "code": "route_not_found"}}


@pytest.mark.parametrize("settings", [{}, {"trusted_proxies": ["192.0.2.1"]}])
async def test_a_client_cannot_name_one(settings: dict[str, Any]) -> None:
    async with stage(**settings) as scene:
        task_id, links = await _links(scene, X_Forwarded_Prefix="/evil")
        assert links == _under("", task_id)


async def test_the_operators_word_counts_before_a_proxys() -> None:
    wishes = {"public_url": "https://bridge.example/base/", "trusted_proxies": ["127.0.0.1"]}
    async with stage(
        callback_url="https://in.example/hooks", each={"callback_secret": "s" * 16}, **wishes
    ) as scene:
        task_id, links = await _links(scene, X_Forwarded_Prefix="/bridge")
        assert links == _under("/base", task_id)
        assert (await scene.get("/livez")).status == 200
