"""A provider in memory: session and dialect of an `Upstream`, scripted and counted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from bridge.core.loop_time import LoopTime
from bridge.core.rate_limit import CredentialLimiter
from bridge.core.schedule import Pace
from bridge.core.task import Observation, Output, Status
from bridge.dialects.base import HttpResponse, PollAdvice, Request, StatusReading
from bridge.errors import CredentialRefused, TaskNotFound, UpstreamBusy, UpstreamUnavailable
from bridge.sources.body_memory import BodyMemory, Share
from bridge.sources.slices import Turns
from bridge.sources.upstream import Upstream
from bridge.telemetry.metrics import Metrics
from tests.fakes.clock import FakeClock

EVENT_STREAM = {"content-type": "text/event-stream"}


class FakeProvider:
    """Session and dialect in one: responds as a test says, and records each request."""

    name = "fake"
    base_url = "http://fake"

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.tasks: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, float]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight: Counter[str] = Counter()
        self.most_at_once = 0
        self.most_of_one = 0
        self.takes = 0.0
        self.key = ""
        self.shown_to: dict[str, dict[str, dict[str, Any]]] = {}
        self.asked_with: list[str] = []
        self.fault: Callable[[str], None] = _no_fault
        self.streams: dict[str, Callable[[], AsyncIterator[bytes]]] = {}
        self.opened: list[tuple[str, float]] = []

    def shows(self, task_id: str, status: str, progress: float | None = None, **more: Any) -> None:
        """Set the state of a task; `http` is the status code of the response."""
        self.tasks[task_id] = {"status": status, "progress": progress} | more

    def polls(self, task_id: str) -> list[float]:
        """When a task was polled, monotonic seconds."""
        return [at for polled, at in self.asked if polled == task_id]

    # The session

    def base_of(self, request: Request) -> str:
        return request.base_url or "https://provider.example"

    async def ask(
        self, request: Request, timeout_seconds: float | None = None, *, known: bytes | None = None
    ) -> HttpResponse:
        """Respond to a status call."""
        task_id = request.path.rpartition("/")[2]
        self.asked.append((task_id, self.clock.monotonic()))
        self.asked_with.append(self.key)
        self.headers.append(dict(request.headers))
        with self._counting(task_id):
            if self.takes:
                await self.clock.sleep(self.takes)
        self.fault(task_id)
        shown = self.tasks.get(task_id, {"http": 404})
        headers = {"etag": shown["etag"]} if "etag" in shown else {}
        if "etag" in shown and request.headers.get("If-None-Match") == shown["etag"]:
            return HttpResponse(304, headers, b"")
        return HttpResponse(shown.get("http", 200), headers, orjson.dumps(shown))

    @asynccontextmanager
    async def listen(self, request: Request) -> AsyncIterator[tuple[HttpResponse, AsyncIterator[bytes]]]:
        """Open the stream of a task."""
        task_id = request.path.rpartition("/")[2]
        self.opened.append((task_id, self.clock.monotonic()))
        yield HttpResponse(200, EVENT_STREAM, b""), self.streams[task_id]()

    def turns(self) -> Turns:
        """Turns of a reader, by the test's clock."""
        return Turns(LoopTime(), self.clock.monotonic, self.clock.monotonic)

    def event_share(self) -> Share:
        """Memory for an event that has not ended."""
        return BodyMemory().share()

    async def hide_large(self, data: bytes, turns: Turns) -> bytes:
        """This provider never quotes a key."""
        return data

    def acting_as(self, credential: Any, *, secrets: Any = ()) -> FakeProvider:
        """The same provider with a key as credential; `shows` of the copy sets what that key sees."""
        other = copy(self)
        other.key = credential.headers()["Authorization"]
        other.tasks = self.shown_to.setdefault(other.key, {})
        return other

    async def close(self) -> None:
        """There is nothing to close."""

    def _counting(self, task_id: str) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def counting() -> Iterator[None]:
            self.in_flight[task_id] += 1
            self.most_at_once = max(self.most_at_once, self.in_flight.total())
            self.most_of_one = max(self.most_of_one, self.in_flight[task_id])
            try:
                yield
            finally:
                self.in_flight[task_id] -= 1

        return counting()

    # The dialect

    poll = PollAdvice(
        min_seconds=2, max_seconds=10, recommended_seconds=2, usual_seconds=4.5, deadline_seconds=None
    )
    words: Mapping[str, Status] = {"success": Status.COMPLETED}

    auth_hook = None

    def auth_headers(self, api_key: str) -> dict[str, str]:
        """Headers that carry the key."""
        return {"Authorization": api_key}

    def kind_of(self, task_id: str) -> tuple[str | None, str | None]:
        """Its ids name no kind."""
        return None, None

    def status_request(self, task_id: str) -> Request:
        """The status call."""
        return Request(method="GET", path=f"/tasks/{task_id}")

    def stream_request(self, task_id: str) -> Request | None:
        """The stream call; None for a task without a stream."""
        return Request(method="GET", path=f"/streams/{task_id}") if task_id in self.streams else None

    def read_status(self, answer: HttpResponse, task_id: str | None = None) -> StatusReading:
        """Read a response of `ask`."""
        shown = orjson.loads(answer.body)
        if answer.status == 404:
            raise TaskNotFound("no such task")
        if answer.status in {401, 403}:
            raise CredentialRefused("no", provider_status=answer.status)
        if answer.status == 429:
            raise UpstreamBusy("slow down", retry_after=shown.get("retry_after"))
        if answer.status >= 500:
            raise UpstreamUnavailable("broken")
        return StatusReading(_observation(shown), None)

    def hide(self, data: bytes) -> bytes:
        """This provider never quotes a key."""
        return data

    def read_stream_event(self, name: str | None, data: str) -> Observation | None:
        """Read a frame: a document, or a heartbeat."""
        return None if name == "ping" else _observation(orjson.loads(data))


