import asyncio
from urllib.parse import quote

import pytest

pytestmark = pytest.mark.anyio

STATUS = {
    "qingbo": "/qingbo/v1/tasks/{}",
    "vapi": "/vapi/task/{}",
    "bytespike": "/bytespike/v1/tasks/query?task_id={}",
}


async def script(sim, provider, task_id, *answers, **more):
    path = f"/_sim/{provider}/tasks/{quote(task_id, safe='')}"
    assert (await sim.call("PUT", path, json={"answers": list(answers)} | more))[0] == 204
    return path


async def test_calls_are_counted_by_provider_call_and_task(sim):
    first, second = await sim.qingbo(), await sim.qingbo()
    for _ in range(3):
        await sim.get(f"/qingbo/v1/tasks/{first}")
    await sim.get(f"/qingbo/v1/tasks/{second}")
    await sim.call("POST", f"/qingbo/v1/tasks/{first}/cancel")
    await sim.call("GET", "/vapi/task/unknown", key=None)
    calls = await sim.get("/_sim/calls")
    assert calls["qingbo"] == {
        "submit": {first: 1, second: 1},
        "status": {first: 3, second: 1},
        "cancel": {first: 1},
    }
    assert calls["total"]["qingbo"] == {"submit": 2, "status": 4, "cancel": 1}
    assert calls["total"]["vapi"] == {"status": 1}
    assert (await sim.get(f"/_sim/calls?task={first}"))["qingbo"]["status"] == {first: 3}
    assert (await sim.call("DELETE", "/_sim/calls"))[0] == 204
    assert await sim.get("/_sim/calls") == {"total": {}}


async def test_every_kind_of_call_is_counted(sim):
    task_id = await sim.bytespike(queue_seconds=0, run_seconds=0)
    await sim.post("/bytespike/v1/tasks/query", {"task_id": task_id})
    async with sim.open("GET", f"/bytespike/v1/tasks/stream/{task_id}") as response:
        await response.read()
    await sim.post(f"/bytespike/v1/tasks/cancel/{task_id}", {})
    await sim.get("/vapi/files/retrieve?file_id=9")
    body = {"model": "m", "sim": {"queue_seconds": 0, "run_seconds": 0}}
    await sim.post("/qingbo/v1/tasks/sync", body)
    calls = await sim.get("/_sim/calls")
    assert calls["bytespike"] == {kind: {task_id: 1} for kind in ("submit", "status", "stream", "cancel")}
    assert calls["vapi"] == {"file": {"9": 1}}
    assert list(calls["qingbo"]) == ["sync"]


async def test_tasks_are_listed_with_their_plan(sim):
    task_id = await sim.qingbo()
    await script(sim, "vapi", "s1", {"body": 1})
    listed = await sim.get("/_sim/tasks")
    (task,) = listed["tasks"]
    assert (task["task_id"], task["stage"], task["queue_seconds"], task["outcome"]) == (
        task_id,
        "queued",
        2,
        "completed",
    )
    assert listed["scripted"] == [{"provider": "vapi", "task_id": "s1", "asked": 0}]


@pytest.mark.parametrize("provider", STATUS)
async def test_scripted_answers_follow_each_other_and_the_last_repeats(sim, provider):
    await script(sim, provider, "t1", {"body": {"n": 1}}, {"status": 503, "body": {"n": 2}})
    path = STATUS[provider].format("t1")
    got = [await sim.call("GET", path, key=key) for key in ("k1", "k2", "k3")]
    assert got == [(200, {"n": 1}), (503, {"n": 2}), (503, {"n": 2})]
    assert (await sim.call("GET", path, key=None))[0] == 401
    assert (await sim.get("/_sim/calls"))[provider]["status"] == {"t1": 4}


async def test_scripts_answer_to_out_task_id_and_post(sim):
    await script(sim, "bytespike", "mine", {"body": {"n": 1}})
    for named in ({"task_id": "mine"}, {"out_task_id": "mine"}):
        assert await sim.post("/bytespike/v1/tasks/query", named) == {"n": 1}


