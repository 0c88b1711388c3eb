"""Behind our proxies, over raw bytes: no body is read as a request, no submit meets a closing connection."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chaos.proxy import HOST
from tests.conftest import missing
from tests.deploy.edge import FILES, Edge, edge, needs
from tests.e2e.bare import Bare, bare_provider
from tests.harness import PATIENCE, BridgeProcess, running_bridge
from tests.hostile.test_request_boundaries import (
    BODIES,
    BODY,
    CREATED,
    HANDSHAKE,
    LIVEZ,
    UPGRADES,
    statuses,
    submitted,
)

pytestmark = pytest.mark.anyio

JAVA = Path(__file__).with_name("Submits.java")
ROUNDS, TOGETHER = 4, 30  # five seconds each; and connections that a proxy keeps


@dataclass
class Stage:
    """A bridge behind an edge, and a provider that keeps the bytes it was sent."""

    bridge: BridgeProcess
    bare: Bare
    edge: Edge


@pytest.fixture(scope="module")
async def served(anyio_backend: str) -> AsyncIterator[tuple[BridgeProcess, Bare]]:
    async with bare_provider() as bare:
        upstream = {"preset": "qingbo", "base_url": bare.url, "api_key": "k"}
        async with running_bridge({"qingbo": upstream}, trusted_proxies=[HOST]) as bridge:
            yield bridge, bare


@pytest.fixture(scope="module", params=FILES)
async def stage(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    served: tuple[BridgeProcess, Bare],
) -> AsyncIterator[Stage]:
    needs(request.param)
    port = urlsplit(served[0].url).port
    assert port is not None
    async with edge(request.param, tmp_path_factory.mktemp(request.param), port) as made:
        yield Stage(*served, made)


async def _exchange(made: Edge, *parts: bytes, until: bytes | None = None) -> bytes:
    """Send the parts apart; what comes until the connection ends, or up to `until`."""
    context: ssl.SSLContext = made.trust
    reader, writer = await asyncio.open_connection(HOST, made.port, ssl=context, limit=2**20)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(
                0.3 if len(parts) > 1 else 0
            )  # the proxy must send the head on before the rest
        async with asyncio.timeout(PATIENCE):
            return await (reader.read() if until is None else reader.readuntil(until))
    finally:
        writer.transport.abort()


def _create(made: Edge, fields: bytes, body: bytes) -> bytes:
    place = b"Host: %b:%d\r\n" % (HOST.encode(), made.port)
    head = b"POST /v1/tasks/qingbo HTTP/1.1\r\n" + place + b"Content-Type: application/json\r\n"
    return head + fields + body


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("upgrade", UPGRADES)
async def test_the_body_behind_an_upgrade_is_the_body(stage: Stage, upgrade: str, body: str) -> None:
    create = _create(stage.edge, UPGRADES[upgrade], BODIES[body])
    head = create.index(b"\r\n\r\n") + 4
    last = b"GET /livez HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode()
    stage.bare.answers[:] = [CREATED] * 9  # it may also be polled
    before = len(stage.bare.asked)
    said = await _exchange(stage.edge, create[:head], create[head:] + last)
    if statuses(said)[0] == 400:  # the proxy refuses it itself: nothing came to the bridge
        assert len(stage.bare.asked) == before
        return
    assert statuses(said)[0] == 201
    assert statuses(said)[1:] in ([200], [])  # a proxy may close behind an upgrade
    assert submitted(stage.bare, before) == [BODY]


async def test_nobody_gets_the_answer_to_a_request_hidden_in_a_body(stage: Stage) -> None:
    hidden = b"GET /v1/tasks/qingbo/none HTTP/1.1\r\nHost: x\r\n\r\n"
    create = _create(stage.edge, UPGRADES["h2c"], b"Content-Length: %d\r\n\r\n" % len(hidden))
    stage.bare.answers[:] = [CREATED] * 9  # it may also be polled
    before = len(stage.bare.asked)
    hiding = asyncio.ensure_future(_exchange(stage.edge, create, hidden, until=b"HTTP/1.1 201 "))
    last = b"GET /livez HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode()
    for _ in range(8):
        others = await asyncio.gather(*(_exchange(stage.edge, last) for _ in range(4)))
        assert all(said.endswith(LIVEZ) for said in others)
    await hiding
    assert submitted(stage.bare, before) == [hidden]


@pytest.mark.parametrize("fields", [b"", UPGRADES["h2c"]], ids=["plain", "h2c"])
async def test_a_client_that_expects_100_continue_gets_it_once(stage: Stage, fields: bytes) -> None:
    """Caddy sent its own and the bridge's: Java's client waited without end."""
    expects = b"Expect: 100-continue\r\nConnection: close\r\n" + fields
    create = _create(stage.edge, expects, BODIES["length"])
    head = create.index(b"\r\n\r\n") + 4
    for parts in ([create], [create[:head], create[head:]]):
        stage.bare.answers[:] = [CREATED] * 9
        codes = statuses(await _exchange(stage.edge, *parts))
        assert codes in ([201], [100, 201])


async def test_a_handshake_passes(stage: Stage) -> None:
    fields = b"Upgrade: websocket\r\nConnection: keep-alive\r\nConnection: Upgrade\r\n\r\n"
    reader, writer = await asyncio.open_connection(HOST, stage.edge.port, ssl=stage.edge.trust)
    try:
        writer.write(HANDSHAKE.replace(b"Host: x", b"Host: " + HOST.encode()) + fields)
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    finally:
        writer.transport.abort()


async def test_no_submit_meets_a_connection_that_is_being_closed(stage: Stage) -> None:
    """A bridge closed idle connections after 5 seconds: submits were sent to them just then."""
    create = _create(stage.edge, b"Connection: close\r\n", BODIES["length"])
    last = b"GET /livez HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % HOST.encode()
    codes: list[int] = []
    for _ in range(ROUNDS):
        await asyncio.gather(*(_exchange(stage.edge, last) for _ in range(TOGETHER)))
        await asyncio.sleep(4.985)
        stage.bare.answers[:] = [CREATED] * 99
        for said in await asyncio.gather(*(_exchange(stage.edge, create) for _ in range(TOGETHER))):
            codes += statuses(said)
    assert codes == [201] * ROUNDS * TOGETHER


async def _java(url: str, certificate: Path | None = None) -> Sequence[str]:
    java = shutil.which("java")
    if java is None:
        missing("java")
        return []
    command = [java, str(JAVA), url, BODY.decode(), *([str(certificate)] if certificate else [])]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(4 * PATIENCE):
        said, _ = await process.communicate()
    return said.decode().split()


async def test_the_client_of_java_submits_with_a_body(served: tuple[BridgeProcess, Bare]) -> None:
    """It sends `Upgrade: h2c` with every first request to a plain address."""
    bridge, bare = served
    bare.answers[:] = [CREATED] * 9
    before = len(bare.asked)
    assert await _java(bridge.url) == ["201"] * 3
    assert submitted(bare, before) == [BODY] * 3


async def test_the_client_of_java_submits_through_an_edge(stage: Stage) -> None:
    stage.bare.answers[:] = [CREATED] * 9
    before = len(stage.bare.asked)
    assert await _java(stage.edge.url, stage.edge.folder / "fullchain.pem") == ["201"] * 3
    assert submitted(stage.bare, before) == [BODY] * 3