def _no_fault(_task_id: str) -> None:
    """Raise nothing."""


def _observation(shown: dict[str, Any]) -> Observation:
    names = ("progress", "eta_seconds", "poll_after", "created_at", "completed_at", "changed_at", "model")
    return Observation(
        status=Status(shown["status"]),
        task_id=shown.get("id"),
        outputs=tuple(Output(type="video", url=url) for url in shown.get("outputs", ())),
        **{name: shown.get(name) for name in names},
    )


def frame(status: str, progress: float | None = None, **more: Any) -> bytes:
    """One server-sent event of a fake stream."""
    return b"data: %b\n\n" % orjson.dumps({"status": status, "progress": progress} | more)


class Script:
    """A stream whose chunks a test sends."""

    def __init__(self) -> None:
        self._parts: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    def say(self, *parts: bytes | Exception | None) -> None:
        """Send bytes, fail with an error, or end with None."""
        for part in parts:
            self._parts.put_nowait(part)

    async def play(self) -> AsyncIterator[bytes]:
        """What the session reads."""
        while (part := await self._parts.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part


PACE = Pace(min_seconds=2, max_seconds=10, recommended_seconds=2, safety_net_seconds=60)


def make_upstream(
    provider: FakeProvider,
    clock: FakeClock,
    *,
    name: str = "qingbo",
    budget: CredentialLimiter | None = None,
    metrics: Metrics | None = None,
    **more: Any,
) -> Upstream:
    """An upstream with a fake provider behind it."""
    return Upstream(
        name=name,
        dialect=provider,  # type: ignore[arg-type] # only what a watch needs of it
        session=provider,  # type: ignore[arg-type]
        limiter=budget or CredentialLimiter(max_in_flight=32, random=lambda: 0.5),
        pace=more.pop("pace", PACE),
        clock=clock,
        metrics=metrics or Metrics(CollectorRegistry(), [name]),
        **{"deadline_seconds": None, "submit_timeout_seconds": 60.0, "max_streams": 100, **more},
    )
