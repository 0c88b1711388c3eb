import asyncio

import aiohttp
import orjson
import pytest

from bridge.simulator.faults import CALLS, BadFault, CallContext, Fault, FaultSet, parse_fault

pytestmark = pytest.mark.anyio


async def status(sim, task_id):
    return await sim.call("GET", f"/qingbo/v1/tasks/{task_id}")


async def started(sim, *faults):
    """The path of a running task with these faults."""
    return f"/qingbo/v1/tasks/{await sim.qingbo(queue_seconds=0, faults=list(faults))}"


@pytest.mark.parametrize(
    ("name", "code"),
    [("500", 500), ("503", 503), ("429", 429), ("401", 401), ("402", 402), ("451", 451), ("never", 404)],
)
async def test_refusals_come_in_the_envelope_of_the_provider(sim, name, code):
    async with sim.open("GET", await started(sim, name)) as response:
        assert response.status == code
        assert "Retry-After" not in response.headers
        assert (await response.json())["error"]["message"]
    task_id = await sim.bytespike(faults=[name])
    answered, body = await sim.call("POST", "/bytespike/v1/tasks/query", json={"task_id": task_id})
    assert answered == code
    assert body["error"]["type"]


async def test_retry_after_has_the_value_asked_for(sim):
    for fault, value in [
        ("429-retry-after", "1"),
        ("429-retry-after:7", "7"),
        (
            {"name": "429-retry-after", "retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"},
            "Wed, 21 Oct 2026 07:28:00 GMT",
        ),
    ]:
        async with sim.open("GET", await started(sim, fault)) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, value)


async def test_slow_answers_after_its_seconds(sim):
    path = await started(sim, {"name": "slow", "seconds": 3, "times": 1})
    waiting = asyncio.ensure_future(sim.get(path))
    await sim.get("/_sim/clock?waiting=1")
    await sim.advance(2)
    assert not waiting.done()
    await sim.advance(1)
    assert (await waiting)["status"] == "processing"
    assert (await sim.get(path))["status"] == "processing"


async def test_slow_goes_together_with_another(sim):
    path = await started(sim, "slow:3", "500")
    status, _ = await sim.call("GET", path)
    assert status == 500, "a refusal does not wait for the delay"
    path = await started(sim, "slow:3", "html")
    waiting = asyncio.ensure_future(sim.session.get(sim.url + path, headers={"Authorization": "Bearer k1"}))
    await sim.get("/_sim/clock?waiting=1")
    await sim.advance(3)
    async with await waiting as response:
        assert response.content_type == "text/html"


async def test_timeout_never_answers(sim):
    path = await started(sim, "timeout")
    with pytest.raises(TimeoutError):
        await sim.call("GET", path, timeout=aiohttp.ClientTimeout(total=0.05))


async def test_html_comes_with_200(sim):
    async with sim.open("GET", await started(sim, "html")) as response:
        assert (response.status, response.content_type) == (200, "text/html")
        assert (await response.text()).startswith("<!DOCTYPE html>")


async def test_truncated_is_a_whole_message_with_half_of_the_json(sim):
    async with sim.open("GET", await started(sim, "truncated")) as response:
        body = await response.read()
        assert response.content_type == "application/json"
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(body)


async def test_huge_is_correct_json_and_fifty_megabytes(sim):
    async with sim.open("GET", await started(sim, "huge")) as response:
        assert response.content_length == 50 * 1024 * 1024
        size = sum([len(chunk) async for chunk in response.content.iter_any()])
    assert size == 50 * 1024 * 1024
    async with sim.open("GET", await started(sim, "huge:100000")) as response:
        assert orjson.loads(await response.read())["status"] == "completed"


async def test_whoever_stops_reading_the_huge_body_does_no_harm(sim):
    async with sim.open("GET", await started(sim, "huge")) as response:
        await response.content.readany()
        response.close()
    assert await sim.get("/_sim/faults") == {}


async def test_redirect_leads_elsewhere_and_counts_who_follows(sim):
    async with sim.open("GET", await started(sim, "redirect")) as response:
        assert (response.status, response.headers["Location"]) == (302, "/_sim/elsewhere")
    async with sim.open("GET", "/_sim/elsewhere") as response:
        assert response.status == 200
    assert (await sim.get("/_sim/calls"))["elsewhere"] == {"GET": {"": 1}}


async def test_wrong_type_is_right_json(sim):
    async with sim.open("GET", await started(sim, "wrong-type")) as response:
        assert response.content_type == "text/plain"
        assert orjson.loads(await response.read())["status"] == "processing"


async def test_envelope_errors_come_with_200_as_each_vendor_writes_them(sim):
    status, body = await sim.call("GET", await started(sim, "envelope-error"))
    assert (status, set(body)) == (200, {"error"})
    expected = {"minimax": ("base_resp", None), "keling": ("code", 500), "jimeng": ("code", 50500)}
    for vendor, (field, value) in (expected | {"kling": ("code", 5000)}).items():
        task_id = await sim.vapi(f"{vendor}/x", faults=["envelope-error"])
        body = await sim.get(f"/vapi/task/{task_id}")
        assert body[field] == value or body[field]["status_code"] == 1000
    task_id = await sim.bytespike(faults=["envelope-error"])
    assert "error" in await sim.get(f"/bytespike/v1/tasks/query?task_id={task_id}")


async def test_unknown_word(sim):
    assert (await sim.get(await started(sim, "unknown-word")))["status"] == "transmogrifying"
    path = await started(sim, {"name": "unknown-word", "word": "thawing", "times": 1})
    assert (await sim.get(path))["status"] == "thawing"
    assert (await sim.get(path))["status"] == "processing"
    for vendor, place in [
        ("minimax", None),
        ("keling", "status"),
        ("jimeng", "status"),
        ("kling", "task_status"),
    ]:
        body = await sim.get(f"/vapi/task/{await sim.vapi(f'{vendor}/x', faults=['unknown-word'])}")
        assert (body["data"][place] if place else body["status"]) == "transmogrifying"


