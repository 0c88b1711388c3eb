"""Tasks with tags, callers with claims, and what each may see: whole bridges in one loop, without waiting.

Real are the routes, the authenticator, the journal, the watches, the hub and the deliveries; the provider is
in this process. Every answer of a bridge is searched for the ids of tasks: each must be one that the caller
may read at that moment, or one that the request named and the bridge refused.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import orjson

from bridge.app.bridge import Bridge
from bridge.config.settings import Settings
from bridge.dialects.base import HttpResponse, Request
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.fakes.replicas import World
from tests.fakes.virtual import LoopClock
from tests.truth.asgi import Response

UPSTREAMS = ("img", "vid")
TAGS = ("red", "green", "blue")
GROUPS = ("one", "two")
JSON = {"content-type": "application/json"}
SOON = 0.3
"""Seconds in which a stream has sent what it begins with."""

_IDS = re.compile(rb"task[0-9]+x")


class Claims(NamedTuple):
    """What a token says; None for a claim that it lacks."""

    tasks: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    scope: str = "read submit cancel"


@dataclass
class Task:
    """The truth about a task.

    Args:
        known: Whether a bridge has recorded a state, and with it the tags and the group.
    """

    upstream: str
    task_id: str
    alias: str | None = None
    tags: frozenset[str] = frozenset()
    group: str | None = None
    status: str = "running"
    known: bool = False
    params: bytes = b""

    @property
    def ref(self) -> str:
        return f"{self.upstream}/{self.task_id}"


@dataclass(frozen=True)
class Viewer:
    """Who asks: a token, or the ticket that one got.

    Args:
        refs, tags, groups: What a ticket names; None for a token.
    """

    claims: Claims
    text: str
    refs: frozenset[str] | None = None
    tags: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()

    def may_read(self, task: Task) -> bool:
        """Whether a tag, a claim or the ticket opens the task now."""
        if "read" not in self.claims.scope or not self._covers(task):
            return False
        if self.refs is None:
            return True
        by_name = task.known and (bool(self.tags & task.tags) or task.group in self.groups)
        return task.ref in self.refs or by_name

    def may_cancel(self, task: Task) -> bool:
        """Likewise with the scope for it."""
        return "cancel" in self.claims.scope and self._covers(task)

    def may_submit(self, upstream: str) -> bool:
        """Whether it may create tasks there."""
        tasks, tags = self.claims.tasks or (), self.claims.tags or ()
        patterns = [entry for entry in tasks if entry.endswith("/*")]
        named = "*" in tasks or f"{upstream}/*" in tasks
        return "submit" in self.claims.scope and (named or (bool(tags) and not patterns and "*" not in tasks))

    def _covers(self, task: Task) -> bool:
        tasks, tags = self.claims.tasks or (), self.claims.tags or ()
        by_claim = "*" in tasks or f"{task.upstream}/*" in tasks or task.ref in tasks
        return by_claim or (task.known and not task.tags.isdisjoint(tags))


class Provider:
    """All tasks of both upstreams, as a provider with the calls of ByteSpike shows them."""

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.base_url = "https://provider.example"

    def new(self, upstream: str, alias: str | None = None) -> Task:
        """Somebody creates a task, not by a bridge."""
        task = Task(upstream, f"task{len(self.tasks)}x", alias)
        self.tasks[task.task_id] = task
        return task

    def find(self, upstream: str, body: Mapping[str, Any]) -> Task | None:
        """By either id."""
        for task in self.tasks.values():
            if task.upstream == upstream and (
                task.task_id == body.get("task_id")
                or (task.alias is not None and task.alias == body.get("out_task_id"))
            ):
                return task
        return None


class Session:
    """What a bridge has for a connection to the provider."""

    def __init__(self, provider: Provider, upstream: str) -> None:
        self._provider = provider
        self._upstream = upstream
        self.base_url = provider.base_url

    def base_of(self, request: Request) -> str:
        return request.base_url or self.base_url

    async def ask(
        self, request: Request, timeout_seconds: float | None = None, *, known: bytes | None = None
    ) -> HttpResponse:
        """Any call."""
        await asyncio.sleep(0.01)
        provider, body = self._provider, orjson.loads(request.body or b"{}")
        if request.path == "/v1/tasks/submit":
            # the same id with the same parameters is the same task: as documented
            task = provider.find(self._upstream, body) if "out_task_id" in body else None
            task = task or provider.new(self._upstream, body.get("out_task_id"))
        elif request.path.startswith("/v1/tasks/cancel/"):
            task = provider.find(self._upstream, {"task_id": request.path.rpartition("/")[2]})
            if task is not None and task.status == "running":
                task.status = "cancelled"
        else:
            task = provider.find(self._upstream, body)
        await asyncio.sleep(0.01)
        if task is None:
            return HttpResponse(404, JSON, b'{"error": {"code": "task_not_found", "message": "none"}}')
        document = {"task_id": task.task_id, "out_task_id": task.alias, "status": task.status}
        return HttpResponse(200, JSON, orjson.dumps(document))

    def hide(self, data: bytes) -> bytes:
        return data

    def acting_as(self, credential: Any, *, secrets: Any = ()) -> Session:
        del credential, secrets
        return self

    async def close(self) -> None:
        """There is nothing to close."""


@dataclass
class Theatre:
    """One bridge or several, the provider behind them, and everything that was seen.

    Attributes:
        wrong: What somebody saw that nothing opens to them, or did not see that something does.
    """

    clock: LoopClock
    provider: Provider = field(default_factory=Provider)
    bridges: list[Bridge] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    asked: int = 0
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self, *bridges: Bridge) -> None:
        """Run them."""
        # a bridge also waits for threads, which a loop without any timer would take for the end
        ticking = asyncio.create_task(_tick())
        self._stack.callback(ticking.cancel)
        for bridge in bridges:
            await self._stack.enter_async_context(bridge.running())
            parts: Any = bridge._parts
            for name, upstream in parts.pool.upstreams.items():
                await upstream.session.close()
                upstream.session = Session(self.provider, name)
            self.bridges.append(bridge)

    async def stop(self) -> None:
        """End them."""
        await self._stack.aclose()

    def viewer(self, claims: Claims, name: str) -> Viewer:
        """The holder of a token with these claims."""
        more = {"tags": list(claims.tags)} if claims.tags is not None else {}
        tasks = {"tasks": None if claims.tasks is None else list(claims.tasks)}
        text = token(scope=claims.scope, sub=name, now=self.clock.time(), **tasks, **more)
        return Viewer(claims, text)

    # What they do

    async def call(
        self,
        viewer: Viewer,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: Any = None,
        seconds: float | None = None,
        bridge: int = 0,
    ) -> Response:
        """One request; whatever it answers is searched for tasks.

        Args:
            seconds: When to leave a stream.
        """
        self.asked += 1
        named, sent = list(query), dict(headers or {})
        if viewer.refs is None:
            sent["authorization"] = f"Bearer {viewer.text}"
        else:
            named.append(("ticket", viewer.text))
        response = Response()
        text = b"" if body is None else orjson.dumps(body)
        app = self.bridges[bridge % len(self.bridges)]
        calling = asyncio.create_task(
            response.run(app, method, path, sent, query=urlencode(named, safe="/"), body=text)
        )
        if seconds is not None:
            await asyncio.wait([calling], timeout=seconds)
            response.gone.set()
        await calling
        given = f"{path} {named} {body}".encode()
        self.search(viewer, response, given, f"{method} {path} {query} {body}")
        return response

    def search(self, viewer: Viewer, response: Response, given: bytes, what: str) -> None:
        """Whether every task in an answer is one that the caller may read."""
        for found in set(_IDS.findall(response.body)) | set(_IDS.findall(str(response.headers).encode())):
            task = self.provider.tasks.get(found.decode())
            if task is None or viewer.may_read(task):
                continue
            if response.status >= 400 and found in given:
                continue
            self.wrong.append(f"{viewer} saw {task} in {response.status} of {what}: {response.body[:300]!r}")

    def expect(self, viewer: Viewer, what: str, got: Any, wanted: Any) -> None:
        """Note an answer that is not the one the truth demands."""
        if got != wanted:
            self.wrong.append(f"{viewer}: {what} was {got!r}, not {wanted!r}")


async def _tick() -> None:
    while True:  # noqa: ASYNC110 - nothing is waited for
        await asyncio.sleep(0.05)


def path_of(ref: str) -> str:
    """Where the state of a task is."""
    upstream, _, task_id = ref.partition("/")
    return f"/v1/tasks/{upstream}/{quote(task_id, safe='')}"


def settings(**more: Any) -> Settings:
    """Of every bridge."""
    upstream = {
        "preset": "bytespike",
        "base_url": "https://provider.example",
        "api_key": "test:key",
        "poll_min_seconds": 0.1,
        "poll_max_seconds": 0.2,
        "max_streams": 0,
    }
    fields: dict[str, Any] = {"upstreams": dict.fromkeys(UPSTREAMS, upstream), "drain_seconds": 1}
    fields |= TOKEN_SETTINGS | {"linger_seconds": 2} | more
    if "engine" not in more:
        fields["journal"] = "memory"
    return Settings.model_validate(fields)


class Line:
    """A connection to the engine that all bridges share."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._engine, name)

        async def call(*args: Any, **options: Any) -> Any:
            await asyncio.sleep(0.001)
            answer = await method(*args, **options)
            await asyncio.sleep(0.001)
            return answer

        return call

    async def close(self) -> None:
        """Of this connection only."""


def sharing(clock: LoopClock, number: int) -> list[Bridge]:
    """Bridges that share one engine."""
    world = World(clock)

    async def connect() -> Any:
        return Line(world.engine)

    bridges = []
    for _ in range(number):
        bridge = Bridge(settings(engine="redis://127.0.0.1:1"), clock=clock)  # type: ignore[arg-type]
        bridge.connect = connect  # type: ignore[attr-defined]
        bridges.append(bridge)
    return bridges
