"""Clients that vanish: no FIN and no RST. Their places are free about as fast as a slow client's."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from bridge.server.peers import peer_status, watch_peers
from tests.conftest import forbidden, missing
from tests.e2e.scene import Scene, path_of, stage, until
from tests.harness import qingbo

pytestmark = pytest.mark.anyio

_OWN = os.getpid()  # another run on this machine has its own network
NAME = f"gone{_OWN}"
HERE, THERE = (f"10.99.{_OWN % 250}.{end}" for end in (1, 2))
TIMEOUT = 3.0
KINDS = ("sse", "ndjson", "longpoll", "websocket")
CLIENT = """
import socket, sys, time
HERE = sys.argv.pop(1)
for sent in sys.argv[2:]:
    made = socket.create_connection((HERE, int(sys.argv[1])))
    made.sendall(sent.encode().decode("unicode_escape").encode("latin-1"))
    globals()[sent] = made
print("sent", flush=True)
time.sleep(600)
"""


def test_the_kernel_watches_what_a_listener_accepts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        watch_peers(listener, 30.0)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
            assert 30_000 < accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) < 35_000


async def test_a_client_that_closed_its_half_shows_while_nothing_is_read() -> None:
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()

    async def keep(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport reads
        accepted.set_result(writer)

    server = await asyncio.start_server(keep, "127.0.0.1", 0)
    _, client = await asyncio.open_connection(*server.sockets[0].getsockname())
    there = await accepted
    assert peer_status(there.transport) == (False, pytest.approx(0, abs=5))
    client.write_eof()
    await until(lambda: _has_closed(there), True)
    client.close()
    there.close()
    server.close()


async def _has_closed(writer: asyncio.StreamWriter) -> bool:
    return peer_status(writer.transport)[0]


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    """A network of two machines: one of them can lose its address without a word."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        forbidden("a network of our own (root on Linux)")
    if shutil.which("ip") is None:
        missing("ip")
    shell = f"""ip netns add {NAME} && ip link add {NAME}0 type veth peer name {NAME}1 &&
        ip link set {NAME}1 netns {NAME} && ip addr add {HERE}/24 dev {NAME}0 && ip link set {NAME}0 up &&
        ip netns exec {NAME} ip addr add {THERE}/24 dev {NAME}1 &&
        ip netns exec {NAME} ip link set {NAME}1 up"""
    if subprocess.run(shell, shell=True, check=False, capture_output=True).returncode:
        subprocess.run(
            f"ip link del {NAME}0; ip netns del {NAME}", shell=True, check=False, capture_output=True
        )
        forbidden("a network namespace")
    yield
    subprocess.run(f"ip link del {NAME}0; ip netns del {NAME}", shell=True, check=False)


@pytest.fixture(scope="module")
async def scene(network: None, anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(
        host=HERE, insecure=True, write_timeout_seconds=TIMEOUT, keepalive_seconds=60.0, linger_seconds=0
    ) as made:
        yield made
        assert "Traceback" not in "".join(made.bridge.log)


def _vanish() -> None:
    """Take the address away; the packets still go there, and nobody answers."""
    shell = f"""mac=$(ip netns exec {NAME} cat /sys/class/net/{NAME}1/address) &&
        ip neigh replace {THERE} lladdr $mac dev {NAME}0 nud permanent &&
        ip netns exec {NAME} ip addr del {THERE}/24 dev {NAME}1"""
    subprocess.run(shell, shell=True, check=True)


@pytest.mark.extended
async def test_vanished_clients_of_every_delivery_are_noticed(scene: Scene) -> None:
    task = scene.id()
    path = path_of(await scene.script("qingbo", task, qingbo(task, "processing", 5)))
    tag = (await scene.get(path)).headers["ETag"]
    top = f"HTTP/1.1\\r\\nHost: {HERE}\\r\\n"
    handshake = "Upgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Version: 13\\r\\n"
    handshake += "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n"
    sent = [
        f"GET {path}/events {top}\\r\\n",
        f"GET {path}/events {top}Accept: application/x-ndjson\\r\\n\\r\\n",
        f"GET {path} {top}Prefer: wait=60\\r\\nIf-None-Match: {tag}\\r\\n\\r\\n",
        f"GET /v1/ws?task=qingbo/{task} {top}{handshake}",
    ]
    port = scene.bridge.url.rpartition(":")[2]
    client = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", NAME, sys.executable, "-c", CLIENT, HERE, port, *sent),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert client.stdout is not None
        assert await client.stdout.readline() == b"sent\n"
        for kind in KINDS:
            await scene.reaches(f'bridge_connections{{delivery="{kind}"}}', 1)
        _vanish()
        for kind in KINDS:
            await scene.reaches(f'bridge_connections{{delivery="{kind}"}}', 0)
    finally:
        client.kill()
        await client.wait()
