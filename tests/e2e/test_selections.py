"""Tags and groups over the wire: the real process on SQLite, with clients of other authors."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import websockets

from bridge.wire.sse import Decoder
from tests.e2e.scene import QUICK, Scene, stage
from tests.harness import PATIENCE, qingbo, qingbo_done, running_bridge, running_simulator, upstreams_of

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    journal = tmp_path_factory.mktemp("journal") / "bridge.db"
    async with stage(journal=f"sqlite:{journal}") as made:
        yield made


async def _register(scene: Scene, *, answers: list[dict[str, Any]] | None = None, **body: Any) -> str:
    """A task that is queued, registered; returns its id."""
    task = scene.id()
    await scene.script("qingbo", task, *(answers or [qingbo(task, "processing", 10)]))
    reply = await scene.call("PUT", f"/v1/tasks/qingbo/{task}", data=orjson.dumps(body))
    assert reply.status in {200, 201}, reply.body
    return task


async def _close(scene: Scene, group: str) -> Any:
    reply = await scene.call("POST", f"/v1/groups/{group}/close")
    assert reply.status == 200, reply.body
    return reply.json


class Sse:
    """An event stream read with aiohttp."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self._decoder = Decoder()
        self._events: list[Any] = []
        self.last_id: str | None = None

    async def next(self) -> Any:
        """The next event; None at the end."""
        async with asyncio.timeout(PATIENCE):
            while not self._events:
                chunk = await self.response.content.readany()
                if not chunk:
                    return None
                self._events += self._decoder.feed(chunk)
        event = self._events.pop(0)
        self.last_id = event.id
        return event

    async def state(self, task: str, status: str) -> None:
        """Read up to a state."""
        while (event := await self.next()) is not None:
            if event.name is None:
                data = orjson.loads(event.data)
                if (data["task_id"], data["status"]) == (task, status):
                    return
        raise AssertionError(f"no {status} of {task}")

    async def rest(self) -> list[tuple[str | None, Any]]:
        """Everything up to the end."""
        events = []
        while (event := await self.next()) is not None:
            events.append((event.name, orjson.loads(event.data)))
        return events


async def test_a_tag_is_followed_also_what_comes_later(scene: Scene) -> None:
    first = await _register(scene, tags=["user-1"])
    url = f"{scene.bridge.url}/v1/events?tag=user-1"
    async with scene.http.get(url, headers={"Accept": "text/event-stream"}) as response:
        assert response.status == 200
        stream = Sse(response)
        await stream.state(first, "processing")
        second = await _register(scene, tags=["user-1", "user-2"])
        await stream.state(second, "processing")
        await scene.then("qingbo", second, qingbo_done(second))
        await stream.state(second, "completed")
        last = stream.last_id
    later = await _register(scene, tags=["user-1"])
    async with scene.http.get(url, headers={"Last-Event-ID": str(last)}) as response:
        stream = Sse(response)
        event = await stream.next()
        assert orjson.loads(event.data)["task_id"] == later


async def test_a_closed_group_ends_once_and_a_resume_is_204(scene: Scene) -> None:
    one = await _register(scene, group="batch-1")
    two = await _register(scene, group="batch-1")
    url = f"{scene.bridge.url}/v1/events?group=batch-1"
    async with scene.http.get(url) as response:
        stream = Sse(response)
        await stream.state(one, "processing")
        await scene.then("qingbo", one, qingbo_done(one))
        await stream.state(one, "completed")
        closed = await _close(scene, "batch-1")
        assert closed == {"group": "batch-1", "closed": True, "counts": {"completed": 1}, "open": 1}
        refused = await scene.call(
            "PUT", f"/v1/tasks/qingbo/{scene.id()}", data=orjson.dumps({"group": "batch-1"})
        )
        assert (refused.status, refused.json["code"]) == (409, "conflict")
        await scene.then("qingbo", two, qingbo_done(two))
        names = [(name, data) for name, data in await stream.rest() if name is not None]
    assert names[-2:] == [
        ("group_done", {"group": "batch-1", "counts": {"completed": 2}}),
        ("end", {"tasks": 2}),
    ]
    async with scene.http.get(url, headers={"Last-Event-ID": str(stream.last_id)}) as response:
        assert response.status == 204
    assert (await _close(scene, "batch-1"))["open"] == 0


