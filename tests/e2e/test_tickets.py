"""Tickets: what a page may carry in a URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import websockets

from tests.e2e.scene import Reply, Scene, path_of, stage
from tests.fakes.credentials import TOKEN_SETTINGS, bearer, token
from tests.harness import PATIENCE, qingbo

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(first_state_timeout_seconds=0.4, **TOKEN_SETTINGS) as made:
        yield made


@pytest.fixture
async def ref(scene: Scene) -> str:
    task = scene.id()
    return await scene.script("qingbo", task, qingbo(task, "processing", 1))


async def asked(scene: Scene, body: Any, **credential: Any) -> Reply:
    headers = bearer("qingbo/*", **credential)
    return await scene.call("POST", "/v1/tickets", json=body, headers=headers)


async def ticket(scene: Scene, *refs: str, **more: Any) -> dict[str, Any]:
    reply = await asked(scene, {"tasks": list(refs)} | more)
    assert reply.status == 201, reply.body
    assert reply.headers["Cache-Control"] == "no-store"
    return dict(reply.json)


async def test_a_ticket_opens_streams_in_every_delivery_again_and_again(scene: Scene, ref: str) -> None:
    given = await ticket(scene, ref)
    assert given["tasks"] == [ref]
    assert given["expires_at"].endswith("Z")
    mine = f"ticket={given['ticket']}"
    for path in (given["links"]["events"], f"{path_of(ref)}/events?{mine}", f"{path_of(ref)}/events?{mine}"):
        async with scene.stream(path) as stream:
            first = await stream.state()
            assert first["task"] == ref
    async with scene.stream(f"{path_of(ref)}/events?{mine}&last_event_id={first['cursor']}") as stream:
        assert stream.status == 200
    async with scene.stream(
        f"{path_of(ref)}/events?{mine}", headers={"Accept": "application/x-ndjson"}
    ) as stream:
        assert orjson.loads((await stream.piece()).split(b"\n")[0])["task"] == ref
    url = scene.bridge.url.replace("http", "ws") + given["links"]["ws"]
    async with asyncio.timeout(PATIENCE), websockets.connect(url) as socket:
        assert orjson.loads(await socket.recv())["tasks"] == [ref]
        await socket.send(orjson.dumps({"type": "subscribe", "id": 1, "tasks": ["qingbo/other"]}).decode())
        while (said := orjson.loads(await socket.recv()))["type"] != "error":
            pass
        assert (said["code"], said["task"]) == ("forbidden", "qingbo/other")


async def test_a_ticket_is_for_its_tasks_only(scene: Scene, ref: str) -> None:
    mine = (await ticket(scene, ref))["ticket"]
    strange = await scene.get(f"/v1/tasks/qingbo/strange/events?ticket={mine}")
    assert (strange.status, strange.json["code"]) == (403, "forbidden")
    many = await scene.get(f"/v1/events?task={ref}&task=qingbo/strange&ticket={mine}")
    assert many.status == 403


async def test_a_ticket_opens_nothing_but_streams(scene: Scene, ref: str) -> None:
    mine = (await ticket(scene, ref))["ticket"]
    for method, path in (
        ("GET", path_of(ref)),
        ("POST", f"{path_of(ref)}/cancel"),
        ("POST", "/v1/tasks/qingbo"),
        ("POST", "/v1/tickets"),
        ("GET", f"/proxy/qingbo/v1/tasks/{ref.partition('/')[2]}"),
    ):
        assert (await scene.call(method, f"{path}?ticket={mine}")).status == 401
        assert (await scene.call(method, path, headers={"Authorization": f"Bearer {mine}"})).status == 401


async def test_a_token_is_no_ticket(scene: Scene, ref: str) -> None:
    assert (await scene.get(f"{path_of(ref)}/events?ticket={token('*')}")).status == 401


async def test_a_ticket_is_given_for_readable_tasks_only(scene: Scene, ref: str) -> None:
    assert (await asked(scene, {"tasks": [ref, "vapi/a"]})).status == 403
    assert (await asked(scene, {"tasks": [ref]}, scope="submit admin")).status == 403
    assert (await scene.call("POST", "/v1/tickets", json={"tasks": [ref]})).status == 401


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tasks": []},
        {"tasks": "qingbo/a"},
        {"tasks": ["qingbo"]},
        {"tasks": ["qingbo/*"]},
        {"tasks": ["qingbo/a"], "seconds": 901},
        {"tasks": ["qingbo/a"], "seconds": 0},
        {"tasks": ["qingbo/a"], "seconds": True},
        {"tasks": ["qingbo/a"], "seconds": 1.5},
        {"tasks": ["qingbo/a"], "scope": "submit"},
        {"tasks": [f"qingbo/{n:0250}" for n in range(100)]},
        [],
    ],
)
async def test_what_is_no_order_for_a_ticket_is_400(scene: Scene, body: Any) -> None:
    reply = await asked(scene, body)
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")


async def test_a_whole_number_of_seconds_is_one_however_json_writes_it(scene: Scene, ref: str) -> None:
    body = f'{{"tasks": ["{ref}"], "seconds": 3e1}}'
    reply = await scene.call("POST", "/v1/tickets", data=body, headers=bearer("qingbo/*"))
    assert reply.status == 201, reply.body


async def test_a_ticket_ends_with_the_token_it_was_asked_for_with(scene: Scene, ref: str) -> None:
    reply = await asked(scene, {"tasks": [ref], "seconds": 900}, seconds=2)
    async with scene.stream(reply.json["links"]["events"]) as stream:
        last = (await stream.rest())[-1]
    assert (last.data["code"], last.data["reason"]) == ("closing", "expired")
    assert (await scene.get(reply.json["links"]["events"])).status == 401


@pytest.mark.parametrize("text", ["", "%00", "a.b.c", "...", "é", "a" * 9000, "%ff%fe", "e30.e30.e30", "*"])
async def test_nonsense_is_401(scene: Scene, ref: str, text: str) -> None:
    reply = await scene.get(f"{path_of(ref)}/events?ticket={quote(text, safe='%')}")
    assert (reply.status, reply.json["code"]) == (401, "unauthenticated")


async def test_where_nobody_is_asked_there_are_no_tickets_and_a_leftover_one_is_ignored() -> None:
    async with stage() as scene:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
        reply = await scene.call("POST", "/v1/tickets", json={"tasks": [ref]})
        assert (reply.status, reply.json["code"]) == (409, "conflict")
        async with scene.events(ref, "?ticket=leftover") as stream:
            assert (await stream.state())["task"] == ref
