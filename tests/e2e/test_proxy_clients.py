"""What the providers' own clients send and read below `/proxy`; tests/contract/sdks has those clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.e2e.scene import QUICK, Reply
from tests.e2e.test_presets import Stub, stub
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

MODEL = "black-forest-labs/flux-schnell"
CREATE = f"/proxy/replicate/v1/models/{MODEL}/predictions"
PREDICTION = {"id": "p1", "status": "processing", "output": None}


async def call(bridge: BridgeProcess, method: str, path: str, **more: Any) -> Reply:
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
        http.request(method, URL(bridge.url + path, encoded=True), **more) as answer,
    ):
        return Reply(answer.status, answer.headers, await answer.read())


@asynccontextmanager
async def bridge_to(
    provider: Stub, preset: str, path: str = "", **settings: Any
) -> AsyncIterator[BridgeProcess]:
    upstream = {"base_url": provider.url + path, "api_key": "the-key", **QUICK}
    async with running_bridge({preset: upstream}, **settings) as bridge:
        yield bridge
        assert "Traceback" not in "".join(bridge.log)


async def asked(provider: Stub, request: str, times: int) -> None:
    """Wait until the provider was asked so often."""
    async with asyncio.timeout(PATIENCE):
        while sum(one == request for one, _ in provider.asked) < times:  # noqa: ASYNC110 - a plain server
            await asyncio.sleep(0.01)


async def test_a_create_that_waits_is_answered_at_the_end_or_with_the_word_of_one_that_runs() -> None:
    async with stub() as provider, bridge_to(provider, "replicate", sync_wait_seconds=0.5) as bridge:
        provider.answers[f"POST /v1/models/{MODEL}/predictions"] = (201, PREDICTION)
        provider.answers["GET /v1/predictions/p1"] = PREDICTION
        for prefer in ("wait", "wait=1", "respond-async, wait=1"):
            late = await call(bridge, "POST", CREATE, json={}, headers={"Prefer": prefer})
            assert (late.status, late.json) == (201, PREDICTION | {"status": "starting"})
        at_once = await call(bridge, "POST", CREATE, json={})
        assert (at_once.status, at_once.json) == (201, PREDICTION)
        done = PREDICTION | {"status": "succeeded", "output": "yes"}
        provider.answers["GET /v1/predictions/p1"] = done
        async with bridge_to(provider, "replicate") as patient:
            reply = await call(patient, "POST", CREATE, json={}, headers={"Prefer": "wait"})
        assert (reply.status, reply.json) == (200, done)
        assert all("prefer" not in head for _, head in provider.heads)


async def test_a_read_about_no_task_is_passed_on_once_for_all() -> None:
    async with stub() as provider, bridge_to(provider, "replicate") as bridge:
        provider.answers[f"GET /v1/models/{MODEL}/versions/abc"] = {"id": "abc"}
        path = f"/proxy/replicate/v1/models/{MODEL}/versions/abc"
        replies = await asyncio.gather(*(call(bridge, "GET", path) for _ in range(10)))
        assert {(one.status, one.body) for one in replies} == {(200, b'{"id": "abc"}')}
        assert [one for one, _ in provider.asked] == [f"GET /v1/models/{MODEL}/versions/abc"]
        for other in (f"{path}/..", f"{path}/%2e%2e/x", f"{path}x/y", "/proxy/replicate/v1/models"):
            assert (await call(bridge, "GET", other)).status in {400, 404}
        assert (await call(bridge, "DELETE", path)).status == 404
        assert len(provider.asked) == 1


async def test_a_read_about_no_task_needs_a_credential_for_all_tasks() -> None:
    async with stub() as provider, bridge_to(provider, "replicate", **TOKEN_SETTINGS) as bridge:
        path = f"/proxy/replicate/v1/models/{MODEL}"
        provider.answers[f"GET /v1/models/{MODEL}"] = {"name": "flux"}
        statuses = [
            (await call(bridge, "GET", path, headers={"Authorization": f"{word} {credential}"})).status
            for word, credential in (
                ("Bearer", token("replicate/p1")),
                ("Bearer", token("replicate/*", scope="submit")),
                ("Bearer", token("replicate/*")),
                ("Token", token("replicate/*")),
                ("key", token("replicate/*")),
                ("Key", "7d0f0c4e-5a6b-4a57:9c3e2f4f6a1b9d10"),
                ("Basic", token("replicate/*")),
            )
        ]
        assert statuses == [403, 403, 200, 200, 200, 401, 401]


async def test_a_refused_call_says_why_in_the_form_its_client_reads() -> None:
    async with stub() as provider, bridge_to(provider, "replicate") as bridge:
        for method, path in (("POST", "/v1/files"), ("GET", "/v1/predictions"), ("POST", "/v1/trainings")):
            reply = await call(bridge, method, f"/proxy/replicate{path}")
            error = reply.json["error"]
            assert (reply.status, error["code"]) == (404, "route_not_found")
            assert reply.json == {"detail": error["message"], "title": error["code"], "error": error}
            assert "the bridge" in error["message"]
            assert reply.headers["x-should-retry"] == "false"
        assert provider.asked == []


async def test_a_stream_of_polls_has_the_events_of_the_provider() -> None:
    async with stub() as provider, bridge_to(provider, "openai", "/v1") as bridge:
        made = {"id": "resp_1", "object": "response", "status": "queued", "output": []}
        provider.answers["GET /v1/responses/resp_1"] = made
        path = "/proxy/openai/v1/responses/resp_1?stream=true"
        reading = asyncio.create_task(call(bridge, "GET", path))
        await asked(provider, "GET /v1/responses/resp_1", 2)
        provider.answers["GET /v1/responses/resp_1"] = made | {"status": "incomplete"}
        text = (await reading).body.decode()
        assert [line for line in text.splitlines() if line.startswith("event:")] == [
            "event: response.queued",
            "event: response.incomplete",
        ]
        assert '{"type":"response.incomplete","sequence_number":2,"response":{"id"' in text
        rest = await call(bridge, "GET", f"{path}&starting_after=1")
        assert (rest.status, rest.body.count(b"event:")) == (200, 1)
        assert (await call(bridge, "GET", f"{path}&starting_after=x")).status == 400
        missing = await call(bridge, "GET", "/proxy/openai/v1/responses/resp_2?stream=true")
        assert (missing.status, set(missing.json)) == (404, {"error"})
        refused = await call(bridge, "POST", "/proxy/openai/v1/responses", json={"stream": True})
        assert (refused.status, refused.json["error"]["code"]) == (404, "route_not_found")
        for body in ({"stream": False}, {"stream": None}, {}):
            assert (await call(bridge, "POST", "/proxy/openai/v1/responses", json=body)).status == 404
        assert sum(one == "POST /v1/responses" for one, _ in provider.asked) == 3
