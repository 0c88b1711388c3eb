"""`Idempotency-Key` when processes end, with several of them, and when what they share is away."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.fleet import LEASE, Fleet, fleet
from tests.e2e.scene import QUICK, Reply, Scene, stage, until
from tests.e2e.test_idempotency import BODY, SLOW, created, faulty, replayed, submit
from tests.e2e.test_replicas import available, missing, served
from tests.harness import PATIENCE, running_bridge, upstreams_of

pytestmark = pytest.mark.anyio

PATH = "/v1/tasks/qingbo"
OWN = {"model": "sora-2", "params": {"prompt": "x", "sim": SLOW}, "out_task_id": "mine"}


async def killed_in_the_middle(scene: Scene, provider: str, path: str, key: str, body: Any) -> None:
    """Kill the bridge after the provider has created the task, before it has answered."""
    await faulty(scene, "slow", provider, seconds=5)
    before = created(scene, provider)
    asking = asyncio.ensure_future(submit(scene, path, key, body))

    async def is_created() -> bool:
        return created(scene, provider) > before

    await until(is_created, value=True)
    await scene.bridge.stop(signal.SIGKILL)
    with pytest.raises(aiohttp.ClientError):
        await asking
    await scene.faults(**{provider: []})
    scene.advance(6)


async def test_killed_in_the_middle_it_is_never_sent_again(tmp_path: Path) -> None:
    journal = f"sqlite:{tmp_path / 'bridge.db'}"
    async with stage(journal=journal) as scene:
        done = await submit(scene, PATH, "done")
        await killed_in_the_middle(scene, "qingbo", PATH, "killed", BODY)
        upstreams = upstreams_of(scene.simulator, **QUICK)
        async with running_bridge(upstreams, journal=journal) as scene.bridge:
            number = created(scene)
            for path in (PATH, PATH):
                reply = await submit(scene, path, "killed")
                assert (reply.status, reply.json["code"]) == (502, "task_may_exist"), reply.body
                assert "may exist" in reply.json["detail"]
                assert reply.headers["x-should-retry"] == "false"
            assert (await submit(scene, PATH, "killed", BODY | {"prompt": "y"})).status == 422
            again = await submit(scene, PATH, "done")
            assert replayed(again)
            assert (again.status, again.body) == (201, done.body)
            assert created(scene) == number
            await scene.bridge.stop()


async def test_killed_in_the_middle_it_is_found_by_the_clients_own_id(tmp_path: Path) -> None:
    journal = f"sqlite:{tmp_path / 'bridge.db'}"
    async with stage(journal=journal) as scene:
        await killed_in_the_middle(scene, "bytespike", "/v1/tasks/bytespike", "killed", OWN)
        upstreams = upstreams_of(scene.simulator, **QUICK)
        async with running_bridge(upstreams, journal=journal) as scene.bridge:
            number = created(scene, "bytespike")
            found = [await submit(scene, "/v1/tasks/bytespike", "killed", OWN) for _ in range(2)]
            for reply in found:
                assert (reply.status, reply.json["state"]["alias"]) == (201, "mine")
                assert replayed(reply)
            assert len({reply.json["state"]["task"] for reply in found}) == 1
            assert created(scene, "bytespike") == number
            await scene.bridge.stop()


async def drained_in_the_middle(scene: Scene, key: str) -> Reply:
    """Stop the bridge after the provider has created the task, before it has answered; the answer."""
    await faulty(scene, "slow", seconds=5)
    before = created(scene)
    asking = asyncio.ensure_future(submit(scene, PATH, key))

    async def is_created() -> bool:
        return created(scene) > before

    await until(is_created, value=True)
    ending = asyncio.ensure_future(scene.bridge.stop())

    async def drains() -> bool:
        return any('"draining"' in line for line in scene.bridge.log)

    await until(drains, value=True)
    await scene.faults(qingbo=[])
    scene.advance(6)
    reply = await asking
    assert await ending == 0
    assert (reply.status, created(scene)) == (201, before + 1)
    return reply


@pytest.mark.extended
async def test_a_bridge_that_stops_in_the_middle_keeps_the_answer(tmp_path: Path) -> None:
    journal = f"sqlite:{tmp_path / 'bridge.db'}"
    async with stage(journal=journal) as scene:
        reply = await drained_in_the_middle(scene, "drained")
        number = created(scene)
        upstreams = upstreams_of(scene.simulator, **QUICK)
        async with running_bridge(upstreams, journal=journal) as scene.bridge:
            again = await submit(scene, PATH, "drained")
            assert replayed(again)
            assert (again.status, again.body) == (201, reply.body)
            assert created(scene) == number
            await scene.bridge.stop()


async def at_once(scenes: list[Scene], key: str, number: int = 12) -> list[Reply]:
    """The same submit on many connections."""
    timeout, connector = aiohttp.ClientTimeout(total=PATIENCE), aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as http:

        async def one(scene: Scene) -> Reply:
            headers = {"Idempotency-Key": key}
            async with http.post(scene.bridge.url + PATH, json=BODY, headers=headers) as answer:
                return Reply(answer.status, answer.headers, await answer.read())

        return list(await asyncio.gather(*(one(scenes[n % len(scenes)]) for n in range(number))))


async def judge(scenes: list[Scene], key: str) -> None:
    """Of many at once one reaches the provider; each of the others is answered, or is to be repeated."""
    before = created(scenes[0])
    replies = await at_once(scenes, key)
    assert {reply.status for reply in replies} <= {201, 409}
    tasks = {reply.json["state"]["task"] for reply in replies if reply.status == 201}
    assert len(tasks) == 1
    repeats = await at_once(scenes, key)
    assert {(reply.status, reply.json["state"]["task"]) for reply in repeats} == {(201, *tasks)}
    assert all(map(replayed, repeats))
    assert created(scenes[0]) == before + 1


@pytest.mark.extended
async def test_with_workers_one_reaches_the_provider(tmp_path: Path) -> None:
    async with stage(workers=2, journal=f"sqlite:{tmp_path / 'bridge.db'}") as scene:
        await judge([scene], "workers")
        await scene.bridge.stop()


@pytest.fixture
async def two() -> AsyncIterator[Fleet]:
    async with fleet(2) as made:
        yield made


async def test_with_two_bridges_one_reaches_the_provider(two: Fleet) -> None:
    await judge(list(two), "bridges")


async def test_without_the_engine_nothing_is_created(two: Fleet) -> None:
    a, b = two
    before = created(a)
    for one in two.served:
        one.access.cut = True

    async def refused() -> bool:
        reply = await submit(a, PATH, a.id("away"))
        assert reply.status == 503, reply.body
        assert reply.headers["retry-after"]
        assert "nothing was submitted" in reply.json["detail"]
        return True

    await refused()
    proxied = await submit(a, "/proxy/qingbo/v1/tasks", "proxied")
    assert (proxied.status, proxied.json["error"]["code"]) == (503, "journal_unavailable")
    other = await submit(a, PATH, "proxied")  # nobody has that key yet, so this is no mismatch
    assert (other.status, other.json["code"]) == (503, "journal_unavailable"), other.body
    assert created(a) == before
    plain = await a.call("POST", PATH, json=BODY)  # without a key as before
    assert plain.status == 201
    for one in two.served:
        one.access.cut = False

    async def accepted() -> int:
        return (await submit(b, PATH, "proxied")).status

    await until(accepted, value=201)
    assert created(a) == before + 2


@pytest.mark.extended  # longer than a lease
async def test_an_answer_that_comes_while_the_engine_is_away_is_kept_once_it_returns(two: Fleet) -> None:
    a, b = two
    before = created(a)
    await faulty(a, "slow", seconds=5)
    asking = asyncio.ensure_future(submit(a, PATH, "cut"))

    async def is_created() -> bool:
        return created(a) > before

    await until(is_created, value=True)
    two.served[0].access.cut = True
    await asyncio.sleep(LEASE + 0.5)  # longer than its session lives
    await a.faults(qingbo=[])
    a.advance(6)
    first = await asking
    assert first.status == 201, first.body
    again = await submit(a, PATH, "cut")
    assert (again.status, again.body) == (201, first.body)  # this bridge knows
    elsewhere = await submit(b, PATH, "cut")
    assert elsewhere.status == 502, elsewhere.body
    two.served[0].access.cut = False

    async def repeated() -> int:
        return (await submit(b, PATH, "cut")).status

    await until(repeated, value=201)
    assert (await submit(b, PATH, "cut")).body == first.body
    assert created(a) == before + 1


@pytest.mark.extended
@pytest.mark.parametrize("engine", ["valkey", "redis62"])
async def test_on_a_real_engine_one_reaches_the_provider_and_a_kill_leaves_a_doubt(
    engine: str,
) -> None:
    if engine not in available():
        missing(engine)
    async with served(engine, engine_lease_seconds=3) as scenes:
        for number in range(5):
            await judge(scenes, f"engine-{number}")
        first, *others = scenes
        await killed_in_the_middle(first, "qingbo", PATH, "killed", BODY)
        before = created(first)

        async def repeated() -> int:
            return (await submit(others[0], PATH, "killed")).status  # 409 until its lease has ended

        await until(repeated, value=502)
        assert (await submit(others[1], PATH, "killed")).status == 502
        assert created(first) == before
        await judge(others, "after")
        reply = await drained_in_the_middle(others[0], "drained")
        again = await submit(others[1], PATH, "drained")
        assert (again.status, again.body) == (201, reply.body)
        assert created(first) == before + 2
