"""One look for everybody: 300 SSE clients, 50 WebSockets and 20 long-polls on one task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import orjson
import pytest
import websockets

from tests.e2e.raw import RawStream
from tests.e2e.scene import Scene, path_of, stage
from tests.harness import PATIENCE, qingbo

pytestmark = pytest.mark.anyio

STREAMS, SOCKETS, POLLS = 300, 50, 20
RELEASED = (10, 20, 30, 40, 50)


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    wishes = {"timeout_seconds": 60, "poll_min_seconds": 0.05, "poll_max_seconds": 0.1}
    calm = {"preset": "qingbo", "poll_min_seconds": 0.3, "poll_max_seconds": 0.3}
    async with stage(
        each=wishes,
        also={"calm": calm},
        first_state_timeout_seconds=30,
        linger_seconds=1,
        keepalive_seconds=60,
    ) as made:
        yield made


async def test_hundreds_of_viewers_cause_one_status_call_a_released_state(scene: Scene) -> None:
    """Each answer waits for the simulator's clock, so a second watch would be seen as a second call."""
    task = scene.id()
    held = [qingbo(task, "processing", progress) | {"delay": 1} for progress in (*RELEASED, 99)]
    ref = await scene.script("qingbo", task, *held)
    async with AsyncExitStack() as stack:
        opening = asyncio.gather(*(stack.enter_async_context(scene.events(ref)) for _ in range(STREAMS)))
        url = scene.bridge.url.replace("http", "ws") + f"/v1/ws?task={ref}"
        sockets = [
            await stack.enter_async_context(websockets.connect(url, compression=None)) for _ in range(SOCKETS)
        ]
        polls = [asyncio.ensure_future(_poll(scene, ref)) for _ in range(POLLS)]
        await scene.reaches('bridge_interests{upstream="qingbo"}', STREAMS + SOCKETS + POLLS)
        assert scene.ledger.of("qingbo", task) == 1
        scene.advance(1)
        streams = await opening
        for number, progress in enumerate(RELEASED, start=1):
            await asyncio.gather(*(_shows(stream, progress) for stream in streams))
            await asyncio.gather(*(_tells(socket, progress) for socket in sockets))
            await scene.ledger.reach("qingbo", task, number + 1)
            assert scene.ledger.of("qingbo", task) == number + 1
            if progress != RELEASED[-1]:
                scene.advance(1)
        async with asyncio.timeout(PATIENCE):
            seen = await asyncio.gather(*polls)
        assert all(one[-1] == RELEASED[-1] for one in seen)
        assert all(one == sorted(set(one)) for one in seen)
    await scene.reaches('bridge_interests{upstream="qingbo"}', 0)
    assert scene.ledger.of("qingbo", task) == len(RELEASED) + 1


async def test_the_watch_outlives_its_last_viewer_by_the_linger_and_then_calls_stop(scene: Scene) -> None:
    task, meter = scene.id(), scene.id("meter")
    await scene.script("qingbo", task, qingbo(task, "processing", 10))
    measuring = await scene.script("qingbo", meter, qingbo(meter, "processing", 1))
    ref, watches = f"calm/{task}", 'bridge_watches{source="poll",upstream="calm"}'
    async with scene.events(measuring) as clock:
        await clock.state()
        async with scene.events(ref) as stream:
            await stream.state()
            assert await scene.metric(watches) == 1
        await scene.reaches('bridge_interests{upstream="calm"}', 0)
        left_at = scene.ledger.of("qingbo", task)
        await scene.ledger.reach("qingbo", task, left_at + 2)  # it lingers
        await scene.reaches(watches, 0)
        stopped_at = scene.ledger.of("qingbo", task)
        await scene.ledger.reach("qingbo", meter, scene.ledger.of("qingbo", meter) + 12)
        assert scene.ledger.of("qingbo", task) == stopped_at
        async with scene.events(ref) as stream:  # from the journal, and a new watch looks at once
            assert (await stream.state())["progress"] == 10
            await scene.ledger.reach("qingbo", task, stopped_at + 1)


async def test_a_watch_that_ends_during_a_look_makes_no_further_one(scene: Scene) -> None:
    task, meter = scene.id(), scene.id("meter")
    held = qingbo(task, "processing", 20) | {"delay": 1}
    await scene.script("qingbo", task, qingbo(task, "processing", 10), held, qingbo(task, "processing", 20))
    measuring = await scene.script("qingbo", meter, qingbo(meter, "processing", 1))
    async with scene.events(measuring) as clock:
        await clock.state()
        async with scene.events(f"calm/{task}") as stream:
            await stream.state()
            await scene.ledger.reach("qingbo", task, 2)
        await scene.reaches('bridge_watches{source="poll",upstream="calm"}', 0)
        scene.advance(1)
        await scene.ledger.reach("qingbo", meter, scene.ledger.of("qingbo", meter) + 12)
        assert scene.ledger.of("qingbo", task) == 2


async def test_a_client_back_within_the_linger_finds_the_task_warm(scene: Scene) -> None:
    task = scene.id()
    held = qingbo(task, "processing", 20) | {"delay": 1}
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10), held)
    async with scene.events(ref) as stream:
        await stream.state()
        await scene.ledger.reach("qingbo", task, 2)  # held: whoever looks now makes a third
    await scene.reaches('bridge_interests{upstream="qingbo"}', 0)
    async with scene.events(ref) as stream:
        assert (await stream.state())["progress"] == 10
        assert scene.ledger.of("qingbo", task) == 2
        scene.advance(1)
        assert (await stream.state())["progress"] == 20


async def test_the_same_id_at_two_providers_is_two_tasks(scene: Scene) -> None:
    task = scene.id()
    one = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    two = await scene.script("vapi", task, {"status": 200, "body": {"status": "Processing", "task_id": task}})
    async with scene.events(one) as first, scene.events(two) as second:
        assert (await first.state())["progress"] == 10
        assert (await second.state())["progress"] is None


async def _shows(stream: RawStream, progress: int) -> None:
    assert (await stream.state())["progress"] == progress


async def _tells(socket: websockets.ClientConnection, progress: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while (said := orjson.loads(await socket.recv()))["type"] != "state":
            pass
    assert said["state"]["progress"] == progress


async def _poll(scene: Scene, ref: str) -> list[int]:
    """What a long-poll client sees until the last released state."""
    seen: list[int] = []
    etag = '""'
    while not seen or seen[-1] != RELEASED[-1]:
        reply = await scene.get(path_of(ref), If_None_Match=etag, Prefer="wait=30")
        assert reply.status == 200
        etag = reply.headers["ETag"]
        seen.append(reply.json["progress"])
    return seen
