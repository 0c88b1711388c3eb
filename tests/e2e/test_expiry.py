"""A stream ends when its credential ends, and a renewed client goes on where it stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing

import orjson
import pytest
import websockets

from bridge.client.bridge import Bridge
from bridge.clock import SystemClock
from tests.e2e.scene import Scene, path_of, stage
from tests.fakes.credentials import TOKEN_SETTINGS, bearer, token
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(keepalive_seconds=0.2, **TOKEN_SETTINGS) as made:
        yield made


@pytest.fixture
async def ref(scene: Scene) -> str:
    task = scene.id()
    return await scene.script("qingbo", task, qingbo(task, "processing", 1))


@pytest.mark.parametrize("path", ["{own}/events", "/v1/events?task={ref}"])
async def test_a_stream_ends_with_its_token_and_is_resumed_with_the_next(
    scene: Scene, ref: str, path: str
) -> None:
    where = path.format(own=path_of(ref), ref=ref)
    clock = SystemClock()
    expires = clock.time() + 1.5
    async with scene.stream(where, headers=bearer(ref, exp=expires)) as stream:
        blocks = await stream.rest()
    assert expires <= clock.time() < expires + 10
    assert stream.ended_cleanly
    last = blocks[-1]
    assert (last.event, last.data["code"], last.data["reason"]) == ("notice", "closing", "expired")
    assert "retry" in last.fields
    cursor = next(block.id for block in blocks if block.id)
    await scene.then("qingbo", ref.partition("/")[2], qingbo(ref.partition("/")[2], "processing", 2))
    old = await scene.get(
        where, Authorization=f"Bearer {token(ref, seconds=-70)}", Last_Event_ID=cursor or ""
    )
    assert old.status == 401
    async with scene.stream(where, headers=bearer(ref) | {"Last-Event-ID": cursor or ""}) as stream:
        assert (await stream.state_with(progress=2))["task"] == ref


async def test_resuming_asks_again_what_the_token_covers(scene: Scene, ref: str) -> None:
    async with scene.events(ref, headers=bearer(ref)) as stream:
        cursor = (await stream.state())["cursor"]
    reply = await scene.call(
        "GET", f"{path_of(ref)}/events", headers=bearer("qingbo/b") | {"Last-Event-ID": cursor}
    )
    assert reply.status == 403


async def test_ndjson_ends_with_its_token(scene: Scene, ref: str) -> None:
    headers = bearer(ref, seconds=1.5) | {"Accept": "application/x-ndjson"}
    async with scene.events(ref, headers=headers) as stream:
        lines = [orjson.loads(line) for line in (await stream.body()).split(b"\n") if line]
    assert (lines[-1]["event"], lines[-1]["code"], lines[-1]["reason"]) == ("notice", "closing", "expired")


async def test_a_websocket_ends_with_4501(scene: Scene, ref: str) -> None:
    url = f"{scene.bridge.url.replace('http', 'ws')}/v1/ws?task={ref}"
    said = []
    async with (
        asyncio.timeout(PATIENCE),
        websockets.connect(url, additional_headers=bearer(ref, seconds=1.5)) as socket,
    ):
        with contextlib.suppress(websockets.ConnectionClosed):
            while True:
                said.append(orjson.loads(await socket.recv()))
    assert socket.close_code == 4501
    assert (said[-1]["type"], said[-1]["code"], said[-1]["reason"]) == ("notice", "closing", "expired")


async def test_a_token_within_the_skew_opens_a_stream_that_lasts(scene: Scene, ref: str) -> None:
    """Else a client whose token has just expired would come back every second for a minute."""
    async with scene.events(ref, headers=bearer(ref, seconds=-2)) as stream:
        await stream.state()
        while b":\n" not in await stream.piece():
            pass


async def test_our_client_renews_its_token_and_misses_nothing(scene: Scene, ref: str) -> None:
    given: list[str] = []

    def renewed() -> str:
        given.append(token(ref, seconds=1.5))
        if len(given) == 2:
            asyncio.get_running_loop().create_task(scene.then("qingbo", task, qingbo_done(task)))
        return given[-1]

    task = ref.partition("/")[2]
    async with (
        asyncio.timeout(PATIENCE),
        Bridge(scene.bridge.url, token=renewed) as bridge,
        aclosing(bridge.watch(ref)) as states,
    ):
        seen = [state.status async for state in states]
    assert len(given) >= 2
    assert (seen[0], seen[-1]) == ("processing", "completed")
    assert len(seen) == 2, "each state comes once"


async def test_a_longpoll_waits_no_longer_than_its_token_is_good(scene: Scene, ref: str) -> None:
    etag = (await scene.call("GET", path_of(ref), headers=bearer(ref))).headers["ETag"]
    clock = SystemClock()
    expires = clock.time() + 1.0
    held = {"Prefer": "wait=60", "If-None-Match": etag}
    reply = await scene.call("GET", path_of(ref), headers=bearer(ref, exp=expires) | held)
    assert reply.status == 304
    assert expires <= clock.time() < expires + 10


async def test_a_submit_that_waits_does_so_no_longer_than_its_token_is_good(scene: Scene) -> None:
    clock = SystemClock()
    expires = clock.time() + 1.0
    credential = bearer("qingbo/*", scope="read submit", exp=expires)
    body = {"model": "wan2.7", "prompt": "x", "sim": {"queue_seconds": 1000}}
    reply = await scene.call("POST", "/proxy/qingbo/v1/tasks/sync", json=body, headers=credential)
    assert (reply.status, "poll_url" in reply.json) == (200, True)
    assert expires <= clock.time() < expires + 10
