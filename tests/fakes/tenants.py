"""A provider whose accounts have tasks of their own, under the same ids: what one is shown names it.

It speaks like qingbo, as far as the bridge asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

PATH = "/v1/tasks"


@dataclass
class Tenant:
    """One account: its key, its tasks, and a word that stands in all its documents.

    Args:
        refused: The status its calls are refused with; None while the key is good.
    """

    key: str
    mark: str
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: int | None = None
    submitted: list[dict[str, Any]] = field(default_factory=list)

    def put(self, task_id: str, status: str = "processing", progress: int = 1) -> str:
        """Give it a task, or a task its next state. Returns the ref."""
        self.tasks[task_id] = {
            "task_id": task_id,
            "status": status,
            "action": "generate",
            "model": f"model-{self.mark}",
            "progress": progress,
            "created_at": 1720000000,
        }
        if status == "completed":
            url = f"https://cdn.example/{self.mark}.mp4"
            self.tasks[task_id] |= {
                "completed_at": 1720000060,
                "result": {"videos": [{"url": [url], "expires_at": 4102444800}]},
            }
        if status == "failed":
            self.tasks[task_id]["error"] = {"message": f"broken for {self.mark}", "code": "task_failed"}
        return f"qingbo/{task_id}"


class TenantProvider:
    """The provider. `calls` counts by key, call and task; `down` makes every call fail."""

    def __init__(self) -> None:
        self.url = ""
        self.tenants: dict[str, Tenant] = {}
        self.calls: Counter[tuple[str, str, str]] = Counter()
        self.down = False

    def tenant(self, mark: str) -> Tenant:
        """A new account."""
        made = Tenant(f"key-of-{mark}", mark)
        self.tenants[made.key] = made
        return made

    def of(self, tenant: Tenant, call: str = "status") -> int:
        """How often a call was made with the tenant's key."""
        return sum(
            number for (key, name, _), number in self.calls.items() if (key, name) == (tenant.key, call)
        )

    async def status(self, request: web.Request) -> web.Response:
        """`GET /v1/tasks/{id}`."""
        task_id = request.match_info["task_id"]
        tenant = self._admit(request, "status", task_id)
        if isinstance(tenant, web.Response):
            return tenant
        task = tenant.tasks.get(task_id)
        return web.json_response(task) if task else _error(404, f"no such task for {tenant.mark}")

    async def submit(self, request: web.Request) -> web.Response:
        """`POST /v1/tasks`."""
        body = await request.json()
        tenant = self._admit(request, "submit", "")
        if isinstance(tenant, web.Response):
            return tenant
        tenant.submitted.append(body)
        if body.get("prompt") == "no":
            return _error(400, f"not for {tenant.mark}")
        task_id = body.get("id") or f"made-{len(tenant.tasks)}"
        tenant.put(task_id, "queued", 0)
        return web.json_response(tenant.tasks[task_id])

    async def cancel(self, request: web.Request) -> web.Response:
        """`POST /v1/tasks/{id}/cancel`."""
        task_id = request.match_info["task_id"]
        tenant = self._admit(request, "cancel", task_id)
        if isinstance(tenant, web.Response):
            return tenant
        if task_id not in tenant.tasks:
            return _error(404, f"no such task for {tenant.mark}")
        tenant.put(task_id, "cancelled")
        return web.json_response(tenant.tasks[task_id])

    def _admit(self, request: web.Request, call: str, task_id: str) -> Tenant | web.Response:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.calls[key, call, task_id] += 1
        if self.down:
            return _error(500, "out of order")
        tenant = self.tenants.get(key)
        if tenant is None:
            return _error(401, f"invalid key {key}", "invalid_api_key")
        if tenant.refused is not None:
            return _error(tenant.refused, f"no more for {tenant.mark}", "invalid_api_key")
        return tenant


def _error(status: int, message: str, code: str = "error") -> web.Response:
    return web.json_response({"error": {"message": message, "code": code}}, status=status)


@asynccontextmanager
async def tenant_provider() -> AsyncIterator[TenantProvider]:
    """The provider on a free port."""
    provider = TenantProvider()
    app = web.Application()
    app.add_routes(
        [
            web.get(PATH + "/{task_id}", provider.status),
            web.post(PATH, provider.submit),
            web.post(PATH + "/{task_id}/cancel", provider.cancel),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield provider
    finally:
        await runner.cleanup()
