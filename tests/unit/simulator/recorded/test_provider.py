"""A provider simulated from a preset file and recordings only."""

import asyncio
import tomllib
from datetime import datetime
from functools import partial
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from bridge.simulator.lifecycle import Stage
from bridge.simulator.recorded.preset import NotSimulatable, load_preset, read_preset, recorded_names
from bridge.simulator.recorded.style import RecordedStyle

pytestmark = pytest.mark.anyio

RECORDINGS = Path(__file__).parents[4] / "bridge" / "simulator" / "recordings"

ACME = """
base_url = "https://api.acme.example/v2"

[auth.headers]
Authorization = "Token {api_key}"

[task_id]
pattern = '(?P<app>[a-z/]+)/(?P<id>[a-z0-9-]+)'

[calls.status]
path = "/{app:path}/jobs/{id}"
[calls.stream]
path = "/{app:path}/jobs/{id}/events"
[calls.cancel]
method = "DELETE"
path = "/{app:path}/jobs/{id}"
[calls.follow_up]
path = "/files?file={file_id}"
[calls.submit]
method = "POST"
path = "/{endpoint:path}"

[submit]
client_id = "own.name"
callback_url = "hooks.done"
[submit.task_id]
at = "job_url"
pattern = 'https://api\\.acme\\.example/v2/(?P<app>[a-z/]+)/jobs/(?P<id>[a-z0-9-]+)'
id = "{app}/{id}"

[status]
at = "state"
[fields]
task_id = "id"
alias = "name"
progress = "done"
model = "model"
[units]
progress = 100
[follow_up]
needs = { file_id = "file" }
"""
ID = "job-aaaa1111"
TIMES = {"created_at": "2020-01-01T00:00:00Z", "expires_at": "2020-01-02T00:00:00Z"}


def answer(body, code=200, /, *, options=None, **expect):
    told = {"status": code, "headers": {}, "body": body}
    made = {"source": "made up", "answer": told, "expect": expect}
    return made if options is None else made | {"options": options}


def job(state, **more):
    return {"id": ID, "state": state, **TIMES, **more}


RECORDED = {
    "waiting": answer(job("waiting"), status="queued", task_id=ID),
    "working": answer(job("working", done=0.5, file=""), status="processing", task_id=ID, progress=50),
    "done": answer(
        job("done", file=77, name="n", model="m1"), status="completed", task_id=ID, follow="/files?"
    ),
    "done-otherwise": answer(job("done", note="other"), status="completed", task_id=ID),
    "broken": answer(job("broken", why="no luck"), status="failed", task_id=ID),
    "gone": answer({"oops": "no such job"}, 200, error="TaskNotFound"),
    "too-many": answer({"oops": "slowly"}, 429, error="UpstreamBusy"),
    "submit/taken": answer(
        {"id": ID, "job_url": f"https://api.acme.example/v2/pics/jobs/{ID}"},
        201,
        options={"endpoint": "pics/big"},
        status="queued",
        task_id=f"pics/{ID}",
    ),
    "follow_up/file": answer({"file_id": 77, "url": "https://cdn.example/a.mp4"}, outputs=[]),
    "stream/1": {"event": "hello", "data": "hi", "expect": None},
    "stream/2": {"event": "state", "data": job("working", done=0.1), "expect": {"status": "processing"}},
    "stream/3": {"event": "state", "data": job("done"), "expect": {"status": "completed"}},
    "stream/4": {"event": "other", "data": job("done"), "expect": {"status": "completed"}},
    "stream/5": {"event": "error", "data": {"oops": "no"}, "expect": {"error": "UpstreamUnavailable"}},
}


def recorded(folder: Path, *, without=(), routes=None, document=ACME):
    for name, content in RECORDED.items():
        if name not in without:
            file = folder / f"{name}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(orjson.dumps(content))
    if routes is not None:
        (folder / "routes.toml").write_text(routes)
    return read_preset("acme", tomllib.loads(document), folder)


