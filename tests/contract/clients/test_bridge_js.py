"""`/bridge.js` in Node against the running bridge: after any failure it ends with the right states."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chaos.balancer import balanced
from tests.chaos.proxy import HOLE, Manners, proxied
from tests.chaos.site import site, studio
from tests.contract.clients.helper_js import helper
from tests.contract.clients.tap import tapped
from tests.e2e.scene import Scene, path_of, stage
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.fakes.fronts import BAD_GATEWAY, holding, scripted
from tests.harness import qingbo, qingbo_done

pytestmark = pytest.mark.anyio

STATES = [("queued", 0), ("processing", 10), ("processing", 55), ("processing", 90), ("completed", 100)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One bridge serves the tests that only look."""
    return "asyncio"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(keepalive_seconds=0.2) as made:
        yield made


@pytest.fixture(scope="module")
async def guarded(anyio_backend: str) -> AsyncIterator[Scene]:
    """A bridge that asks for tokens."""
    async with stage(keepalive_seconds=0.2, **TOKEN_SETTINGS) as made:
        yield made


async def begun(scene: Scene, number: int = 0) -> tuple[str, str]:
    """A task that has come so far; its id and its ref."""
    task_id = scene.id()
    return task_id, await scene.script("qingbo", task_id, qingbo(task_id, *STATES[number]))


async def go_on(scene: Scene, task_id: str, number: int) -> None:
    """Let the provider say state `number`."""
    last = number == len(STATES) - 1
    await scene.then("qingbo", task_id, qingbo_done(task_id) if last else qingbo(task_id, *STATES[number]))


@pytest.mark.parametrize("mode", ["watch", "states"])
async def test_every_state_is_told_once_and_then_it_ends_and_lets_node_exit(scene: Scene, mode: str) -> None:
    task_id, ref = await begun(scene)
    async with helper(f"{scene.bridge.url}{path_of(ref)}/events", mode=mode) as told:
        for number in range(1, len(STATES)):
            await told.until_told("state", number)
            await go_on(scene, task_id, number)
        newest = await told.to_the_end()
    assert told.shown == STATES
    assert told.notices == ["connected"]
    if mode == "watch":
        assert [state["status"] for state in newest] == ["completed"]
        assert told.of("done") == newest == told.of("state")[-1:]


async def test_many_tasks_end_with_the_last_of_them_and_one_that_does_not_exist_is_a_notice(
    scene: Scene,
) -> None:
    (first, one), (second, two) = await begun(scene), await begun(scene)
    await scene.script("qingbo", "not-there", {"status": 404, "body": {}})
    url = f"{scene.bridge.url}/v1/events?task={one}&task={two}&task=qingbo/not-there"
    async with helper(url) as told:
        await told.until_told("state", 2)
        await go_on(scene, first, 4)
        await told.until_told("done")
        await go_on(scene, second, 4)
        newest = await told.to_the_end()
    assert {state["task"]: state["status"] for state in newest} == {one: "completed", two: "completed"}
    assert [notice["task"] for notice in told.of("notice") if notice["code"] == "task_not_found"] == [
        "qingbo/not-there"
    ]


async def test_a_finished_task_that_was_seen_ends_at_once_by_204(scene: Scene) -> None:
    _, ref = await begun(scene, 4)
    url = f"{scene.bridge.url}{path_of(ref)}/events"
    async with helper(url) as first:
        (seen,) = await first.to_the_end()
    async with tapped(scene.bridge.url) as tap:
        async with helper(f"{tap.url}{path_of(ref)}/events", lastEventId=seen["cursor"]) as second:
            assert await second.to_the_end() == []
        assert (tap.statuses, tap.last_ids) == ([204], [seen["cursor"]])


async def test_cut_again_and_again_it_tells_every_state_once(scene: Scene) -> None:
    task_id, ref = await begun(scene)
    async with (
        proxied(
            scene.bridge.url, lambda number: Manners(split=number % 2 == 0, reset_after=700 + 90 * number)
        ) as proxy,
        helper(f"{proxy.url}{path_of(ref)}/events") as told,
    ):
        for number in range(1, len(STATES)):
            await told.until_told("state", number)
            await go_on(scene, task_id, number)
        await told.to_the_end()
    assert told.notices.count("connected") > 2
    assert told.shown == STATES
    assert {notice["code"] for notice in told.of("notice")} == {"connected", "reconnecting"}


