import asyncio

import aiohttp
import orjson
import pytest

from bridge.simulator.framing import FRAMINGS, BadFraming, Framer, parse_framing

pytestmark = pytest.mark.anyio


def stream_path(task_id, framing=None):
    query = f"?framing={framing}" if framing else ""
    return f"/bytespike/v1/tasks/stream/{task_id}{query}"


async def read_until(response, marker):
    """The stream up to and including `marker`."""
    data = b""
    while marker not in data:
        chunk = await response.content.readany()
        assert chunk, f"the stream ended after {data!r}"
        data += chunk
    return data


async def whole(sim, framing, **task):
    """The whole stream of a task, from queued to the end."""
    task_id = await sim.bytespike(**task)
    async with sim.open("GET", stream_path(task_id, framing)) as response:
        assert response.status == 200
        await sim.advance(5)
        await sim.advance(50)
        return await response.read()


def statuses(data):
    lines = [line for line in data.replace(b"\r", b"").split(b"\n") if line.startswith(b"data: {")]
    bodies = [orjson.loads(line[6:]) for line in lines]
    bodies = [body.get("data") or body.get("task") or body for body in bodies]
    return [body["status"] for body in bodies if body]


async def test_states_are_pushed_when_the_clock_brings_them(sim):
    task_id = await sim.bytespike()
    async with sim.open("GET", stream_path(task_id)) as response:
        assert response.content_type == "text/event-stream"
        assert "X-RateLimit-Limit" in response.headers
        assert b'"pending"' in await read_until(response, b"\n\n")
        await sim.advance(2)
        assert b'"running"' in await read_until(response, b"\n\n")
        await sim.advance(10)
        assert b'"completed"' in await read_until(response, b"\n\n")
        assert await response.content.read() == b""


async def test_a_stream_of_a_finished_task_says_so_and_ends(sim):
    task_id = await sim.bytespike()
    await sim.advance(50)
    async with sim.open("GET", stream_path(task_id)) as response:
        assert statuses(await response.read()) == ["completed"]


async def test_cancelling_is_pushed_at_once(sim):
    task_id = await sim.bytespike()
    async with sim.open("GET", stream_path(task_id)) as response:
        await read_until(response, b"\n\n")
        await sim.post(f"/bytespike/v1/tasks/cancel/{task_id}", {})
        assert statuses(await response.read()) == ["cancelled"]


async def test_a_clock_that_jumps_skips_no_state(sim):
    assert statuses(await whole(sim, "data-only")) == ["pending", "running", "completed"]


async def test_named(sim):
    data = await whole(sim, "named", outcome="failed")
    events = [line for line in data.split(b"\n") if line.startswith(b"event")]
    assert events == [b"event: status", b"event: task.updated", b"event: failed"]


async def test_wrapped(sim):
    assert (await whole(sim, "wrapped")).startswith(b'data: {"event":"status","data":{"task_id"')
    assert (await whole(sim, "wrapped-task")).startswith(b'data: {"type":"status","task":{"task_id"')


@pytest.mark.parametrize(
    ("framing", "beat"),
    [("heartbeat-comments", b": heartbeat\n\n"), ("heartbeat-events", b"event: ping\ndata: {}\n\n")],
)
async def test_heartbeats(sim, framing, beat):
    task_id = await sim.bytespike(queue_seconds=100)
    async with sim.open("GET", stream_path(task_id, framing)) as response:
        assert (await read_until(response, b'"pending"')).startswith(beat)
        for _ in range(2):
            await sim.get("/_sim/clock?waiting=2")
            await sim.advance(15)
            assert beat in await read_until(response, beat)


async def test_ids_crlf_and_done_marker_join(sim):
    data = await whole(sim, "named,with-ids,crlf,done-marker")
    assert data.startswith(b"id: 1\r\nevent: status\r\ndata: {")
    assert b"id: 3\r\n" in data
    assert data.endswith(b"\r\n\r\ndata: [DONE]\r\n\r\n")
    assert b"\n" not in data.replace(b"\r\n", b"")


async def test_split_sends_every_byte_by_itself(sim):
    data = await whole(sim, "split", outcome="failed")
    assert data.startswith(": grüße".encode())
    assert statuses(data) == ["pending", "running", "failed"]
    assert list(Framer(frozenset({"split"})).pieces("ü".encode())) == [b"\xc3", b"\xbc"]


