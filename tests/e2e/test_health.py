"""What operators and their machines ask, and that none of it holds a secret."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from tests.e2e.scene import Scene, path_of, stage
from tests.harness import answer, qingbo

pytestmark = pytest.mark.anyio

KEY, SECRET = "key-that-must-not-show", "secret-that-must-not-show"
ALSO: Mapping[str, Mapping[str, Any]] = {
    "closed": {"preset": "qingbo", "base_url": "http://127.0.0.1:9/x"},
    "refused": {"preset": "qingbo", "api_key": f"bad-{KEY}"},
}


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    each = {"api_key": KEY, "callback_secret": SECRET}
    async with stage(each=each, also=ALSO, first_state_timeout_seconds=0.3, log_level="debug") as made:
        yield made


async def test_livez_readyz_and_head_answer_without_looking_at_any_provider(scene: Scene) -> None:
    assert (await scene.get("/livez")).json == {"status": "ok"}
    ready = await scene.get("/readyz")
    assert (ready.status, ready.json) == (200, {"ready": True, "reasons": []})
    assert (await scene.call("HEAD", "/readyz")).status == 200
    assert ready.headers["Cache-Control"] == "no-store"


async def test_a_provider_that_is_down_does_not_make_the_bridge_unready(scene: Scene) -> None:
    async with scene.events("closed/x") as stream:
        await stream.notice("upstream_unavailable")
        assert (await scene.get("/readyz")).status == 200
        status = (await scene.get("/status")).json["upstreams"]["closed"]
    assert status["state"] == "INTERRUPTED"
    assert status["last_error"]["message"]


async def test_status_tells_of_every_upstream_what_the_contract_names(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with scene.events(ref) as stream:
        await stream.state()
        told = (await scene.get("/status")).json
    assert set(told["upstreams"]) == {"qingbo", "vapi", "bytespike", *ALSO}
    for upstream in told["upstreams"].values():
        assert upstream["state"] in {"VALID", "INITIALIZING", "INTERRUPTED", "OFF"}
        assert {"state", "state_since", "last_error", "watches", "budget", "kinds"} <= set(upstream)
        assert {"poll_price_seconds", "poll_price_factor", "planned_polls_per_second"} <= set(upstream)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", upstream["state_since"])
    assert told["upstreams"]["qingbo"]["state"] == "VALID"
    assert told["upstreams"]["qingbo"]["watches"] >= 1


async def test_metrics_are_text_or_openmetrics_and_have_every_series_from_the_start(scene: Scene) -> None:
    plain = await scene.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain")
    names = [
        "upstream_requests_total",
        "upstream_request_seconds_bucket",
        "polls_total",
        "polls_saved_total",
        "polls_wished_total",
        "watches",
        "interests",
        "task_transitions_total",
        "task_seconds_bucket",
        "detection_seconds_bucket",
        "delivery_seconds_bucket",
        "connections",
        "connections_total",
        "disconnects_total",
        "resumes_total",
        "events_total",
        "conflated_total",
        "callbacks_total",
        "notices_total",
        "budget_wait_seconds_bucket",
        "circuit_open",
        "journal_append_seconds_bucket",
        "loop_lag_seconds_bucket",
        "build_info",
    ]
    for name in names:
        assert re.search(rf"^bridge_{name}(\{{| )", plain.body.decode(), re.MULTILINE), name
    accept = "application/openmetrics-text; version=1.0.0"
    opened = await scene.get("/metrics", Accept=accept)
    assert opened.headers["Content-Type"].startswith("application/openmetrics-text")
    assert opened.body.endswith(b"# EOF\n")


async def test_no_task_id_or_url_becomes_a_label(scene: Scene) -> None:
    task = "label-that-must-not-show"
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5))
    async with scene.events(ref) as stream:
        await stream.state()
        assert task.encode() not in (await scene.get("/metrics")).body


async def test_no_secret_shows_in_logs_problems_status_metrics_or_events(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 5), answer("<html>"))
    shown = []
    async with scene.events(f"{ref}", "?include=raw,data") as stream:
        await stream.notice("upstream_unavailable")
        shown += [block.raw for block in stream.blocks]
    async with scene.events("refused/x") as stream:
        await stream.notice("credential_refused")
        shown += [block.raw for block in stream.blocks]
    for reply in await asyncio.gather(
        scene.get(path_of("closed/y")),
        scene.get(path_of("refused/y")),
        scene.get(path_of("qingbo/nobody")),
        scene.call("POST", f"/v1/callbacks/qingbo/{SECRET}x", json={}),
        scene.call("POST", f"/v1/callbacks/qingbo/{SECRET}", json={"task_id": task}),
        scene.call("POST", f"/v1/callbacks/qingbo/{SECRET}", data=b"x" * 2_000_00),
        scene.call("PUT", f"/v1/callbacks/qingbo/{SECRET}"),
        scene.get("/status"),
        scene.get("/metrics"),
    ):
        shown.append(reply.body)
    everything = b"".join(shown) + "".join(scene.bridge.log).encode()
    for secret in (KEY, SECRET):
        assert secret.encode() not in everything