async def test_an_empty_closed_group_is_done_at_once(scene: Scene) -> None:
    assert (await _close(scene, "nothing"))["counts"] == {}
    async with scene.http.get(f"{scene.bridge.url}/v1/events?group=nothing") as response:
        stream = Sse(response)
        assert await stream.rest() == [
            ("group_done", {"group": "nothing", "counts": {}}),
            ("end", {"tasks": 0}),
        ]
    url = f"{scene.bridge.url}/v1/events?group=nothing"
    async with scene.http.get(url, headers={"Last-Event-ID": str(stream.last_id)}) as response:
        assert response.status == 204


async def test_ndjson_and_head(scene: Scene) -> None:
    task = await _register(scene, group="lines", answers=None)
    await scene.then("qingbo", task, qingbo_done(task))
    await _close(scene, "lines")
    reply = await scene.get("/v1/events?group=lines", accept="application/x-ndjson")
    lines = [orjson.loads(line) for line in reply.body.splitlines() if line]
    assert lines[-2]["event"] == "group_done"
    assert lines[-2]["counts"] == {"completed": 1}
    assert lines[-1] == {"event": "end", "tasks": 1}
    head = await scene.call("HEAD", "/v1/events?tag=anything")
    assert (head.status, head.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")


@pytest.mark.parametrize(
    "query",
    [
        "tag=a&tag=b",
        "tag=a&group=b",
        "tag=a&task=qingbo/1",
        "group=a&history=1",
        "tag=a%20b",
        "group=",
        f"tag={'x' * 65}",
        "tag=a&include=all",
    ],
)
async def test_what_cannot_be_followed_is_400(scene: Scene, query: str) -> None:
    reply = await scene.get(f"/v1/events?{query}")
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")


async def test_a_request_for_nothing_is_told_what_can_be_followed(scene: Scene) -> None:
    for reply in (await scene.get("/v1/events"), await scene.call("POST", "/v1/events", json={"tasks": []})):
        assert reply.status == 400
        assert all(word in reply.json["detail"] for word in ("task", "tag", "group"))


async def test_several_selections_and_tasks_on_one_websocket(scene: Scene) -> None:
    one = await _register(scene, group="ws-1", tags=["ws"])
    two = await _register(scene, tags=["ws"])
    address = scene.bridge.url.replace("http", "ws", 1) + "/v1/ws"
    async with websockets.connect(address) as socket:

        async def say(**fields: Any) -> None:
            await socket.send(orjson.dumps(fields).decode())

        async def hear(kind: str) -> Any:
            async with asyncio.timeout(PATIENCE):
                while (said := orjson.loads(await socket.recv()))["type"] != kind:
                    pass
            return said

        await say(type="subscribe", id=1, group="ws-1")
        assert await hear("subscribed") == {
            "type": "subscribed",
            "id": 1,
            "group": "ws-1",
            "tasks": [f"qingbo/{one}"],
        }
        assert (await hear("state"))["state"]["task_id"] == one
        await say(type="subscribe", id=2, tag="ws")
        assert set((await hear("subscribed"))["tasks"]) == {f"qingbo/{one}", f"qingbo/{two}"}
        await say(type="subscribe", id=3, tasks=[f"qingbo/{two}"])
        await hear("subscribed")
        await say(type="subscribe", id=4, tag="a", group="b")
        assert (await hear("error"))["code"] == "invalid_request"
        await say(type="unsubscribe", id=5, tag="ws")
        assert await hear("unsubscribed") == {"type": "unsubscribed", "id": 5, "tag": "ws"}
        await _close(scene, "ws-1")
        await scene.then("qingbo", one, qingbo_done(one))
        done = await hear("group_done")
        assert (done["group"], done["counts"]) == ("ws-1", {"completed": 1})
        for number in range(9):
            await say(type="subscribe", id=10 + number, tag=f"tag-{number}")
        assert (await hear("error"))["id"] == 18
        await say(type="ping", id=99)
        await hear("pong")


async def test_a_websocket_resumes_its_tags_and_groups(scene: Scene) -> None:
    one = await _register(scene, group="again", tags=["again"])
    two = await _register(scene, tags=["again"])
    address = scene.bridge.url.replace("http", "ws", 1) + "/v1/ws"

    async def until(socket: websockets.ClientConnection, kind: str, last: str = "") -> list[Any]:
        """Everything up to a message of a kind, of a status if it is a state."""
        heard: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            while not heard or heard[-1]["type"] != kind or last not in str(heard[-1].get("state")):
                heard.append(orjson.loads(await socket.recv()))
        return heard

    async def subscribe(socket: websockets.ClientConnection, **fields: Any) -> None:
        await socket.send(orjson.dumps({"type": "subscribe", "id": 1} | fields).decode())

    async with websockets.connect(address) as socket:
        await subscribe(socket, tag="again")
        await until(socket, "subscribed")
        await subscribe(socket, group="again")
        await until(socket, "subscribed")
        await scene.then("qingbo", two, qingbo_done(two))
        cursor = (await until(socket, "state", "'completed'"))[-1]["cursor"]
    await _close(scene, "again")
    await scene.then("qingbo", one, qingbo_done(one))
    async with websockets.connect(address) as socket:
        await subscribe(socket, group="again", after=cursor)
        heard = await until(socket, "group_done")
        done = heard[-1]["cursor"]
        assert {said["state"]["task_id"] for said in heard if said["type"] == "state"} == {one}
        await subscribe(socket, tag="again", after=cursor)
        heard = await until(socket, "done")
        assert {said["state"]["task_id"] for said in heard if said["type"] == "state"} == {one}
        for after in (done, heard[-1]["cursor"]):
            named = {"group": "again"} if after == done else {"tag": "again"}
            await subscribe(socket, after=after, **named)
            await socket.send(b'{"type":"ping","id":2}'.decode())
            heard = await until(socket, "pong")
            assert [said["type"] for said in heard] == ["subscribed", "pong"]
            assert heard[0]["tasks"] == []
        await subscribe(socket, tag="again", after="no cursor")
        assert [said["type"] for said in (await until(socket, "state"))] == ["subscribed", "reset", "state"]
    # The URL, and a server-sent stream, take the same cursor.
    async with websockets.connect(f"{address}?tag=again&last_event_id={cursor}") as socket:
        heard = await until(socket, "done")
        assert {said["state"]["task_id"] for said in heard if said["type"] == "state"} == {one}


async def test_a_socket_may_name_a_selection_in_its_url(scene: Scene) -> None:
    task = await _register(scene, tags=["url"])
    address = scene.bridge.url.replace("http", "ws", 1) + "/v1/ws?tag=url"
    async with websockets.connect(address) as socket, asyncio.timeout(PATIENCE):
        assert orjson.loads(await socket.recv())["tag"] == "url"
        assert orjson.loads(await socket.recv())["state"]["task_id"] == task


async def test_what_was_closed_stays_closed_after_a_kill(tmp_path: Path) -> None:
    settings = {"journal": f"sqlite:{tmp_path / 'bridge.db'}"}
    async with running_simulator() as simulator, aiohttp.ClientSession() as http:
        upstreams = upstreams_of(simulator, **QUICK)
        async with running_bridge(upstreams, **settings) as bridge:
            async with http.post(f"{bridge.url}/v1/groups/g/close") as response:
                assert response.status == 200
            await bridge.stop(signal.SIGKILL)
        async with running_bridge(upstreams, **settings) as bridge:
            url = f"{bridge.url}/v1/tasks/qingbo/x"
            async with http.put(url, data=orjson.dumps({"group": "g"})) as response:
                assert response.status == 409
            async with http.get(f"{bridge.url}/v1/events?group=g") as response:
                assert b"event: group_done" in await response.read()
