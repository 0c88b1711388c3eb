"""A provider behind a bad network: the bridge lives on, says nothing wrong, and finds the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import orjson
import pytest

from tests.chaos.judge import Judge
from tests.chaos.proxy import DEAF, GOOD, HOLE, Manners, Proxy, proxied
from tests.chaos.site import Site, Studio, get, metric, site, studio
from tests.chaos.viewers import Viewers
from tests.e2e.raw import request
from tests.e2e.scene import until
from tests.harness import PATIENCE, Provider, answer

pytestmark = pytest.mark.anyio

TIMEOUT_SECONDS = 1.0
INTERVAL_SECONDS = 4.0  # the longest between two looks at a task whose stream says nothing
AT_ONCE_SECONDS = 2.5  # on a busy machine
LATE_SECONDS = 2.0  # as well; without its stream's silence the next look would come after six intervals
TROUBLES = {
    "black hole": (HOLE, "timeout"),
    "deaf": (DEAF, "timeout"),
    "half-closing": (Manners(half_close_after=200), "error"),
    "reset in the middle of a body": (Manners(reset_after=200), "error"),
    "one byte a second": (Manners(split=True, delay=1.0), "timeout"),
}


@dataclass
class Scene:
    provider: Studio
    way: Proxy
    bridge: Site

    async def failed(self, outcome: str) -> float:
        """How many looks went wrong like this."""
        labels = f'call="status",outcome="{outcome}",upstream="{self.provider.name}"'
        return await metric(
            self.provider.http, self.bridge.url, f"bridge_upstream_requests_total{{{labels}}}"
        )

    async def healthy(self) -> bool:
        """Whether the process turns and takes traffic."""
        answers = [await get(self.provider.http, self.bridge.url + path) for path in ("/livez", "/readyz")]
        return [status for status, _ in answers] == [200, 200]


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with (
        studio() as provider,
        proxied(provider.url) as way,
        site(f"{way.url}/qingbo", upstream={"timeout_seconds": TIMEOUT_SECONDS}) as bridge,
    ):
        yield Scene(provider, way, bridge)


@pytest.mark.parametrize("name", [*TROUBLES, "refusing"])
async def test_trouble_on_the_way_to_the_provider_costs_no_state(scene: Scene, name: str) -> None:
    manners, outcome = TROUBLES.get(name, (GOOD, "error"))
    judge = Judge()
    viewers = Viewers(lambda: scene.bridge.address, judge)
    (ref,) = await scene.provider.submit([{"queue_seconds": 0, "run_seconds": 10, "outcome": "completed"}])
    try:
        viewers.sse(ref)
        await viewers.reach(1, PATIENCE)
        before = await scene.failed(outcome)
        if name == "refusing":
            scene.way.refuse()
            scene.way.reset_all()
        scene.way.behave(manners)
        scene.provider.advance(20)
        await until(lambda: _at_least(scene, outcome, before + 2), value=True)
        assert await scene.healthy()
        assert not any(account.over for account in judge.accounts)
        scene.way.behave(GOOD)
        if name == "refusing":
            await scene.way.listen()
        await viewers.all_over(PATIENCE)
    finally:
        await viewers.close()
    assert judge.verdict(scene.provider.truth([ref])) == []


async def _at_least(scene: Scene, outcome: str, number: float) -> bool:
    return await scene.failed(outcome) >= number


async def test_a_stream_that_is_cut_wakes_the_poll_at_once_and_a_silent_one_within_an_interval() -> None:
    pace = {"poll_min_seconds": 0.1, "poll_max_seconds": INTERVAL_SECONDS}
    async with (
        studio(name="bytespike") as studied,
        proxied(studied.url) as way,
        site(f"{way.url}/bytespike", name="bytespike", upstream=pace) as bridge,
    ):
        provider = Provider(studied.running, "bytespike", studied.http)
        cut, silent = await asyncio.gather(
            *(_ended_in(provider, way, bridge, name) for name in ("cut", "silent"))
        )
    assert cut < AT_ONCE_SECONDS
    assert silent < INTERVAL_SECONDS + LATE_SECONDS


async def _ended_in(provider: Provider, way: Proxy, bridge: Site, trouble: str) -> float:
    """How long it takes to find the end after the stream has gone."""
    frames = [_frame(trouble, progress) for progress in (10, 20)]
    ref = await provider.script(trouble, _shown(trouble, 0), stream=frames, hold=True)
    async with request(bridge.url, f"/v1/tasks/{ref}/events") as stream:
        assert (await stream.state_with(progress=20))["source"] == "stream"
        line = next(one for one in way.lines if f"/stream/{trouble}".encode() in one.head)
        if trouble == "silent":
            line.behave(HOLE)
        await provider.then(trouble, _shown(trouble, 100, "completed"))
        began = asyncio.get_running_loop().time()
        if trouble == "cut":
            line.reset()
        assert (await stream.state_with(status="completed"))["source"] == "poll"
        took = asyncio.get_running_loop().time() - began
        assert [block.event for block in await stream.rest()] == ["done", "end"]
    return took


def _document(task_id: str, progress: int, status: str = "running") -> dict[str, object]:
    return {"task_id": task_id, "status": status, "progress": progress}


def _shown(task_id: str, progress: int, status: str = "running") -> dict[str, object]:
    return answer(_document(task_id, progress, status))


def _frame(task_id: str, progress: int) -> str:
    return f"data: {orjson.dumps(_document(task_id, progress)).decode()}\n\n"
