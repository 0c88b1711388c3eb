"""`taskbridge webhooks`, and both Python clients, against a running bridge and a real receiver."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from click.testing import CliRunner, Result

from bridge.cli.main import main
from bridge.client import Bridge, SyncBridge, WebhookEvent
from bridge.errors import IdempotencyMismatch, UnknownWebhook
from tests.e2e.scene import Scene, stage
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

QUICK_LIFE = {"queue_seconds": 0, "run_seconds": 0, "outcome": "completed"}


class Receiver:
    """Keeps what arrives; answers with `status`."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[WebhookEvent] = asyncio.Queue()
        self.status = 204
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.arrived.put_nowait(WebhookEvent.parse(await request.read()))
        return web.Response(status=self.status)

    async def next(self) -> WebhookEvent:
        async with asyncio.timeout(PATIENCE):
            return await self.arrived.get()


@pytest.fixture(scope="module")
async def receiver(anyio_backend: str) -> AsyncIterator[Receiver]:
    made = Receiver()
    app = web.Application()
    app.router.add_post("/hook", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(private_hosts=["127.0.0.1"]) as made:
        yield made


async def typed(scene: Scene, *arguments: str) -> Result:
    """Type `taskbridge ...`; what came of it."""
    environment = {"BRIDGE_URL": scene.bridge.url}
    return await asyncio.to_thread(CliRunner().invoke, main, arguments, env=environment)


async def test_an_endpoint_from_its_beginning_to_its_end(scene: Scene, receiver: Receiver) -> None:
    empty = await typed(scene, "webhooks", "list")
    assert (empty.exit_code, empty.output.partition(";")[0]) == (0, "no webhooks")
    added = await typed(scene, "webhooks", "add", receiver.url, "--event", "task.final", "--json")
    endpoint = json.loads(added.output)
    assert endpoint["secret"].startswith("whsec_")
    listed = await typed(scene, "webhooks", "list")
    assert endpoint["id"] in listed.output
    assert endpoint["secret"] not in listed.output

    tested = await typed(scene, "webhooks", "test", endpoint["id"])
    assert (tested.exit_code, (await receiver.next()).type) == (0, "webhook.test")
    receiver.status = 500
    failed = await typed(scene, "webhooks", "test", endpoint["id"])
    assert (failed.exit_code, "failed, HTTP 500" in failed.output) == (1, True)
    await receiver.next()
    receiver.status = 204

    body = json.dumps({"model": "wan2.7", "prompt": "x", "sim": QUICK_LIFE})
    submits = [await typed(scene, "submit", "qingbo", body, "--idempotency-key", "k") for _ in range(2)]
    assert submits[0].output == submits[1].output
    ended = await receiver.next()
    assert ended.state is not None
    assert (ended.type, ended.state.task) == ("task.final", submits[0].output.strip())
    other = await typed(scene, "submit", "qingbo", body + " ", "--idempotency-key", "k")
    assert other.exit_code in (0, 2)  # the same JSON may be written in the same bytes again

    async with asyncio.timeout(PATIENCE):
        while (
            "task.final" not in (table := await typed(scene, "webhooks", "deliveries", endpoint["id"])).output
        ):
            pass  # the log is written about once a second
    delivery = next(line for line in table.output.splitlines() if "task.final" in line).split()[0]
    again = await typed(scene, "webhooks", "redeliver", endpoint["id"], delivery)
    assert again.output.startswith(f"{delivery}: delivered, HTTP 204")
    assert (await receiver.next()).document == ended.document

    receiver.status = 500
    await typed(scene, "submit", "qingbo", body)
    await receiver.next()
    async with asyncio.timeout(PATIENCE):
        while "failing since 20" not in (await typed(scene, "webhooks", "list")).output:
            pass  # the answer is on its way
    receiver.status = 204
    await typed(scene, "webhooks", "enable", endpoint["id"])  # needs no disabling: what waits is sent now
    assert (await receiver.next()).type == "task.final"

    disabled = await typed(scene, "webhooks", "disable", endpoint["id"])
    assert "disabled (operator)" in disabled.output
    enabled = await typed(scene, "webhooks", "enable", endpoint["id"])
    assert "enabled" in enabled.output
    rotated = await typed(scene, "webhooks", "rotate-secret", endpoint["id"])
    assert "secret: whsec_" in rotated.output
    assert (await typed(scene, "webhooks", "remove", endpoint["id"])).exit_code == 0
    unknown = await typed(scene, "webhooks", "test", endpoint["id"])
    assert unknown.exit_code == 2


async def test_what_a_url_of_the_inside_is_answered_with(scene: Scene) -> None:
    refused = await typed(scene, "webhooks", "add", "http://localhost:1/")
    assert refused.exit_code == 2


async def test_the_python_clients(scene: Scene, receiver: Receiver) -> None:
    async with Bridge(scene.bridge.url) as bridge:
        endpoint = await bridge.webhooks.create(receiver.url, events=["task.final", "task.state"])
        assert endpoint.secret is not None
        assert (await bridge.webhooks.get(endpoint.id)).events == ("task.final", "task.state")
        assert (await bridge.webhooks.test(endpoint.id)).delivered
        assert (await receiver.next()).type == "webhook.test"
        body = {"model": "wan2.7", "prompt": "y", "sim": QUICK_LIFE}
        first = await bridge.submit("qingbo", body, retry_seconds=5, idempotency_key="client")
        second = await bridge.submit("qingbo", body, idempotency_key="client")
        assert first.task == second.task
        with pytest.raises(IdempotencyMismatch):
            await bridge.submit("qingbo", body | {"prompt": "z"}, idempotency_key="client")
        while not ((event := await receiver.next()).state and event.type == "task.final"):
            pass
        assert event.state.task == first.task
        assert not (await bridge.webhooks.set_enabled(endpoint.id, enabled=False)).enabled
    await asyncio.to_thread(_without_async, scene.bridge.url, endpoint.id)


def _without_async(url: str, endpoint: str) -> None:
    with SyncBridge(url) as bridge:
        assert [one.id for one in bridge.webhooks.list()] == [endpoint]
        assert bridge.webhooks.rotate_secret(endpoint).secret
        bridge.webhooks.delete(endpoint)
        with pytest.raises(UnknownWebhook):
            bridge.webhooks.get(endpoint)
