"""The simulated call about many tasks, read by the bridge's own dialects."""

import aiohttp
import pytest

from bridge.dialects.base import HttpResponse
from bridge.dialects.registry import load_preset
from bridge.simulator.server import SimulatorOptions, start

pytestmark = pytest.mark.anyio
KEY = {"Authorization": "Bearer k"}
SUBMITS = {"ark": "/contents/generations/tasks", "minimax-v2": "/v2/video_generation"}


async def shown(name, *faults, unknown=0):
    """Submit three tasks and ask for all of them; what the dialect finds, by their position."""
    dialect = load_preset(name)
    async with (
        start(SimulatorOptions(presets=(name,))) as running,
        aiohttp.ClientSession(headers=KEY) as http,
    ):
        ids = []
        for _ in range(3):
            async with http.post(f"{running.url}/{name}{SUBMITS[name]}", json={"model": "m"}) as answer:
                said = await answer.json()
                ids.append(said.get("id") or said["task_id"])
        async with http.put(f"{running.url}/_sim/faults", json={name: list(faults)}) as answer:
            assert answer.status < 300
        request = dialect.status_many.request([*ids, *(f"unknown-{n}" for n in range(unknown))])
        async with http.get(f"{running.url}/{name}{request.path}") as answer:
            body = await answer.read()
            found = dialect.read_status_many(HttpResponse(answer.status, {}, body), ids)
    read = {}
    for task_id, text in found.items():
        try:
            observation = dialect.read_status(HttpResponse(200, {}, text), task_id).observation
            read[ids.index(task_id)] = observation.upstream_status
        except Exception as error:  # noqa: BLE001 - a sick one
            read[ids.index(task_id)] = type(error).__name__
    return read


@pytest.mark.parametrize("name", SUBMITS)
@pytest.mark.parametrize("fault", ["", "foreign", "doubled", "disorder"])
async def test_every_task_is_shown(name, fault):
    read = await shown(name, *([fault] if fault else []), unknown=2)
    assert read.keys() == {0, 1, 2}
    assert set(read.values()) <= {"queued", "running"}


@pytest.mark.parametrize("name", SUBMITS)
async def test_one_is_left_out_or_sick(name):
    assert (await shown(name, "left-out")).keys() == {1, 2}
    read = await shown(name, "sick")
    assert read.keys() == {0, 1, 2}
    assert set(read.values()) & {"queued", "running"}
