"""A provider that counts: every poll with its time, and 429 while it is told to refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from bench.tokens import token
from tests.chaos.proxy import HOST


class CountingProvider:
    """Tasks that never end and never change.

    Attributes:
        polls: When each was polled, on this process's loop, in order.
    """

    def __init__(self) -> None:
        self.polls: list[tuple[float, str]] = []
        self.port = 0
        self._refuses_until = 0.0

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def refuse_for(self, seconds: float) -> float:
        """Answer 429 from now on; returns the moment."""
        now = asyncio.get_running_loop().time()
        self._refuses_until = now + seconds
        return now

    async def answer(self, request: web.Request) -> web.Response:
        """A status call."""
        now = asyncio.get_running_loop().time()
        task = request.match_info["task"]
        self.polls.append((now, task))
        if now < self._refuses_until:
            wait = max(round(self._refuses_until - now), 1)
            return web.json_response({"detail": "slow down"}, status=429, headers={"Retry-After": str(wait)})
        body = {"task_id": task, "status": "processing", "progress": 42, "model": token(0)}
        return web.Response(body=json.dumps(body).encode(), content_type="application/json")


@asynccontextmanager
async def counting_provider() -> AsyncIterator[CountingProvider]:
    """One that runs."""
    made = CountingProvider()
    app = web.Application()
    app.router.add_get("/v1/tasks/{task}", made.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        assert runner.addresses
        made.port = runner.addresses[0][1]
        yield made
    finally:
        await runner.cleanup()