async def test_cut_ends_in_the_middle_of_a_frame(sim):
    task_id = await sim.bytespike()
    async with sim.open("GET", stream_path(task_id, "cut")) as response:
        await sim.advance(5)
        data = await read_until(response, b"\n\n")
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_until(response, b"\n\n")
    assert statuses(data.partition(b"\n\n")[0]) == ["pending"]


async def test_no_final(sim):
    assert statuses(await whole(sim, "no-final")) == ["pending", "running"]


async def test_duplicate(sim):
    assert statuses(await whole(sim, "duplicate")) == ["pending"] * 2 + ["running"] * 2 + ["completed"] * 2


async def test_reorder(sim):
    assert statuses(await whole(sim, "reorder", queue_seconds=0)) == ["completed", "running"]
    assert statuses(await whole(sim, "reorder")) == ["running", "pending", "completed"]


async def test_silent_accepts_and_says_nothing(sim):
    task_id = await sim.bytespike()
    async with sim.open("GET", stream_path(task_id, "silent")) as response:
        assert response.status == 200
        await sim.advance(100)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await response.content.readany()


async def test_framing_comes_from_the_task_or_the_options(simulate):
    sim = await simulate(framing="named")
    assert (await whole(sim, None)).startswith(b"event: status")
    assert (await whole(sim, None, shape={"framing": "with-ids"})).startswith(b"id: 1")


async def test_refusals(sim):
    task_id = await sim.bytespike()
    assert (await sim.call("GET", stream_path(task_id, "morse")))[0] == 400
    assert (await sim.call("GET", stream_path("nothing")))[0] == 404
    assert (await sim.call("GET", stream_path(task_id), key="k2"))[0] == 404
    assert (await sim.call("GET", stream_path(task_id), key=None))[0] == 401


async def test_streams_can_be_refused(sim):
    task_id = await sim.bytespike(faults=["refuse-stream"])
    status, body = await sim.call("GET", stream_path(task_id))
    assert (status, body["error"]["code"]) == (503, "stream_unavailable")
    assert (await sim.call("POST", "/bytespike/v1/tasks/query", json={"task_id": task_id}))[0] == 200


async def test_faults_that_fit_strike_streams_when_told_to(sim):
    for fault, status in [("429", 429), ("html", 200), ("redirect", 302)]:
        task_id = await sim.bytespike(faults=[{"name": fault, "calls": "stream"}])
        async with sim.open("GET", stream_path(task_id)) as response:
            assert response.status == status
            assert response.content_type != "text/event-stream"
    task_id = await sim.bytespike(faults=[{"name": "slow", "seconds": 3, "calls": "stream"}])
    opening = asyncio.ensure_future(sim.call("GET", stream_path(task_id, "silent")))
    await sim.get("/_sim/clock?waiting=1")
    assert not opening.done()
    opening.cancel()


async def test_a_scripted_stream_sends_its_chunks_and_ends(sim):
    script = {"stream": ['data: {"a":', "1}\n\n", ": ü\n\n"]}
    assert (await sim.call("PUT", "/_sim/bytespike/tasks/t1", json=script))[0] == 204
    for key in ("k1", "k2"):
        async with sim.open("GET", stream_path("t1"), key=key) as response:
            assert (await response.read()).decode() == 'data: {"a":1}\n\n: ü\n\n'


async def test_a_held_stream_sends_what_is_pushed_until_it_is_closed(sim):
    await sim.call("PUT", "/_sim/bytespike/tasks/t1", json={"stream": ["data: 1\n\n"], "hold": True})
    async with sim.open("GET", stream_path("t1")) as response:
        await read_until(response, b"data: 1\n\n")
        await sim.call("POST", "/_sim/bytespike/tasks/t1/stream", json={"chunk": "data: 2\n\n"})
        await read_until(response, b"data: 2\n\n")
        await sim.call("POST", "/_sim/bytespike/tasks/t1/stream", json={"close": True})
        assert await response.content.read() == b""


async def test_a_script_without_a_stream_has_none(sim):
    await sim.call("PUT", "/_sim/bytespike/tasks/t1", json={"answers": [{}]})
    assert (await sim.call("GET", stream_path("t1")))[0] == 404


def test_framings_are_read_and_refused():
    assert parse_framing("named, crlf") == {"named", "crlf"}
    assert parse_framing(",".join(FRAMINGS)) == FRAMINGS
    with pytest.raises(BadFraming):
        parse_framing("named,morse")