@pytest.fixture
async def acme(simulate, tmp_path):
    preset = recorded(tmp_path)
    made = await simulate(presets=("acme",), load=lambda _: preset)
    made.call = partial(made.call, headers={"Authorization": "Token k1"})
    return made


async def submit(acme, path="/acme/pics", **more):
    sim = {"queue_seconds": 2, "run_seconds": 10, "outcome": "completed"} | more.pop("sim", {})
    status, body = await acme.call("POST", path, json={"model": "m9", "sim": sim} | more)
    assert status == 201, body
    return body["id"]


async def test_a_task_goes_its_way(acme):
    job_id = await submit(acme)
    path = f"/acme/pics/jobs/{job_id}"
    _, waiting = await acme.call("GET", path)
    await acme.advance(7)
    _, working = await acme.call("GET", path)
    await acme.advance(6)
    _, done = await acme.call("GET", path)
    assert job_id != ID
    assert [each["state"] for each in (waiting, working, done)] == ["waiting", "working", "done"]
    assert {each["id"] for each in (waiting, working, done)} == {job_id}
    assert (working["done"], working["file"]) == (0.5, "")
    assert (done["model"], done["name"]) == ("m9", None)
    created = datetime.fromisoformat(waiting["created_at"]).timestamp()
    assert created == acme.running.state.clock.now() - 13


async def test_a_task_may_run_longer_than_any_calendar(acme):
    job_id = await submit(acme, sim={"queue_seconds": 0, "run_seconds": 1e300})
    assert (await acme.call("GET", f"/acme/pics/jobs/{job_id}"))[1]["state"] == "working"


async def test_progress_moves_in_the_recorded_unit(acme):
    job_id = await submit(acme)
    seen = []
    for _ in range(4):
        await acme.advance(3)
        seen.append((await acme.call("GET", f"/acme/pics/jobs/{job_id}"))[1].get("done"))
    assert seen == [0.1, 0.4, 0.7, None]


def test_a_group_that_names_the_kind_is_no_part_of_the_own_id():
    preset = load_preset("veo")
    recorded = preset.recorded_id(preset.submitted)
    assert recorded == preset.submitted.expect["task_id"]
    style = RecordedStyle(preset, 1)
    one, other = style.new_id(1), style.new_id(2)
    assert one != other
    assert {one.rpartition("/")[0], other.rpartition("/")[0]} == {recorded.rpartition("/")[0]}


async def test_two_tasks_have_two_ids_and_two_files(acme):
    first, second = await submit(acme), await submit(acme)
    assert first != second
    await acme.advance(20)
    files = {(await acme.call("GET", f"/acme/pics/jobs/{each}"))[1]["file"] for each in (first, second)}
    assert len(files) == 2
    links = set()
    for file in files:
        _, shown = await acme.call("GET", f"/acme/files?file={file}")
        assert shown["file_id"] == file
        links.add(shown["url"])
    assert len(links) == 2
    for link in links:
        async with acme.session.get(link) as response:
            assert (response.status, response.content_type) == (200, "video/mp4")


async def test_a_file_of_no_task_is_not_there(acme):
    job_id = await submit(acme)
    await acme.advance(20)
    file = (await acme.call("GET", f"/acme/pics/jobs/{job_id}"))[1]["file"]
    other = await acme.call("GET", f"/acme/files?file={file + 1}")
    assert other == (200, {"oops": "no such job"})


async def test_the_link_an_id_is_read_from_keeps_the_host_it_must_have(acme):
    _, body = await acme.call("POST", "/acme/pics/big", json={})
    assert body["job_url"] == f"https://api.acme.example/v2/pics/jobs/{body['id']}"


async def test_a_task_fails_as_recorded(acme):
    job_id = await submit(acme, sim={"outcome": "failed", "run_seconds": 0, "queue_seconds": 0})
    _, body = await acme.call("GET", f"/acme/pics/jobs/{job_id}")
    assert (body["state"], body["why"]) == ("broken", "no luck")


