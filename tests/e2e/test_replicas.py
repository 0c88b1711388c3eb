"""Three bridges on one engine: a client goes on at any of them with what it has, nothing twice or missed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
import websockets

from bridge.core.cursor import Cursor
from bridge.engine.embedded import EmbeddedEngine
from tests.chaos.proxy import Proxy
from tests.conftest import missing
from tests.contract.clients.driven import CLIENTS, Client, driven
from tests.e2e.fleet import Fleet, fleet
from tests.e2e.raw import RawStream
from tests.e2e.scene import QUICK, Ledger, Scene, path_of, until
from tests.harness import PATIENCE, qingbo, qingbo_done, running_bridge, running_simulator, upstreams_of
from tests.replicas.engines import available, engine_process

pytestmark = pytest.mark.anyio

STEPS = (20, 45, 70)


ENGINES = ["here", *(pytest.param(name, marks=pytest.mark.extended) for name in ("valkey", "redis62"))]


@pytest.fixture(scope="module")
async def here(anyio_backend: str) -> AsyncIterator[Fleet]:
    """Bridges in this process, whose engine can be taken away."""
    async with fleet(3) as made:
        yield made


@pytest.fixture(scope="module", params=ENGINES)
async def three(anyio_backend: str, request: pytest.FixtureRequest) -> AsyncIterator[list[Scene]]:
    """The same, or three processes on a real engine."""
    if request.param == "here":
        async with fleet(3) as made:
            yield list(made)
    elif request.param not in available():
        missing(request.param)
    else:
        async with served(request.param) as scenes:
            yield scenes


@asynccontextmanager
async def served(engine: str, **settings: Any) -> AsyncIterator[list[Scene]]:
    """Three processes on an engine of that kind."""
    async with (
        running_simulator() as simulator,
        engine_process(engine) as server,
        AsyncExitStack() as stack,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
    ):
        ledger = Ledger(simulator.world.calls)
        upstreams = upstreams_of(simulator, **QUICK)
        starting = [running_bridge(upstreams, engine=server.url, **settings) for _ in range(3)]
        bridges = [await stack.enter_async_context(one) for one in starting]
        yield [Scene(simulator, bridge, http, ledger) for bridge in bridges]


async def begun(scene: Scene, progress: int = 10) -> tuple[str, str]:
    """A task at the provider: its ref and its id."""
    task = scene.id("resumed")
    return await scene.script("qingbo", task, qingbo(task, "processing", progress)), task


def tasks_query(refs: Sequence[str]) -> str:
    """A stream of a list."""
    return "/v1/events?" + "&".join(f"task={ref}" for ref in refs)


def resumed(scene: Scene, path: str, token: str | None) -> Any:
    """A stream with the last id."""
    return scene.stream(path, headers={"Last-Event-ID": token} if token else {})


async def last_id(stream: RawStream) -> str:
    """The newest id it was written."""
    return str(next(block.id for block in reversed(stream.blocks) if block.id))


async def all_know(three: Iterable[Scene], ref: str, progress: int) -> None:
    """Wait until each bridge has that state."""
    for scene in three:
        async with asyncio.timeout(PATIENCE):
            have = '""'
            while True:
                reply = await scene.get(path_of(ref), If_None_Match=have, Prefer="wait=5")
                if reply.status == 200 and reply.json["progress"] == progress:
                    break
                have = reply.headers["ETag"]


async def test_a_stream_that_moves_with_each_state_has_every_state_once(three: list[Scene]) -> None:
    scenes = three
    ref, task = await begun(scenes[0])
    token, seen = None, []
    for number, progress in enumerate((10, *STEPS)):
        async with resumed(scenes[number % 3], f"{path_of(ref)}/events", token) as stream:
            if number:
                await scenes[0].then("qingbo", task, qingbo(task, "processing", progress))
            seen.append((await stream.state())["progress"])
            token = await last_id(stream)
    await scenes[0].then("qingbo", task, qingbo_done(task))
    async with resumed(scenes[1], f"{path_of(ref)}/events", token) as stream:
        state = await stream.state()
        assert (state["status"], [one.event for one in await stream.rest()]) == ("completed", ["done", "end"])
        token = await last_id(stream)
    assert seen == [10, *STEPS]
    for scene in scenes:
        async with resumed(scene, f"{path_of(ref)}/events", token) as stream:
            assert stream.status == 204


async def test_a_state_missed_on_the_way_is_sent_at_the_next_bridge(three: list[Scene]) -> None:
    a, b, c = three
    ref, task = await begun(a)
    async with a.events(ref) as stream:
        await stream.state()
        token = await last_id(stream)
    await a.then("qingbo", task, qingbo(task, "processing", 50))
    await all_know(three, ref, 50)
    for scene in (b, c):
        async with resumed(scene, f"{path_of(ref)}/events", token) as stream:
            state = await stream.state()
            assert state["progress"] == 50
            newest = await last_id(stream)
            assert newest == state["cursor"]
    async with resumed(c, f"{path_of(ref)}/events", newest) as stream:
        await a.then("qingbo", task, qingbo(task, "processing", 60))
        assert (await stream.state())["progress"] == 60


async def test_a_list_that_moves_gets_what_is_newer_of_each_task(three: list[Scene]) -> None:
    a, b, c = three
    tasks = [await begun(a) for _ in range(5)]
    path = tasks_query([ref for ref, _ in tasks])
    async with a.stream(path) as stream:
        assert [(await stream.state())["progress"] for _ in tasks] == [10] * 5
        async with asyncio.timeout(PATIENCE):
            while len([one for one in stream.blocks if one.id]) < 5:
                await stream.state()
        token = await last_id(stream)
    assert Cursor.parse(token.partition(".")[0])
    for scene, (ref, task), progress in zip((b, c), tasks, STEPS[:2], strict=False):
        await a.then("qingbo", task, qingbo(task, "processing", progress))
        await all_know(three, ref, progress)
        async with resumed(scene, path, token) as stream:
            state = await stream.state()
            assert (state["task"], state["progress"]) == (ref, progress)
            token = await last_id(stream)
    for _, task in tasks:
        await a.then("qingbo", task, qingbo_done(task))
    async with resumed(a, path, token) as stream:
        names = [one.event or one.data["task"] for one in await stream.rest()]
        assert sorted(name for name in names if "/" in name) == sorted(ref for ref, _ in tasks)
        assert names.count("done") == 5
        assert names[-1] == "end"
        token = await last_id(stream)
    async with resumed(b, path, token) as stream:
        assert stream.status == 204


async def test_history_at_another_bridge_is_the_whole_of_it(three: list[Scene]) -> None:
    a, b, c = three
    ref, task = await begun(a)
    async with a.events(ref) as stream:
        await stream.state()
        for progress in STEPS:
            await a.then("qingbo", task, qingbo(task, "processing", progress))
            assert (await stream.state())["progress"] == progress
        token = next(one.id for one in stream.blocks if one.event is None and one.data["progress"] == 20)
    for scene, asked, expected in ((b, None, [10, *STEPS]), (c, token, [45, 70, 90])):
        async with resumed(scene, f"{path_of(ref)}/events?history=1", asked) as stream:
            assert [(await stream.state())["progress"] for _ in expected] == expected
            await a.then("qingbo", task, qingbo(task, "processing", 90 + (asked is not None)))
            assert (await stream.state())["progress"] == 90 + (asked is not None)


async def test_history_of_a_list_at_another_bridge(three: list[Scene]) -> None:
    a, b, _ = three
    (one, first), (two, second) = await begun(a), await begun(a)
    async with a.stream(tasks_query([one, two])) as stream:
        for _ in range(2):
            await stream.state()
        for task, progress in ((first, 30), (second, 30), (first, 60)):
            await a.then("qingbo", task, qingbo(task, "processing", progress))
            assert (await stream.state())["progress"] == progress
    async with b.stream(tasks_query([one, two]) + "&history=1") as stream:
        states = [await stream.state() for _ in range(5)]
        cursors = [Cursor.parse(state["cursor"]) for state in states]
        assert cursors == sorted(cursors)  # type: ignore[type-var] # all of them are cursors
        assert [s["progress"] for s in states if s["task"] == one] == [10, 30, 60]
        assert [s["progress"] for s in states if s["task"] == two] == [10, 30]


async def test_a_long_poll_goes_on_at_another_bridge_with_its_entity_tag(three: list[Scene]) -> None:
    a, b, c = three
    ref, task = await begun(a)
    first = await a.get(path_of(ref))
    for scene in (b, c):
        assert (await scene.get(path_of(ref), If_None_Match=first.headers["ETag"])).status == 304
    waiting = asyncio.ensure_future(
        b.get(path_of(ref), If_None_Match=first.headers["ETag"], Prefer="wait=20")
    )
    await b.reaches('bridge_connections{delivery="longpoll"}', 1)
    await a.then("qingbo", task, qingbo(task, "processing", 33))
    later = await waiting
    assert (later.status, later.json["progress"]) == (200, 33)
    # This one may not have heard of it: it waits until it has, and says 304, never an older state.
    assert (await c.get(path_of(ref), If_None_Match=later.headers["ETag"])).status == 304
    assert (await c.get(f"{path_of(ref)}?after={later.json['cursor']}")).status == 304


async def test_a_websocket_goes_on_at_another_bridge(three: list[Scene]) -> None:
    a, b, _ = three
    ref, task = await begun(a)
    async with a.events(ref) as stream:
        token = (await stream.state())["cursor"]
    address = b.bridge.url.replace("http", "ws") + "/v1/ws"
    async with asyncio.timeout(PATIENCE), websockets.connect(address, subprotocols=["bridge.v1.json"]) as ws:  # type: ignore[list-item]
        await ws.send(orjson.dumps({"type": "subscribe", "id": 1, "tasks": [ref], "after": token}).decode())
        assert orjson.loads(await ws.recv())["type"] == "subscribed"
        await a.then("qingbo", task, qingbo(task, "processing", 44))
        message = orjson.loads(await ws.recv())
        assert (message["type"], message["state"]["progress"]) == ("state", 44)


async def test_lines_go_on_at_another_bridge(three: list[Scene]) -> None:
    a, b, _ = three
    ref, task = await begun(a)
    async with a.events(ref) as stream:
        token = (await stream.state())["cursor"]
    headers = {"Accept": "application/x-ndjson"}
    path = f"{path_of(ref)}/events?last_event_id={token}"
    async with b.stream(path, headers=headers) as stream:
        await a.then("qingbo", task, qingbo_done(task))
        lines = [orjson.loads(line) for line in (await stream.body()).splitlines() if line]
        assert [line.get("event") or line["status"] for line in lines] == ["completed", "done", "end"]


@pytest.mark.extended
async def test_what_the_owner_shows_without_the_engine_is_not_shown_again(here: Fleet) -> None:
    three = here
    a, b, c = three
    ref, task = await begun(a)
    async with a.events(ref) as stream, b.events(ref) as other:
        assert (await stream.state())["progress"] == (await other.state())["progress"] == 10
        owner = three.owner(ref)
        at, elsewhere = (stream, other) if owner is a else (other, stream)
        with cut_off(three):
            await a.then("qingbo", task, qingbo(task, "processing", 55))
            state = await at.state_with(progress=55)
            token = await last_id(at)
            assert token == state["cursor"]
            assert token.endswith("~p550")
            async with resumed(c, f"{path_of(ref)}/events", token) as moved:
                pass
        assert (await elsewhere.state_with(progress=55))["cursor"].rpartition("-")[2].isdigit()
        await all_know(three, ref, 55)
        for scene in three:  # the same state, which is recorded now
            assert (await scene.get(path_of(ref), If_None_Match=f'"{token}"')).status == 304
            assert (await scene.get(f"{path_of(ref)}?after={token}", Prefer="wait=0")).status == 304
        await a.then("qingbo", task, qingbo(task, "processing", 56))
        assert (await at.state())["progress"] == 56
        for scene in three:
            async with resumed(scene, f"{path_of(ref)}/events", token) as moved:
                assert (await moved.state())["progress"] == 56


def cut_off(three: Fleet) -> Any:
    """The engine is away for all of them."""
    return _Cut(three)


class _Cut:
    def __init__(self, three: Fleet) -> None:
        self._three = three

    def __enter__(self) -> None:
        for one in self._three.served:
            one.access.cut = True

    def __exit__(self, *error: object) -> None:
        for one in self._three.served:
            one.access.cut = False


async def _connected(three: Fleet) -> set[str]:
    """The bridges that take the engine for reachable."""
    replicas = {one.url: one.bridge.replica for one in three.served}
    return {url for url, replica in replicas.items() if replica is not None and replica.connection.up}


@pytest.mark.extended
async def test_an_engine_that_comes_back_empty_resets_who_comes_back_and_nobody_else() -> None:
    async with fleet(3) as three:
        a, b, _ = three
        ref, task = await begun(a)
        async with a.events(ref) as stream:
            await stream.state()
            token = await last_id(stream)
            async with resumed(b, f"{path_of(ref)}/events", token) as quiet:
                with cut_off(three):
                    empty = EmbeddedEngine()
                    for one in three.served:
                        one.access._engine = empty
                    # Each has noticed: a connection that was not used meanwhile would stay with the old one.
                    await until(lambda: _connected(three), set())
                assert await quiet.event("reset") == {"reason": "new_epoch"}
                assert (await quiet.state())["progress"] == 10
                await a.then("qingbo", task, qingbo(task, "processing", 60))
                assert (await stream.state())["progress"] == 60
                assert (await quiet.state())["progress"] == 60
                assert [one.event for one in stream.blocks if one.event] == []
        async with resumed(b, f"{path_of(ref)}/events", token) as late:
            assert await late.event("reset") == {"reason": "new_epoch"}
            assert (await late.state())["progress"] == 60


# Clients of other authors


@asynccontextmanager
async def in_turn(three: Sequence[Scene]) -> AsyncIterator[str]:
    """One address; each connection goes to the next bridge."""
    addresses = [one.bridge.url.removeprefix("http://").split(":") for one in three]
    number = 0

    def pick() -> tuple[str, int]:
        nonlocal number
        host, port = addresses[number % len(addresses)]
        number += 1
        return host, int(port)

    proxy = Proxy(pick)
    await proxy.listen()
    try:
        yield proxy.url
    finally:
        await proxy.close()


MOVING = [
    pytest.param(one, id=one.name, marks=[pytest.mark.extended] if one.name != "httpx-sse" else [])
    for one in CLIENTS
    if one.comes_back and one.sends_last_id and not one.missing
]


@pytest.fixture(scope="module")
async def restless(anyio_backend: str) -> AsyncIterator[list[Scene]]:
    """Bridges that end each connection soon."""
    async with fleet(3, max_connection_age_seconds=0.5) as made:
        yield list(made)


@pytest.mark.parametrize("client", MOVING)
async def test_clients_of_others_move_and_hear_every_state_once(
    restless: list[Scene], client: Client
) -> None:
    scene = restless[0]
    ref, task = await begun(scene)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(in_turn(restless))
        told = await stack.enter_async_context(driven(client, f"{url}{path_of(ref)}/events", "end"))
        for number, progress in enumerate(STEPS, start=1):
            await told.until_states(number)
            await asyncio.sleep(0.6)  # until the connection was ended by age
            await scene.then("qingbo", task, qingbo(task, "processing", progress))
        await told.until_states(len(STEPS) + 1)
        await scene.then("qingbo", task, qingbo_done(task))
        await told.until_it_stops()
    assert [one.fields["progress"] for one in told.states] == [10, *STEPS, 100]
