"""Below `/proxy`: links lead to the bridge, result calls are served, and every error has one format."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from yarl import URL

from tests.e2e import raw
from tests.e2e.scene import QUICK, Reply, until
from tests.e2e.test_presets import Stub, stub
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

UUID = "7d0f0c4e-5a6b-4a57-9c3e-2f4f6a1b9d10"
AT = f"/fal-ai/flux/requests/{UUID}"
QUEUE = "https://queue.fal.run"
IMAGE = {"images": [{"url": "https://v3.fal.media/1.png", "width": 1024}], "seed": 7}


async def call(bridge: BridgeProcess, method: str, path: str, **more: Any) -> Reply:
    url = path if path.startswith("http") else bridge.url + path
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
        http.request(method, URL(url, encoded=True), **more) as answer,
    ):
        return Reply(answer.status, answer.headers, await answer.read())


def error_code(reply: Reply) -> Any:
    """The code of an error that has the format of the providers."""
    assert reply.headers["Content-Type"] == "application/json"
    assert set(reply.json) - {"message", "detail"} == {"error"}
    assert set(reply.json["error"]) == {"message", "code"}
    return reply.json["error"]["code"]


@asynccontextmanager
async def bridge_to(
    provider: Stub, preset: str, path: str = "", **settings: Any
) -> AsyncIterator[BridgeProcess]:
    upstream = {"base_url": provider.url + path, "api_key": "the-key", **QUICK}
    async with running_bridge({preset: upstream}, **settings) as bridge:
        yield bridge
        assert "Traceback" not in "".join(bridge.log)


def fal_document(status: str, **more: Any) -> dict[str, Any]:
    links = {
        "status_url": f"{QUEUE}{AT}/status",
        "response_url": QUEUE + AT,
        "cancel_url": f"{QUEUE}{AT}/cancel",
    }
    return {"status": status, "request_id": UUID, **links, **more}


async def test_a_client_of_fal_follows_the_links_it_is_given_to_the_result() -> None:
    async with stub() as fal, bridge_to(fal, "fal") as bridge:
        fal.answers["POST /fal-ai/flux/dev"] = fal_document("IN_QUEUE", queue_position=1)
        fal.answers[f"GET {AT}/status"] = fal_document("IN_PROGRESS")
        fal.answers[f"PUT {AT}/cancel"] = (400, {"status": "ALREADY_COMPLETED"})
        made = await call(bridge, "POST", "/proxy/fal/fal-ai/flux/dev", json={"prompt": "a cat"})
        links = made.json
        assert links["status_url"] == f"{bridge.url}/proxy/fal{AT}/status"
        assert b"queue.fal.run" not in made.body

        running = await call(bridge, "GET", links["status_url"])
        assert (running.json["status"], running.json["response_url"]) == (
            "IN_PROGRESS",
            links["response_url"],
        )
        early = await call(bridge, "GET", links["response_url"])
        assert (early.status, set(early.json), set(early.json["error"])) == (
            503,
            {"error", "message", "detail"},
            {"message", "code"},
        )
        assert int(early.headers["Retry-After"]) >= 1

        fal.answers[f"GET {AT}/status"] = fal_document("COMPLETED")
        fal.answers[f"GET {AT}"] = IMAGE

        async def status() -> int:
            return (await call(bridge, "GET", links["response_url"])).status

        await until(status, 200)
        asked = [one for one, _ in fal.asked].count(f"GET {AT}")
        results = await asyncio.gather(*(call(bridge, "GET", links["response_url"]) for _ in range(10)))
        assert {orjson.dumps(reply.json) for reply in results} == {orjson.dumps(IMAGE)}
        assert [one for one, _ in fal.asked].count(f"GET {AT}") == asked
        done = await call(bridge, "GET", links["status_url"])
        assert (done.json["status"], done.json["status_url"]) == ("COMPLETED", links["status_url"])
        cancelled = await call(bridge, "PUT", links["cancel_url"])
        assert cancelled.status == 400
        kept = await call(bridge, "GET", f"/v1/tasks/fal/fal-ai%2Fflux%2F{UUID}?include=raw")
        assert kept.json["raw"]["status_url"] == f"{QUEUE}{AT}/status"
        assert fal.keys == {"Key the-key"}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((422, {"detail": [{"msg": "bad image", "type": "image_load_error"}]}), 422),
        ({"output": "words"}, 200),
    ],
)
async def test_a_result_without_a_file_and_a_models_error_are_handed_on_as_they_came(
    answer: Any, status: int
) -> None:
    async with stub() as fal, bridge_to(fal, "fal") as bridge:
        fal.answers[f"GET {AT}/status"] = fal_document("COMPLETED")
        fal.answers[f"GET {AT}"] = answer
        shown = await call(bridge, "GET", f"/proxy/fal{AT}/status")
        assert shown.json["status"] == "COMPLETED"
        reply = await call(bridge, "GET", f"/proxy/fal{AT}")
        body = answer[1] if isinstance(answer, tuple) else answer
        assert (reply.status, reply.json) == (status, body)
        assert reply.headers.get("x-should-retry") == ("false" if status == 422 else None)
        state = await call(bridge, "GET", f"/v1/tasks/fal/fal-ai%2Fflux%2F{UUID}?include=raw")
        assert state.json["status"] == ("failed" if status == 422 else "completed")
        if status == 200:  # the only place of a result without a link
            assert state.json["raw"] == body


async def test_a_failure_that_the_status_call_tells_is_the_answer_of_the_result_call() -> None:
    async with stub() as fal, bridge_to(fal, "fal") as bridge:
        fal.answers[f"GET {AT}/status"] = fal_document("COMPLETED", error="out of memory", error_type="oom")
        reply = await call(bridge, "GET", f"/proxy/fal{AT}")
        assert (reply.status, reply.json["error"]) == (422, {"message": "out of memory", "code": "oom"})
        assert reply.headers["x-should-retry"] == "false"
        missing = await call(bridge, "GET", "/proxy/fal/fal-ai/flux/requests/nowhere")
        assert (missing.status, missing.json["error"]["code"]) == (404, "task_not_found")


async def test_the_frames_of_fals_stream_have_the_links_of_their_client() -> None:
    async with stub() as fal, bridge_to(fal, "fal") as bridge:
        fal.answers[f"GET {AT}/status"] = fal_document("IN_PROGRESS")
        async with raw.request(bridge.url, f"/proxy/fal{AT}/status/stream") as stream:
            first = await stream.block()
            assert first is not None
            assert first.data["response_url"] == f"{bridge.url}/proxy/fal{AT}"
            fal.answers[f"GET {AT}/status"] = fal_document("COMPLETED")
            fal.answers[f"GET {AT}"] = IMAGE
            last = (await stream.rest())[-1]
        assert (last.data["status"], last.data["status_url"]) == (
            "COMPLETED",
            f"{bridge.url}/proxy/fal{AT}/status",
        )


async def test_v_apis_file_call_is_answered_from_the_bridges_own() -> None:
    task, file = "314052875571396", "314053136425242"
    link = {
        "file": {"file_id": file, "download_url": "https://cdn.example/v.mp4"},
        "base_resp": {"status_code": 0},
    }
    path = f"/minimax/v1/files/retrieve?file_id={file}"
    async with stub() as vapi, bridge_to(vapi, "vapi") as bridge:
        vapi.answers[f"GET /task/{task}"] = {"status": "Success", "task_id": task, "file_id": file}
        vapi.answers[f"GET {path}"] = link
        shown = await call(bridge, "GET", f"/proxy/vapi/task/{task}")
        assert shown.json["file_id"] == file
        replies = await asyncio.gather(*(call(bridge, "GET", f"/proxy/vapi{path}") for _ in range(20)))
        assert [reply.json for reply in replies] == [link] * 20
        assert [one for one, _ in vapi.asked].count(f"GET {path}") == 1
        # A file that no client was told of is asked for once for everybody.
        other = "/minimax/v1/files/retrieve?file_id=9"
        vapi.answers[f"GET {other}"] = {"file": {"file_id": 9, "download_url": "https://cdn.example/9.mp4"}}
        replies = await asyncio.gather(*(call(bridge, "GET", f"/proxy/vapi{other}") for _ in range(20)))
        assert {reply.json["file"]["file_id"] for reply in replies} == {9}
        assert [one for one, _ in vapi.asked].count(f"GET {other}") == 1


async def test_bytespikes_other_forms_of_query_and_cancel() -> None:
    task = "task_01HQX9F2P6Y8VEX3CRZ8GXJVD9"
    shown = {"task_id": task, "out_task_id": "mine", "status": "running"}
    async with stub() as spike, bridge_to(spike, "bytespike") as bridge:
        spike.answers["POST /v1/tasks/query"] = shown
        for query in (f"task_id={task}", "out_task_id=mine", f"task_id={task}&out_task_id="):
            reply = await call(bridge, "GET", f"/proxy/bytespike/v1/tasks/query?{query}")
            assert (reply.status, reply.json) == (200, shown)
        for query in ("", f"?task_id={task}&out_task_id=mine"):
            reply = await call(bridge, "GET", f"/proxy/bytespike/v1/tasks/query{query}")
            assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_request")
        spike.answers[f"POST /v1/tasks/cancel/{task}"] = {"task_id": task, "status": "cancelled"}
        for body in ({"task_id": task}, {"out_task_id": "mine"}):
            reply = await call(bridge, "POST", "/proxy/bytespike/v1/tasks/cancel", json=body)
            assert (reply.status, reply.json["status"]) == (200, "cancelled")
        both = await call(
            bridge, "POST", "/proxy/bytespike/v1/tasks/cancel", json={"task_id": task, "out_task_id": "mine"}
        )
        assert both.status == 400
        assert {one for one in spike.calls if "cancel" in one} == {f"POST /v1/tasks/cancel/{task}"}


async def test_a_region_of_bfl_stays_the_region_of_its_link() -> None:
    async with stub(key_header="x-key") as bfl, bridge_to(bfl, "bfl") as bridge:
        bfl.answers["POST /v1/flux-pro-1.1"] = {
            "id": "abc",
            "polling_url": "https://api.eu1.bfl.ai/v1/get_result?id=abc",
        }
        bfl.answers["GET /v1/get_result?id=abc"] = {
            "id": "abc",
            "status": "Ready",
            "result": {"sample": "https://delivery-eu1.bfl.ai/results/x?sig=1"},
        }
        made = await call(bridge, "POST", "/proxy/bfl/v1/flux-pro-1.1", json={"prompt": "x"})
        polling = made.json["polling_url"]
        assert polling == f"{bridge.url}/proxy/bfl/api.eu1.bfl.ai/v1/get_result?id=abc"
        done = await call(bridge, "GET", f"{polling}&id=abc")  # as a client that adds the id itself
        assert done.json["result"]["sample"] == "https://delivery-eu1.bfl.ai/results/x?sig=1"
        state = await call(bridge, "GET", "/v1/tasks/bfl/api.eu1.bfl.ai%2Fabc")
        assert (state.status, state.json["status"]) == (200, "completed")
        elsewhere = await call(bridge, "GET", "/proxy/bfl/api.evil.example/v1/get_result?id=abc")
        assert (elsewhere.status, elsewhere.json["error"]["code"]) == (404, "route_not_found")


async def test_links_of_a_gateway_its_provider_and_the_public_address() -> None:
    async with (
        stub() as gateway,
        bridge_to(gateway, "replicate", "/gw", public_url="https://Tasks.example/bridge/") as bridge,
    ):
        host = gateway.url.removeprefix("http://")
        gateway.answers["GET /gw/v1/predictions/abc"] = {
            "id": "abc",
            "status": "processing",
            "big": 123456789012345678901234567890,
            "webhook": "https://Tasks.example/bridge/v1/callbacks/replicate/secret",
            "urls": {
                "get": f"http://{host}/gw/v1/predictions/abc",
                "cancel": "https://API.replicate.com:443/v1/predictions/abc/cancel",
                "stream": "https://stream.replicate.com/v1/files/abc",
                "web": "https://replicate.com/p/abc",
            },
            "input": {"image": "https://replicate.delivery/in.png"},
            "more": [f"http://{host}/gw/v1/models", {"href": "//api.replicate.com/v1/predictions/abc"}],
        }
        reply = await call(bridge, "GET", "/proxy/replicate/v1/predictions/abc")
        own = "https://Tasks.example/bridge/proxy/replicate/v1/predictions/abc"
        assert json.loads(reply.body) == {
            "id": "abc",
            "status": "processing",
            "big": 123456789012345678901234567890,
            "urls": {"get": own, "cancel": f"{own}/cancel", "web": "https://replicate.com/p/abc"},
            "input": {"image": "https://replicate.delivery/in.png"},
            "more": [{"href": own}],
        }


@pytest.mark.parametrize(
    ("headers", "base"),
    [
        ({"Host": "127.0.0.1:9"}, "http://127.0.0.1:9"),
        ({"Host": "[::1]:9", "X-Forwarded-Proto": "http, https"}, "https://[::1]:9"),
    ],
)
async def test_links_have_the_address_by_which_the_client_came(headers: dict[str, str], base: str) -> None:
    async with stub() as fal, bridge_to(fal, "fal") as bridge:
        fal.answers[f"GET {AT}/status"] = fal_document("IN_PROGRESS")
        reply = await call(bridge, "GET", f"/proxy/fal{AT}/status", headers=headers)
        assert reply.json["status_url"] == f"{base}/proxy/fal{AT}/status"
        for host in ("a b", "evil@x/y"):
            assert (await call(bridge, "GET", f"/proxy/fal{AT}/status", headers={"Host": host})).status == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/proxy", 404, "route_not_found"),
        ("GET", "/proxy/", 404, "route_not_found"),
        ("GET", "/proxy/qingbo", 404, "route_not_found"),
        ("GET", "/proxy/qingbo/", 404, "route_not_found"),
        ("GET", "/proxy/nobody/v1/tasks/x", 404, "upstream_not_found"),
        ("GET", "/proxy/qingbo%2F../v1/tasks/x", 404, "upstream_not_found"),
        ("GET", "/proxy/qingbo/v1/models", 404, "route_not_found"),
        ("PUT", "/proxy/qingbo/v1/tasks/x", 404, "route_not_found"),
        ("TRACE", "/proxy/qingbo/v1/tasks/x", 405, "method_not_allowed"),
        ("OPTIONS", "/proxy/qingbo/v1/tasks/x", 405, "method_not_allowed"),
        ("POST", "/proxy/qingbo/v1/tasks", 413, "too_large"),
        ("GET", "/proxy/qingbo/v1/tasks/nowhere", 404, "task_not_found"),
    ],
)
async def test_every_error_has_the_format_of_the_providers(
    method: str, path: str, status: int, code: str
) -> None:
    async with stub() as provider, bridge_to(provider, "qingbo", max_submission_bytes=1024) as bridge:
        data = b"x" * 2000 if method == "POST" else None
        reply = await call(bridge, method, path, data=data)
        assert (reply.status, error_code(reply)) == (status, code)
        assert reply.headers["x-should-retry"] == "false"


async def test_a_caller_without_a_credential_and_a_strange_host_are_told_in_that_format_too() -> None:
    upstream = {"qingbo": {"base_url": "http://127.0.0.1:9", "api_key": "k"}}
    async with running_bridge(upstream, auth="token", token_secrets=["s" * 32], token_issuer="us") as bridge:
        for path in ("/proxy/qingbo/v1/tasks/x", "/proxy/nobody/x"):
            reply = await call(bridge, "GET", path)
            assert (reply.status, set(reply.json), reply.json["error"]["code"]) == (
                401,
                {"error"},
                "unauthenticated",
            )
            assert reply.headers["WWW-Authenticate"] == "Bearer"
    async with running_bridge(upstream) as bridge:
        reply = await call(bridge, "GET", "/proxy/qingbo/v1/tasks/x", headers={"Host": "evil.example"})
        assert (reply.status, reply.json["error"]["code"]) == (403, "forbidden")
        reply = await call(bridge, "GET", "/proxy/qingbo/v1/tasks/x")
        assert (reply.status, reply.json["error"]["code"]) == (503, "upstream_unavailable")
        assert int(reply.headers["Retry-After"]) >= 1