async def test_another_recording_of_the_same_stage_can_be_asked_for(acme):
    sim = {"run_seconds": 0, "queue_seconds": 0, "shape": {"recording": "done-otherwise"}}
    job_id = await submit(acme, sim=sim)
    assert (await acme.call("GET", f"/acme/pics/jobs/{job_id}"))[1]["note"] == "other"


@pytest.mark.parametrize("shape", [{"recording": "nothing"}, {"recording": 1}, {"url": "array"}])
async def test_a_misspelt_wish_is_refused(acme, shape):
    status, body = await acme.call("POST", "/acme/pics", json={"sim": {"shape": shape}})
    assert status == 400
    assert "done-otherwise" in body["error"]["message"]


async def test_the_clients_own_id_comes_back(acme):
    job_id = await submit(acme, own={"name": "mine"})
    await acme.advance(20)
    assert (await acme.call("GET", f"/acme/pics/jobs/{job_id}"))[1]["name"] == "mine"


async def test_delete_takes_a_task_away_where_no_recording_shows_a_cancelled_one(acme):
    job_id = await submit(acme)
    path = f"/acme/pics/jobs/{job_id}"
    async with acme.open("DELETE", path, key=None, headers={"Authorization": "Token k1"}) as response:
        assert response.status == 204
    assert await acme.call("GET", path) == (200, {"oops": "no such job"})


CANCELS = {
    "cancel-answer": answer({"did": "cancel", "id": ID}, 202, status="cancelled"),
    "cancel-refused": answer({"oops": "too late"}, 409, error="UpstreamRefused"),
}


@pytest.mark.parametrize(
    ("passed", "status", "body", "then"),
    [
        (0, 202, {"did": "cancel"}, "broken"),
        (3, 409, {"oops": "too late"}, "working"),
        (20, 409, {"oops": "too late"}, "done"),
    ],
)
async def test_a_cancel_is_answered_and_refused_as_recorded(simulate, tmp_path, passed, status, body, then):
    post = ACME.replace(
        'method = "DELETE"\npath = "/{app:path}/jobs/{id}"', 'method = "PUT"\npath = "/stop/{id}"'
    )
    for name, content in CANCELS.items():
        (tmp_path / f"{name}.json").write_bytes(orjson.dumps(content))
    preset = recorded(tmp_path, document=post)
    acme = await simulate(presets=("acme",), load=lambda _: preset)
    acme.call = partial(acme.call, headers={"Authorization": "Token k1"})
    job_id = await submit(acme)
    await acme.advance(passed)
    told = await acme.call("PUT", f"/acme/stop/{job_id}")
    assert told == (status, body | ({"id": job_id} if status == 202 else {}))
    assert (await acme.call("GET", f"/acme/pics/jobs/{job_id}"))[1]["state"] == then


async def test_each_key_sees_its_own_tasks_and_some_keys_are_bad(acme):
    path = f"/acme/pics/jobs/{await submit(acme)}"
    for key, status in (("Token k2", 200), ("Token bad1", 401), ("Bearer k1", 401)):
        async with acme.open("GET", path, key=None, headers={"Authorization": key}) as response:
            assert response.status == status, key
            assert "state" not in await response.json()


async def test_faults_and_counts_are_those_of_every_provider(acme):
    job_id = await submit(acme)
    path = f"/acme/pics/jobs/{job_id}"
    await acme.set_faults(acme=["429-retry-after:7"])
    async with acme.open("GET", path, key=None, headers={"Authorization": "Token k1"}) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert await response.json() == {"oops": "slowly"}
    await acme.set_faults(acme=["unknown-word"])
    assert (await acme.call("GET", path))[1]["state"] == "transmogrifying"
    counts = await acme.get("/_sim/calls")
    assert counts["total"] == {"acme": {"submit": 1, "status": 2}}
    assert counts["acme"]["status"] == {job_id: 2}