async def test_headers_and_raw_bodies(sim):
    answer = {"body": "{cut", "headers": {"content-type": "text/html", "Retry-After": 3}}
    await script(sim, "qingbo", "t1", answer)
    async with sim.open("GET", "/qingbo/v1/tasks/t1") as response:
        assert await response.read() == b"{cut"
        assert (response.content_type, response.headers["Retry-After"]) == ("text/html", "3")


async def test_answers_are_added_or_replaced(sim):
    path = await script(sim, "qingbo", "t1", {"body": 1})
    status = STATUS["qingbo"].format("t1")
    assert [await sim.get(status) for _ in range(2)] == [1, 1]
    await sim.call("POST", f"{path}/answers", json={"answers": [{"body": 2}, {"body": 3}]})
    assert [await sim.get(status) for _ in range(3)] == [2, 3, 3]
    await sim.call("POST", f"{path}/answers", json={"answers": [{"body": 4}], "replace": True})
    assert await sim.get(status) == 4
    assert (await sim.call("DELETE", path))[0] == 204
    assert (await sim.call("DELETE", path))[0] == 404
    assert (await sim.call("GET", status))[0] == 404


async def test_a_scripted_delay_is_by_the_clock(sim):
    await script(sim, "qingbo", "t1", {"body": 1, "delay": 5})
    waiting = asyncio.ensure_future(sim.get("/qingbo/v1/tasks/t1"))
    await sim.get("/_sim/clock?waiting=1")
    await sim.advance(4.9)
    assert not waiting.done()
    await sim.advance(0.1)
    assert await waiting == 1


async def test_general_faults_strike_scripted_tasks(sim):
    await script(sim, "qingbo", "t1", {"body": {"n": 1}})
    await sim.set_faults(qingbo=[{"name": "wrong-type", "times": 1}])
    async with sim.open("GET", "/qingbo/v1/tasks/t1") as response:
        assert response.content_type == "text/plain"
        assert await response.read() == b'{"n":1}'
    await sim.set_faults(qingbo=["never"])
    assert (await sim.call("GET", "/qingbo/v1/tasks/t1"))[0] == 404


@pytest.mark.parametrize("task_id", ["a/b", "müll", "50%", "a b?c#d", "x:y+z"])
async def test_ids_may_hold_anything(sim, task_id):
    await script(sim, "qingbo", task_id, {"body": {"id": task_id}})
    assert await sim.get(f"/qingbo/v1/tasks/{quote(task_id, safe='')}") == {"id": task_id}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/_sim/qingbo/tasks/t", {"answers": 3}),
        ("/_sim/qingbo/tasks/t", {"answers": [3]}),
        ("/_sim/qingbo/tasks/t", {"answers": [{"headers": 3}]}),
        ("/_sim/qingbo/tasks/t", {"answers": [{"status": "x"}]}),
        ("/_sim/qingbo/tasks/t", {"stream": "x"}),
        ("/_sim/qingbo/tasks/t", []),
        ("/_sim/faults", {"nobody": []}),
        ("/_sim/faults", {"*": ["nonsense"]}),
        ("/_sim/faults", {"*": "html"}),
    ],
)
async def test_what_is_written_wrong_is_refused(sim, path, body):
    status, answer = await sim.call("PUT", path, json=body)
    assert (status, bool(answer["error"])) == (400, True)


async def test_the_clock_is_shown_and_moved(simulate):
    sim = await simulate()
    assert await sim.get("/_sim/clock") == {"now": 1720000000, "manual": True, "waiting": 0}
    await sim.advance(2.5)
    assert (await sim.get("/_sim/clock"))["now"] == 1720000002.5
    assert (await sim.call("POST", "/_sim/clock", json={"advance": -1}))[0] == 400
    real = await simulate(manual_clock=False)
    assert (await real.get("/_sim/clock"))["manual"] is False
    assert (await real.call("POST", "/_sim/clock", json={"advance": 1}))[0] == 409


async def test_unfinished_requests_of_control_are_refused(sim):
    path = await script(sim, "qingbo", "t", {"body": 1})
    assert (await sim.call("POST", f"{path}/answers", json={"answers": "x"}))[0] == 400
    assert (await sim.call("POST", f"{path}/stream", json={"chunk": 3}))[0] == 400
