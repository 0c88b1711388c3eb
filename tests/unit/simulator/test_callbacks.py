import asyncio
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def receiver(answer):
    """A server that queues each body it receives and responds with the result of `answer`."""
    bodies = asyncio.Queue()

    async def receive(request):
        body = orjson.loads(await request.read())
        await bodies.put(body)
        return await answer(body)

    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", bodies
    finally:
        await runner.cleanup()


async def accept(body):
    return web.json_response({"challenge": body.get("challenge")})


async def answered(sim, count):
    """The callbacks, once `count` of them were answered."""
    return (await sim.get(f"/_sim/callbacks?count={count}"))["callbacks"]


SIM = {"queue_seconds": 2, "run_seconds": 10, "outcome": "completed"}


@pytest.mark.parametrize(("provider", "path"), [("qingbo", "tasks"), ("bytespike", "tasks/submit")])
async def test_one_callback_with_the_status_payload_at_the_end(sim, provider, path):
    async with receiver(accept) as (url, bodies):
        body = {"model": "m", "callback_url": url, "sim": SIM}
        task_id = (await sim.post(f"/{provider}/v1/{path}", body))["task_id"]
        await sim.get("/_sim/clock?waiting=1")
        await sim.advance(5)
        await sim.get("/_sim/clock?waiting=1")
        assert bodies.empty()
        await sim.advance(10)
        posted = await bodies.get()
        assert (posted["task_id"], posted["status"]) == (task_id, "completed")
        (seen,) = await answered(sim, 1)
        assert (seen["status"], seen["kind"], seen["task_id"], seen["url"]) == (200, "final", task_id, url)
        assert bodies.empty()


async def test_a_cancelled_task_calls_back(sim):
    async with receiver(accept) as (url, bodies):
        task_id = (await sim.post("/qingbo/v1/tasks", {"model": "m", "callback_url": url, "sim": SIM}))[
            "task_id"
        ]
        await sim.post(f"/qingbo/v1/tasks/{task_id}/cancel", {})
        assert (await bodies.get())["status"] == "cancelled"


async def bare_text(body):
    return web.Response(text=body.get("challenge", ""))


@pytest.mark.parametrize("answer", [accept, bare_text])
async def test_vapi_asks_first_and_then_posts_lower_case_words(sim, answer):
    async with receiver(answer) as (url, bodies):
        await sim.post("/vapi/task/minimax/x", {"callback_url": url, "sim": SIM})
        challenge = await bodies.get()
        assert set(challenge) == {"challenge"}
        await sim.get("/_sim/clock?waiting=1")
        await sim.advance(100)
        assert [(await bodies.get())["status"] for _ in range(3)] == ["processing", "processing", "success"]


async def test_vapi_callbacks_of_vendors_with_an_envelope(sim):
    async with receiver(accept) as (url, bodies):
        await sim.post(
            "/vapi/task/keling/x", {"callback_url": url, "sim": SIM | {"queue_seconds": 0, "run_seconds": 0}}
        )
        await bodies.get()
        posted = await bodies.get()
        assert (posted["status"], posted["data"]["status"]) == (200, "success")


async def broken_receiver(body):
    return web.json_response({"challenge": "something else"})


async def refused(body):
    return web.json_response({"challenge": body["challenge"]}, status=500)


async def late(body):
    await asyncio.Event().wait()


@pytest.mark.parametrize(("answer", "seconds"), [(broken_receiver, 3.0), (refused, 3.0), (late, 0.05)])
async def test_vapi_posts_nothing_to_a_receiver_that_fails_the_challenge(simulate, answer, seconds):
    sim = await simulate(challenge_seconds=seconds)
    async with receiver(answer) as (url, bodies):
        await sim.post("/vapi/task/minimax/x", {"callback_url": url, "sim": SIM})
        (seen,) = await answered(sim, 1)
        assert seen["kind"] == "challenge"
        await sim.advance(100)
        assert len(await answered(sim, 1)) == 1
        assert (
            bodies.qsize() <= 1
        )  # on a busy machine the deadline of `late` may pass before its request arrives


async def test_a_callback_that_finds_nobody_is_remembered(sim):
    for url in ("http://127.0.0.1:1/hook", "nonsense", "ftp://x/y"):
        sim_field = {"queue_seconds": 0, "run_seconds": 0}
        body = {"model": "m", "callback_url": url, "sim": sim_field}
        task_id = (await sim.post("/qingbo/v1/tasks", body))["task_id"]
        seen = (await sim.get(f"/_sim/callbacks?task={task_id}&count=1"))["callbacks"]
        assert (seen[0]["status"], bool(seen[0]["answer"])) == (0, True)
