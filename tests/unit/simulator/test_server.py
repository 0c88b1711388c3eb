import asyncio
import time

import aiohttp
import pytest

from bridge.simulator.server import SimulatorOptions, make_app, start

pytestmark = pytest.mark.anyio


async def test_the_same_seed_gives_the_same_tasks(simulate):
    told = []
    for seed in (1, 1, 2):
        sim = await simulate(seed=seed)
        for path in ("/qingbo/v1/tasks", "/vapi/task/minimax/x", "/bytespike/v1/tasks/submit"):
            for _ in range(5):
                await sim.post(path, {"model": "m"})
        told.append((await sim.get("/_sim/tasks"))["tasks"])
    assert told[0] == told[1]
    ids = [{task["task_id"] for task in tasks} for tasks in told]
    assert len(ids[0]) == 15
    assert not ids[0] & ids[2]


async def test_speed_divides_the_time_that_tasks_take(simulate):
    sim = await simulate(speed=10.0)
    task_id = await sim.qingbo()
    await sim.advance(1.3)
    assert (await sim.get(f"/qingbo/v1/tasks/{task_id}"))["status"] == "completed"


async def test_real_time_works_too(simulate):
    sim = await simulate(manual_clock=False)
    task_id = await sim.bytespike(queue_seconds=0.02, run_seconds=0.02)
    async with sim.open("GET", f"/bytespike/v1/tasks/stream/{task_id}") as response:
        data = await response.read()
    assert data.count(b"data: ") == 3
    assert (await sim.get(f"/bytespike/v1/tasks/query?task_id={task_id}"))["status"] == "completed"


async def test_it_stops_at_once_with_everything_still_open():
    before = asyncio.all_tasks()
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer k"}) as session:
        async with start(SimulatorOptions(manual_clock=True)) as running:
            hook = {"model": "m", "callback_url": f"{running.url}/_sim/elsewhere"}
            async with session.post(f"{running.url}/bytespike/v1/tasks/submit", json=hook) as response:
                task_id = (await response.json())["task_id"]
            faulty = {"model": "m", "sim": {"faults": ["timeout"]}}
            async with session.post(f"{running.url}/qingbo/v1/tasks", json=faulty) as response:
                stuck = (await response.json())["task_id"]
            base = f"{running.url}/bytespike/v1/tasks/stream/{task_id}"
            streams = [
                await session.get(f"{base}?framing={framing}")
                for framing in ("data-only", "silent", "heartbeat-comments", "split")
            ]
            await session.put(f"{running.url}/_sim/bytespike/tasks/h", json={"stream": ["x"], "hold": True})
            streams.append(await session.get(f"{running.url}/bytespike/v1/tasks/stream/h"))
            hanging = asyncio.ensure_future(session.get(f"{running.url}/qingbo/v1/tasks/{stuck}"))
            await session.get(f"{running.url}/_sim/clock?waiting=3")
            begun = time.perf_counter()
        assert time.perf_counter() - begun < 5  # the library would wait for a minute
        with pytest.raises(aiohttp.ClientError):
            await hanging
        for stream in streams:
            with pytest.raises(aiohttp.ClientError):
                await stream.read()
    assert asyncio.all_tasks() <= before


async def test_a_reader_who_leaves_frees_the_stream(sim):
    task_id = await sim.bytespike()
    for framing in ("silent", "heartbeat-events"):
        async with sim.open("GET", f"/bytespike/v1/tasks/stream/{task_id}?framing={framing}") as response:
            assert response.status == 200
            response.close()
    async with asyncio.timeout(5):
        while sim.running.state.waits._open:  # noqa: ASYNC110 - the kernel tells the server when it likes
            await asyncio.sleep(0)


@pytest.mark.parametrize("error", [{"speed": 0}, {"faults": ("x",)}, {"framing": "x"}])
def test_options_that_make_no_sense_are_refused(error):
    with pytest.raises(ValueError, match=r"speed|fault|framing"):
        make_app(SimulatorOptions(**error))


async def test_a_port_that_is_taken_is_refused(sim):
    with pytest.raises(OSError, match="in use"):
        async with start(SimulatorOptions(), port=sim.running.port):
            pass
