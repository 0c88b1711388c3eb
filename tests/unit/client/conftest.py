"""A scripted bridge on a real socket: each connection plays the next part of a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from aiohttp import web

from bridge.client.backoff import Timeouts
from bridge.client.bridge import Bridge

Step = bytes | str | Callable[[], object]
Part = list[Step] | web.Response | Callable[[], web.Response]

CUT = "cut"  # the connection is reset
HANG = "hang"  # nothing more comes, and nothing closes
QUICK = Timeouts(silence=5.0, first_delay=0.001, min_delay=0.001, max_delay=0.01, end_timeout=0.05)


@dataclass
class Seen:
    """A request as received by the bridge."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class FakeBridge:
    """Plays one part of its script per request; the last part repeats."""

    script: list[Part] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    CUT = CUT
    HANG = HANG
    QUICK = QUICK

    def plays(self, *parts: Part) -> None:
        self.script = list(parts)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(
            Seen(request.method, request.raw_path, dict(request.headers.items()), await request.read())
        )
        part = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if callable(part):
            part = part()
        if isinstance(part, web.Response):
            return part
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": ok\n")
        for step in part:
            if step == CUT:
                assert request.transport is not None
                request.transport.abort()
                break
            if step == HANG:
                await self.over.wait()
                break
            if callable(step):
                made = step()
                if isinstance(made, Awaitable):
                    await made
            else:
                assert isinstance(step, bytes)
                await response.write(step)
        return response

    def __call__(self, token: Any = None, **kwargs: Any) -> Bridge:
        kwargs.setdefault("timeouts", QUICK)
        return Bridge(self.url, token, **kwargs)

    @staticmethod
    def document(task: str, status: str, cursor: str, **more: Any) -> dict[str, Any]:
        upstream, _, task_id = task.partition("/")
        nothing = dict.fromkeys(
            [
                "alias",
                "upstream_status",
                "progress",
                "eta_seconds",
                "eta_at",
                "eta_by",
                "queue_position",
                "model",
                "action",
                "created_at",
                "completed_at",
                "error",
                "cost",
                "raw",
            ]
        )
        fields = {"task": task, "upstream": upstream, "task_id": task_id, "status": status, "outputs": []}
        times = {"changed_at": "2026-11-20T10:00:00.000Z", "observed_at": "2026-11-20T10:00:05.000Z"}
        return nothing | fields | times | {"source": "poll", "cursor": cursor} | more

    def state(
        self,
        cursor: str,
        status: str = "processing",
        *,
        task: str = "q/1",
        retry: int | None = 1,
        **more: Any,
    ) -> bytes:
        lead = b"" if retry is None else b"retry: %d\n" % retry
        return b"id: %b\n%bdata: %b\n\n" % (
            cursor.encode(),
            lead,
            orjson.dumps(self.document(task, status, cursor, **more)),
        )

    @staticmethod
    def done(cursor: str, status: str = "completed", *, task: str = "q/1") -> bytes:
        return b"id: %b\nevent: done\ndata: %b\n\n" % (
            cursor.encode(),
            orjson.dumps({"task": task, "status": status}),
        )

    @staticmethod
    def end(tasks: int = 1) -> bytes:
        return b'event: end\ndata: {"tasks":%d}\n\n' % tasks

    @staticmethod
    def reset(reason: str = "unknown cursor") -> bytes:
        return b"event: reset\ndata: %b\n\n" % orjson.dumps({"reason": reason})

    @staticmethod
    def notice(
        code: str, *, task: str | None = None, retriable: bool = True, retry: int | None = None, **more: Any
    ) -> bytes:
        fields = {"code": code, "task": task, "retriable": retriable, "message": "..."} | more
        lead = b"" if retry is None else b"retry: %d\n" % retry
        return b"event: notice\n%bdata: %b\n\n" % (lead, orjson.dumps(fields))

    def finish(self, cursor: str, status: str = "completed", **more: Any) -> bytes:
        return self.state(cursor, status, **more) + self.done(cursor, status) + self.end()

    @staticmethod
    def problem(
        status: int, code: str, detail: str = "so it is", **headers: str
    ) -> Callable[[], web.Response]:
        body = orjson.dumps(
            {"type": "about:blank", "title": code, "status": status, "code": code, "detail": detail}
        )
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return lambda: web.Response(
            status=status, body=body, content_type="application/problem+json", headers=named
        )

    @staticmethod
    def answer(status: int, document: object = None, **headers: str) -> Callable[[], web.Response]:
        body = b"" if document is None else orjson.dumps(document)
        kind = "application/json" if body else None
        return lambda: web.Response(status=status, body=body or None, content_type=kind, headers=headers)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def fake() -> AsyncIterator[FakeBridge]:
    bridge = FakeBridge()
    before = asyncio.all_tasks()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", bridge.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    bridge.url = f"http://127.0.0.1:{port}"
    yield bridge
    bridge.over.set()
    await runner.cleanup()
    await asyncio.sleep(0)
    # an open session needs no check: aiohttp warns, and warnings are errors
    assert not {task for task in asyncio.all_tasks() - before if "bridge" in repr(task.get_coro())}
