"""Finding a task by the client's own id."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.e2e.scene import Scene, path_of, stage
from tests.harness import qingbo

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


async def _submitted(scene: Scene, alias: str) -> str:
    body = {"model": "sora-2", "params": {"prompt": "x"}, "out_task_id": alias}
    return await scene.submit("bytespike", "/v1/tasks/submit", body, queue_seconds=1000, run_seconds=1000)


@pytest.mark.parametrize("alias", ["order-17", "my/own id", "100%", "\u8ba2\u5355"])
async def test_a_bytespike_task_is_found_by_its_out_task_id(scene: Scene, alias: str) -> None:
    task = await _submitted(scene, alias)
    reply = await scene.get("/v1/aliases/" + path_of(f"bytespike/{alias}").removeprefix("/v1/tasks/"))
    assert reply.status == 200
    state = reply.json
    assert (state["task_id"], state["alias"], state["status"]) == (task, alias, "queued")
    assert reply.headers["Content-Location"] == path_of(f"bytespike/{task}")
    assert reply.headers["ETag"] == f'"{state["cursor"]}"'
    by_id = await scene.get(reply.headers["Content-Location"])
    assert (by_id.json["alias"], by_id.json["cursor"]) == (alias, state["cursor"])


async def test_an_alias_nobody_used_is_404(scene: Scene) -> None:
    reply = await scene.get("/v1/aliases/bytespike/nobody")
    assert (reply.status, reply.json["code"]) == (404, "task_not_found")


@pytest.mark.parametrize("upstream", ["qingbo", "vapi"])
async def test_an_upstream_that_knows_no_aliases_is_404(scene: Scene, upstream: str) -> None:
    task = scene.id()
    await scene.script("qingbo", task, qingbo(task, "queued"))
    reply = await scene.get(f"/v1/aliases/{upstream}/{task}")
    assert (reply.status, reply.json["code"]) == (404, "task_not_found")
    assert scene.ledger.of("qingbo", task) == 0
