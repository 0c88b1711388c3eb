"""What callers may spend a day, from outside: holds, refusals, settlements, restarts, and who is told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from tests.e2e.scene import Reply
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.fakes.engines import require
from tests.fakes.redis_engines import RedisMaker
from tests.fakes.redis_servers import RedisServer
from tests.harness import PATIENCE, BridgeProcess, running_bridge

pytestmark = pytest.mark.anyio


@dataclass
class Shop:
    """A provider of ByteSpike's shape that bills as told."""

    url: str = ""
    submits: int = 0
    created: int = 0
    says: str | int = "pending"  # or the HTTP status of its submits
    estimate: float | None = None
    used: float | None = None
    hangs_up: bool = False
    numbers: Any = field(default_factory=count)

    async def submit(self, request: web.Request) -> web.Response:
        self.submits += 1
        await request.read()
        if self.hangs_up:
            assert request.transport is not None
            request.transport.abort()
            raise web.HTTPInternalServerError
        if isinstance(self.says, int):
            return web.json_response({"error": {"code": "no", "message": "no"}}, status=self.says)
        self.created += 1
        return web.json_response(self._with({"task_id": f"t-{next(self.numbers)}", "status": "pending"}))

    async def status(self, request: web.Request) -> web.Response:
        document = {"task_id": (await request.json())["task_id"], "status": self.says}
        if self.says == "completed":
            document["result"] = {"video_url": "https://files.example/1.mp4"}
        return web.json_response(self._with(document))

    def _with(self, document: dict[str, Any]) -> dict[str, Any]:
        if self.estimate is not None and document["status"] in ("pending", "running"):
            document["estimated_credits"] = self.estimate
        if self.used is not None and document["status"] not in ("pending", "running"):
            document["credits_used"] = self.used
        return document


@asynccontextmanager
async def shop_of() -> AsyncIterator[Shop]:
    shop, app = Shop(), web.Application()
    app.router.add_post("/v1/tasks/submit", shop.submit)
    app.router.add_post("/v1/tasks/query", shop.status)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    shop.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield shop
    finally:
        await runner.cleanup()


@dataclass
class Desk:
    """A bridge, its callers, and the address of its operators."""

    bridge: BridgeProcess
    http: aiohttp.ClientSession
    operations: str = ""

    async def submit(self, caller: str, **more: str) -> Reply:
        headers = bearer("shop/*", sub=caller, scope="submit read") | more
        body, url = {"model": "m", "prompt": "p"}, f"{self.bridge.url}/v1/tasks/shop"
        async with self.http.post(url, headers=headers, json=body) as it:
            return Reply(it.status, it.headers, await it.read())

    async def spend(self, caller: str = "op", scope: str = "admin", path: str = "/v1/spend") -> Reply:
        headers = bearer("shop/*", sub=caller, scope=scope)
        async with self.http.get(self.operations + path, headers=headers) as it:
            return Reply(it.status, it.headers, await it.read())

    async def used(self) -> dict[str, float]:
        shop = orjson.loads((await self.spend()).body)["upstreams"]["shop"]
        return {one["caller"]: one["used"] for one in shop["callers"]}

    async def until(self, expected: dict[str, float]) -> None:
        await until(self.used, expected)


