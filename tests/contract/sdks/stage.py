"""The bridge before recorded providers, as the providers' own client libraries meet it."""

from __future__ import annotations

import asyncio
import os
import shutil
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import orjson

from tests.conftest import missing
from tests.e2e.scene import QUICK, Ledger, Scene
from tests.harness import PATIENCE, running_bridge, running_simulator

HERE = Path(__file__).parent
SDKS = HERE.parents[1] / "tools" / "sdks" / "node_modules"
PRESETS = ("qingbo", "fal", "openai", "openai-videos", "replicate", "runway")
LIFE = {"queue_seconds": 2, "run_seconds": 8, "outcome": "completed"}

Result = TypeVar("Result")


@asynccontextmanager
async def recorded_stage(*presets: str, **settings: Any) -> AsyncIterator[Scene]:
    """The simulator with these presets, its clock standing, and a bridge that polls it quickly."""
    async with running_simulator(presets=presets or PRESETS) as simulator:
        upstreams = {
            name: {"base_url": f"{simulator.url}/{name}", "api_key": "the-bridges-key"} | QUICK
            for name in presets or PRESETS
        }
        async with (
            running_bridge(upstreams, **settings) as bridge,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
        ):
            yield Scene(simulator, bridge, http, Ledger(simulator.world.calls))
            assert "Traceback" not in "".join(bridge.log)


async def beside(work: Callable[..., Result], *args: Any) -> Result:
    """Run what blocks, beside the simulator."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.to_thread(work, *args)


async def polled(scene: Scene, provider: str, call: str = "status") -> str:
    """Wait until a task of a provider was polled; its id."""
    async with asyncio.timeout(PATIENCE):
        while True:
            for (name, kind, task), times in scene.ledger.times.items():
                if (name, kind) == (provider, call) and times:
                    return task
            await scene.ledger._news.wait()


async def run_node(program: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run a driver; what it prints, one JSON object."""
    if shutil.which("node") is None or not SDKS.is_dir():
        missing("node with the client libraries")
    variables = {name: text for name, text in os.environ.items() if "_API_" not in name and name != "FAL_KEY"}
    process = await asyncio.create_subprocess_exec(
        "node", str(HERE / program), *arguments, stdout=PIPE, stderr=PIPE, env=variables | environment
    )
    async with asyncio.timeout(PATIENCE):
        told, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    answer: dict[str, Any] = orjson.loads(told)
    return answer
