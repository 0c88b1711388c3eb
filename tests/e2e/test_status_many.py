"""Many tasks polled with one call: the real process and a provider that shows them in both forms, or lies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from tests.e2e.scene import until
from tests.harness import running_bridge

pytestmark = pytest.mark.anyio

TASKS = [f"job-{number}" for number in range(20)]
STREAMS = "&".join(f"task=acme/{task_id}" for task_id in TASKS)
NDJSON = {"Accept": "application/x-ndjson"}
Items = list[dict[str, Any]]


class Service:
    """A provider: `shape` makes the answer about many tasks of the documents that were asked for."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, Any]] = {
            task_id: {"id": task_id, "phase": "running", "done": 0} for task_id in TASKS
        }
        self.alone: Counter[str] = Counter()
        self.batches: list[list[str]] = []
        self.keys: set[str] = set()
        self.shape: Callable[[Items], Any] = lambda items: {"jobs": items}

    async def one(self, request: web.Request) -> web.Response:
        task_id = request.match_info["id"]
        self.alone[task_id] += 1
        state = self.states.get(task_id)
        return web.json_response({"error": "gone"}, status=404) if state is None else web.json_response(state)

    async def many(self, request: web.Request) -> web.StreamResponse:
        ids = request.query.getall("id")
        self.batches.append(ids)
        self.keys.add(request.headers["Authorization"])
        shaped = self.shape([dict(self.states[one]) for one in ids if one in self.states])
        if asyncio.iscoroutine(shaped):
            shaped = await shaped
        return shaped if isinstance(shaped, web.StreamResponse) else web.json_response(shaped)

    def finish(self) -> None:
        for task_id in TASKS:
            self.states[task_id] = {"id": task_id, "phase": "done", "done": 100}


@asynccontextmanager
async def scene(**more: Any) -> AsyncIterator[tuple[Service, Any, aiohttp.ClientSession]]:
    service = Service()
    app = web.Application()
    app.router.add_get("/jobs/{id}", service.one)
    app.router.add_get("/jobs", service.many)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    dialect = {
        "base_url": url,
        "auth": {"headers": {"Authorization": "Token {api_key}"}},
        "calls": {
            "status": {"path": "/jobs/{task_id}"},
            "status_many": {
                "path": "/jobs",
                "query": {"id": "{task_ids}"},
                "ids": "list",
                "max_ids": 50,
                "at": "jobs",
            },
        },
        "status": {"at": "phase", "common_words": True},
        "fields": {"task_id": "id", "progress": "done"},
    }
    settings = {"preset": "custom", "api_key": "k", "dialect": dialect}
    pace = {"poll_min_seconds": 0.1, "poll_max_seconds": 0.2, "timeout_seconds": 1}
    try:
        async with (
            running_bridge({"acme": settings | pace | more}) as bridge,
            aiohttp.ClientSession() as http,
        ):
            yield service, bridge, http
    finally:
        await runner.cleanup()


async def ended(bridge: Any, http: aiohttp.ClientSession, service: Service, batches: int = 5) -> Counter[str]:
    """Follow all tasks; once so many calls about many were made they end. How each ended."""
    ends: Counter[str] = Counter()
    async with http.get(f"{bridge.url}/v1/events?{STREAMS}", headers=NDJSON) as stream:

        async def read() -> None:
            async for line in stream.content:
                said = orjson.loads(line)
                if said.get("status") == "completed" and "upstream_status" in said:
                    ends[said["task_id"]] += 1
                if len(ends) == len(TASKS):
                    return

        reading = asyncio.ensure_future(read())
        await until(lambda: reached(service, batches), True)
        service.finish()
        await asyncio.wait_for(reading, 30)
    return ends


async def reached(service: Service, batches: int) -> bool:
    return len(service.batches) >= batches


async def metric(bridge: Any, http: aiohttp.ClientSession, series: str) -> float:
    async with http.get(f"{bridge.url}/metrics") as answer:
        text = await answer.text()
    return float(next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(series)))


