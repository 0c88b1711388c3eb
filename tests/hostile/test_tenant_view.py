"""What a caller learns of tasks that are not theirs: no more than of tasks that do not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from tests.e2e.scene import QUICK
from tests.e2e.test_upstream_keys import KEYS
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.harness import PATIENCE, running_bridge

pytestmark = pytest.mark.anyio

PATIENT = {
    "first_state_timeout_seconds": PATIENCE
}  # on a busy machine too, each route waits for the provider
SAID = {"request_id": None, "id": None, "task": None}
STREAM = "/v1/tasks/stream/"
ROUTES = [
    ("GET", "/v1/tasks/bytespike/{}", {}),
    ("GET", "/v1/tasks/bytespike/{}", {"Prefer": "wait=1", "If-None-Match": '"a-1"'}),
    ("GET", "/v1/tasks/bytespike/{}/events", {}),
    ("HEAD", "/v1/tasks/bytespike/{}/events", {}),
    ("GET", "/v1/events?task=bytespike/{}", {"Last-Event-ID": "a-999999"}),
    ("POST", "/v1/tasks/bytespike/{}/cancel", {}),
    ("POST", "/v1/tickets", {}),
    ("GET", "/proxy/bytespike/v1/tasks/query?task_id={}", {}),
    ("POST", "/proxy/bytespike/v1/tasks/cancel/{}", {}),
    ("GET", "/proxy/bytespike/v1/tasks/stream/{}", {}),
    ("GET", "/v1/aliases/bytespike/{}", {}),
    ("GET", "/proxy/bytespike/v1/tasks/query?out_task_id={}", {}),
    ("POST", "/proxy/bytespike/v1/tasks/cancel", {"alias": "1"}),
]


class Provider:
    """Shows all tasks to `key-of-all`, to others only theirs: 403 for what exists, 404 for what does not."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        text = request.path_qs + (await request.text())
        self.asked.append(text)
        task = next((name for name in ("theirs", "mine") if name in text), None)
        if task is None:
            return web.json_response({"error": {"code": "nothing", "message": "no such task"}}, status=404)
        if task == "theirs" and "key-of-all" not in str(request.headers):
            return web.json_response({"error": {"code": "forbidden", "message": "not your task"}}, status=403)
        document = {"task_id": task, "out_task_id": task, "status": "processing", "progress": 1}
        return web.json_response(document)


@asynccontextmanager
async def place(**settings: Any) -> AsyncIterator[tuple[Provider, str, aiohttp.ClientSession]]:
    provider = Provider()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", provider.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    upstream = QUICK | {"base_url": site.name, "api_key": "key-of-all", "poll_min_seconds": 30}
    try:
        async with (
            running_bridge(
                {"bytespike": upstream | {"poll_max_seconds": 60}}, **PATIENT | settings
            ) as bridge,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
        ):
            yield provider, bridge.url, http
    finally:
        await runner.cleanup()


async def _answer(http: aiohttp.ClientSession, url: str, route: Any, task: str, key: dict[str, str]) -> Any:
    """Status, header names and body of one answer, without what names the request and the task."""
    method, path, headers = route
    body = (
        {"tasks": [f"bytespike/{task}"]} if "tickets" in path else {"out_task_id": task} if headers else None
    )
    async with http.request(method, url + path.format(task), json=body, headers=key | headers) as reply:
        text = (await reply.read()).replace(task.encode(), b"TASK")
        document = orjson.loads(text) if text.startswith(b"{") else text
        said = document | SAID if isinstance(document, dict) else document
        return reply.status, sorted(reply.headers), said


@pytest.mark.parametrize(
    ("settings", "key", "status", "by_alias"),
    [
        (KEYS, {"Authorization": "Bearer key-of-one"}, 404, 404),
        (TOKEN_SETTINGS, bearer("bytespike/mine", scope="read submit cancel"), 403, 403),
        (TOKEN_SETTINGS, bearer("bytespike/mine", scope="read submit cancel", tags=["mine"]), 403, 404),
    ],
    ids=["key", "refs", "tags"],
)
async def test_a_task_of_others_and_one_that_does_not_exist_are_answered_alike(
    settings: dict[str, Any], key: dict[str, str], status: int, by_alias: int
) -> None:
    async with place(**settings) as (provider, url, http):
        if settings is TOKEN_SETTINGS:
            for number in range(len(ROUTES)):  # the bridge knows theirs
                known = await _answer(http, url, ROUTES[0], f"theirs-{number}-", bearer("bytespike/*"))
                assert known[0] == 200
        provider.asked.clear()
        answers = await asyncio.gather(
            *(
                _answer(http, url, route, f"{name}-{number}-", key)
                for number, route in enumerate(ROUTES)
                for name in ("theirs", "absent")
            )
        )
        for number, route in enumerate(ROUTES):
            theirs, absent = answers[2 * number : 2 * number + 2]
            assert theirs == absent, route
            is_alias = "out_task_id" in route[1] or "aliases" in route[1] or "alias" in route[2]
            assert theirs[0] == (by_alias if is_alias else status), route
            asked = [text for text in provider.asked if not text.startswith(STREAM)]
            counts = [sum(f"{name}-{number}-" in text for text in asked) for name in ("theirs", "absent")]
            if is_alias:
                assert counts == [1, 1], route
            elif status == 403:
                assert counts == [0, 0], route


@pytest.mark.parametrize(("more", "status"), [({}, 403), ({"tags": ["mine"]}, 404)])
async def test_who_asks_again_and_again_by_alias_causes_the_same_calls(
    more: dict[str, Any], status: int
) -> None:
    async with place(**TOKEN_SETTINGS) as (provider, url, http):
        few, all_of_it = bearer("bytespike/mine", **more), bearer("bytespike/*")
        for route in ROUTES[-2:-1]:
            for task in ("theirs", "absent"):  # in the cache, whether there is one or not
                await _answer(http, url, route, task, all_of_it)
            provider.asked.clear()
            answers = [await _answer(http, url, route, task, few) for task in ("theirs", "absent") * 3]
            assert answers == [answers[0]] * 6
            assert answers[0][0] == status
            # the bridge's own stream of the task that `all_of_it` asked for opens whenever it opens
            assert [text for text in provider.asked if not text.startswith(STREAM)] == []