async def test_a_scripted_task_answers_as_it_was_told(acme):
    script = {"answers": [{"body": {"state": "hm"}}]}
    assert (await acme.call("PUT", "/_sim/acme/tasks/own-1", json=script))[0] == 204
    assert await acme.call("GET", "/acme/pics/jobs/own-1") == (200, {"state": "hm"})
    async with acme.open("PUT", "/_sim/qingbo/tasks/own-1", json=script) as response:
        assert response.status == 404  # not among those that run


async def test_a_stream_tells_what_the_recorded_one_told(acme):
    job_id = await submit(acme)
    headers = {"Authorization": "Token k1"}
    async with acme.open("GET", f"/acme/pics/jobs/{job_id}/events", key=None, headers=headers) as response:
        assert response.content_type == "text/event-stream"
        reading = asyncio.ensure_future(response.text())
        await acme.get("/_sim/clock?waiting=1")
        await acme.advance(2)
        await acme.get("/_sim/clock?waiting=1")
        await acme.advance(10)
        text = await reading
    blocks = [block.split("\n", 1) for block in text.strip().split("\n\n")]
    assert [event for event, _ in blocks] == ["event: hello", "event: state", "event: state"]
    assert blocks[0][1] == "data: hi"
    states = [orjson.loads(data.removeprefix("data: ")) for _, data in blocks[1:]]
    assert [(each["id"], each["state"]) for each in states] == [(job_id, "working"), (job_id, "done")]


async def test_the_end_is_posted_to_whoever_asked(acme):
    posted = asyncio.get_running_loop().create_future()

    async def take(request):
        posted.set_result(await request.json())
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/hook", take)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        job_id = await submit(acme, hooks={"done": f"http://127.0.0.1:{port}/hook"})
        await acme.get("/_sim/clock?waiting=1")
        await acme.advance(2)
        await acme.get("/_sim/clock?waiting=1")
        await acme.advance(10)
        body = await asyncio.wait_for(posted, 10)
    finally:
        await runner.cleanup()
    assert (body["id"], body["state"]) == (job_id, "done")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"without": ("done", "done-otherwise")}, "completed"),
        ({"without": ("broken",)}, "failed"),
        ({"without": ("follow_up/file",)}, "follow-up call"),
        ({"routes": 'cannot = "because"'}, "because"),
        ({"document": ACME.replace("calls.submit", "calls.other")}, "submit"),
    ],
)
def test_a_preset_that_cannot_be_simulated_says_why(tmp_path, changes, reason):
    with pytest.raises(NotSimulatable, match=reason):
        recorded(tmp_path, **changes)


def test_routes_say_what_the_preset_does_not(tmp_path):
    routes = '[recordings]\ncompleted = "done-otherwise"\n[calls.submit]\nmethod = "PUT"\npath = "/new"\n'
    preset = recorded(tmp_path, routes=routes)
    assert preset.stages["completed"].name == "done-otherwise"
    assert [call.method for call in preset.calls if call.name == "submit"] == ["PUT"]


@pytest.mark.parametrize("file", sorted(RECORDINGS.glob("*/routes.toml")), ids=lambda file: file.parent.name)
def test_the_recordings_that_routes_name_are_there(file):
    routes = tomllib.loads(file.read_text())
    assert set(routes) <= {"calls", "recordings", "id_at", "cannot"}
    for what, name in routes.get("recordings", {}).items():
        below = what if what in ("submit", "follow_up") else "."
        assert what in {*Stage, "submit", "follow_up", "cancel"}
        assert (file.parent / below / f"{name}.json").is_file()


def test_a_provider_without_a_queue_works_at_once(tmp_path):
    preset = recorded(tmp_path, without=("waiting",))
    assert preset.stages["queued"].name == "working"


def test_no_preset_of_that_name_is_said():
    with pytest.raises(NotSimulatable, match="nonesuch"):
        load_preset("nonesuch")
    assert "qingbo" in recorded_names()
