"""Webhooks that point inside, through every door of the running bridge: refused, or never connected to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from bridge.sources.guard import MAX_URL, is_public
from bridge.webhooks.signature import new_secret
from tests.conftest import forbidden
from tests.e2e.scene import Scene, stage
from tests.harness import qingbo, qingbo_done
from tests.unit.sources.test_guard import INSIDE, MALFORMED, UNENCRYPTED

pytestmark = [pytest.mark.anyio, pytest.mark.extended]

MINE = socket.gethostname().lower()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Trap:
    """A port on all addresses of this machine that nothing of a test may connect to."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    def caught(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


@asynccontextmanager
async def trap() -> AsyncIterator[Trap]:
    made = Trap()
    server = await asyncio.start_server(made.caught, "", 0, family=socket.AF_INET)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    settings: dict[str, Any] = {
        "webhook_hosts": ["127.0.0.1", "localhost", "::1", MINE],
        "webhook_secret": new_secret(),
    }
    async with stage(**settings) as made:
        yield made


def hostile(port: int) -> Iterator[str]:
    """Each of them, and those inside at this port too."""
    yield from (*INSIDE, *UNENCRYPTED, *MALFORMED)
    for host in ("127.0.0.1", "localhost", "[::1]", "127.1", "2130706433", "[::ffff:127.0.0.1]", "0.0.0.0"):
        yield f"https://{host}:{port}/"
        yield f"http://{host}:{port}/"


async def test_an_endpoint_inside_is_not_added(scene: Scene) -> None:
    async with trap() as inside:
        for url in hostile(inside.port):
            async with scene.http.post(f"{scene.bridge.url}/v1/webhooks", json={"url": url}) as answer:
                assert answer.status in (400, 403), url
                said = await answer.json()
                assert said["detail"]
        async with scene.http.get(f"{scene.bridge.url}/v1/webhooks") as answer:
            assert (await answer.json())["webhooks"] == []
        assert inside.connections == 0


async def test_a_submit_cannot_name_one_either_although_its_host_is_in_webhook_hosts(scene: Scene) -> None:
    address = f"{scene.bridge.url}/v1/tasks/qingbo"
    body = {"model": "veo3", "prompt": "x"}
    async with trap() as inside:
        for url in hostile(inside.port):
            if not url or "\ud800" in url or len(url) > MAX_URL:
                continue
            query = f"{address}?webhook={quote(url, safe='')}"
            async with scene.http.post(URL(query, encoded=True), json=body) as answer:
                assert answer.status in (400, 403), url
            if url.isascii() and url.isprintable() and url == url.strip():
                headers = {"X-Webhook-URL": url}
                async with scene.http.post(address, json=body, headers=headers) as answer:
                    assert answer.status in (400, 403), url
        assert inside.connections == 0
    assert not [key for key, times in scene.ledger.times.items() if key[1] == "submit" and times]


async def test_a_name_that_leads_inside_is_stored_and_never_connected_to(scene: Scene) -> None:
    try:
        found = socket.getaddrinfo(MINE, 443, type=socket.SOCK_STREAM)
    except OSError:
        found = []
    if not found or any(is_public(str(address[0])) for *_, address in found):
        forbidden("a name of this machine that has private addresses alone")
    async with trap() as inside:
        url = f"https://{MINE}:{inside.port}/hooks?token=hidden-in-the-query"
        async with scene.http.post(f"{scene.bridge.url}/v1/webhooks", json={"url": url}) as answer:
            assert answer.status == 201
            webhook = (await answer.json())["id"]
        test = f"{scene.bridge.url}/v1/webhooks/{webhook}/test"
        async with scene.http.post(test) as answer:
            said = await answer.json()
        assert (said["result"], said["status"]) == ("failed", None)
        assert "private_hosts" in said["error"]

        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
        async with scene.stream(f"/v1/tasks/{ref}/events") as stream:
            await stream.state()
            await scene.then("qingbo", task, qingbo_done(task))
            await scene.reaches('bridge_webhook_deliveries_total{result="failed"}', 2)
        assert inside.connections == 0
    assert not any("hidden-in-the-query" in line for line in scene.bridge.log)
