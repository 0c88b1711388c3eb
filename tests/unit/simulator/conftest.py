"""A simulator on a real socket with a manual clock, and an HTTP client for it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pytest

from bridge.simulator.server import Running, SimulatorOptions, start


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Caller:
    running: Running
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return self.running.url

    def open(self, method: str, path: str, *, key: str | None = "k1", json: Any = None, **more: Any) -> Any:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        headers |= more.pop("headers", {})
        data = more.pop("data", None) if json is None else orjson.dumps(json)
        return self.session.request(
            method, self.url + path, headers=headers, data=data, allow_redirects=False, **more
        )

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """The status, and the body as JSON."""
        async with self.open(method, path, **more) as response:
            body = await response.read()
            return response.status, orjson.loads(body) if body else None

    async def get(self, path: str, **more: Any) -> Any:
        status, body = await self.call("GET", path, **more)
        assert status == 200, body
        return body

    async def post(self, path: str, json: Any, **more: Any) -> Any:
        status, body = await self.call("POST", path, json=json, **more)
        assert status == 200, body
        return body

    async def advance(self, seconds: float) -> None:
        await self.post("/_sim/clock", {"advance": seconds})

    async def set_faults(self, **by_provider: Any) -> None:
        status, body = await self.call("PUT", "/_sim/faults", json=by_provider)
        assert status == 200, body

    async def qingbo(self, *, model: str = "veo3", **sim: Any) -> str:
        """Submits a task that queues for 2 s and runs for 10 s, unless asked otherwise."""
        sim = {"queue_seconds": 2, "run_seconds": 10, "outcome": "completed"} | sim
        return (await self.post("/qingbo/v1/tasks", {"model": model, "sim": sim}))["task_id"]

    async def bytespike(self, **sim: Any) -> str:
        sim = {"queue_seconds": 2, "run_seconds": 10, "outcome": "completed"} | sim
        body = {"model": "sora-2", "params": {"prompt": "x", "sim": sim}}
        return (await self.post("/bytespike/v1/tasks/submit", body))["task_id"]

    async def vapi(self, path: str = "minimax/v1/video_generation", **sim: Any) -> str:
        sim = {"queue_seconds": 2, "run_seconds": 10, "outcome": "completed"} | sim
        submitted = await self.post(f"/vapi/task/{path}", {"sim": sim})
        return submitted.get("task_id") or submitted["data"]["task_id"]


@pytest.fixture
async def simulate(anyio_backend) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def factory(**options: Any) -> Caller:
            options = {"manual_clock": True} | options
            return Caller(await stack.enter_async_context(start(SimulatorOptions(**options))), session)

        yield factory


@pytest.fixture
async def sim(simulate) -> Caller:
    return await simulate()
