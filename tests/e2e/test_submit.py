"""Submitting through the bridge: as it is, once, and watched to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.server.server import SHUTDOWN_GRACE_SECONDS
from tests.e2e.bare import Bare, bare_provider
from tests.e2e.scene import Scene, path_of, stage, until
from tests.harness import qingbo, running_bridge, running_simulator, upstreams_of

pytestmark = pytest.mark.anyio

SLOW = {"queue_seconds": 1000, "run_seconds": 1000}
HAILUO = "?endpoint=minimax/v1/video_generation"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
async def bare(anyio_backend: str) -> AsyncIterator[Bare]:
    async with bare_provider() as made:
        yield made


@pytest.fixture(scope="module")
async def scene(anyio_backend: str, bare: Bare) -> AsyncIterator[Scene]:
    own = {"base_url": bare.url, "poll_min_seconds": 60, "poll_max_seconds": 120}
    also = {
        "bare": {"preset": "qingbo", **own},
        "hasty": {"preset": "qingbo", **own, "submit_timeout_seconds": 0.3},
        "named": {"preset": "bytespike", "submit_timeout_seconds": 0.3},
        "away": {"preset": "qingbo", "base_url": "http://127.0.0.1:9"},
    }
    async with stage(also=also, linger_seconds=0.2) as made:
        yield made


@pytest.fixture(autouse=True)
def fresh(bare: Bare) -> None:
    bare.asked.clear()
    bare.answers.clear()
    bare.hangs = False


def order(**sim: Any) -> dict[str, Any]:
    return {"model": "wan2.7", "prompt": "x", "sim": sim or SLOW}


async def submitted(scene: Scene, upstream: str, body: Any, query: str = "") -> dict[str, Any]:
    reply = await scene.call("POST", f"/v1/tasks/{upstream}{query}", json=body)
    assert reply.status == 201, reply.body
    return reply.json  # type: ignore[no-any-return]


# What comes back, and what goes on


async def test_a_task_is_created_and_answered_with_its_state_and_its_links(scene: Scene) -> None:
    before = await scene.metric(
        'bridge_upstream_requests_total{call="submit",outcome="ok",upstream="qingbo"}'
    )
    reply = await scene.call("POST", "/v1/tasks/qingbo", json=order())
    assert (reply.status, reply.headers["content-type"]) == (201, "application/json")
    state, links = reply.json["state"], reply.json["links"]
    assert (state["status"], state["source"], state["model"]) == ("queued", "submit", "wan2.7")
    path = path_of(state["task"])
    assert links == {
        "self": path,
        "events": f"{path}/events",
        "ws": f"/v1/ws?task={state['task']}",
        "cancel": f"{path}/cancel",
    }
    assert reply.headers["location"] == path
    assert reply.headers["etag"] == f'"{state["cursor"]}"'
    assert scene.ledger.of("qingbo", state["task_id"], "submit") == 1
    again = (await scene.get(links["self"])).json
    assert {**again, "observed_at": None} == {**state, "observed_at": None}
    series = 'bridge_upstream_requests_total{call="submit",outcome="ok",upstream="qingbo"}'
    assert await scene.metric(series) == before + 1


async def test_a_submitted_task_is_watched_to_its_end_without_viewers(scene: Scene) -> None:
    body = order(queue_seconds=5, run_seconds=5, outcome="completed")
    task = (await submitted(scene, "qingbo", body))["state"]["task_id"]
    await scene.ledger.reach("qingbo", task, 10)  # far longer than the linger
    scene.advance(30)
    async with scene.events(f"qingbo/{task}") as stream:
        assert (await stream.state_with(status="completed"))["outputs"][0]["url"]
    looks = scene.ledger.of("qingbo", task)
    assert (await scene.get(path_of(f"qingbo/{task}"))).json["status"] == "completed"
    assert scene.ledger.of("qingbo", task) == looks


async def test_every_provider_of_the_simulator_takes_a_submit(scene: Scene) -> None:
    hailuo = await submitted(scene, "vapi", order() | {"model": "hailuo-02"}, HAILUO)
    assert hailuo["state"]["upstream"] == "vapi"
    params = {"model": "sora-2", "params": {"prompt": "x", "sim": SLOW}}
    spike = await submitted(scene, "bytespike", params)
    assert (spike["state"]["status"], spike["state"]["alias"]) == ("queued", None)
    async with scene.events(spike["state"]["task"]) as stream:
        assert (await stream.state())["task"] == spike["state"]["task"]


async def test_raw_is_ours_and_no_option_of_the_provider(scene: Scene) -> None:
    made = await submitted(scene, "qingbo", order(), "?include=raw")
    assert made["state"]["raw"]["task_id"] == made["state"]["task_id"]


async def test_the_same_own_id_gives_the_same_task_and_other_parameters_a_refusal(scene: Scene) -> None:
    body = {"model": "sora-2", "params": {"prompt": "x", "sim": SLOW}, "out_task_id": scene.id("own")}
    first, second = [(await submitted(scene, "bytespike", body))["state"] for _ in range(2)]
    assert (first["task"], first["alias"]) == (second["task"], body["out_task_id"])
    reply = await scene.call("POST", "/v1/tasks/bytespike", json=body | {"model": "veo3"})
    assert (reply.status, reply.json["code"]) == (502, "upstream_refused")
    assert reply.json["provider"] == {"status": 409, "code": "duplicate_out_task_id"}


# As it is


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{ "model" : "m",\n "big": 123456789012345678901234567890, "a":1, "a":2 }', "application/json"),
        (b"--b\r\ncontent-type: image/x\r\n\r\n\x00\xff\r\n--b--", "multipart/form-data; boundary=b"),
        (b"model=m&prompt=%20x", "application/x-www-form-urlencoded"),
        (b"\x00" * 1000, "application/octet-stream"),
        (b"", "text/plain; charset=utf-8"),
    ],
)  # fmt: skip
async def test_body_and_content_type_reach_the_provider_byte_for_byte(
    scene: Scene, bare: Bare, body: bytes, content_type: str
) -> None:
    bare.answers = [{"task_id": scene.id(), "status": "queued"}]
    reply = await scene.call("POST", "/v1/tasks/bare", data=body, headers={"content-type": content_type})
    assert reply.status == 201, reply.body
    (asked,) = bare.asked
    assert (asked.line, asked.body) == ("POST /v1/tasks HTTP/1.1", body)
    assert asked.headers["content-type"] == content_type
    assert asked.headers["authorization"] == "Bearer test-key"


async def test_sixteen_mebibytes_go_through_and_a_byte_more_is_too_large(scene: Scene, bare: Bare) -> None:
    bare.answers = [{"task_id": scene.id(), "status": "queued"}]
    body = bytes(range(256)) * 65536
    reply = await scene.call("POST", "/v1/tasks/bare", data=BytesIO(body))
    assert reply.status == 201, reply.body
    assert bare.asked[0].body == body

    async def parts() -> AsyncIterator[bytes]:
        yield body
        yield b"x"

    for too_large in (BytesIO(body + b"x"), parts()):
        reply = await scene.call("POST", "/v1/tasks/bare", data=too_large)
        assert (reply.status, reply.json["code"]) == (413, "too_large")
    assert len(bare.asked) == 1


# Once


async def test_a_provider_that_hangs_up_on_a_kept_connection_sees_one_post(scene: Scene, bare: Bare) -> None:
    bare.answers = [{"task_id": scene.id(), "status": "queued"}, None]
    await submitted(scene, "bare", order())
    connections = bare.connections
    reply = await scene.call("POST", "/v1/tasks/bare", json=order())
    assert (reply.status, reply.json["code"]) == (503, "upstream_unavailable")
    assert "may have been created" in reply.json["detail"]
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers
    await asyncio.sleep(0)
    assert len(bare.asked_for("POST")) == 2
    assert bare.connections == connections


async def test_a_provider_that_does_not_answer_is_asked_once_and_the_doubt_is_told(
    scene: Scene, bare: Bare
) -> None:
    bare.hangs = True
    reply = await scene.call("POST", "/v1/tasks/hasty", json=order())
    assert (reply.status, reply.json["code"], reply.json["retriable"]) == (504, "upstream_timeout", False)
    assert "may have been created" in reply.json["detail"]
    assert len(bare.asked) == 1
    series = 'bridge_upstream_requests_total{call="submit",outcome="timeout",upstream="hasty"}'
    assert await scene.metric(series) == 1


async def test_a_provider_that_times_out_after_it_created_the_task_is_asked_for_it_by_its_own_id(
    scene: Scene,
) -> None:
    own = scene.id("own")
    stuck = [{"name": "timeout", "calls": ["submit"], "times": 1}]
    await scene.faults(bytespike=stuck)
    try:
        body = {"model": "sora-2", "params": {"prompt": "x", "sim": SLOW}, "out_task_id": own}
        made = await submitted(scene, "named", body)
    finally:
        await scene.faults(bytespike=[])
    task = made["state"]["task_id"]
    assert (made["state"]["alias"], made["state"]["status"]) == (own, "queued")
    assert scene.ledger.of("bytespike", task, "submit") == 1
    await scene.ledger.reach("bytespike", task, 3)  # it is watched


async def test_who_cannot_be_reached_has_created_nothing(scene: Scene) -> None:
    reply = await scene.call("POST", "/v1/tasks/away", json=order())
    assert (reply.status, reply.json["code"], reply.json["retriable"]) == (503, "upstream_unavailable", True)
    assert "may" not in reply.json["detail"]
    assert "127.0.0.1" not in reply.json["detail"]


async def test_a_client_that_leaves_in_the_middle_loses_no_task(scene: Scene) -> None:
    task = await _left_in_the_middle(scene)
    scene.advance(6)
    await scene.ledger.reach("qingbo", task, 3)


@pytest.mark.extended  # longer than the server's grace; without waiting: tests/hostile/test_drain_answers.py
async def test_a_bridge_that_is_told_to_stop_takes_the_answer_first(tmp_path: Path) -> None:
    journal = f"sqlite:{tmp_path / 'bridge.db'}"
    async with stage(journal=journal) as scene:
        task = await _left_in_the_middle(scene)
        ending = asyncio.ensure_future(scene.bridge.stop())
        await until(lambda: _drains(scene), value=True)
        ended, _ = await asyncio.wait({ending}, timeout=SHUTDOWN_GRACE_SECONDS + 1)
        assert not ended
        scene.advance(6)
        assert await ending == 0
        looks = scene.ledger.of("qingbo", task)
        upstreams = upstreams_of(scene.simulator, poll_min_seconds=0.05, poll_max_seconds=0.1)
        async with running_bridge(upstreams, journal=journal):
            await scene.ledger.reach("qingbo", task, looks + 3)


async def _drains(scene: Scene) -> bool:
    return any('"draining"' in line for line in scene.bridge.log)


async def _left_in_the_middle(scene: Scene) -> str:
    """Submit to a provider that is slow to answer, and leave once it has created the task. Returns its id."""
    await scene.faults(qingbo=[{"name": "slow", "seconds": 5, "calls": ["submit"], "times": 1}])
    body = orjson.dumps(order())
    number = scene.simulator.world.store.last_number("qingbo")
    _, writer = await asyncio.open_connection("127.0.0.1", int(scene.bridge.url.rpartition(":")[2]))
    head = f"POST /v1/tasks/qingbo HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)

    async def created() -> bool:
        return scene.simulator.world.store.last_number("qingbo") > number

    await until(created, value=True)
    writer.close()
    await writer.wait_closed()
    await scene.faults(qingbo=[])
    return [task for (_, call, task) in scene.ledger.times if call == "submit"][-1]


async def test_a_bridge_that_drains_submits_nothing() -> None:
    async with stage(drain_seconds=3) as scene, AsyncExitStack() as stack:
        task = scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
        for _ in range(100):  # they are ended over the three seconds
            await stack.enter_async_context(scene.events(ref))
        ending = asyncio.ensure_future(scene.bridge.stop())
        await until(lambda: _drains(scene), value=True)
        reply = await scene.call("POST", "/v1/tasks/qingbo", json=order())
        assert (reply.status, reply.json["code"], reply.json["retriable"]) == (503, "over_capacity", True)
        assert scene.simulator.world.store.last_number("qingbo") == 0
        assert await ending == 0


# Refusals


async def test_the_providers_refusal_comes_with_its_own_code_and_sentence(scene: Scene) -> None:
    reply = await scene.call("POST", "/v1/tasks/qingbo", json={"prompt": "x"})
    assert (reply.status, reply.json["code"]) == (502, "upstream_refused")
    assert reply.json["detail"] == "model is required"
    assert reply.json["provider"] == {"status": 400, "code": "invalid_request"}
    assert reply.headers["x-should-retry"] == "false"


async def test_a_provider_that_asks_for_patience_is_passed_on(scene: Scene) -> None:
    busy = [{"name": "429-retry-after", "retry_after": "7", "calls": ["submit"], "times": 1}]
    await scene.faults(qingbo=busy)
    reply = await scene.call("POST", "/v1/tasks/qingbo", json=order())
    assert (reply.status, reply.json["code"]) == (503, "upstream_unavailable")
    assert reply.headers["retry-after"] == "7"
    assert reply.json["provider"] == {"status": 429, "code": "rate_limited"}
    await scene.faults(qingbo=[])


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/tasks/nobody", 404, "upstream_not_found"),
        ("/v1/tasks/qingbo?colour=red", 400, "invalid_request"),
        ("/v1/tasks/vapi?endpoint=a&endpoint=b", 400, "invalid_request"),
        ("/v1/tasks/qingbo?include=everything", 400, "invalid_request"),
    ],
)
async def test_a_submit_that_cannot_be_meant_reaches_nobody(
    scene: Scene, path: str, status: int, code: str
) -> None:
    number = scene.simulator.world.store.last_number("qingbo")
    reply = await scene.call("POST", path, json=order())
    assert (reply.status, reply.json["code"]) == (status, code)
    assert scene.simulator.world.store.last_number("qingbo") == number


async def test_a_compressed_body_and_a_strangers_page_are_refused(scene: Scene, bare: Bare) -> None:
    reply = await scene.call("POST", "/v1/tasks/bare", data=b"x", headers={"content-encoding": "gzip"})
    assert (reply.status, reply.json["code"]) == (400, "invalid_request")
    reply = await scene.call("POST", "/v1/tasks/bare", data=b"x", headers={"origin": "https://evil.example"})
    assert (reply.status, reply.json["code"]) == (403, "forbidden")
    for method in ("GET", "PUT"):
        assert (await scene.call(method, "/v1/tasks/bare")).status == 405
    assert bare.asked == []


# Restarts and callbacks


async def test_a_submitted_task_is_watched_again_after_a_restart_without_viewers(tmp_path: Path) -> None:
    async with running_simulator() as simulator, aiohttp.ClientSession() as http:
        upstreams = upstreams_of(simulator, poll_min_seconds=0.05, poll_max_seconds=0.1)
        journal = f"sqlite:{tmp_path / 'bridge.db'}"
        async with running_bridge(upstreams, journal=journal) as bridge:
            async with http.post(f"{bridge.url}/v1/tasks/qingbo", json=order()) as answer:
                task = (await answer.json())["state"]["task_id"]
            await bridge.stop()
        calls = simulator.world.calls
        before = calls.report()["qingbo"].get("status", {}).get(task, 0)  # type: ignore[attr-defined]
        async with running_bridge(upstreams, journal=journal, linger_seconds=0.1):

            async def looked() -> bool:
                looks = calls.report()["qingbo"]["status"]
                return int(looks.get(task, 0)) > before + 10  # type: ignore[attr-defined]

            await until(looked, value=True)


async def test_with_a_public_url_the_provider_calls_back_and_the_poll_is_slow(bare: Bare) -> None:
    secret = {"callback_secret": "s3cr3t", "poll_min_seconds": 0.05, "poll_max_seconds": 30}
    also = {"bare": {"preset": "qingbo", "base_url": bare.url}}
    async with stage(each=secret, also=also, public_url="http://127.0.0.1:1/base/") as scene:
        bare.answers = [{"task_id": scene.id(), "status": "queued"} for _ in range(2)]
        await submitted(scene, "bare", {"model": "m"})
        own = {"model": "m", "callback_url": "https://mine.example/cb"}
        await submitted(scene, "bare", own)
        first, second = (orjson.loads(one.body) for one in bare.asked_for("POST"))
        address = "http://127.0.0.1:1/base/v1/callbacks/bare/s3cr3t"
        assert first == {"model": "m", "callback_url": address}
        assert second == own
        state = (await submitted(scene, "qingbo", order()))["state"]
        async with scene.events(state["task"]) as stream:
            await stream.state()
            task = state["task_id"]
            await scene.ledger.reach("qingbo", task, 1)
            quick = scene.ledger.of("qingbo", task)
            await scene.script("qingbo", task, qingbo(task, "processing", 33))
            reply = await scene.call("POST", "/v1/callbacks/qingbo/s3cr3t", json={"task_id": task})
            assert reply.status == 200
            assert (await stream.state_with(progress=33))["status"] == "processing"
            assert scene.ledger.of("qingbo", task) <= quick + 2
