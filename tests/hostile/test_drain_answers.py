"""What is held at SIGTERM is answered by the bridge, and a client is never led to create a task twice."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from tests.e2e import raw
from tests.e2e.scene import Scene, path_of, stage, until
from tests.harness import qingbo

pytestmark = pytest.mark.anyio

ORDER = {"model": "wan2.7", "prompt": "x", "sim": {"queue_seconds": 1000, "run_seconds": 1000}}
BODY = orjson.dumps(ORDER)
SLOW = {"name": "slow", "seconds": 5, "calls": ["submit"]}
NATIVE, PROXIED, SYNC = "/v1/tasks/qingbo", "/proxy/qingbo/v1/tasks", "/proxy/qingbo/v1/tasks/sync"
LONGPOLLS = 'bridge_connections{delivery="longpoll"}'


@dataclass
class Answer:
    """A response, as it came over a plain socket."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def may_be_repeated(self) -> bool:
        """Whether the SDKs of OpenAI and Anthropic send the request again."""
        return self.headers.get("x-should-retry") != "false" and "retry-after" in self.headers


class Held:
    """A request on a connection of its own, of which as much was sent as the test wants."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stream = raw.RawStream(reader, writer)

    def send(self, method: str, path: str, body: bytes = b"", *, whole: bool = True, **headers: str) -> None:
        fields = {"host": "x", "content-type": "application/json"} | headers
        fields = {name.replace("_", "-"): value for name, value in fields.items()}
        if body:
            fields["content-length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._stream.writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
        self.more(body if whole else body[:1])

    def more(self, data: bytes) -> None:
        self._stream.writer.write(data)

    async def answer(self) -> Answer:
        await self._stream.read_head()
        body = await self._stream.body()
        return Answer(self._stream.status, self._stream.headers, orjson.loads(body) if body else None)


class Crowd:
    """Connections to one bridge, closed at the end."""

    def __init__(self, scene: Scene, stack: AsyncExitStack) -> None:
        self._scene, self._stack = scene, stack

    async def connected(self) -> Held:
        return Held(*await self._stack.enter_async_context(raw.connection(self._scene.bridge.url)))

    async def asks(self, method: str, path: str, body: bytes = b"", **more: Any) -> Held:
        held = await self.connected()
        held.send(method, path, body, **more)
        return held


def creates(scene: Scene) -> Callable[[], Any]:
    """How many creates the provider has got."""

    async def count() -> int:
        return scene.simulator.world.store.last_number("qingbo")  # type: ignore[attr-defined, no-any-return]

    return count


def drains(scene: Scene) -> Callable[[], Any]:
    async def draining() -> bool:
        return any('"draining"' in line for line in scene.bridge.log)

    return draining


async def test_every_request_held_at_the_signal_is_answered_and_creates_are_seen_through() -> None:
    async with stage(drain_seconds=0.1) as scene, AsyncExitStack() as stack:
        crowd = Crowd(scene, stack)
        synced = await crowd.asks("POST", SYNC, BODY)
        await until(creates(scene), 1)
        await scene.faults(qingbo=[SLOW])
        native = await crowd.asks("POST", NATIVE, BODY)
        proxied = await crowd.asks("POST", PROXIED, BODY)
        await until(creates(scene), 3)
        ref = await scene.script("qingbo", "polled", qingbo("polled", "processing", 5))
        tag = (await scene.get(path_of(ref))).headers["ETag"]
        polled = await crowd.asks("GET", path_of(ref), if_none_match=tag, prefer="wait=60")
        await scene.reaches(LONGPOLLS, 1)
        half = await crowd.asks("POST", NATIVE, BODY, whole=False)
        idle, proxied_idle, reading = [await crowd.connected() for _ in range(3)]
        for one in (idle, proxied_idle, reading):
            one.send("GET", "/livez")
            assert (await one.answer()).headers.get("connection") is None

        scene.bridge.process.send_signal(signal.SIGTERM)
        later = await polled.answer()
        assert (later.status, later.body, later.headers["connection"]) == (304, None, "close")
        waited = await synced.answer()
        assert (waited.status, waited.headers["connection"]) == (200, "close")
        assert waited.body["poll_url"].startswith("/proxy/qingbo/v1/tasks/")
        half.more(BODY[1:])
        idle.send("POST", NATIVE, BODY)
        proxied_idle.send("POST", PROXIED, BODY)
        for refused in (await half.answer(), await idle.answer()):
            assert (refused.status, refused.body["code"]) == (503, "over_capacity")
            assert refused.headers["content-type"] == "application/problem+json"
            assert refused.may_be_repeated
            assert refused.headers["connection"] == "close"
        refused = await proxied_idle.answer()
        assert (refused.status, refused.body["error"]["code"]) == (503, "over_capacity")
        assert refused.may_be_repeated
        reading.send("GET", path_of(ref))
        read = await reading.answer()
        assert (read.status, read.body["progress"], read.headers["connection"]) == (200, 5, "close")

        assert await creates(scene)() == 3
        scene.advance(6)
        made = await native.answer()
        assert (made.status, made.body["state"]["status"], made.headers["connection"]) == (
            201,
            "queued",
            "close",
        )
        made = await proxied.answer()
        assert (made.status, made.body["status"]) == (200, "queued")
        assert await scene.bridge.process.wait() == 0
        assert await creates(scene)() == 3
        assert "Traceback" not in "".join(scene.bridge.log)


async def test_a_second_signal_answers_open_creates_so_that_they_are_not_repeated() -> None:
    each = {"max_submits_in_flight": 2}
    async with stage(each=each, drain_seconds=3600) as scene, AsyncExitStack() as stack:
        crowd = Crowd(scene, stack)
        await scene.faults(qingbo=[SLOW])
        native = await crowd.asks("POST", NATIVE, BODY)
        proxied = await crowd.asks("POST", PROXIED, BODY)
        await until(creates(scene), 2)
        half = await crowd.asks("POST", NATIVE, BODY, whole=False)
        scene.bridge.process.send_signal(signal.SIGTERM)
        await until(drains(scene), value=True)
        ended = asyncio.ensure_future(scene.bridge.stop())
        uncertain = await native.answer()
        assert (uncertain.status, uncertain.body["code"], uncertain.body["retriable"]) == (
            503,
            "over_capacity",
            False,
        )
        assert uncertain.headers["content-type"] == "application/problem+json"
        assert uncertain.headers["x-should-retry"] == "false"
        uncertain = await proxied.answer()
        assert (uncertain.status, uncertain.headers["x-should-retry"]) == (503, "false")
        assert "may have been created" in uncertain.body["error"]["message"]
        unsent = await half.answer()
        assert (unsent.status, unsent.may_be_repeated) == (503, True)
        assert await ended == 0
        assert await creates(scene)() == 2
        assert "Traceback" not in "".join(scene.bridge.log)


async def test_a_create_that_waits_for_its_turn_is_not_sent_after_a_second_signal() -> None:
    async with (
        stage(each={"max_submits_in_flight": 1}, drain_seconds=3600) as scene,
        AsyncExitStack() as stack,
    ):
        crowd = Crowd(scene, stack)
        await scene.faults(qingbo=[SLOW])
        first = await crowd.asks("POST", NATIVE, BODY)
        await until(creates(scene), 1)
        second = await crowd.asks("POST", PROXIED, BODY)
        scene.bridge.process.send_signal(signal.SIGTERM)
        await until(drains(scene), value=True)
        ended = asyncio.ensure_future(scene.bridge.stop())
        assert (await first.answer()).headers["x-should-retry"] == "false"
        waiting = await second.answer()
        assert (waiting.status, waiting.may_be_repeated) == (503, True)
        scene.advance(6)
        assert await ended == 0
        assert await creates(scene)() == 1


async def test_a_create_that_outlasts_its_timeout_is_not_to_be_repeated_and_the_end_does_not_wait() -> None:
    each = {"submit_timeout_seconds": 0.5}
    async with stage(each=each, drain_seconds=0.1) as scene, AsyncExitStack() as stack:
        crowd = Crowd(scene, stack)
        await scene.faults(qingbo=[SLOW])
        held = [await crowd.asks("POST", path, BODY) for path in (NATIVE, PROXIED)]
        await until(creates(scene), 2)
        ended = asyncio.ensure_future(scene.bridge.stop())
        for one in held:
            answer = await one.answer()
            assert answer.status in (503, 504)
            assert not answer.may_be_repeated
        assert await ended == 0
