"""Limits as clients meet them: whoever finds no place is told so in a way that they survive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
import websockets

from tests.e2e.raw import RawStream
from tests.e2e.scene import EVENT_STREAM, Scene, path_of, stage
from tests.harness import PATIENCE, qingbo

pytestmark = pytest.mark.anyio

PROXIED = {"trusted_proxies": ["127.0.0.0/8"]}


async def _ref(scene: Scene) -> str:
    task = scene.id()
    return await scene.script("qingbo", task, qingbo(task, "processing", 5))


def _from(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": f"6.6.6.6, {address}"}


async def _turned_away(stream: RawStream) -> None:
    """200, why, when to come back, and a clean end: what an EventSource survives."""
    assert (stream.status, stream.headers["content-type"]) == (200, EVENT_STREAM)
    (only,) = await stream.rest()
    assert only.comments == [b": ok"]
    assert only.event == "notice"
    assert (only.data["code"], only.data["reason"]) == ("closing", "over_capacity")
    assert only.data["retriable"] is True
    assert int(only.fields["retry"]) >= 5000
    assert stream.ended_cleanly


async def _let_in(stream: RawStream) -> None:
    assert (await stream.state())["status"] == "processing"


async def _closing_code(scene: Scene, query: str = "", **headers: str) -> tuple[int | None, str | None]:
    url = scene.bridge.url.replace("http", "ws") + f"/v1/ws{query}"
    async with websockets.connect(url, compression=None, additional_headers=headers) as socket:
        async with asyncio.timeout(PATIENCE):
            await socket.wait_closed()
        return socket.close_code, socket.close_reason


def _over(delivery: str) -> str:
    return f'bridge_disconnects_total{{delivery="{delivery}",reason="over_capacity"}}'


async def test_over_max_connections_every_delivery_is_turned_away_survivably_and_counted() -> None:
    async with stage(max_connections=2) as scene, AsyncExitStack() as stack:
        ref = await _ref(scene)
        first = await stack.enter_async_context(scene.events(ref))
        await _let_in(first)
        await _let_in(await stack.enter_async_context(scene.events(ref)))
        async with scene.events(ref) as stream:
            await _turned_away(stream)
        lines = await scene.get(f"{path_of(ref)}/events", Accept="application/x-ndjson")
        said = orjson.loads(lines.body)
        assert (said["event"], said["code"], said["reason"]) == ("notice", "closing", "over_capacity")
        openai = await scene.get(f"{path_of(ref)}/events?format=openai")
        assert (openai.status, b'"reason":"over_capacity"' in openai.body) == (200, True)
        assert await _closing_code(scene, f"?task={ref}") == (1013, "over_capacity")
        state = await scene.get(path_of(ref))
        assert state.status == 200, "a look without waiting needs no place"
        held = {"If-None-Match": state.headers["ETag"], "Prefer": "wait=5"}
        refused = await scene.call("GET", path_of(ref), headers=held)
        assert (refused.status, refused.json["code"]) == (429, "too_many_requests")
        assert int(refused.headers["Retry-After"]) >= 1
        for delivery, number in {"sse": 2, "ndjson": 1, "websocket": 1, "longpoll": 1}.items():
            assert await scene.metric(_over(delivery)) == number
        assert await scene.metric('bridge_connections{delivery="sse"}') == 2
        first.writer.transport.abort()
        await scene.reaches('bridge_connections{delivery="sse"}', 1)
        async with scene.events(ref) as stream:
            await _let_in(stream)


async def test_a_place_is_given_back_however_a_request_ends() -> None:
    async with stage(max_connections=1) as scene:
        ref = await _ref(scene)
        for path in ("/v1/tasks/qingbo/nobody/events", "/v1/tasks/nobody/x/events", "/v1/events?task=bad"):
            assert (await scene.get(path)).status in {400, 404}
        async with scene.stream("/v1/events", method="POST", body=b"{") as stream:
            assert stream.status == 400
        assert (await scene.call("HEAD", f"{path_of(ref)}/events")).status == 200
        with pytest.raises(websockets.InvalidStatus):
            await _closing_code(scene, "?task=nobody/x")
        async with scene.events(ref) as stream:
            await _let_in(stream)


async def test_one_address_does_not_take_the_places_of_others_and_cannot_choose_its_own() -> None:
    async with stage(max_connections_per_address=1, **PROXIED) as scene, AsyncExitStack() as stack:
        ref = await _ref(scene)
        enter: Callable[..., Any] = lambda address: scene.events(ref, headers=_from(address))  # noqa: E731
        await _let_in(await stack.enter_async_context(enter("198.51.100.1")))
        await _turned_away(await stack.enter_async_context(enter("198.51.100.1")))
        await _let_in(await stack.enter_async_context(enter("198.51.100.2")))
        other = {"X-Forwarded-For": "203.0.113.5, 198.51.100.1"}
        await _turned_away(await stack.enter_async_context(scene.events(ref, headers=other)))
        code, _ = await _closing_code(scene, f"?task={ref}", **_from("198.51.100.1"))
        assert code == 1013


async def test_without_trusted_proxies_a_header_is_no_way_around_the_limit() -> None:
    async with stage(max_connections_per_address=1) as scene, AsyncExitStack() as stack:
        ref = await _ref(scene)
        await _let_in(await stack.enter_async_context(scene.events(ref, headers=_from("198.51.100.1"))))
        await _turned_away(await stack.enter_async_context(scene.events(ref, headers=_from("198.51.100.2"))))


@pytest.mark.parametrize("wish", ["max_streams_per_second_per_address", "max_streams_per_second_per_caller"])
async def test_whoever_hammers_is_refused_before_anybody_is_asked(wish: str) -> None:
    async with stage(**{wish: 0.05}) as scene:  # one, and the next in 20 s
        ref = await _ref(scene)
        async with scene.events(ref) as stream:
            await _let_in(stream)
        unseen = await _ref(scene)
        for _ in range(20):
            async with scene.events(unseen) as stream:
                await _turned_away(stream)
        assert scene.ledger.of("qingbo", unseen.partition("/")[2]) == 0
        assert await scene.metric(_over("sse")) == 20


async def test_one_caller_follows_so_many_tasks_on_streams_and_sockets_together() -> None:
    async with stage(max_watches_per_caller=3) as scene, AsyncExitStack() as stack:
        refs = [await _ref(scene) for _ in range(4)]
        query = "&".join(f"task={ref}" for ref in refs[:2])
        await _let_in(await stack.enter_async_context(scene.stream(f"/v1/events?{query}")))
        await _turned_away(await stack.enter_async_context(scene.stream(f"/v1/events?{query}")))
        url = scene.bridge.url.replace("http", "ws") + f"/v1/ws?task={refs[2]}"
        socket = await stack.enter_async_context(websockets.connect(url, compression=None))
        ask = {"type": "subscribe", "id": 1, "tasks": [refs[3]]}
        await socket.send(orjson.dumps(ask).decode())
        error = await _message(socket, "error")
        assert (error["id"], error["code"]) == (1, "too_many_requests")
        drop = {"type": "unsubscribe", "id": 2, "tasks": [refs[2]]}
        await socket.send(orjson.dumps(drop).decode())
        await socket.send(orjson.dumps(ask | {"id": 3}).decode())
        assert (await _message(socket, "subscribed"))["id"] in {None, 3}
        assert (await _message(socket, "state"))["state"]["task"] in {refs[2], refs[3]}


async def _message(socket: websockets.ClientConnection, kind: str) -> Any:
    async with asyncio.timeout(PATIENCE):
        while (said := orjson.loads(await socket.recv()))["type"] != kind:
            pass
    return said


async def test_tasks_on_the_url_of_a_socket_beyond_the_limit_are_an_error_and_the_socket_stays() -> None:
    async with stage(max_watches_per_caller=1) as scene:
        refs = [await _ref(scene) for _ in range(2)]
        url = scene.bridge.url.replace("http", "ws") + f"/v1/ws?task={refs[0]}&task={refs[1]}"
        async with websockets.connect(url, compression=None) as socket:
            assert (await _message(socket, "error"))["code"] == "too_many_requests"
            await socket.send('{"type":"ping","id":7}')
            assert (await _message(socket, "pong"))["id"] == 7


async def test_more_tasks_than_a_connection_may_follow_are_a_mistake_that_stays_one() -> None:
    async with stage(max_tasks_per_connection=2) as scene:
        tasks = [f"qingbo/{number}" for number in range(3)]
        reply = await scene.call("POST", "/v1/events", json={"tasks": tasks})
        assert (reply.status, reply.json["code"]) == (400, "invalid_request")
        assert "at most 2 tasks" in reply.json["detail"]
        refs = [await _ref(scene), await _ref(scene)] * 3
        async with scene.stream("/v1/events", method="POST", body=orjson.dumps({"tasks": refs})) as stream:
            assert stream.status == 200, "named three times, they are two tasks"


@pytest.mark.parametrize("path", ["/v1/tasks/qingbo", "/proxy/qingbo/v1/tasks"])
async def test_submits_beyond_the_limit_are_429_and_reach_no_provider(path: str) -> None:
    async with stage(max_submits_per_minute_per_caller=2) as scene:
        body = {"model": "veo3", "action": "generate", "prompt": "a cat"}
        codes = [(await scene.call("POST", path, json=body)).status for _ in range(4)]
        assert [code < 300 for code in codes] == [True, True, False, False]
        refused = await scene.call("POST", path, json=body)
        assert refused.status == 429
        assert b"too_many_requests" in refused.body
        assert 1 <= int(refused.headers["Retry-After"]) <= 30
        assert "x-should-retry" not in refused.headers
        submitted = [key for key, times in scene.ledger.times.items() if key[1] == "submit" and times]
        assert sum(len(scene.ledger.times[key]) for key in submitted) == 2
        assert await scene.metric(_over("longpoll")) == 3


async def test_the_providers_own_stream_is_turned_away_without_an_error() -> None:
    async with stage(max_connections=1) as scene, AsyncExitStack() as stack:
        ref = await _ref(scene)
        await _let_in(await stack.enter_async_context(scene.events(ref)))
        async with scene.stream("/proxy/bytespike/v1/tasks/stream/any") as stream:
            assert (stream.status, stream.headers["content-type"]) == (200, EVENT_STREAM)
            assert await stream.body() == b": ok\n", "no provider says why, so nothing is said"
        assert await scene.metric(_over("sse")) == 1
