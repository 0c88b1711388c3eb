"""The inspector's routes from outside: what is served, to whom, and not at all when unwanted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.scene import QUICK, Scene, stage, until
from tests.fakes.credentials import TOKEN_SETTINGS, bearer
from tests.harness import (
    PATIENCE,
    Provider,
    qingbo,
    qingbo_done,
    running_bridge,
    running_simulator,
    upstreams_of,
)

pytestmark = pytest.mark.anyio

PAGE = "https://app.example"
CALM = {"poll_min_seconds": 5.0, "poll_max_seconds": 5.0}
ROUTES = ("/", "/inspector/main.js", "/inspector/tasks", "/inspector/pulse")


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(each=CALM, keepalive_seconds=1, allowed_origins=["*"]) as made:
        yield made


@pytest.fixture(scope="module")
async def guarded(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(**TOKEN_SETTINGS) as made:
        yield made


async def watch(scene: Scene, name: str, upstream: str = "qingbo", **headers: str) -> str:
    ref = await scene.script(upstream, name, qingbo(name, "processing", 5))
    assert (await scene.call("GET", f"/v1/tasks/{ref}", headers=headers)).status == 200
    return ref


async def listed(scene: Scene, **headers: str) -> list[str]:
    answer = await scene.call("GET", "/inspector/tasks", headers=headers)
    assert answer.status == 200, answer.body
    return [one["task"] for one in answer.json["tasks"]]


async def test_the_page_and_its_files(scene: Scene) -> None:
    page = await scene.get("/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    files = re.findall(r'(?:src|href)="(inspector/[^"]+)"', page.body.decode())
    assert len(files) > 4
    for path in ["", *files]:
        answer = await scene.get(f"/{path}")
        assert answer.status == 200, path
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-cache"
        again = await scene.get(f"/{path}", If_None_Match=f"W/{answer.headers['ETag']}")
        assert (again.status, again.body) == (304, b"")
        head = await scene.call("HEAD", f"/{path}")
        assert (head.body, head.headers["Content-Length"]) == (b"", str(len(answer.body)))


async def test_every_module_that_is_imported_is_served(scene: Scene) -> None:
    waiting, seen = ["main.js"], set()
    while waiting:
        name = waiting.pop()
        answer = await scene.get(f"/inspector/{name}")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/javascript; charset=utf-8"), (
            name
        )
        seen.add(name)
        waiting += [one for one in re.findall(r'from "\./([^"]+)"', answer.body.decode()) if one not in seen]
    assert len(seen) > 10


async def test_the_policy_lets_nothing_in_but_ours_and_pictures(scene: Scene) -> None:
    page = await scene.get("/")
    policy = dict(one.split(" ", 1) for one in page.headers["Content-Security-Policy"].split("; "))
    for name in ("script-src", "style-src", "connect-src"):
        assert policy[name] == "'self'"
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        assert policy[name] == "'none'"
    text = page.body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text), "the page needs nothing of the internet"


@pytest.mark.parametrize(
    "path", ["/inspector/", "/inspector/../settings.py", "/inspector/..%2Finspector.py", "/inspector/none.js"]
)
async def test_only_files_that_were_named_exist(scene: Scene, path: str) -> None:
    answer = await scene.get(path)
    assert (answer.status, answer.json["code"]) == (404, "route_not_found")


async def test_the_list_of_watched_tasks(scene: Scene) -> None:
    first, second = await watch(scene, "first"), await watch(scene, "second")
    async with scene.events(first) as stream:
        await stream.state()
        answer = (await scene.get("/inspector/tasks")).json
    found = {one["task"]: one for one in answer["tasks"]}
    assert [one["task"] for one in answer["tasks"]][:2] == [second, first]
    assert (found[first]["viewers"], found[second]["viewers"]) == (1, 0)
    assert (found[first]["status"], found[first]["progress"]) == ("processing", 5.0)
    assert answer["caller"]["submits"] == ["qingbo", "vapi", "bytespike"]
    assert answer["bridge"]["keepalive_seconds"] == 1.0


async def test_what_ended_stays_in_the_list_and_its_watch_does_not() -> None:
    async with stage(linger_seconds=0.1) as made:
        opened, ref = await watch(made, "open"), await watch(made, "ending")
        error = {"code": "e", "message": "why"}
        await made.then("qingbo", "ending", qingbo("ending", "failed", 5, error=error))
        async with made.events(ref) as stream:
            await stream.state_with(status="failed")

        async def row() -> tuple[str, bool, Any]:
            rows = {row["task"]: row for row in (await made.get("/inspector/tasks")).json["tasks"]}
            assert list(rows) == [opened, ref]
            return rows[ref]["status"], rows[ref]["watched"], rows[ref]["error"]

        await until(row, ("failed", False, error))


async def test_an_unchanged_list_is_304(scene: Scene) -> None:
    async def again() -> int:
        first = await scene.get("/inspector/tasks")
        assert first.headers["Cache-Control"] == "no-store"
        second = await scene.get("/inspector/tasks", If_None_Match=f"W/{first.headers['ETag']}")
        return second.status

    await until(again, 304)


async def test_after_a_restart_the_list_is_the_same_and_so_is_the_age_of_its_tasks(tmp_path: Path) -> None:
    async with running_simulator() as simulator, aiohttp.ClientSession() as http:
        settings = {"journal": f"sqlite:{tmp_path / 'bridge.db'}"}
        provider = Provider(simulator, "qingbo", http)
        refs = [await provider.script(name, qingbo(name, "processing", 5)) for name in ("runs", "ends")]
        seen: list[dict[str, tuple[str, str]]] = []
        for life in range(2):
            async with running_bridge(upstreams_of(simulator, **QUICK), **settings) as bridge:
                if life == 0:
                    for ref in refs:
                        await http.get(f"{bridge.url}/v1/tasks/{ref}")
                    await provider.then("ends", qingbo_done("ends"))

                async def rows(url: str = bridge.url) -> dict[str, tuple[str, str]]:
                    async with http.get(f"{url}/inspector/tasks") as answer:
                        rows = (await answer.json())["tasks"]
                    return {row["task"]: (row["status"], row["first_seen_at"]) for row in rows}

                async def status(url: str = bridge.url) -> str | None:
                    return (await rows(url)).get(refs[1], (None,))[0]

                await until(status, "completed")
                seen.append(await rows())
                await bridge.stop()
        assert set(seen[0]) == set(refs)
        assert seen[1] == seen[0]


async def test_an_upstream_that_rejects_the_key_is_red_and_says_why() -> None:
    async with stage(**TOKEN_SETTINGS, also={"off": {"preset": "qingbo", "enabled": False}}) as made:
        await made.faults(qingbo=["401"])
        task = made.id()
        await made.script("qingbo", task, qingbo(task, "processing"))
        async with made.events(f"qingbo/{task}", headers=bearer("*")) as stream:
            await stream.notice("credential_refused")

        async def upstreams(*tasks: str, **more: Any) -> dict[str, tuple[str, str | None]]:
            reply = await made.call("GET", "/inspector/tasks", headers=bearer(*tasks, **more))
            return {one["name"]: (one["state"], one["reason"]) for one in reply.json["upstreams"]}

        everything = await upstreams("*")
        rejected = ("INTERRUPTED", "the provider rejects the bridge's key for the upstream 'qingbo'")
        assert everything["qingbo"] == rejected
        assert everything["off"] == ("OFF", "switched off (enabled = false)")
        assert everything["vapi"] == ("INITIALIZING", None)
        # `/status` is on the admin address: an operator's token reads no more of it here
        assert await upstreams("*", scope="read admin") == everything
        assert await upstreams("qingbo/*") == {"qingbo": rejected}
        assert await upstreams(f"qingbo/{task}") == {}


async def test_an_operator_reads_the_providers_own_words() -> None:
    async with stage() as made:
        await made.faults(qingbo=["500"])
        task = made.id()
        await made.script("qingbo", task, qingbo(task, "processing"))
        await made.get(f"/v1/tasks/qingbo/{task}")
        rows = {one["name"]: one for one in (await made.get("/inspector/tasks")).json["upstreams"]}
        said = (await made.get("/status")).json["upstreams"]["qingbo"]
        assert rows["qingbo"]["state"] == "INTERRUPTED"
        assert rows["qingbo"]["reason"] == said["last_error"]["message"]


@pytest.mark.parametrize("path", ROUTES[2:])
async def test_pages_of_others_do_not_learn_what_is_watched(scene: Scene, path: str) -> None:
    answer = await scene.get(path, Origin=PAGE)
    assert (answer.status, answer.json["code"]) == (403, "forbidden")


@pytest.mark.extended  # a pulse takes five seconds
async def test_the_pulse_says_when_each_block_left(scene: Scene) -> None:
    began = asyncio.get_running_loop().time()
    async with scene.stream("/inspector/pulse") as stream:
        assert stream.status == 200
        assert stream.headers["cache-control"] == "no-store, no-transform"
        assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
        beats = [await stream.event(None) for _ in range(10)]
        end = await stream.event("end")
    took = asyncio.get_running_loop().time() - began
    assert [one["beat"] for one in beats] == list(range(10))
    left = [one["elapsed_ms"] for one in [*beats, end]]
    assert left == sorted(left)
    assert left[9] >= 4500
    assert left[10] - left[9] >= 1000
    assert took * 1000 >= left[10]


async def test_only_so_many_pulses_at_once_and_their_places_come_back(scene: Scene) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(scene.stream("/inspector/pulse"))
        refused = await scene.get("/inspector/pulse")
        assert (refused.status, refused.json["code"]) == (429, "too_many_requests")
        assert "Retry-After" in refused.headers
    async with asyncio.timeout(PATIENCE):
        while True:
            async with scene.stream("/inspector/pulse") as stream:
                if stream.status == 200:
                    return


async def test_a_pulse_keeps_no_bridge_that_wants_to_end() -> None:
    async with (
        stage(keepalive_seconds=60, drain_seconds=0) as scene,
        scene.stream("/inspector/pulse") as stream,
    ):
        await stream.event(None)
        ending = asyncio.ensure_future(scene.bridge.stop())
        assert await stream.event("end")  # it is not cut off, and not waited for
        assert await ending == 0


async def test_callers_are_listed_their_own_tasks(guarded: Scene) -> None:
    mine = await watch(guarded, "mine", **bearer("*"))
    other = await watch(guarded, "other", **bearer("*"))
    assert set(await listed(guarded, **bearer("*"))) == {mine, other}
    assert await listed(guarded, **bearer(mine, "qingbo/not-watched")) == [mine]
    assert set(await listed(guarded, **bearer("qingbo/*"))) == {mine, other}
    assert await listed(guarded, **bearer("vapi/*")) == []


@pytest.mark.parametrize("path", ROUTES[2:])
async def test_nobody_is_told_anything_without_a_credential(guarded: Scene, path: str) -> None:
    for refused, headers in ((401, {}), (403, bearer("*", scope="submit"))):
        assert (await guarded.call("GET", path, headers=headers)).status == refused


async def test_the_page_itself_holds_nothing_and_is_for_everybody(guarded: Scene) -> None:
    assert (await guarded.get("/")).status == 200


async def test_callers_hear_what_they_may_do(guarded: Scene) -> None:
    async def caller(*tasks: str, scope: str) -> dict:
        answer = await guarded.call("GET", "/inspector/tasks", headers=bearer(*tasks, scope=scope))
        return answer.json["caller"]

    assert (await caller("qingbo/1", scope="read submit"))["submits"] == []
    assert (await caller("qingbo/*", scope="read submit"))["submits"] == ["qingbo"]
    assert (await caller("*", scope="read"))["submits"] == []
    assert (await caller("*", scope="read cancel"))["scopes"] == ["cancel", "read"]


async def test_inspector_false_removes_all_of_it() -> None:
    async with stage(inspector=False) as scene:
        for path in ROUTES:
            answer = await scene.get(path)
            assert (answer.status, answer.json["code"]) == (404, "route_not_found"), path
