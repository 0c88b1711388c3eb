"""The receivers of webhooks, with a real bridge: they work on each state once, though it comes again."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bridge.clock import SystemClock
from bridge.webhooks.signature import new_secret, signed_headers
from tests.chaos.proxy import free_port
from tests.conftest import missing
from tests.docs.pages import ROOT
from tests.docs.programs import Program, started
from tests.docs.recipes import PYTHON, RECIPES, needed
from tests.e2e.scene import stage, until
from tests.harness import qingbo, qingbo_done

pytestmark = [pytest.mark.anyio, pytest.mark.extended]

NPM = ROOT / "tests" / "tools" / "node_modules"
OLD, NEW = new_secret(), new_secret()


@dataclass
class Recipe:
    """One receiver, in a folder of its own, which keeps what it recorded."""

    language: str
    folder: Path
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self, *secrets: str) -> AsyncIterator[Program]:
        environment = {"WEBHOOK_SECRETS": " ".join(secrets or (OLD,)), "PORT": str(self.port)}
        command: tuple[str, ...] = (needed("node"), "receiver.mjs")
        if self.language == "python":
            command = (PYTHON, "-m", "uvicorn", "receiver:app", "--port", str(self.port))
        async with started(*command, environment=environment, cwd=self.folder) as program:
            await program.says(lambda line: "listening on" in line or "running on" in line)
            yield program

    async def done(self) -> set[str]:
        """The deliveries whose work is recorded as done: it is printed before that."""
        if self.language == "python":
            with sqlite3.connect(self.folder / "inbox.db") as database:
                found = database.execute("SELECT id FROM deliveries WHERE due IS NULL").fetchall()
            database.close()
            return {delivery for (delivery,) in found}
        lines = (self.folder / "inbox.ndjson").read_text("utf-8").split("\n")[:-1]
        return {entry["id"] for entry in map(json.loads, lines) if entry.get("done")}

    def leave_waiting(self, delivery: str, body: bytes) -> None:
        """As if the receiver had been killed after its answer and before the work."""
        if self.language == "python":
            with sqlite3.connect(self.folder / "inbox.db") as database:
                insert = "INSERT INTO deliveries (id, body, received, due) VALUES (?, ?, ?, 0)"
                database.execute(insert, (delivery, body, SystemClock().time()))
            database.close()
            return
        with (self.folder / "inbox.ndjson").open("a") as file:
            at = int(SystemClock().time() * 1000)
            file.write(json.dumps({"id": delivery, "at": at, "body": body.decode()}) + '\n{"id":"msg_ha')


@pytest.fixture(params=["webhook-python", "webhook-node"])
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    language = request.param.removeprefix("webhook-")
    folder = shutil.copytree(RECIPES / request.param, tmp_path / language)
    if language == "node":
        if not (NPM / "standardwebhooks").is_dir():
            missing("standardwebhooks of npm")
        (folder / "node_modules").symlink_to(NPM)
    return Recipe(language, folder)


def event(task: str, status: str = "completed", second: int = 1, **more: object) -> bytes:
    moment = f"2026-11-30T10:00:{second:02}.000Z"
    data = {"task": task, "status": status, "changed_at": moment, "outputs": [], **more}
    return json.dumps({"type": "task.final", "timestamp": moment, "data": data}, ensure_ascii=False).encode()


async def post(recipe: Recipe, body: bytes, headers: Mapping[str, str]) -> int:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{recipe.url}/webhooks", data=BytesIO(body), headers=headers) as answer,
    ):
        return answer.status


async def deliver(recipe: Recipe, delivery: str, body: bytes, *secrets: str, late: int = 0) -> int:
    moment = int(SystemClock().time()) - late
    return await post(recipe, body, signed_headers(delivery, moment, body, secrets or (OLD,)))


def worked(program: Program, task: str) -> list[str]:
    return [line for line in program.out if f" {task} " in f"{line} "]


async def known(recipe: Recipe) -> Any:
    async with aiohttp.ClientSession() as http, http.get(f"{recipe.url}/tasks") as answer:
        return await answer.json()


async def test_a_task_of_the_bridge_arrives_once_although_the_receiver_was_away(recipe: Recipe) -> None:
    webhooks = {
        "shop": {"url": f"{recipe.url}/webhooks", "secret": OLD, "events": ["task.final", "task.status"]}
    }
    async with stage(webhooks=webhooks, private_hosts=["127.0.0.1"]) as scene:
        task, other = scene.id(), scene.id()
        ref = await scene.script("qingbo", task, qingbo(task, "processing", 1))
        async with recipe.running() as program, scene.stream(f"/v1/tasks/{ref}/events") as stream:
            await stream.state()
            await program.line(f"task.status {ref} processing")
            await scene.then("qingbo", task, qingbo_done(task))
            await program.line(f"task.final {ref} completed")
            state = (await known(recipe))[ref]
            assert [output["url"] for output in state["outputs"]] == ["https://cdn.example/v.mp4"]
            assert len(worked(program, ref)) == 2
        away = await scene.script("qingbo", other, qingbo_done(other))
        async with scene.stream(f"/v1/tasks/{away}/events") as stream:
            await stream.state()
        await scene.reaches('bridge_webhook_deliveries_total{result="failed"}', 1)
        async with recipe.running() as program:
            await program.line(f"task.final {away} completed")
            assert len(worked(program, away)) == 1


async def test_what_is_sent_again_is_worked_on_once_also_after_a_kill(recipe: Recipe) -> None:
    body = event("qingbo/ü-\u2603", prompt="\u2028 \U0001f5fc " + "x" * 1_000_000)
    async with recipe.running() as program:
        again = (deliver(recipe, "msg_1", body) for _ in range(10))
        assert set(await asyncio.gather(*again)) == {204}
        await program.line("task.final qingbo/ü-\u2603")
        assert await deliver(recipe, "msg_2", event("qingbo/2")) == 204
        await program.line("task.final qingbo/2")
        assert len(worked(program, "qingbo/ü-\u2603")) == 1
        await until(recipe.done, {"msg_1", "msg_2"})  # else what was worked on last is worked on again
        assert await program.told(signal.SIGKILL) == -signal.SIGKILL
    recipe.leave_waiting("msg_3", event("qingbo/3"))
    async with recipe.running() as program:
        await program.line("task.final qingbo/3")
        for delivery in ("msg_1", "msg_2", "msg_3"):
            assert await deliver(recipe, delivery, event("qingbo/1")) == 204
        assert await deliver(recipe, "msg_4", event("qingbo/4")) == 204
        await program.line("task.final qingbo/4")
        lines = [line.split()[1] for line in program.out if line.startswith("task.")]
        assert lines == ["qingbo/3", "qingbo/4"]
        assert await program.told(signal.SIGTERM) in (0, -signal.SIGTERM)


async def test_a_state_that_comes_late_does_not_replace_a_newer_one(recipe: Recipe) -> None:
    async with recipe.running() as program:
        await deliver(recipe, "msg_1", event("qingbo/1", "completed", 9))
        await deliver(recipe, "msg_2", event("qingbo/1", "processing", 1))
        await deliver(recipe, "msg_3", event("qingbo/2", "lost", 1))
        await deliver(recipe, "msg_4", event("qingbo/2", "completed", 2))
        await program.line("task.final qingbo/2 completed")

        async def look() -> Any:
            return {task: state["status"] for task, state in (await known(recipe)).items()}

        await until(look, {"qingbo/1": "completed", "qingbo/2": "completed"})


async def test_what_the_bridge_did_not_sign_is_refused(recipe: Recipe) -> None:
    body = event("qingbo/1")
    async with recipe.running(NEW, OLD) as program:
        for secrets in ((OLD,), (NEW,), (NEW, OLD), (new_secret(), OLD)):
            assert await deliver(recipe, f"msg_{len(secrets)}", body, *secrets) == 204
        assert await deliver(recipe, "msg_9", body, new_secret()) == 401
        assert await deliver(recipe, "msg_9", body, late=3600) == 401
        headers = signed_headers("msg_9", int(SystemClock().time()), body, [OLD])
        assert await post(recipe, body.replace(b"completed", b"failed"), headers) == 401
        assert await post(recipe, json.dumps(json.loads(body), indent=1).encode(), headers) == 401
        assert await post(recipe, body, {**headers, "webhook-id": "msg_8"}) == 401
        assert await post(recipe, body, {}) == 401
        assert await post(recipe, body, {**headers, "webhook-signature": "v1"}) == 401
        assert await post(recipe, b"\xff\xfe", headers) == 401
        assert await post(recipe, b"x" * (32 * 1024 * 1024 + 1), headers) == 413
        test = b'{"type":"webhook.test","data":{}}'
        assert await deliver(recipe, "msg_test", test) == 204
        assert await deliver(recipe, "msg_end", event("qingbo/end")) == 204
        await program.line("task.final qingbo/end")
        assert len(worked(program, "qingbo/1")) == 2