async def until(asked: Callable[[], Awaitable[Any]], expected: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while await asked() != expected:  # noqa: ASYNC110 - nobody is told when a hold is settled
            await asyncio.sleep(0.02)


@asynccontextmanager
async def desk_of(shop: Shop, limit: float | str = 10.0, **settings: Any) -> AsyncIterator[Desk]:
    upstream = {
        "preset": "bytespike",
        "base_url": shop.url,
        "api_key": "k",
        "poll_min_seconds": 0.05,
        "poll_max_seconds": 0.1,
        "max_streams": 0,
        "max_spend_per_caller_per_day": limit,
    }
    async with (
        running_bridge({"shop": upstream}, admin_port=0, **(TOKEN_SETTINGS | settings)) as bridge,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
    ):
        assert bridge.process.stdout is not None
        line = (await asyncio.wait_for(bridge.process.stdout.readline(), PATIENCE)).decode()
        yield Desk(bridge, http, operations=line.split()[-1])


async def test_a_caller_is_held_to_its_day_and_others_are_not(tmp_path: Path) -> None:
    async with shop_of() as shop:
        kept = f"sqlite:{tmp_path / 'journal.db'}"
        async with desk_of(shop, journal=kept) as desk:
            shop.estimate, shop.used = 5.5, 4.0
            assert (await desk.submit("ann")).status == 201
            assert await desk.used() == {"ann": 5.5}  # by the provider's estimate, while it runs
            refused = await desk.submit("ann", **{"Idempotency-Key": "k-1"})
            assert (refused.status, refused.json["code"]) == (429, "too_many_requests")
            assert "10 credits a day" in refused.json["detail"]
            assert "5.5 are spent" in refused.json["detail"]
            assert 1 <= int(refused.headers["Retry-After"]) <= 86_401
            assert shop.submits == 1  # nothing was sent
            assert (await desk.submit("bob")).status == 201
            shop.says = "completed"
            await desk.until({"ann": 4.0, "bob": 4.0})
            shop.says = "pending"
            # The key was not used up by the refusal.
            again = await desk.submit("ann", **{"Idempotency-Key": "k-1"})
            assert (again.status, again.headers.get("Idempotency-Replayed")) == (201, None)
            replayed = await desk.submit("ann", **{"Idempotency-Key": "k-1"})
            assert (replayed.status, shop.submits) == (201, 3)
            assert (await desk.used())["ann"] == 9.5  # once
            desk.bridge.process.send_signal(signal.SIGKILL)
            await desk.bridge.process.wait()
        shop.says = "completed"
        async with desk_of(shop, journal=kept) as desk:  # what was held outlives a kill, and settles
            await desk.until({"ann": 8.0, "bob": 4.0})
            assert (await desk.submit("ann")).status == 429


async def test_what_creates_nothing_holds_nothing_and_what_may_have_is_held() -> None:
    async with shop_of() as shop, desk_of(shop) as desk:
        shop.used = 4.0
        shop.says = "completed"
        assert (await desk.submit("ann")).status == 201
        await desk.until({"ann": 4.0})
        for status in (400, 401, 422, 429):
            shop.says = status
            assert (await desk.submit("ann")).status >= 400
            assert await desk.used() == {"ann": 4.0}, status
        shop.hangs_up = True
        assert (await desk.submit("bob")).status in (502, 503)
        assert (await desk.used())["bob"] in (0.0, 4.0)  # 0 before the process has read what such tasks cost
        shop.hangs_up, shop.says = False, "pending"


async def test_a_task_that_fails_gives_back_what_it_held_and_one_without_a_word_counts_nothing() -> None:
    async with shop_of() as shop, desk_of(shop) as desk:
        shop.estimate = 9.0
        assert (await desk.submit("ann")).status == 201
        assert await desk.used() == {"ann": 9.0}
        shop.says = "failed"
        await desk.until({"ann": 0.0})
        shop.estimate, shop.says = None, "pending"
        assert (await desk.submit("ann")).status == 201
        shop.says = "completed"

        async def costs() -> Any:
            reply = await desk.spend(path="/status")
            return reply.json["upstreams"]["shop"]["costs"]

        await until(
            costs,
            {"unit": "credits", "total": 0, "tasks": 2, "unreported": 2, "limit_per_caller_per_day": 10},
        )


async def test_only_operators_are_told_and_the_figures_agree() -> None:
    async with shop_of() as shop, desk_of(shop, limit="inf") as desk:
        shop.used, shop.says = 2.5, "completed"
        for caller in ("ann", "ann", "bob"):
            assert (await desk.submit(caller)).status == 201
        await desk.until({"ann": 5.0, "bob": 2.5})
        assert (await desk.spend("ann", scope="read submit")).status == 403
        told = (await desk.spend()).json
        assert told["upstreams"]["shop"] | {"callers": None} == {
            "unit": "credits",
            "limit": None,
            "used": 7.5,
            "callers": None,
        }
        assert told["upstreams"]["shop"]["callers"][0] == {"caller": "ann", "used": 5.0, "left": None}
        assert told["resets_at"].startswith(("20", "21"))
        assert (await desk.spend(path="/v1/spend?upstream=none")).json["upstreams"] == {}
        assert (await desk.spend(path="/v1/spend?upstrean=none")).status == 400
        assert (await desk.spend(path="/status")).json["spend"] == told["upstreams"]
        metrics = (await desk.spend(path="/metrics")).body.decode()
        assert 'bridge_cost_total{upstream="shop"} 7.5' in metrics
        assert "shop in credits" in metrics


async def test_many_submits_at_once_never_pass_the_limit_by_more_than_their_estimates() -> None:
    async with shop_of() as shop, desk_of(shop) as desk:
        shop.used, shop.says = 2.0, "completed"
        assert (await desk.submit("ann")).status == 201
        await desk.until({"ann": 2.0})
        assert (await desk.submit("bob")).status == 201
        await desk.until({"ann": 2.0, "bob": 2.0})
        shop.says = "pending"
        statuses = [reply.status for reply in await asyncio.gather(*(desk.submit("cleo") for _ in range(12)))]
        assert set(statuses) <= {201, 429}
        assert shop.created == 2 + statuses.count(201)
        assert (await desk.used())["cleo"] <= 10.0


@pytest.mark.extended
async def test_two_bridges_on_one_engine_count_together_also_when_one_is_killed() -> None:
    require(RedisMaker("valkey"))
    with RedisServer("valkey") as server:
        shared = {"engine": f"redis://127.0.0.1:{server.port}/0"}
        async with shop_of() as shop, desk_of(shop, **shared) as one, desk_of(shop, **shared) as other:
            shop.estimate, shop.used = 4.0, 3.0
            assert (await one.submit("ann")).status == 201
            assert (await other.submit("ann")).status == 201
            assert await one.used() == await other.used() == {"ann": 8.0}
            for desk in (one, other):
                assert (await desk.submit("ann")).status == 429
            one.bridge.process.send_signal(signal.SIGKILL)
            await one.bridge.process.wait()
            shop.says = "completed"
            await other.until({"ann": 6.0})  # the tasks and the settlements of the dead one, too
            assert shop.created == 2
