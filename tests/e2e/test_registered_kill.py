"""`kill -9` right after each answer: what was answered for is still so in the next process."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.scene import QUICK, path_of, until
from tests.harness import (
    Provider,
    answer,
    qingbo,
    qingbo_done,
    running_bridge,
    running_simulator,
    upstreams_of,
)

pytestmark = [pytest.mark.anyio, pytest.mark.extended]


class Lives:
    """One bridge with a file, killed and started again."""

    def __init__(self, simulator: Any, http: aiohttp.ClientSession, path: Path) -> None:
        self.http = http
        self.provider = Provider(simulator, "qingbo", http)
        self.upstreams = upstreams_of(simulator, **QUICK)
        self.settings = {"journal": f"sqlite:{path}", "first_state_timeout_seconds": 0.3}

    async def call(self, url: str, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.http.request(method, f"{url}{path}", **more) as reply:
            body = await reply.read()
            return reply.status, (await reply.json(content_type=None)) if body else None

    async def then_killed(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """One request; the bridge is killed as soon as it is answered."""
        async with running_bridge(self.upstreams, **self.settings) as bridge:
            done = await self.call(bridge.url, method, path, **more)
            await bridge.stop(signal.SIGKILL)
            return done

    async def tasks(self, url: str, query: str = "") -> dict[str, str]:
        _, page = await self.call(url, "GET", f"/v1/tasks{query}")
        return {state["task"]: state["status"] for state in page["tasks"]}


@pytest.fixture
async def lives(tmp_path: Path) -> Any:
    async with running_simulator() as simulator, aiohttp.ClientSession() as http:
        yield Lives(simulator, http, tmp_path / "bridge.db")


async def test_after_a_registration_it_is_watched_to_its_end_with_its_words(lives: Lives) -> None:
    ref = await lives.provider.script("task", answer({}, status=500))  # never answered before the kill
    words = {"tags": ["a"], "group": "g", "deadline_seconds": 3600}
    status, body = await lives.then_killed("PUT", path_of(ref), json=words)
    assert (status, body["state"]["status"]) == (201, "unknown")
    await lives.provider.then("task", qingbo("task", "processing", 10), qingbo_done("task"))
    async with running_bridge(lives.upstreams, **lives.settings) as bridge:
        await until(lambda: lives.tasks(bridge.url, "?tag=a&group=g"), {ref: "completed"})


async def test_after_new_words_they_are_the_words(lives: Lives) -> None:
    ref = await lives.provider.script("task", qingbo("task", "processing", 10))
    await lives.then_killed("PUT", path_of(ref), json={"tags": ["first"]})
    status, _ = await lives.then_killed("PUT", path_of(ref), json={"tags": ["second"]})
    assert status == 200
    async with running_bridge(lives.upstreams, **lives.settings) as bridge:
        assert await lives.tasks(bridge.url, "?tag=first") == {}
        assert await lives.tasks(bridge.url, "?tag=second") == {ref: "processing"}


async def test_a_task_that_does_not_exist_is_forgotten_after_the_restart(lives: Lives) -> None:
    ref = await lives.provider.script("task", answer({}, status=500))
    status, _ = await lives.then_killed("PUT", path_of(ref), json={"tags": ["a"]})
    assert status == 201
    await lives.provider.then("task", answer({"error": {"message": "no such task"}}, status=404))
    async with running_bridge(lives.upstreams, **lives.settings) as bridge:
        await until(lambda: lives.tasks(bridge.url), {})


async def test_a_deadline_passes_over_a_restart(lives: Lives) -> None:
    ref = await lives.provider.script("task", qingbo("task", "processing", 10))
    await lives.then_killed("PUT", path_of(ref), json={"deadline_seconds": 1})
    async with running_bridge(lives.upstreams, **lives.settings) as bridge:
        await until(lambda: lives.tasks(bridge.url), {ref: "lost"})
        _, state = await lives.call(bridge.url, "GET", path_of(ref))
        assert state["error"]["code"] == "deadline"
    assert (await lives.then_killed("DELETE", path_of(ref)))[0] == 204
    async with running_bridge(lives.upstreams, **lives.settings) as bridge:
        assert await lives.tasks(bridge.url) == {}


async def test_after_a_deletion_it_is_gone(lives: Lives) -> None:
    ref = await lives.provider.script("task", qingbo_done("task"))
    status, _ = await lives.then_killed("PUT", path_of(ref), json={"tags": ["a"]})
    assert status == 201
    async with running_bridge(lives.upstreams, **lives.settings) as bridge:
        await until(lambda: lives.tasks(bridge.url), {ref: "completed"})
    assert (await lives.then_killed("DELETE", path_of(ref)))[0] == 204
    async with running_bridge(lives.upstreams, **lives.settings) as bridge:
        assert await lives.tasks(bridge.url) == await lives.tasks(bridge.url, "?tag=a") == {}


async def test_after_a_submit_its_words_are_kept(lives: Lives) -> None:
    headers = {"X-Task-Tags": "a, b", "X-Task-Group": "g"}
    body = {"model": "wan2.7", "prompt": "x"}
    status, made = await lives.then_killed("POST", "/v1/tasks/qingbo", json=body, headers=headers)
    assert status == 201, made
    async with running_bridge(lives.upstreams, **lives.settings) as bridge:
        assert list(await lives.tasks(bridge.url, "?tag=b&group=g")) == [made["state"]["task"]]