async def test_a_line_that_says_nothing_any_more_is_given_up(scene: Scene) -> None:
    task_id, ref = await begun(scene)
    async with (
        proxied(scene.bridge.url) as proxy,
        helper(f"{proxy.url}{path_of(ref)}/events", silenceSeconds=0.8) as told,
    ):
        await told.until_told("state")
        proxy.behave(HOLE)
        proxy.choose(lambda _: Manners())
        await go_on(scene, task_id, 4)
        await told.to_the_end()
    assert told.notices == ["connected", "reconnecting", "connected"]
    assert told.shown == [STATES[0], STATES[-1]]


async def test_after_a_sleep_it_connects_anew_and_at_once(scene: Scene) -> None:
    task_id, ref = await begun(scene)
    async with (
        proxied(scene.bridge.url) as proxy,
        helper(f"{proxy.url}{path_of(ref)}/events", silenceSeconds=600) as told,
    ):
        await told.until_told("state")
        proxy.behave(HOLE)
        proxy.choose(lambda _: Manners())
        await go_on(scene, task_id, 4)
        told.say(do="sleep", seconds=20)
        await told.to_the_end()
    assert told.of("wait") == []
    assert told.notices == ["connected", "connected"]
    assert told.shown == [STATES[0], STATES[-1]]


async def test_bad_gateways_in_html_pass(scene: Scene) -> None:
    task_id, ref = await begun(scene)
    async with scripted([BAD_GATEWAY]) as gateway, proxied(gateway.url) as front:
        healthy = scene.bridge.url.removeprefix("http://").split(":")
        async with helper(f"{front.url}{path_of(ref)}/events") as told:
            await told.until_told("wait", 3)
            front.target = healthy[0], int(healthy[1])
            await told.until_told("state")
            front.target = gateway.address
            front.reset_all()
            await told.until(lambda: len(gateway.heads) >= 6)
            await go_on(scene, task_id, 4)
            front.target = healthy[0], int(healthy[1])
            await told.to_the_end()
    assert told.shown == [STATES[0], STATES[-1]]


async def test_a_drained_bridge_hands_over_to_the_next(tmp_path: Path) -> None:
    async with (
        studio() as provider,
        site(provider.url, tmp_path / "first.db", drain_seconds=0.5) as first,
        site(provider.url, tmp_path / "second.db") as second,
        balanced(first, second) as balancer,
    ):
        refs = await provider.submit(
            [
                {"queue_seconds": 1, "run_seconds": 9, "outcome": "completed"},
                {"queue_seconds": 1, "run_seconds": 4, "outcome": "completed"},
            ]
        )
        url = f"{balancer.front.url}/v1/events?task={refs[0]}&task={refs[1]}"
        async with helper(url) as told:
            await told.until_told("state", 2)
            ending = asyncio.ensure_future(first.bridge.stop())
            await told.until(lambda: "closing" in told.notices)
            provider.advance(20)
            assert await ending == 0
            newest = await told.to_the_end()
        assert {state["task"]: state["status"] for state in newest} == dict.fromkeys(refs, "completed")
        assert "reset" in told.notices  # the other one has a history of its own
        (asked_for,) = [wait for wait in told.of("wait") if wait >= 1000][:1]
        assert 1000 <= asked_for <= 15_000  # the `retry:` of the notice


async def test_kill_9_and_a_restart_lose_nothing(tmp_path: Path) -> None:
    async with studio() as provider, site(provider.url, tmp_path / "kill.db") as bridge:
        (ref,) = await provider.submit([{"queue_seconds": 1, "run_seconds": 9, "outcome": "completed"}])
        async with helper(f"{bridge.url}{path_of(ref)}/events", plan={"faster": 8}) as told:
            await told.until_told("state")
            await bridge.end(signal.SIGKILL)
            provider.advance(5)
            await told.until(lambda: told.notices.count("reconnecting") >= 2)
            await bridge.start()
            await told.until_state("processing")
            provider.advance(20)
            await told.to_the_end()
        assert [status for status, _ in told.shown] == ["queued", "processing", "completed"]
        assert "reset" not in told.notices


