"""Creates that hang, of many accounts at once, while other tasks of the same provider are polled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from tests.e2e import raw
from tests.e2e.scene import QUICK, until
from tests.fakes.tenants import PATH
from tests.harness import PATIENCE, running_bridge

pytestmark = pytest.mark.anyio

ACCOUNTS = 12
AT_ONCE = 2  # hanging creates of each account: in all far more than connections for status calls
SETTINGS = {
    "auth": "upstream-key",
    "account_secret": "what accounts are named with, a secret",
    "max_new_keys_per_minute_per_address": 0,
}
LIMITS = {"max_in_flight": 2, "max_streams": 1, "max_submits_in_flight": AT_ONCE, "timeout_seconds": 2}


class Hanging:
    """A provider whose creates never end; each status call shows more progress."""

    def __init__(self) -> None:
        self.url = ""
        self.creates: Counter[str] = Counter()
        self.progress = 0
        self.ended = asyncio.Event()

    async def create(self, request: web.Request) -> web.Response:
        self.creates[request.headers["Authorization"]] += 1
        await self.ended.wait()
        return web.json_response({}, status=500)

    async def status(self, request: web.Request) -> web.Response:
        self.progress = min(self.progress + 1, 99)
        task_id = request.match_info["task_id"]
        return web.json_response({"task_id": task_id, "status": "processing", "progress": self.progress})


@asynccontextmanager
async def hanging_provider() -> AsyncIterator[Hanging]:
    provider = Hanging()
    app = web.Application()
    app.add_routes([web.post(PATH, provider.create), web.get(PATH + "/{task_id}", provider.status)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield provider
    finally:
        provider.ended.set()
        await runner.cleanup()


async def test_hanging_creates_of_many_accounts_hold_up_no_poll() -> None:
    async with (
        hanging_provider() as provider,
        running_bridge({"qingbo": QUICK | LIMITS | {"base_url": provider.url}}, **SETTINGS) as bridge,
        aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=PATIENCE), connector=aiohttp.TCPConnector(limit=0)
        ) as http,
    ):
        headers = {"Authorization": "Bearer the-viewer"}
        async with raw.request(bridge.url, "/v1/tasks/qingbo/t/events", headers=headers) as stream:
            await stream.state()

            async def create(account: int) -> None:
                key = {"Authorization": f"Bearer account-{account}"}
                async with http.post(f"{bridge.url}/v1/tasks/qingbo", json={"model": "m"}, headers=key):
                    pass

            creates = [asyncio.ensure_future(create(n % ACCOUNTS)) for n in range(ACCOUNTS * AT_ONCE)]

            async def arrived() -> int:
                return provider.creates.total()

            await until(arrived, ACCOUNTS * AT_ONCE)
            assert len(provider.creates) == ACCOUNTS
            seen = provider.progress
            await stream.state_with(progress=seen + 5)
            assert not [block for block in stream.blocks if block.event == "notice"]
            assert not any(one.done() for one in creates)
            for one in creates:
                one.cancel()
