"""A key that is missing, rejected or replaced, an upstream that is off, and polls that are held up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.scene import path_of, stage, until
from tests.harness import qingbo, qingbo_done, running_bridge

pytestmark = pytest.mark.anyio


async def test_a_rejected_key_is_tried_by_one_call_and_everybody_else_is_told() -> None:
    async with stage(also={"other": {"preset": "qingbo"}}) as scene:
        await scene.faults(qingbo=["401"])
        first = scene.id()
        await scene.script("qingbo", first, qingbo(first, "processing"))
        async with scene.events(f"qingbo/{first}") as stream:
            refused = await stream.notice("credential_refused")
            assert "the bridge's key for the upstream 'qingbo'" in refused["message"]
            later = [scene.id() for _ in range(5)]
            began = asyncio.get_running_loop().time()
            async with (
                scene.events(f"qingbo/{later[0]}") as one,
                scene.stream(f"/v1/events?task=qingbo/{later[1]}&task=qingbo/{later[2]}") as many,
            ):
                for heard in (one, many):
                    notice = await heard.notice("upstream_unavailable")
                    assert "the bridge's key for the upstream 'qingbo'" in notice["message"]
                assert asyncio.get_running_loop().time() - began < 2
            state = await scene.get(path_of(f"qingbo/{later[3]}"))
            submit = await scene.call("POST", "/v1/tasks/qingbo", json={"model": "m", "prompt": "p"})
            cancel = await scene.call("POST", f"{path_of(f'qingbo/{later[3]}')}/cancel")
            proxied = await scene.get(f"/proxy/qingbo/v1/task/{later[4]}")
            for reply in (state, submit, cancel):
                assert (reply.status, reply.json["code"]) == (503, "upstream_unavailable"), reply.body
                assert "the bridge's key" in reply.json["detail"]
                assert 1 <= int(reply.headers["Retry-After"]) <= 30
            assert proxied.status in {404, 503}
            assert sum(scene.ledger.of("qingbo", task) for task in later) == 0
            status = (await scene.get("/status")).json["upstreams"]["qingbo"]
            assert status["state"] == "INTERRUPTED"
            assert "the bridge's key for the upstream 'qingbo'" in status["last_error"]["message"]
        rejections = [line for line in scene.bridge.log if "API key rejected" in line]
        assert len(rejections) == 1


async def test_a_websocket_hears_of_a_rejected_key_too() -> None:
    async with stage() as scene:
        await scene.faults(qingbo=["401"])
        first, later = scene.id(), scene.id()
        await scene.script("qingbo", first, qingbo(first, "processing"))
        async with scene.events(f"qingbo/{first}") as stream:
            await stream.notice("credential_refused")
            async with scene.http.ws_connect(
                f"{scene.bridge.url}/v1/ws?task=qingbo/{later}", protocols=["bridge.v1.json"]
            ) as socket:
                async with asyncio.timeout(2):
                    while (said := await socket.receive_json())["type"] != "notice":
                        pass
        assert said["code"] == "upstream_unavailable"
        assert "the bridge's key" in said["message"]


async def test_a_replaced_key_file_ends_the_rest_at_once(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key-0001\n")
    keyed = {"preset": "qingbo", "api_key_file": str(file), "api_key": None}
    async with stage(also={"keyed": keyed}) as scene:
        task = scene.id()
        await scene.script("qingbo", task, qingbo(task, "processing"))
        await scene.faults(qingbo=["401"])
        async with scene.events(f"keyed/{task}") as stream:
            await stream.notice("credential_refused")
            await scene.faults(qingbo=[])
            file.write_text("")  # in the middle of being written
            await until(lambda: _logged(scene, "API key file unusable"), 1)
            other = tmp_path / "new"
            other.write_text("second-key-0002\r\n")
            other.replace(file)
            assert (await stream.state_with(status="processing"))["task"] == f"keyed/{task}"
        assert not any("-key-000" in line for line in scene.bridge.log)


async def test_calls_of_an_upstream_that_is_off_are_503_and_its_tasks_go_on_after_a_restart(
    tmp_path: Path,
) -> None:
    journal = f"sqlite:{tmp_path / 'bridge.db'}"
    async with stage(journal=journal) as scene:
        task = scene.id()
        await scene.script("qingbo", task, qingbo(task, "processing", 40))
        async with scene.events(f"qingbo/{task}") as stream:
            await stream.state_with(status="processing")
        await scene.bridge.stop()
        url = f"{scene.simulator.url}/qingbo"
        settings = {"base_url": url, "api_key": "test-key", "poll_min_seconds": 0.05, "poll_max_seconds": 0.1}
        polled = scene.ledger.of("qingbo", task)
        async with running_bridge({"qingbo": settings | {"enabled": False}}, journal=journal) as off:
            scene.bridge = off
            assert (await scene.get("/status")).json["upstreams"]["qingbo"]["state"] == "OFF"
            unknown = scene.id()
            async with scene.events(f"qingbo/{task}") as stream, scene.events(f"qingbo/{unknown}") as new:
                assert (await stream.state_with(status="processing"))["progress"] == 40
                for heard in (stream, new):
                    assert (
                        "switched this upstream off"
                        in (await heard.notice("upstream_unavailable"))["message"]
                    )
            for method, path in (
                ("GET", path_of(f"qingbo/{unknown}")),
                ("POST", "/v1/tasks/qingbo"),
                ("POST", f"{path_of(f'qingbo/{task}')}/cancel"),
                ("GET", f"/proxy/qingbo/v1/tasks/{unknown}"),
            ):
                reply = await scene.call(
                    method, path, **({} if method == "GET" else {"json": {"model": "m"}})
                )
                said = reply.json.get("error", reply.json)
                assert (reply.status, said["code"]) == (503, "upstream_unavailable"), (path, reply.body)
            assert scene.ledger.of("qingbo", task) == polled
            await off.stop()
        await scene.then("qingbo", task, qingbo_done(task))
        async with running_bridge({"qingbo": settings}, journal=journal) as again:
            scene.bridge = again
            async with scene.events(f"qingbo/{task}") as stream:
                await stream.state_with(status="completed")


async def test_a_missing_key_is_a_warning() -> None:
    async with stage(also={"keyless": {"preset": "qingbo", "api_key": ""}}) as scene:
        await until(lambda: _logged(scene, "API key missing"), 1)
        assert any("keyless" in line and "API key missing" in line for line in scene.bridge.log)


async def _logged(scene: Any, event: str) -> int:
    return sum(event in line for line in scene.bridge.log)
