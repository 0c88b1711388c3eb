"""The recipes for servers, scripts and shells do what they say, with the real bridge."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from tests.chaos.proxy import free_port
from tests.docs.cutting import cut_after_the_final_state
from tests.docs.pages import PAGES
from tests.docs.programs import ran, started
from tests.docs.recipes import (
    PYTHON,
    RECIPES,
    Backend,
    backend,
    backend_command,
    go_server,
    needed,
    python,
    serving,
    shell,
)
from tests.e2e.scene import QUICK, Scene, stage, until
from tests.harness import (
    Provider,
    answer,
    qingbo,
    qingbo_done,
    running_bridge,
    running_simulator,
    upstreams_of,
)

__all__ = ["backend", "go_server"]

FILES = sorted(
    str(path.relative_to(RECIPES))
    for path in RECIPES.rglob("*.*")
    if path.is_file() and not path.name.startswith(("README", ".")) and path.suffix != ".pyc"
)

QUIET_SECONDS = 1.2  # a second request made by mistake would have come after half a second

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage() as made:
        yield made


async def known(http: aiohttp.ClientSession, server: str) -> dict[str, Any]:
    """What a backend knows of its tasks."""
    async with http.get(f"{server}/tasks") as said:
        assert said.status == 200
        return dict(await said.json())


async def follow(http: aiohttp.ClientSession, server: str, ref: str) -> None:
    async with http.put(f"{server}/tasks/{ref}") as said:
        assert said.status == 202


async def comes_to(http: aiohttp.ClientSession, server: str, ref: str, status: str) -> dict[str, Any]:
    """Wait until a backend knows that a task is so; all that it knows of it."""

    async def look() -> Any:
        return (await known(http, server))[ref]["status"]

    await until(look, status)
    return dict((await known(http, server))[ref])


# -- the servers, in Node and Go


async def test_a_backend_follows_a_task_to_its_end(scene: Scene, backend: Backend) -> None:
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "queued"), qingbo(task, "processing", 40))
    async with backend(scene.bridge.url) as (server, _):
        await follow(scene.http, server, ref)
        assert (await comes_to(scene.http, server, ref, "processing"))["progress"] == 40
        await scene.then("qingbo", task, qingbo_done(task))
        ended = await comes_to(scene.http, server, ref, "completed")
        assert [output["url"] for output in ended["outputs"]] == ["https://cdn.example/v.mp4"]


async def test_a_backend_asks_for_each_task_once(scene: Scene, backend: Backend) -> None:
    one, other = scene.id(), scene.id("fal-ai/flux")
    refs = [await scene.script("qingbo", task, qingbo(task, "processing", 1)) for task in (one, other)]
    before = await scene.metric('bridge_connections_total{delivery="ndjson"}')
    async with backend(scene.bridge.url) as (server, program):
        for ref in (*refs, *refs):
            await follow(scene.http, server, ref)
        for ref in refs:
            await comes_to(scene.http, server, ref, "processing")
        assert await scene.metric('bridge_connections_total{delivery="ndjson"}') == before + 2
        assert await program.told() == 0
        await scene.reaches('bridge_connections{delivery="ndjson"}', 0)


async def test_a_backend_says_what_the_bridge_refuses_and_asks_no_more(
    scene: Scene, backend: Backend
) -> None:
    ref = await scene.script("qingbo", "nobody", answer({"code": "task_not_exist"}, status=404))
    async with backend(scene.bridge.url) as (server, _):
        await follow(scene.http, server, ref)
        refused = await comes_to(scene.http, server, ref, "refused")
        assert refused["error"]["message"].startswith("404 ")
        await follow(scene.http, server, "nobody-configured-this/1")
        refused = await comes_to(scene.http, server, "nobody-configured-this/1", "refused")
        assert refused["error"]["message"].startswith("404 ")


async def test_a_backend_survives_what_strangers_ask(scene: Scene, backend: Backend) -> None:
    async with backend(scene.bridge.url) as (server, program):
        host, port = server.removeprefix("http://").split(":")
        for path in ("/tasks/%", "/tasks/", "/tasks", "/%zz", "/tasks/%ff%fe"):
            assert re.match(rb"HTTP/1.1 (202|400|404) ", await _put(host, port, path))
        assert program.process.returncode is None
        async with scene.http.get(f"{server}/else") as said:
            assert said.status == 404


async def _put(host: str, port: str, path: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    said = await reader.read()
    writer.close()
    await writer.wait_closed()
    return said


# -- what all of them survive


async def test_all_of_them_survive_a_drain_and_a_kill(
    request: pytest.FixtureRequest, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    wishes: dict[str, Any] = {"port": free_port(), "journal": f"sqlite:{tmp_path}/bridge.db"}
    async with running_simulator() as simulator:
        provider = Provider(simulator, "qingbo", http)
        ref = await provider.script("one", qingbo("one", "processing", 10))
        upstreams = upstreams_of(simulator, **QUICK)
        environment = {"BRIDGE_URL": f"http://127.0.0.1:{wishes['port']}"}
        async with (
            running_bridge(upstreams, **wishes) as first,
            started(*shell(ref), environment=environment) as script,
            started(*python(ref), environment=environment) as render,
            serving(*backend_command(request, "node"), **environment) as (node, _),
            serving(*backend_command(request, "go"), **environment) as (go, _),
        ):

            async def all_at(progress: int) -> None:
                await script.line(f"processing {progress}")
                await render.line(f"processing {progress}%")
                for server in (node, go):
                    await until(partial(_progress, http, server, ref), progress)

            for server in (node, go):
                await follow(http, server, ref)
            await all_at(10)
            await first.stop(signal.SIGTERM)
            await provider.then("one", qingbo("one", "processing", 20))
            async with running_bridge(upstreams, **wishes) as second:
                await all_at(20)
                await second.stop(signal.SIGKILL)
            failed = qingbo("one", "failed", 20, error={"code": "nsfw", "message": "not that"})
            await provider.then("one", failed)
            async with running_bridge(upstreams, **wishes):
                assert await script.ends() == 1
                assert await render.ends() == 1
                for server in (node, go):
                    ended = await comes_to(http, server, ref, "failed")
                    assert ended["error"]["message"] == "not that"
        assert [orjson.loads(line)["status"] for line in script.out] == ["failed"]
        assert [line for line in script.err if line.startswith(ref)] == [
            f"{ref} processing 10",
            f"{ref} processing 20",
            f"{ref} failed 20",
        ]


async def _progress(http: aiohttp.ClientSession, server: str, ref: str) -> Any:
    return (await known(http, server))[ref].get("progress")


@pytest.mark.parametrize("reader", ["node", "go", "shell"])
async def test_a_connection_lost_after_the_final_state_is_no_reason_to_wait_for_ever(
    request: pytest.FixtureRequest, scene: Scene, reader: str
) -> None:
    task = await scene.submit("qingbo", "/v1/tasks", {"model": "veo3", "prompt": "x"}, outcome="completed")
    ref = f"qingbo/{task}"
    async with cut_after_the_final_state(scene.bridge.url) as cut:
        scene.advance(10_000)
        if reader == "shell":
            code, out, err = await ran(*shell(ref), environment={"BRIDGE_URL": cut.url})
            assert (code, len(out)) == (0, 1), err
        else:
            async with serving(*backend_command(request, reader), BRIDGE_URL=cut.url) as (server, _):
                await follow(scene.http, server, ref)
                await comes_to(scene.http, server, ref, "completed")
                await until(lambda: _count(cut.statuses), 2)
                await scene.reaches('bridge_connections{delivery="ndjson"}', 0)
                await asyncio.sleep(QUIET_SECONDS)
        assert cut.statuses == [200, 204]


async def _count(some: list[int]) -> int:
    return len(some)


# -- the shell script


async def test_the_script_waits_for_all_and_tells_each_end_once(scene: Scene) -> None:
    good, bad = scene.id(), scene.id()
    refs = [
        await scene.script("qingbo", good, qingbo(good, "processing", 5), qingbo_done(good)),
        await scene.script("qingbo", bad, qingbo(bad, "processing", 5), qingbo(bad, "failed", 5)),
    ]
    code, out, err = await ran(*shell(*refs), environment={"BRIDGE_URL": scene.bridge.url})
    ended = {one["task"]: one["status"] for one in map(orjson.loads, out)}
    assert (code, ended) == (1, dict(zip(refs, ("completed", "failed"), strict=True)))
    assert len(out) == 2
    assert f"{refs[0]} processing 5" in err
    code, out, _ = await ran(*shell(refs[0]), environment={"BRIDGE_URL": scene.bridge.url})
    assert (code, len(out)) == (0, 1)


async def test_the_script_says_what_the_bridge_refuses(scene: Scene) -> None:
    environment = {"BRIDGE_URL": scene.bridge.url}
    ref = await scene.script("qingbo", "not-there", answer({"code": "task_not_exist"}, status=404))
    code, out, err = await ran(*shell(ref), environment=environment)
    assert (code, out) == (2, [])
    assert err[0].startswith("404: ")
    task = scene.id()
    other = await scene.script("qingbo", task, qingbo_done(task))
    code, out, err = await ran(*shell(other, ref), environment=environment)
    assert (code, len(out)) == (2, 1)
    assert any(line.startswith(f"{ref}: ") for line in err)
    code, _, err = await ran(*shell("no ref"), environment=environment)
    assert (code, err[0][:5]) == (2, "400: ")
    code, _, err = await ran(*shell(), environment=environment)
    assert (code, err[0][:6]) == (2, "usage:")


async def test_the_script_gives_up_on_a_bridge_that_is_not_there(scene: Scene) -> None:
    environment = {"BRIDGE_URL": f"http://127.0.0.1:{free_port()}", "TRIES": "1"}
    code, out, err = await ran(*shell("qingbo/1"), environment=environment)
    assert (code, out) == (3, [])
    assert err[-1].startswith("no response from ")


async def test_the_script_takes_what_is_no_bridge_for_no_answer(scene: Scene) -> None:
    environment = {"BRIDGE_URL": f"{scene.simulator.url}/something-else", "TRIES": "1"}
    code, out, _ = await ran(*shell("qingbo/1"), environment=environment)
    assert (code, out) == (3, [])


# -- the Python script


async def test_the_script_submits_follows_and_fetches(scene: Scene, tmp_path: Path) -> None:
    wish = {
        "model": "veo3",
        "prompt": "x",
        "sim": {"queue_seconds": 1, "run_seconds": 4, "outcome": "completed"},
    }
    command = python("qingbo", orjson.dumps(wish).decode())
    environment = {"BRIDGE_URL": scene.bridge.url}
    async with started(*command, environment=environment, cwd=tmp_path) as program:
        task = await program.line("qingbo/")
        await program.line("queued")
        scene.advance(3)
        await program.line("processing")
        scene.advance(10)
        assert await program.ends() == 0, program.err
    assert program.out == [task, "1.webm"]
    assert (tmp_path / "1.webm").read_bytes().startswith(b"\x1a\x45\xdf\xa3")  # EBML, so a player takes it
    code, out, _ = await ran(*python(task), environment=environment, cwd=tmp_path)
    assert (code, list(out)) == (0, [task, "1.webm"])


async def test_the_script_says_why_there_is_nothing(scene: Scene, tmp_path: Path) -> None:
    environment = {"BRIDGE_URL": scene.bridge.url}
    task = scene.id()
    ref = await scene.script("qingbo", task, qingbo(task, "failed", 5, error={"message": "not that"}))
    code, _, err = await ran(*python(ref), environment=environment, cwd=tmp_path)
    assert (code, err[-1]) == (1, f"{ref} failed: not that")
    code, _, err = await ran(*python("nobody/1"), environment=environment, cwd=tmp_path)
    assert (code, err[-1].partition(":")[0]) == (2, "upstream_not_found")
    assert not os.listdir(tmp_path)  # noqa: PTH208 - one call, and nothing to wait for


# -- how they are written


def test_the_recipes_in_python_are_clean() -> None:
    ruff = [PYTHON, "-m", "ruff"]
    rules = "E,F,I,UP,B,SIM,RUF,RET,N,ANN,PTH"
    checks = (
        ["check", "--isolated", "--line-length", "110", "--target-version", "py311", "--select", rules],
        ["format", "--isolated", "--line-length", "110", "--check"],
    )
    for check in checks:
        done = subprocess.run([*ruff, *check, RECIPES], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_recipe_in_go_is_clean() -> None:
    go = Path(needed("go"))
    told = subprocess.run([go, "vet", "."], cwd=RECIPES / "go", capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    gofmt = go.resolve().with_name("gofmt")
    told = subprocess.run([gofmt, "-l", RECIPES / "go"], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_recipe_is_named_in_the_index_holds_no_key_and_logs_no_ticket(path: str) -> None:
    assert f"({path})" in PAGES["docs/recipes/README.md"]
    text = (RECIPES / path).read_text("utf-8")
    assert not re.search(r"eyJ[\w-]{10,}|sk-\w{8,}", text)
    spoken = r"(console\.\w+|print|log\.\w+|Printf?)\([^)\n]*(ticket|events\b|token)"
    assert not re.search(spoken, re.sub(r"no ticket", "", text), re.IGNORECASE)


def test_every_recipe_is_run_by_a_test() -> None:
    folders = (Path(__file__).parent, Path(__file__).parents[1] / "packages")
    tests = "".join(path.read_text("utf-8") for folder in folders for path in folder.glob("*.*"))
    run = {
        folder
        for folder in {path.partition("/")[0] for path in FILES}
        if re.search(rf'["/]{folder}["/]', tests)
    }
    assert {path.partition("/")[0] for path in FILES} == run
