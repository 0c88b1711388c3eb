"""Contract section 5 with a WebSocket client of other authors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import pytest
import websockets
from websockets.typing import Origin, Subprotocol

from tests.e2e.scene import Scene, stage
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

NOT_FOUND = answer({"error": {"code": "task_not_found", "message": "no such task"}}, status=404)


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(first_state_timeout_seconds=0.4, allowed_origins=["https://good.example"]) as made:
        yield made


class Client:
    """Says and hears JSON."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket

    async def say(self, **fields: Any) -> None:
        await self.socket.send(orjson.dumps(fields).decode())

    async def hear(self) -> Any:
        async with asyncio.timeout(PATIENCE):
            text = await self.socket.recv()
        assert isinstance(text, str)
        return orjson.loads(text)

    async def hear_type(self, *types: str) -> Any:
        while (said := await self.hear())["type"] not in types:
            pass
        return said


@asynccontextmanager
async def connected(scene: Scene, query: str = "", **options: Any) -> AsyncIterator[Client]:
    url = scene.bridge.url.replace("http", "ws") + "/v1/ws" + query
    async with websockets.connect(url, compression=None, **options) as socket:
        yield Client(socket)


async def test_subscribed_state_and_done_in_that_order_and_the_connection_stays(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with connected(scene) as client:
        await client.say(type="subscribe", id=1, tasks=[ref])
        assert await client.hear() == {"type": "subscribed", "id": 1, "tasks": [ref]}
        first = await client.hear()
        assert (first["type"], first["state"]["progress"]) == ("state", 5)
        assert first["cursor"] == first["state"]["cursor"]
        await scene.then("qingbo", task, qingbo_done(task))
        final = await client.hear()
        assert (final["type"], final["state"]["status"]) == ("state", "completed")
        assert await client.hear() == {
            "type": "done",
            "task": ref,
            "status": "completed",
            "cursor": final["cursor"],
        }
        await client.say(type="ping", id="x")
        assert await client.hear() == {"type": "pong", "id": "x"}


async def test_subscribing_again_to_a_finished_task_gives_its_final_state_and_done(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo_done(task))
    async with connected(scene) as client:
        for number in (1, 2, 3):
            await client.say(type="subscribe", id=number, tasks=[ref])
            assert (await client.hear())["id"] == number
            assert (await client.hear_type("state"))["state"]["status"] == "completed"
            assert (await client.hear())["type"] == "done"


async def test_tasks_on_the_url_are_subscribed_at_once(scene: Scene) -> None:
    one, two = scene.id(), scene.id()
    refs = [
        await scene.script("qingbo", one, qingbo_done(one)),
        await scene.script("qingbo", two, qingbo_done(two)),
    ]
    async with connected(scene, f"?task={refs[0]}&task={refs[1]}") as client:
        assert await client.hear() == {"type": "subscribed", "id": None, "tasks": refs}
        done = {(await client.hear_type("done"))["task"] for _ in refs}
    assert done == set(refs)


async def test_a_history_on_the_url_has_each_state_once_and_the_end_is_repeated_where_it_was_seen(
    scene: Scene,
) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5), qingbo_done(task))
    async with scene.events(ref) as stream:
        final = await stream.state_with(status="completed")
    replayed = ["processing", "completed", "done"]
    for query, kinds in [("", replayed), (f"&last_event_id={final['cursor']}", ["completed", "done"])]:
        async with connected(scene, f"?task={ref}&history=1{query}") as client:
            await client.hear_type("subscribed")
            await client.say(type="ping", id=1)
            heard = []
            while (message := await client.hear())["type"] != "pong":
                heard.append(message["state"]["status"] if message["type"] == "state" else message["type"])
        assert heard == kinds


