"""nginx, Caddy and HAProxy with the files of `deploy/`, the real bridge as backend, and real clients."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
import websockets

from tests.chaos.proxy import HOST
from tests.deploy.edge import FILES, Edge, checked, edge, make_certificate, needs, text
from tests.deploy.front import stream
from tests.e2e.scene import Scene, path_of, stage, until
from tests.harness import PATIENCE, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

PER_ADDRESS = 24
STREAMS_ON_ONE_CONNECTION = 20  # a browser would stop at six without HTTP/2
SAME_SECOND = 1.0
KEEPALIVE = 2.0
SETTINGS = {
    "keepalive_seconds": KEEPALIVE,
    "trusted_proxies": [HOST],
    "max_connections_per_address": PER_ADDRESS,
}


@dataclass
class Stage:
    """A scene behind an edge."""

    scene: Scene
    edge: Edge

    async def ref(self) -> str:
        task = self.scene.id()
        return await self.scene.script("qingbo", task, qingbo(task, "processing", 5))

    async def moves(self, ref: str, progress: int) -> None:
        task = ref.partition("/")[2]
        await self.scene.then("qingbo", task, qingbo(task, "processing", progress))

    async def ends(self, ref: str) -> None:
        task = ref.partition("/")[2]
        await self.scene.then("qingbo", task, qingbo_done(task))


@pytest.fixture(scope="module")
async def scene() -> AsyncIterator[Scene]:
    """A bridge and a simulated provider, for all three."""
    async with stage(**SETTINGS) as made:
        yield made


@pytest.fixture(scope="module", params=FILES)
async def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, scene: Scene
) -> AsyncIterator[Stage]:
    """One of the proxies in front of the bridge."""
    needs(request.param)
    port = urlsplit(scene.bridge.url).port
    assert port is not None
    async with edge(request.param, tmp_path_factory.mktemp(request.param), port) as made:
        yield Stage(scene, made)


@pytest.mark.parametrize("bridges", [[8080], [8080, 8090]], ids=["one bridge", "two"])
@pytest.mark.parametrize("name", FILES)
def test_the_proxy_itself_finds_its_file_valid(name: str, bridges: list[int], tmp_path: Path) -> None:
    needs(name)
    make_certificate(tmp_path)
    (tmp_path / "edge.conf").write_text(text(name, tmp_path, 1, bridges, {}))
    done = checked(name, tmp_path)
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "stapling" not in line]
    assert [line for line in said if re.search(r"\[(warn|WARNING)\]|\"level\":\"warn\"", line)] == []


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_cut_that_is_silent_for_less_than_a_long_poll_may_wait(name: str) -> None:
    """A keepalive comes every 15 seconds; a long-poll, a sync call and a submit may be silent for 60."""
    stated = re.findall(
        r"^\s*(?:proxy_read_timeout|timeout (?:client|server|tunnel)|(?:read|write|response_header)_timeout)"
        r"\s+(\d+)s",
        FILES[name].read_text("utf-8"),
        re.MULTILINE,
    )
    assert len(stated) == {"nginx": 1, "caddy": 0, "haproxy": 3}[name]  # Caddy has none of its own
    assert all(int(seconds) > 60 for seconds in stated)


async def test_an_event_comes_while_the_stream_is_open_and_in_the_same_second(front: Stage) -> None:
    ref = await front.ref()
    path = f"{path_of(ref)}/events"
    async with front.scene.events(ref) as direct, stream(front.edge, path) as behind:
        assert (await direct.state())["progress"] == (await behind.state())["progress"] == 5
        assert behind.blocks[0].comments == [b": ok"]
        await front.moves(ref, 42)
        await direct.state_with(progress=42)
        async with asyncio.timeout(SAME_SECOND):
            await behind.state_with(progress=42)
        assert not behind.ended_cleanly
        await front.ends(ref)
        assert [block.event for block in await behind.rest()][-2:] == ["done", "end"]
        assert behind.ended_cleanly


async def test_a_keepalive_of_two_bytes_comes_alone(front: Stage) -> None:
    async with stream(front.edge, f"{path_of(await front.ref())}/events") as behind:
        await behind.state()
        async with asyncio.timeout(KEEPALIVE * 2 + SAME_SECOND):
            assert await behind.piece() == b":\n"


async def test_streams_are_passed_as_they_are_whatever_the_client_could_unpack(front: Stage) -> None:
    path = f"{path_of(await front.ref())}/events"
    async with stream(front.edge, path, Accept_Encoding="gzip, deflate, br, zstd") as behind:
        assert "content-encoding" not in behind.headers
        assert behind.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert behind.headers["cache-control"] == "no-store, no-transform"
        await behind.state()


async def test_ndjson_comes_line_by_line(front: Stage) -> None:
    ref = await front.ref()
    async with stream(front.edge, f"{path_of(ref)}/events", Accept="application/x-ndjson") as behind:
        assert orjson.loads(await behind.piece())["progress"] == 5
        await front.moves(ref, 50)
        while (line := await behind.piece()) == b"\n":
            pass  # its keepalive
        assert orjson.loads(line)["progress"] == 50


async def test_a_websocket_is_upgraded_and_stays_open(front: Stage) -> None:
    ref = await front.ref()
    url = front.edge.url.replace("https", "wss") + "/v1/ws"
    async with websockets.connect(
        url, ssl=front.edge.trust, subprotocols=["bridge.v1.json"], origin=front.edge.url, proxy=None
    ) as socket:
        assert socket.subprotocol == "bridge.v1.json"
        await socket.send(orjson.dumps({"type": "subscribe", "id": 1, "tasks": [ref]}).decode())
        for progress in (5, 60):
            async with asyncio.timeout(PATIENCE):
                while (said := orjson.loads(await socket.recv()))["type"] != "state":
                    pass
            assert said["state"]["progress"] == progress
            await front.moves(ref, 60)


async def test_the_bridge_knows_its_own_host_so_that_a_strangers_page_is_refused(front: Stage) -> None:
    url = front.edge.url.replace("https", "wss") + "/v1/ws"
    with pytest.raises(websockets.InvalidStatus) as refused:
        await websockets.connect(url, ssl=front.edge.trust, origin="https://stranger.example", proxy=None)
    assert refused.value.response.status_code == 403


async def test_http_2_carries_more_streams_on_one_connection_than_a_browser_opens(front: Stage) -> None:
    ref = await front.ref()
    url = f"{front.edge.url}{path_of(ref)}/events"
    limits = httpx.Limits(max_connections=1)
    timeout = httpx.Timeout(PATIENCE)
    async with (
        httpx.AsyncClient(http2=True, verify=front.edge.trust, limits=limits, timeout=timeout) as http,
        AsyncExitStack() as stack,
    ):
        asked = [stack.enter_async_context(http.stream("GET", url)) for _ in range(STREAMS_ON_ONE_CONNECTION)]
        answers = [await one for one in asked]
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        texts = [answer.aiter_text() for answer in answers]
        for one in texts:
            assert ": ok" in await anext(one)
        await front.moves(ref, 77)
        for one in texts:
            async with asyncio.timeout(PATIENCE):
                while '"progress":77' not in await anext(one):
                    pass


async def test_last_event_id_reaches_the_bridge_in_the_header_and_in_the_address(front: Stage) -> None:
    ref = await front.ref()
    path = f"{path_of(ref)}/events"
    async with stream(front.edge, path) as behind:
        await behind.state()
        cursor = behind.blocks[0].id
    assert cursor is not None
    await front.moves(ref, 33)
    async with stream(front.edge, path, Last_Event_ID=cursor) as behind:
        assert (await behind.state())["progress"] == 33
        assert [block.event for block in behind.blocks] == [None]
        await front.ends(ref)
        last = (await behind.rest())[-2].id
    async with stream(front.edge, f"{path}?last_event_id={last}") as behind:
        assert behind.status == 204


async def test_whoever_leaves_is_noticed_at_once(front: Stage) -> None:
    series = 'bridge_connections{delivery="sse"}'
    open_streams = await front.scene.metric(series)
    async with stream(front.edge, f"{path_of(await front.ref())}/events") as behind:
        await behind.state()
        assert await front.scene.metric(series) == open_streams + 1
    async with asyncio.timeout(KEEPALIVE / 2):  # an unread keepalive would be detected too
        await front.scene.reaches(series, open_streams)


async def test_a_clients_own_address_counts_and_not_what_it_claims(front: Stage) -> None:
    path = f"{path_of(await front.ref())}/events"
    async with AsyncExitStack() as stack:
        for number in range(PER_ADDRESS):
            claims = {"X_Forwarded_For": f"9.9.9.{number}", "Forwarded": f"for=8.8.8.{number}"}
            inside = await stack.enter_async_context(stream(front.edge, path, source="127.0.0.2", **claims))
            await inside.state()
        async with stream(front.edge, path, source="127.0.0.2", X_Forwarded_For="9.9.9.9") as behind:
            assert (await behind.notice("closing"))["reason"] == "over_capacity"
        async with stream(front.edge, path, source="127.0.0.3") as behind:
            await behind.state()


async def test_operators_routes_are_closed(front: Stage) -> None:
    for path in ("/metrics", "/status"):
        async with stream(front.edge, path) as behind:
            assert behind.status == 404
            assert b"bridge_" not in await behind.body()


async def test_long_addresses_and_large_bodies_pass(front: Stage) -> None:
    ref = await front.ref()
    many = "&".join(f"task=qingbo/{'x' * 150}-{number}" for number in range(199))
    async with stream(front.edge, f"/v1/events?task={ref}&{many}") as behind:
        assert behind.status == 200
        assert (await behind.state_with(task=ref))["progress"] == 5
    body = orjson.dumps({"model": "wan2.7", "prompt": "a cat", "image": "A" * 15_000_000})
    path = "/v1/tasks/qingbo"
    async with stream(front.edge, path, method="POST", body=body, Content_Type="application/json") as behind:
        assert behind.status == 201, await behind.body()


async def test_nothing_secret_is_written_down(front: Stage) -> None:
    ref = await front.ref()
    async with stream(
        front.edge, f"{path_of(ref)}/events?ticket=SECRET-ticket", Authorization="SECRET-key"
    ) as one:
        assert one.status == 200
    async with stream(front.edge, "/v1/callbacks/qingbo/SECRET-path", method="POST", body=b"{}") as one:
        assert one.status == 403
    await until(lambda: _written(front.edge, "/events", "/v1/callbacks/qingbo"), True)
    assert "SECRET" not in front.edge.log()
    assert "ticket" not in front.edge.log()


async def _written(edge: Edge, *words: str) -> bool:
    return all(word in edge.log() for word in words)
