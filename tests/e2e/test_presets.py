"""Presets whose ids tell more than an id, from the submit to the end of the stream, each in its own shape."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.e2e import raw
from tests.e2e.scene import QUICK
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio

UUID = "7d0f0c4e-5a6b-4a57-9c3e-2f4f6a1b9d10"
OPERATION = "models/veo-3.1-generate-preview/operations/y3b7k1qzv0xh"


@dataclass
class Stub:
    """A provider on a socket of its own: answers what stands there for a call, and knows who asked how."""

    url: str = ""
    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    heads: list[tuple[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    key_header: str = "Authorization"

    async def answer(self, request: web.Request) -> web.Response:
        call = f"{request.method} {request.raw_path}"
        self.asked.append((call, await request.text()))
        self.heads.append((call, request.headers))
        self.keys.add(request.headers.get(self.key_header))
        if call not in self.answers:
            return web.json_response({"detail": "nothing here"}, status=404)
        answer = self.answers[call]
        status, body, *headers = answer if isinstance(answer, tuple) else (200, answer)
        return web.json_response(body, status=status, headers=headers[0] if headers else None)

    @property
    def calls(self) -> set[str]:
        return {call for call, _ in self.asked}


@asynccontextmanager
async def stub(**more: Any) -> AsyncIterator[Stub]:
    made = Stub(**more)
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


async def submitted(bridge: BridgeProcess, path: str, body: Any) -> Any:
    """What the bridge answers to a submit."""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
        http.post(bridge.url + path, json=body) as answer,
    ):
        assert answer.status == 201, await answer.text()
        return await answer.json()


async def followed(bridge: BridgeProcess, links: Any, finish: Callable[[], None]) -> Any:
    """The final state of a task that runs until it was seen running; then the stream has ended."""
    async with raw.request(bridge.url, links["events"]) as stream:
        await stream.state_with(status="processing")
        finish()
        final = await stream.state_with(status="completed")
        assert [block.event for block in await stream.rest()] == ["done", "end"]
    return final


async def test_a_fal_request_is_asked_for_below_its_app_and_fetched_with_a_second_call() -> None:
    at, body = f"/fal-ai/flux/requests/{UUID}", {"prompt": "a cat"}
    async with stub() as fal:
        queue = "https://queue.fal.run"
        fal.answers["POST /fal-ai/flux/dev"] = {
            "status": "IN_QUEUE",
            "request_id": UUID,
            "queue_position": 2,
            "status_url": f"{queue}{at}/status",
            "response_url": f"{queue}{at}",
            "cancel_url": f"{queue}{at}/cancel",
        }
        fal.answers[f"GET {at}/status"] = {"status": "IN_PROGRESS", "request_id": UUID}
        fal.answers[f"GET {at}"] = {"images": [{"url": "https://v3.fal.media/1.png", "width": 1024}]}
        wishes = {"base_url": fal.url, "api_key": "the-key", **QUICK}

        def finish() -> None:
            fal.answers[f"GET {at}/status"] = {"status": "COMPLETED", "request_id": UUID}

        async with running_bridge({"fal": wishes}) as bridge:
            made = await submitted(bridge, "/v1/tasks/fal?endpoint=fal-ai/flux/dev", body)
            assert made["state"]["task"] == f"fal/fal-ai/flux/{UUID}"
            assert (made["state"]["status"], made["state"]["queue_position"]) == ("queued", 2)
            final = await followed(bridge, made["links"], finish)
        (output,) = final["outputs"]
        assert (output["type"], output["url"]) == ("image", "https://v3.fal.media/1.png")
        assert fal.keys == {"Key the-key"}
        assert [sent for call, sent in fal.asked if call.startswith("POST")] == ['{"prompt": "a cat"}']
        assert fal.calls - {f"GET {at}/status/stream"} == set(fal.answers)


async def test_a_veo_operation_keeps_the_slashes_of_its_name_and_says_done_without_a_word() -> None:
    link = "https://generativelanguage.googleapis.com/v1beta/files/6gq1zv0e2n4w:download?alt=media"
    async with stub(key_header="x-goog-api-key") as veo:
        create = "POST /v1beta/models/veo-3.1-generate-preview:predictLongRunning"
        veo.answers[create] = {"name": OPERATION}
        veo.answers[f"GET /v1beta/{OPERATION}"] = {"name": OPERATION}
        wishes = {"base_url": f"{veo.url}/v1beta", "api_key": "the-key", **QUICK}

        def finish() -> None:
            samples = [{"video": {"uri": link}}]
            response = {"generateVideoResponse": {"generatedSamples": samples}}
            veo.answers[f"GET /v1beta/{OPERATION}"] = {"name": OPERATION, "done": True, "response": response}

        async with running_bridge({"veo": wishes}) as bridge:
            path = "/v1/tasks/veo?model=veo-3.1-generate-preview"
            made = await submitted(bridge, path, {"instances": [{"prompt": "a cat"}]})
            assert made["state"]["task"] == f"veo/{OPERATION}"
            final = await followed(bridge, made["links"], finish)
        (output,) = final["outputs"]
        assert (output["type"], output["url"]) == ("video", link)
        assert veo.keys == {"the-key"}
        assert veo.calls == set(veo.answers)


async def test_a_bfl_task_carries_its_region_and_an_operators_own_host_stays_the_only_one_called() -> None:
    status = f"GET /v1/get_result?id={UUID}"
    async with stub(key_header="x-key") as bfl:
        polling_url = f"https://api.eu1.bfl.ai/v1/get_result?id={UUID}"
        bfl.answers["POST /v1/flux-2-pro"] = {"id": UUID, "polling_url": polling_url}
        bfl.answers[status] = {"id": UUID, "status": "Pending", "progress": 0.25}
        wishes = {"base_url": bfl.url, "api_key": "the-key", **QUICK}
        async with running_bridge({"bfl": wishes}) as bridge:
            made = await submitted(bridge, "/v1/tasks/bfl?model=flux-2-pro", {"prompt": "a cat"})
            assert made["state"]["task"] == f"bfl/api.eu1.bfl.ai/{UUID}"
            final = await followed(bridge, made["links"], _ready(bfl, status))
        assert final["outputs"][0]["url"] == "https://delivery-eu1.bfl.ai/a.jpeg"
        assert bfl.keys == {"the-key"}
        assert bfl.calls == set(bfl.answers)


async def test_a_bfl_task_is_asked_for_where_its_polling_url_says_and_nowhere_else() -> None:
    """The preset itself, its hosts moved to this machine: one port takes submits, another is a region."""
    status = f"GET /v1/get_result?id={UUID}"
    async with stub(key_header="x-key") as home, stub(key_header="x-key") as region:
        home.answers["POST /v1/flux-2-pro"] = {"id": UUID, "polling_url": f"{region.url}{status[4:]}"}
        region.answers[status] = {"id": UUID, "status": "Pending"}
        wishes = {"preset": "custom", "dialect": _moved(home.url), "api_key": "the-key", **QUICK}
        async with running_bridge({"bfl": wishes}) as bridge:
            made = await submitted(bridge, "/v1/tasks/bfl?model=flux-2-pro", {"prompt": "a cat"})
            final = await followed(bridge, made["links"], _ready(region, status))
        assert final["outputs"][0]["type"] == "image"
        assert (home.calls, region.calls) == ({"POST /v1/flux-2-pro"}, {status})
        assert region.keys == {"the-key"}


async def test_a_polling_url_at_a_foreign_host_is_refused_and_that_host_never_called() -> None:
    async with stub(key_header="x-key") as bfl, stub(key_header="x-key") as foreign:
        bfl.answers["POST /v1/flux-2-pro"] = {
            "id": UUID,
            "polling_url": f"{foreign.url}/v1/get_result?id={UUID}",
        }
        wishes = {"base_url": bfl.url, "api_key": "the-key", **QUICK}
        async with (
            running_bridge({"bfl": wishes}) as bridge,
            aiohttp.ClientSession() as http,
            http.post(f"{bridge.url}/v1/tasks/bfl?model=flux-2-pro", json={}) as answer,
        ):
            problem = await answer.json()
            assert (answer.status, problem["code"]) == (503, "upstream_unavailable")
            assert foreign.url not in str(problem)
        assert (foreign.calls, bfl.calls) == (set(), {"POST /v1/flux-2-pro"})


def _ready(bfl: Stub, status: str) -> Callable[[], None]:
    def finish() -> None:
        result = {"sample": "https://delivery-eu1.bfl.ai/a.jpeg", "seed": 42}
        bfl.answers[status] = {"id": UUID, "status": "Ready", "result": result}

    return finish


def _moved(base_url: str) -> dict[str, Any]:
    """bfl.toml with a port of this machine where a host of theirs stands."""
    text = files("bridge.dialects").joinpath("presets", "bfl.toml").read_text("utf-8")
    host = r"api(?:\.[a-z0-9-]{1,16})?\.bfl\.ai"
    assert text.count(host) == 2
    text = text.replace("https://(?P<host>", r"http://127\.0\.0\.1:(?P<host>").replace(host, r"\d+")
    text = text.replace("(?:https://)?(?P<host>", "(?P<host>").replace(
        "https://{host}", "http://127.0.0.1:{host}"
    )
    return tomllib.loads(text) | {"base_url": base_url, "hosts": ["127.0.0.1"]}