async def test_after_sends_only_what_is_newer_and_resets_what_it_does_not_know(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with connected(scene) as client:
        await client.say(type="subscribe", id=1, tasks=[ref])
        cursor = (await client.hear_type("state"))["cursor"]
    async with connected(scene) as client:
        await client.say(type="subscribe", id=2, tasks=[ref], after=cursor)
        assert (await client.hear())["type"] == "subscribed"
        await client.say(type="ping", id=3)
        assert (await client.hear())["type"] == "pong"  # and no state before it
        await scene.then("qingbo", task, qingbo(task, "processing", 6))
        assert (await client.hear_type("state"))["state"]["progress"] == 6
    async with connected(scene) as client:
        await client.say(type="subscribe", id=4, tasks=[ref], after="foreign-17")
        assert (await client.hear())["type"] == "subscribed"
        reset = await client.hear()
        assert (reset["type"], isinstance(reset["reason"], str)) == ("reset", True)
        assert (await client.hear())["state"]["progress"] == 6


async def test_unsubscribe_stops_the_events_of_that_task_only(scene: Scene) -> None:
    one, two = scene.id(), scene.id()
    refs = [
        await scene.script("qingbo", one, qingbo(one, "processing", 1)),
        await scene.script("qingbo", two, qingbo(two, "processing", 1)),
    ]
    async with connected(scene) as client, scene.events(refs[0]) as witness:
        await client.say(type="subscribe", id=1, tasks=refs)
        for _ in refs:
            await client.hear_type("state")
        await client.say(type="unsubscribe", id=2, tasks=[refs[0]])
        assert (await client.hear())["id"] == 2
        await scene.then("qingbo", one, qingbo(one, "processing", 2))
        await witness.state_with(progress=2)
        await scene.then("qingbo", two, qingbo(two, "processing", 3))
        state = (await client.hear())["state"]
        assert (state["task"], state["progress"]) == (refs[1], 3)


async def test_a_missing_task_is_an_error_with_the_id_and_the_connection_stays(scene: Scene) -> None:
    ref = await scene.script("qingbo", scene.id(), NOT_FOUND)
    async with connected(scene) as client:
        await client.say(type="subscribe", id=7, tasks=[ref])
        assert (await client.hear())["type"] == "subscribed"
        error = await client.hear_type("error")
        assert (error["id"], error["code"], error["task"]) == (7, "task_not_found", ref)
        assert error["message"]
        await client.say(type="ping")
        assert await client.hear() == {"type": "pong", "id": None}


BAD_MESSAGES = [
    "",
    "{",
    "[]",
    "null",
    '"x"',
    "{}",
    '{"type": "dance"}',
    '{"type": ["subscribe"]}',
    '{"type": "subscribe"}',
    '{"type": "subscribe", "tasks": []}',
    '{"type": "subscribe", "tasks": "qingbo/x"}',
    '{"type": "subscribe", "tasks": [1]}',
    '{"type": "subscribe", "tasks": ["qingbo"]}',
    '{"type": "subscribe", "tasks": ["qingbo/a\\u0000b"]}',
    '{"type": "subscribe", "id": {}, "tasks": ["qingbo/x"]}',
    '{"type": "ping", "id": true}',
    '{"type": "unsubscribe", "tasks": null}',
    "[" * 2000,
    '{"type": "\\ud800"}',
    b"\xff\xfe",
]


@pytest.mark.parametrize("message", BAD_MESSAGES, ids=range(len(BAD_MESSAGES)))
async def test_a_message_that_is_none_is_an_error_and_the_connection_stays(
    scene: Scene, message: str | bytes
) -> None:
    async with connected(scene) as client:
        await client.socket.send(message)
        error = await client.hear()
        assert (error["type"], error["code"]) == ("error", "invalid_request")
        assert set(error) == {"type", "id", "code", "task", "message"}
        await client.say(type="ping", id=1)
        assert (await client.hear())["type"] == "pong"


async def test_an_unknown_upstream_is_an_error_and_nothing_of_the_message_is_done(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with connected(scene) as client:
        await client.say(type="subscribe", id=1, tasks=[ref, "other/x"])
        error = await client.hear()
        assert (error["type"], error["id"], error["code"]) == ("error", 1, "upstream_not_found")
        await client.say(type="ping", id=2)
        assert (await client.hear())["type"] == "pong"
    assert scene.ledger.of("qingbo", task) == 0


async def test_more_than_two_hundred_tasks_are_an_error(scene: Scene) -> None:
    async with connected(scene) as client:
        await client.say(type="subscribe", id=1, tasks=[f"qingbo/t{number}" for number in range(201)])
        assert (await client.hear())["type"] == "error"
        await client.say(type="ping", id=2)
        assert (await client.hear())["type"] == "pong"


async def test_a_message_over_64_kib_closes_with_1009(scene: Scene) -> None:
    async with connected(scene) as client:
        await client.say(type="ping", id="x" * (63 * 1024))
        assert (await client.hear())["type"] == "pong"
        await client.say(type="ping", id="x" * (64 * 1024))
        with pytest.raises(websockets.ConnectionClosed):
            await client.hear()
        assert client.socket.close_code == 1009


async def test_a_subprotocol_that_is_offered_is_echoed_and_none_is_invented(scene: Scene) -> None:
    ours = Subprotocol("bridge.v1.json")
    async with connected(scene, subprotocols=[Subprotocol("other"), ours]) as client:
        assert client.socket.subprotocol == ours
    async with connected(scene) as client:
        assert client.socket.subprotocol is None


async def test_a_foreign_origin_is_refused_before_accepting_and_a_known_one_is_let_in(scene: Scene) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connected(scene, origin=Origin("https://evil.example")):
            pass
    assert refused.value.response.status_code == 403
    for origin in ("https://good.example", scene.bridge.url):
        async with connected(scene, origin=Origin(origin)) as client:
            await client.say(type="ping", id=1)
            assert (await client.hear())["type"] == "pong"


@pytest.mark.parametrize(
    "query", ["?task=other/x", "?task=qingbo", "?include=all", "?task=qingbo/x&history=2"]
)
async def test_a_url_that_cannot_be_understood_is_refused_before_accepting(scene: Scene, query: str) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connected(scene, query):
            pass
    assert refused.value.response.status_code == 403


async def test_include_raw_works_on_the_url(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with connected(scene, f"?task={ref}&include=raw") as client:
        assert (await client.hear_type("state"))["state"]["raw"]["task_id"] == task


async def test_notices_reach_a_websocket(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5), answer("<html>"))
    async with connected(scene, f"?task={ref}") as client:
        notice = await client.hear_type("notice")
        assert (notice["code"], notice["task"], notice["retriable"]) == ("upstream_unavailable", ref, True)
        await scene.then("qingbo", task, qingbo(task, "processing", 6))
        assert (await client.hear_type("notice"))["code"] == "fresh"


async def test_a_client_that_closes_with_1000_leaves_nothing_behind(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with connected(scene, f"?task={ref}") as client:
        await client.hear_type("state")
        await scene.reaches('bridge_connections{delivery="websocket"}', 1)
    assert client.socket.close_code == 1000
    await scene.reaches('bridge_connections{delivery="websocket"}', 0)
    await scene.reaches('bridge_interests{upstream="qingbo"}', 0)


async def test_a_flood_of_ids_on_one_connection_is_read_slowly() -> None:
    asked = 0
    async with stage(each={"requests_per_second": 5.0}) as scene, connected(scene) as client:

        async def flood() -> None:
            nonlocal asked
            while True:
                ids = [f"qingbo/{scene.id()}" for _ in range(200)]
                await client.say(type="subscribe", id=1, tasks=ids)
                await client.say(type="unsubscribe", id=2, tasks=ids)
                await client.hear_type("unsubscribed")
                asked += 200

        with suppress(TimeoutError):
            await asyncio.wait_for(flood(), 2)
    assert 800 <= asked <= 1600