async def test_where_a_proxy_holds_streams_back_it_polls(scene: Scene) -> None:
    begun_tasks = [await begun(scene) for _ in range(6)]
    async with holding(scene.bridge.url) as proxy:
        many = "&".join(f"task={ref}" for _, ref in begun_tasks)
        async with (
            helper(f"{proxy.url}{path_of(begun_tasks[0][1])}/events", firstByteSeconds=1.5) as one,
            helper(f"{proxy.url}/v1/events?{many}&include=raw", firstByteSeconds=1.5) as all_of_them,
        ):
            await one.until_told("state")
            await all_of_them.until_told("state", 6)
            for number in (1, 4):
                for task_id, _ in begun_tasks:
                    await go_on(scene, task_id, number)
                await one.until_told("state", 2)
                await all_of_them.until_told("state", 12)
            await one.to_the_end()
            newest = await all_of_them.to_the_end()
    assert one.shown == [STATES[0], STATES[1], STATES[4]]
    assert one.notices == ["buffered", "reconnecting", "connected"]
    assert {state["status"] for state in newest} == {"completed"}
    assert all(state["raw"] for state in newest)
    assert len(all_of_them.shown) == 18
    polls = [headers for path, headers in proxy.asked if path == path_of(begun_tasks[5][1]) + "?include=raw"]
    assert [("If-None-Match" in one, one["Prefer"]) for one in polls[:2]] == [
        (False, "wait=0"),
        (True, "wait=2"),
    ]
    assert all("If-None-Match" in one for one in polls[1:])
    alone = [headers for path, headers in proxy.asked if path == path_of(begun_tasks[0][1])]
    assert [one["Prefer"] for one in alone] == ["wait=0", *["wait=25"] * (len(alone) - 1)]
    assert len(alone) <= 5  # the first, one a state, and one that was on its way


async def test_with_a_ticket_there_is_nothing_to_poll_so_it_waits_longer(scene: Scene) -> None:
    task_id, ref = await begun(scene)
    async with holding(scene.bridge.url) as proxy:
        async with helper(f"{proxy.url}{path_of(ref)}/events?ticket=any", firstByteSeconds=0.2) as told:
            await told.until_told("wait", 2)
            await go_on(scene, task_id, 4)
            await told.to_the_end()  # a stream that ends is let go
        assert all("/events" in path for path, _ in proxy.asked)
    assert told.shown[-1] == STATES[-1]
    assert "buffered" not in told.notices


async def test_each_connection_asks_for_a_token_and_one_that_expired_is_renewed(guarded: Scene) -> None:
    task_id, ref = await begun(guarded)
    async with helper(f"{guarded.bridge.url}{path_of(ref)}/events", token="ask") as told:
        await told.until_told("token")
        told.say(given=token(ref, seconds=1.5))
        await told.until_told("state")
        await told.until_told("token", 2)
        assert [one["reason"] for one in told.of("notice") if one["code"] == "closing"] == ["expired"]
        told.say(given=token(ref, seconds=-60))  # as from a cache
        await told.until_told("token", 3)
        told.say(given=token(ref))
        await go_on(guarded, task_id, 4)
        await told.to_the_end()
    assert told.of("token") == [False, False, True]
    assert told.shown == [STATES[0], STATES[-1]]


async def test_a_fresh_token_that_is_refused_too_is_the_end(guarded: Scene) -> None:
    _, ref = await begun(guarded)
    async with helper(f"{guarded.bridge.url}{path_of(ref)}/events", token="ask") as told:
        for number in (1, 2):
            await told.until_told("token", number)
            told.say(given="bad")
        failure = await told.to_the_end("failed")
    assert (failure["code"], failure["status"], failure["ours"]) == ("unauthenticated", 401, True)
    assert told.of("token") == [False, True]


async def test_an_address_with_a_ticket_can_be_asked_for_again_too(guarded: Scene) -> None:
    task_id, ref = await begun(guarded)

    async def ticketed() -> str:
        headers = {"Authorization": f"Bearer {token(ref)}"}
        reply = await guarded.call(
            "POST", "/v1/tickets", json={"tasks": [ref], "seconds": 2}, headers=headers
        )
        return guarded.bridge.url + reply.json["links"]["events"]

    async with helper("ask") as told:
        await told.until_told("url")
        told.say(given=await ticketed())
        await told.until_told("state")
        await told.until_told("url", 2)
        told.say(given=await ticketed())
        await go_on(guarded, task_id, 4)
        await told.to_the_end()
    assert told.shown == [STATES[0], STATES[-1]]