async def test_tasks_are_polled_together_and_each_ends(http: Any) -> None:
    async with scene() as (service, bridge, client):
        assert await ended(bridge, client, service) == dict.fromkeys(TASKS, 1)
        assert service.keys == {"Token k"}
        requests = await metric(
            bridge, client, 'bridge_upstream_requests_total{call="status_many",outcome="ok",upstream="acme"}'
        )
        assert requests == len(service.batches)
        polls = [
            await metric(bridge, client, f'bridge_polls_total{{result="{result}",upstream="acme"}}')
            for result in ("changed", "unchanged", "failed")
        ]
        assert sum(polls) == service.alone.total() + sum(map(len, service.batches))
        assert max(service.alone.values()) <= 3  # the first poll of each, and a few that were due alone
        async with client.get(f"{bridge.url}/status") as answer:
            status = (await answer.json())["upstreams"]["acme"]["status_many"]
        assert status == {"max_ids": 50, "failures": 0, "rests_seconds": 0.0, "last_error": None}


def keyed(items: Items) -> Any:
    return {"jobs": {item.pop("id"): item for item in items}}


def disorderly(items: Items) -> Any:
    foreign = {"id": "job-99", "phase": "done", "done": 100}
    doubled = [item | {"phase": "failed"} for item in items]
    return {"jobs": [foreign, 7, *reversed(items), None, *doubled]}


@pytest.mark.parametrize("shape", [keyed, disorderly])
async def test_both_forms_and_any_order_are_read(shape: Any) -> None:
    async with scene() as (service, bridge, client):
        service.shape = shape
        assert await ended(bridge, client, service) == dict.fromkeys(TASKS, 1)


def without_some(items: Items) -> Any:
    return {"jobs": [item for item in items if item["id"] not in TASKS[:3]]}


def with_sick_ones(items: Items) -> Any:
    return {"jobs": [{"id": item["id"]} if item["id"] in TASKS[:3] else item for item in items]}


@pytest.mark.parametrize("shape", [without_some, with_sick_ones])
async def test_what_is_left_out_or_sick_is_polled_alone_and_ends_too(shape: Any) -> None:
    async with scene() as (service, bridge, client):
        service.shape = shape
        assert await ended(bridge, client, service, 8) == dict.fromkeys(TASKS, 1)
        assert min(service.alone[one] for one in TASKS[:3]) > max(service.alone[one] for one in TASKS[3:])


def huge(items: Items) -> Any:
    return {"jobs": items, "more": "x" * 3_000_000}


async def slow(_items: Items) -> web.Response:
    await asyncio.sleep(5)
    return web.Response(status=500)


@pytest.mark.parametrize(
    "shape",
    [
        lambda _: web.Response(status=404),
        lambda _: web.Response(status=403),
        lambda _: web.Response(text="<html>", content_type="text/html"),
        huge,
        pytest.param(slow, marks=pytest.mark.extended),
    ],
    ids=["404", "403", "page", "huge", "slow"],
)
async def test_a_call_that_does_not_work_costs_no_task_its_end(shape: Any) -> None:
    async with scene(max_response_bytes=1_000_000) as (service, bridge, client):
        service.shape = shape
        assert await ended(bridge, client, service, 1) == dict.fromkeys(TASKS, 1)
        assert len(service.batches) == 1
        async with client.get(f"{bridge.url}/status") as answer:
            status = (await answer.json())["upstreams"]["acme"]["status_many"]
        assert status["failures"] == 1
        assert status["last_error"]
        assert status["rests_seconds"] > 10


async def test_a_429_pauses_all_and_the_calls_go_on() -> None:
    async with scene() as (service, bridge, client):

        def limited(items: Items) -> Any:
            if len(service.batches) == 2:
                return web.Response(status=429, headers={"Retry-After": "1"})
            return {"jobs": items}

        service.shape = limited
        assert await ended(bridge, client, service, 6) == dict.fromkeys(TASKS, 1)
        assert len(service.batches) >= 6