async def test_regress_says_processing_after_the_end_was_seen(sim):
    path = await started(sim, {"name": "regress", "times": 1})
    await sim.advance(100)
    assert [(await sim.get(path))["status"] for _ in range(3)] == ["completed", "processing", "completed"]


async def test_vanish_happens_after_the_task_was_seen_and_for_good(sim):
    path = await started(sim, "vanish")
    assert (await sim.call("GET", path))[0] == 200
    await sim.set_faults(**{"*": []})
    assert [(await sim.call("GET", path))[0] for _ in range(2)] == [404, 404]
    path = await started(sim, {"name": "vanish", "after": 2, "times": 1})
    assert [(await sim.call("GET", path))[0] for _ in range(4)] == [200, 200, 404, 200]


async def test_never(sim):
    path = await started(sim, "never")
    assert [(await sim.call("GET", path))[0] for _ in range(2)] == [404, 404]
    assert (await sim.call("POST", f"{path}/cancel"))[0] == 404


async def test_reset_breaks_the_connection_in_the_body(sim):
    with pytest.raises(aiohttp.ClientError):
        await sim.call("GET", await started(sim, "reset"))


async def test_slow_body_sends_byte_after_byte(sim):
    async with sim.open("GET", await started(sim, {"name": "slow-body", "seconds": 1})) as response:
        length = response.content_length
        assert await response.content.readexactly(1) == b"{"
        await sim.advance(length)
        assert orjson.loads(b"{" + await response.content.read())["status"] == "processing"
    body = await sim.get(await started(sim, "slow-body:0"))
    assert body["status"] == "processing"


async def test_flap_goes_back_and_forth(sim):
    path = await started(sim, "flap")
    await sim.advance(5)
    shown = [await sim.get(path) for _ in range(4)]
    assert [each["progress"] for each in shown] == [0, 30, 0, 30]
    await sim.advance(5)
    assert (await sim.get(path))["status"] == "completed"


async def test_times_and_after_are_counted_for_each_task(sim):
    fault = {"name": "500", "after": 1, "times": 2}
    await sim.set_faults(qingbo=[fault])
    for task_id in [await sim.qingbo(), await sim.qingbo()]:
        assert [(await status(sim, task_id))[0] for _ in range(4)] == [200, 500, 500, 200]
    assert (await sim.call("GET", f"/vapi/task/{await sim.vapi()}"))[0] == 200


async def test_a_tasks_faults_follow_each_other(sim):
    path = await started(sim, {"name": "500", "times": 1}, {"name": "429", "times": 1})
    assert [(await sim.call("GET", path))[0] for _ in range(3)] == [500, 429, 200]


async def test_faults_can_strike_other_calls(sim):
    await sim.set_faults(**{"*": [{"name": "503", "calls": ["submit", "sync", "cancel", "file"]}]})
    for path in ("/qingbo/v1/tasks", "/qingbo/v1/tasks/sync", "/vapi/task/x/y", "/bytespike/v1/tasks/submit"):
        assert (await sim.call("POST", path, json={"model": "m"}))[0] == 503
    assert (await sim.get("/_sim/tasks"))["tasks"] == []
    assert (await sim.get("/_sim/faults")) == {"*": ["503"]}


async def test_a_spoiled_submit_has_made_its_task(sim):
    await sim.set_faults(qingbo=[{"name": "html", "calls": "submit"}])
    async with sim.open("POST", "/qingbo/v1/tasks", json={"model": "m"}) as response:
        assert response.content_type == "text/html"
    assert len((await sim.get("/_sim/tasks"))["tasks"]) == 1


async def test_the_rate_is_the_share_of_calls_and_repeats_with_the_seed(simulate):
    patterns = []
    for seed in (1, 1, 2):
        sim = await simulate(seed=seed, faults=("500", "429"), fault_rate=0.3)
        task_id = await sim.qingbo()
        patterns.append([(await status(sim, task_id))[0] for _ in range(100)])
    assert patterns[0] == patterns[1] != patterns[2]
    assert set(patterns[0]) == {200, 429, 500}
    assert 15 <= sum(code != 200 for code in patterns[0]) <= 45


def test_a_fault_may_have_its_own_rate():
    faults = FaultSet(1, [parse_fault({"name": "500", "rate": 0.5})], rate=1.0)
    faults = [len(faults.due_faults("vapi", (), CallContext(call="status", task_id="t"))) for _ in range(200)]
    assert 60 < sum(faults) < 140


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        ("slow", Fault(name="slow")),
        ("slow:2.5", Fault(name="slow", seconds=2.5)),
        ("huge:10", Fault(name="huge", size=10)),
        ("refuse-stream:404", Fault(name="refuse-stream", status=404, calls=frozenset({"stream"}))),
        ({"name": "500", "calls": "*"}, Fault(name="500", calls=CALLS)),
        ({"name": "500", "times": 2, "after": 1}, Fault(name="500", times=2, after=1)),
    ],
)
def test_faults_are_read_from_names_and_objects(raw, fault):
    assert parse_fault(raw) == fault


@pytest.mark.parametrize(
    "raw",
    [
        3,
        "fast",
        {"name": "slow", "minutes": 2},
        {"name": "slow", "seconds": "x"},
        {"name": "500", "calls": ["x"]},
        {},
    ],
)
def test_what_is_no_fault_is_refused(raw):
    with pytest.raises(BadFault):
        parse_fault(raw)