REFUSED = [
    ("/v1/tasks/qingbo/nowhere/events", "task_not_found", 404),
    ("/v1/tasks/nobody/x/events", "upstream_not_found", 404),
    ("/v1/events?task=nonsense", "invalid_request", 400),
    ("/v1/nothing", "route_not_found", 404),
]


@pytest.mark.parametrize(("path", "code", "status"), REFUSED)
async def test_what_the_bridge_refuses_for_good_is_one_error(
    scene: Scene, path: str, code: str, status: int
) -> None:
    async with tapped(scene.bridge.url) as tap:
        async with helper(tap.url + path, mode="states") as told:
            failure = await told.to_the_end("failed")
        assert tap.statuses == [status]
    assert (failure["name"], failure["code"], failure["status"]) == ("BridgeError", code, status)
    assert told.of("wait") == []


async def test_what_a_caller_may_not_see_is_one_error(guarded: Scene) -> None:
    _, ref = await begun(guarded)
    async with helper(f"{guarded.bridge.url}{path_of(ref)}/events", token=token("qingbo/other")) as told:
        failure = await told.to_the_end("failed")
    assert (failure["code"], failure["status"]) == ("forbidden", 403)


async def test_who_does_not_ask_how_it_ended_gets_no_unhandled_rejection(scene: Scene) -> None:
    url = f"{scene.bridge.url}/v1/tasks/qingbo/nowhere/events"
    async with helper(url, plan={"careless": True}) as told:
        await told.to_the_end("")
    assert told.told == []


async def test_leaving_a_loop_disconnects(scene: Scene) -> None:
    task_id, ref = await begun(scene)
    series = 'bridge_connections{delivery="sse"}'
    await scene.reaches(series, 0)
    async with helper(
        f"{scene.bridge.url}{path_of(ref)}/events", mode="states", plan={"leaveOn": "processing"}
    ) as told:
        await told.until_told("state")
        await scene.reaches(series, 1)
        await go_on(scene, task_id, 1)
        await told.to_the_end()
        await scene.reaches(series, 0)
    assert told.shown == STATES[:2]


@pytest.mark.parametrize(
    ("when", "mode"),
    [
        ("asking", "watch"),
        ("connecting", "watch"),
        ("reading", "watch"),
        ("waiting", "watch"),
        ("waiting", "states"),
    ],
)
async def test_a_signal_ends_it_at_any_moment(scene: Scene, mode: str, when: str) -> None:
    _, ref = await begun(scene)
    answer = [BAD_GATEWAY] if when == "waiting" else []
    async with scripted(answer or [b""]) as gateway:
        base = scene.bridge.url if when in {"asking", "reading"} else gateway.url
        options = {"token": "ask"} if when == "asking" else {}
        async with helper(
            f"{base}{path_of(ref)}/events", mode=mode, plan={"faster": 0.01}, **options
        ) as told:
            if when == "connecting":
                async with asyncio.timeout(10):
                    while not gateway.heads:  # noqa: ASYNC110 - a request is all there is to see
                        await asyncio.sleep(0.01)
            else:
                await told.until_told({"asking": "token", "reading": "state", "waiting": "wait"}[when])
            told.say(do="abort")
            failure = await told.to_the_end("failed")
    assert failure["message"] == "the test said so"


async def test_closed_it_keeps_what_it_had_and_says_no_more(scene: Scene) -> None:
    task_id, ref = await begun(scene)
    async with helper(f"{scene.bridge.url}{path_of(ref)}/events") as told:
        await told.until_told("state")
        told.say(do="close")
        newest = await told.to_the_end()
    assert [state["status"] for state in newest] == ["queued"]
    assert told.notices == ["connected"]
    await go_on(scene, task_id, 4)


async def test_a_listener_that_stumbles_stops_nothing(scene: Scene) -> None:
    _, ref = await begun(scene, 4)
    async with helper(f"{scene.bridge.url}{path_of(ref)}/events", plan={"clumsy": True}) as told:
        await told.to_the_end()
    assert told.of("uncaught") == ["a mistake of a listener"]
    assert len(told.of("done")) == 1
