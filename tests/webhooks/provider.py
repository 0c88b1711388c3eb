"""A provider whose tasks move when a test says so, and whose create can be held. It speaks like qingbo."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.harness import PATIENCE

KEY = "test-key"
Life = list[tuple[str, int]]


@dataclass(eq=False)
class Provider:
    """Its tasks.

    Attributes:
        creates: The body of each create that made a task, in order.
        created: Awaited after a task was made and before the create is answered, with its id: where a test
            kills somebody. What it returns is answered instead, if not None.
        links: What the URLs of results begin with.
        broken: Ids whose status calls are answered 500.
        lives: Of tasks made with a `life`, what they show: one entry more with each status call.
    """

    url: str = ""
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    creates: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    created: Callable[[str], Awaitable[web.Response | None]] | None = None
    broken: set[str] = field(default_factory=set)
    lives: dict[str, Life] = field(default_factory=dict)
    links: str = "https://cdn.example"
    polls: int = 0
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self, task_id: str, status: str, progress: int = 0) -> None:
        """What the next status call shows."""
        document = self.documents[task_id]
        document |= {"status": status, "progress": progress}
        if status == "completed":
            url = f"{self.links}/{task_id}.mp4"
            document |= {
                "progress": 100,
                "completed_at": 1720000060,
                "result": {"videos": [{"url": [url], "expires_at": 4102444800}]},
            }
        if status == "failed":
            document["error"] = {"message": "broken", "code": "task_failed"}

    async def creates_reach(self, number: int) -> None:
        """Wait until so many tasks were made."""
        async with asyncio.timeout(PATIENCE):
            while len(self.creates) < number:
                await self._news.wait()

    async def submit(self, request: web.Request) -> web.Response:
        """`POST /v1/tasks`."""
        body = await request.json()
        if body.get("prompt") == "refused":
            return web.json_response(
                {"error": {"message": "not this", "code": "invalid_request"}}, status=400
            )
        task_id = body.get("id") or f"task-{len(self.creates)}"
        self.creates.append(body)
        self.keys.append(request.headers.get("Authorization", ""))
        self.documents[task_id] = {
            "task_id": task_id,
            "status": "queued",
            "action": "generate",
            "model": "wan2.7",
            "progress": 0,
            "created_at": 1720000000,
        }
        if "life" in body:
            self.lives[task_id] = [(status, progress) for status, progress in body["life"]]
        news, self._news = self._news, asyncio.Event()
        news.set()
        if self.created is not None:
            instead = await self.created(task_id)
            if instead is not None:
                return instead
        return web.json_response(self.documents[task_id])

    async def status(self, request: web.Request) -> web.Response:
        """`GET /v1/tasks/{id}`."""
        self.polls += 1
        task_id = request.match_info["task_id"]
        if task_id in self.broken:
            return web.json_response({"error": {"message": "broken", "code": "internal"}}, status=500)
        life = self.lives.get(task_id)
        if life:
            self.move(task_id, *life.pop(0))
        document = self.documents.get(task_id)
        if document is None:
            return web.json_response({"error": {"message": "none", "code": "task_not_found"}}, status=404)
        return web.json_response(document)

    async def cancel(self, request: web.Request) -> web.Response:
        """`POST /v1/tasks/{id}/cancel`."""
        self.move(request.match_info["task_id"], "cancelled")
        return web.json_response(self.documents[request.match_info["task_id"]])


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """One on a free port."""
    made = Provider()
    app = web.Application()
    app.add_routes(
        [
            web.get("/v1/tasks/{task_id}", made.status),
            web.post("/v1/tasks", made.submit),
            web.post("/v1/tasks/{task_id}/cancel", made.cancel),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
