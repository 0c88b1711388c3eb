"""`subscribe` and loops over `watch`, in Node: they wait for the end of tasks, and say how it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.contract.clients.helper_js import helper
from tests.contract.clients.tap import tapped
from tests.contract.clients.test_bridge_js_bytes import MANY, PATH, event, state, told_states
from tests.e2e.scene import Scene, stage
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.fakes.fronts import BAD_GATEWAY, STREAM_HEAD, scripted
from tests.harness import answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


def waiting(url: str, refs: Any, **more: Any) -> Any:
    """The helper, which waits for tasks."""
    plan = {"refs": refs, "notices": True} | more.pop("plan", {})
    return helper(url, mode="subscribe", plan=plan, **more)


async def ended(scene: Scene, status: str, task: str = "") -> str:
    """A task that has ended so; its ref."""
    task = scene.id(task)
    document = qingbo_done(task) if status == "completed" else qingbo(task, status, 5)
    if status == "failed":
        document = qingbo(task, "failed", 5, error={"code": "nsfw", "message": "not that"})
    return await scene.script("qingbo", task, document)


async def test_a_task_resolves_with_its_final_state_and_tells_the_ones_before(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with tapped(scene.bridge.url) as tap:
        async with waiting(f"{tap.url}/", ref) as told:
            await told.until_state("processing", 10)
            await scene.then("qingbo", task, qingbo_done(task))
            final = await told.to_the_end()
        assert tap.statuses == [200]
    assert (final["task"], final["status"], final["outputs"][0]["type"]) == (ref, "completed", "video")
    assert told.shown[-1] == ("completed", 100)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_task_that_does_not_complete_rejects_with_its_state(scene: Scene, status: str) -> None:
    ref = await ended(scene, status)
    async with waiting(scene.bridge.url, ref) as told:
        failure = await told.to_the_end("failed")
    assert (failure["name"], failure["ours"], failure["state"]["status"]) == ("TaskFailed", False, status)
    assert failure["message"] == ("not that" if status == "failed" else status)


IDS = ["a/b", "50%", "50%25", "ü 你/?&#+", "x,y", "z"]


async def test_a_list_is_one_connection_and_resolves_in_its_order(scene: Scene) -> None:
    refs = [await ended(scene, "completed", one) for one in IDS]
    asked = [refs[4], *refs, refs[0].replace("a/b", "a%2Fb"), refs[3].replace("你", "%E4%BD%A0")]
    async with tapped(scene.bridge.url) as tap:
        async with waiting(tap.url, asked) as told:
            states = await told.to_the_end()
        assert tap.statuses == [200]
    assert [one["task"] for one in states] == [refs[4], *refs, refs[0], refs[3]]
    async with waiting(scene.bridge.url, refs[:1]) as told:
        assert [one["task"] for one in await told.to_the_end()] == refs[:1]


async def test_a_list_waits_for_all_and_rejects_for_the_first_that_did_not_complete(scene: Scene) -> None:
    good, bad, worse = [await ended(scene, one) for one in ("completed", "failed", "cancelled")]
    task = scene.id()
    slow = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with waiting(scene.bridge.url, [good, slow, worse, bad]) as told:
        await told.until_state("cancelled")
        await told.until_state("failed")
        assert told.of("failed") == []
        await scene.then("qingbo", task, qingbo_done(task))
        failure = await told.to_the_end("failed")
    assert (failure["name"], failure["state"]["task"]) == ("TaskFailed", worse)
    statuses = [one["status"] for one in failure["states"]]
    assert statuses == ["completed", "completed", "cancelled", "failed"]


async def test_a_task_of_a_list_that_is_not_there_is_an_error_after_the_others(scene: Scene) -> None:
    good = await ended(scene, "completed")
    nobody = await scene.script("qingbo", scene.id(), answer({"code": "task_not_exist"}, status=404))
    async with waiting(scene.bridge.url, [good, nobody]) as told:
        failure = await told.to_the_end("failed")
    assert (failure["name"], failure["code"]) == ("BridgeError", "task_not_found")
    assert nobody in failure["message"]
    assert [one and one["task"] for one in failure["states"]] == [good, None]


@pytest.mark.parametrize(
    ("ref", "code", "status"),
    [
        ("qingbo/nowhere", "task_not_found", 404),
        ("nobody/x", "upstream_not_found", 404),
        ("nonsense", "invalid_request", 400),
        (["qingbo/x", "nonsense"], "invalid_request", 400),
        (["qingbo/.."], "invalid_request", 400),
        ([f"qingbo/{number}" for number in range(201)], "invalid_request", 400),
    ],
)
async def test_what_the_bridge_rejects_is_one_error(scene: Scene, ref: Any, code: str, status: int) -> None:
    async with waiting(scene.bridge.url, ref) as told:
        failure = await told.to_the_end("failed")
    assert (failure["name"], failure["code"], failure["status"]) == ("BridgeError", code, status)
    assert told.of("wait") == []


async def test_an_empty_list_is_an_empty_list_without_a_connection() -> None:
    async with (
        scripted([BAD_GATEWAY]) as server,
        waiting(server.url, []) as told,
    ):
        assert await told.to_the_end() == []
        assert server.heads == []


async def test_outside_of_a_page_the_address_is_required() -> None:
    async with waiting("", "qingbo/a") as told:
        failure = await told.to_the_end("failed")
    assert (failure["name"], failure["message"]) == ("BridgeError", "url is required")


async def test_a_bridge_may_be_below_a_path() -> None:
    for path in ("/bridge", "/bridge/"):
        async with scripted([STREAM_HEAD, told_states()]) as server:
            async with waiting(server.url + path, "qingbo/a") as told:
                await told.to_the_end()
            assert server.heads[0].startswith(b"GET /bridge/v1/events?task=qingbo%2Fa HTTP/1.1")


async def test_a_token_is_asked_for_again_when_it_is_rejected() -> None:
    async with stage(**TOKEN_SETTINGS) as guarded:
        ref = await ended(guarded, "completed")
        async with waiting(guarded.bridge.url, ref, token="ask") as told:
            assert await told.until_told("token") is False
            told.say(given="expired")
            assert await told.until_told("token", 2) is True
            told.say(given=token(ref))
            assert (await told.to_the_end())["status"] == "completed"


async def test_a_lost_connection_is_no_end(scene: Scene) -> None:
    first = [STREAM_HEAD, told_states(1, end=False)]
    async with (
        scripted(first, [BAD_GATEWAY], [STREAM_HEAD, told_states(2)]) as server,
        waiting(server.url, "qingbo/a", plan={"faster": 500}) as told,
    ):
        final = await told.to_the_end()
    assert (final["status"], told.notices.count("reconnecting")) == ("completed", 2)


@pytest.mark.parametrize("when", ["reading", "waiting"])
async def test_a_signal_rejects_with_its_reason(scene: Scene, when: str) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with scripted([BAD_GATEWAY]) as gateway:
        url = scene.bridge.url if when == "reading" else gateway.url
        async with waiting(url, ref, plan={"faster": 0.01}) as told:
            await told.until_told("state" if when == "reading" else "wait")
            told.say(do="abort")
            failure = await told.to_the_end("failed")
    assert failure["message"] == "the test said so"


async def test_a_signal_aborted_before_opens_nothing() -> None:
    async with (
        scripted([BAD_GATEWAY]) as server,
        waiting(server.url, "qingbo/a", plan={"aborted": True}) as told,
    ):
        failure = await told.to_the_end("failed")
        assert server.heads == []
    assert failure["message"] == "the test said so"


# -- loops over `watch`


async def test_a_loop_over_a_watch_gets_what_its_callback_gets() -> None:
    spoken = [told_states(place, end=False) for place in range(1, 30)]
    async with (
        scripted([STREAM_HEAD, *spoken, told_states()]) as server,
        helper(server.url + PATH, mode="loop", plan={"both": True}) as told,
    ):
        await told.to_the_end()
    assert told.shown[-1] == ("completed", 99)
    assert told.of("callback") == [*range(1, 30), 99]
    assert [place for _, place in told.shown] == sorted({place for _, place in told.shown})


async def test_a_slow_loop_skips_to_the_newest_of_each_task_and_never_an_end() -> None:
    pieces = [event(state(place), cursor=f"e-{place}") for place in range(1, 50)]
    last = event(state(99, "completed"), cursor="e-99")
    both = event(state(60, "failed", task="qingbo/b"), cursor="e-60") + event(b'{"tasks":2}', name="end")
    async with (
        scripted([STREAM_HEAD, *pieces, last, both]) as server,
        helper(server.url + MANY, mode="loop", plan={"slow": 300}) as told,
    ):
        await told.to_the_end()
    assert told.shown[-2:] == [("completed", 99), ("failed", 60)]
    assert len(told.shown) < 20


async def test_leaving_a_loop_over_a_watch_disconnects(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    series = 'bridge_connections{delivery="sse"}'
    await scene.reaches(series, 0)
    url = f"{scene.bridge.url}/v1/events?task={ref}"
    async with helper(url, mode="loop", plan={"leaveOn": "processing"}) as told:
        await told.to_the_end()
    await scene.reaches(series, 0)


async def test_two_loops_over_one_watch_and_one_that_comes_late(scene: Scene) -> None:
    ref = await ended(scene, "completed")
    async with helper(f"{scene.bridge.url}/v1/events?task={ref}", mode="loops") as told:
        await told.to_the_end()
    assert [one["status"] for one in told.of("state")] == ["completed"] * 3


async def test_closing_ends_the_loop(scene: Scene) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "processing", 10))
    async with helper(f"{scene.bridge.url}/v1/events?task={ref}", mode="loop") as told:
        await told.until_told("state")
        told.say(do="close")
        await told.to_the_end()
