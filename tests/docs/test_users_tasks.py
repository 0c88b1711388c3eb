"""docs/users-tasks.md does what it says: its programs, pages and commands with the real bridge."""

from __future__ import annotations

import asyncio
import json
import os
import re
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page

from bridge.client import Bridge
from tests.browser.chromium import launch_chromium, new_page, origin
from tests.conftest import missing
from tests.docs.pages import ROOT, snippets
from tests.docs.recipes import needed
from tests.e2e.scene import Scene, stage
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.harness import PATIENCE, answer, qingbo, qingbo_done

pytestmark = pytest.mark.anyio

PAGE = "docs/users-tasks.md"
EVERYWHERE = "http://127.0.0.1:8080"
BACKEND = token("qingbo/*", scope="read submit cancel")
PACKAGE = ROOT / "clients" / "js" / "dist"
TOOLS = ROOT / "tests" / "tools" / "node_modules"
PROGRAMS: dict[str, Any] = {}
for one in snippets("python", page=PAGE):
    exec(compile(one.text, str(one), "exec"), PROGRAMS)


def snippet(language: str, word: str) -> str:
    """The one block of the page in this language that has this word."""
    (found,) = [one.text for one in snippets(language, page=PAGE) if word in one.text]
    return found


def imported(script: str, module: str) -> str:
    """A script that imports a module of the package by its path."""
    return re.sub(r'"task-event-bridge[/\w]*"', f'"{(PACKAGE / module).as_uri()}"', script)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with launch_chromium() as made:
        yield made


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(allowed_origins='["*"]', **TOKEN_SETTINGS) as made:
        yield made


@pytest.fixture
async def bridge(scene: Scene) -> AsyncIterator[Bridge]:
    async with Bridge(scene.bridge.url, BACKEND) as made:
        yield made


async def complete(scene: Scene, ref: str) -> None:
    task = ref.partition("/")[2]
    await scene.then("qingbo", task, qingbo_done(task))


async def address_of(scene: Scene, bridge: Bridge, user: str) -> str:
    address: str = await PROGRAMS["stream_address"](bridge, user)
    return address.replace(EVERYWHERE, scene.bridge.url)


@asynccontextmanager
async def site(html: str, **answers: Callable[[], Any]) -> AsyncIterator[str]:
    """The application of the page: its HTML, and what its backend answers."""
    app = web.Application()

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html")

    def answering(made: Callable[[], Any]) -> Callable[[web.Request], Any]:
        async def handle(_: web.Request) -> web.Response:
            text = await made()
            return web.Response(text=text) if isinstance(text, str) else web.json_response(text)

        return handle

    app.router.add_get("/", page)
    for name, made in answers.items():
        app.router.add_post(f"/{name.replace('_', '-')}", answering(made))
    async with origin(app) as url:
        yield url


@asynccontextmanager
async def visited(browser: Browser, url: str) -> AsyncIterator[Page]:
    context = await browser.new_context()
    page, errors = await new_page(context)
    await page.goto(url)
    yield page
    await context.close()
    assert errors == []


async def lists(page: Page, *lines: str) -> None:
    """Wait until the page shows these rows, in any order."""
    rows = "[...document.querySelectorAll('li')].map((one) => one.innerText.trim()).sort().join('|')"
    try:
        await page.wait_for_function(f"(text) => {rows} === text", arg="|".join(sorted(lines)), polling=20)
    except Exception as error:
        raise AssertionError(f"not {lines} but {await page.inner_text('body')!r}") from error


async def test_a_page_shows_all_that_its_user_has_running_and_what_comes_later(
    scene: Scene, bridge: Bridge, browser: Browser
) -> None:
    user, other = scene.id(), scene.id()
    first = await PROGRAMS["render"](bridge, user, "a lighthouse")
    await PROGRAMS["render"](bridge, other, "not for this page")
    tickets: list[str] = []
    renewed = asyncio.Event()

    async def stream() -> dict[str, str]:
        if tickets:
            renewed.set()
            tickets.append(await address_of(scene, bridge, user))
        else:  # the first one expires at once
            ticket = await bridge.ticket(tags=[f"user:{user}"], seconds=1)
            tickets.append(f"{scene.bridge.url}{ticket.events}")
        return {"events": tickets[-1]}

    async with site(snippet("html", "EventSource"), stream=stream) as url, visited(browser, url) as page:
        await lists(page, f"{first} queued 0%")
        second = await PROGRAMS["render"](bridge, user, "a paper boat")
        await lists(page, f"{first} queued 0%", f"{second} queued 0%")
        async with asyncio.timeout(PATIENCE):
            await renewed.wait()
        third = await PROGRAMS["render"](bridge, user, "another one")
        await complete(scene, first)
        await lists(page, f"{first} completed 100%", f"{second} queued 0%", f"{third} queued 0%")


async def test_bridge_js_follows_the_address_of_the_backend(scene: Scene, bridge: Bridge) -> None:
    user = scene.id()
    first = await PROGRAMS["render"](bridge, user, "a lighthouse")
    address = await address_of(scene, bridge, user)
    script = imported(snippet("js", "watch(address"), "index.js")
    answered = f"new Response(JSON.stringify({{ events: {json.dumps(address)} }}))"
    backend = f'url == "/stream" ? {answered} : real(url, more)'
    script = f"const real = fetch; globalThis.fetch = (url, more) => ({backend});\n{script}"
    command = (needed("node"), "--input-type=module", "-e", script)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            assert (await process.stdout.readline()).decode() == f"{first} queued 0\n"
            second = await PROGRAMS["render"](bridge, user, "a paper boat")
            assert (await process.stdout.readline()).decode() == f"{second} queued 0\n"
            await complete(scene, first)
            assert (await process.stdout.readline()).decode() == f"{first} completed 100\n"
    finally:
        process.kill()
        await process.communicate()


async def test_the_component_shows_a_map_of_states_that_grows(
    scene: Scene, bridge: Bridge, browser: Browser, tmp_path: Path
) -> None:
    if not (TOOLS / "esbuild").is_dir():
        missing("npm esbuild")
    user = scene.id()
    (tmp_path / "MyTasks.jsx").write_text(snippet("jsx", "useTasks").replace(EVERYWHERE, scene.bridge.url))
    main = (
        'import { createRoot } from "react-dom/client"; import { MyTasks } from "./MyTasks.jsx";'
        f'createRoot(document.querySelector("main")).render(<MyTasks user={json.dumps(user)} />);'
    )
    (tmp_path / "main.jsx").write_text(main)
    alias = f"--alias:task-event-bridge/react={PACKAGE / 'react.js'}"
    process = await asyncio.create_subprocess_exec(
        *(TOOLS / ".bin" / "esbuild", "main.jsx", "--bundle", "--format=esm", "--jsx=automatic", alias),
        cwd=tmp_path,
        env=os.environ | {"NODE_PATH": str(TOOLS)},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    module = out.decode().replace("</script", "<\\/script")
    html = f"<!doctype html><meta charset=utf-8><main></main><script type=module>{module}</script>"

    async def bridge_token() -> str:
        return token(scope="read submit", tasks=None, tags=[f"user:{user}"])

    first = await PROGRAMS["render"](bridge, user, "a lighthouse")
    async with site(html, bridge_token=bridge_token) as url, visited(browser, url) as page:
        await lists(page, f"{first} queued 0%")
        second = await PROGRAMS["render"](bridge, user, "a paper boat")
        await complete(scene, first)
        await lists(page, f"{first} completed 100%", f"{second} queued 0%")


async def test_a_batch_is_done_when_it_is_closed_and_final(scene: Scene, bridge: Bridge) -> None:
    name = scene.id()
    running = asyncio.create_task(PROGRAMS["batch"](bridge, name, ["one", "two"]))
    seen: dict[str, str] = {}
    async for state in bridge.watch(group=name):
        seen[state.task] = state.status
        if state.status == "queued":
            await complete(scene, state.task)
    assert await running == seen
    assert list(seen.values()) == ["completed", "completed"]
    # what a client gets that comes later, byte for byte as in the page
    headers = {"Authorization": f"Bearer {BACKEND}", "Accept": "text/event-stream"}
    async with scene.http.get(f"{scene.bridge.url}/v1/events?group={name}", headers=headers) as response:
        blocks = (await response.text()).split("\n\n")
    shown = snippet("", "event: group_done").replace("import-17", name).split("\n\n")
    done, end = blocks[-3].splitlines(), blocks[-2].splitlines()
    example = shown[0].splitlines()
    assert [line.partition(":")[0] for line in done] == [line.partition(":")[0] for line in example]
    assert done[0] == example[0]
    assert json.loads(done[1].partition(":")[2]) == {"group": name, "counts": {"completed": 2}}
    assert [line for line in end if not line.startswith("retry")] == ["event: end", 'data: {"tasks":2}']


async def test_what_ended_is_listed_and_what_is_elsewhere_adopted(scene: Scene, bridge: Bridge) -> None:
    user, task = scene.id(), scene.id()
    await scene.script("qingbo", task, qingbo(task, "processing", 40))
    assert await PROGRAMS["adopt"](bridge, task, user) is True
    nobody = scene.id()
    await scene.script("qingbo", nobody, answer({"code": "task_not_exist"}, status=404))
    assert await PROGRAMS["adopt"](bridge, nobody, user) is False
    await PROGRAMS["render"](bridge, user, "still open")
    assert await PROGRAMS["ended"](bridge, user) == []
    await complete(scene, f"qingbo/{task}")
    assert (await bridge.result(f"qingbo/{task}", timeout=PATIENCE)).task == f"qingbo/{task}"
    assert await PROGRAMS["ended"](bridge, user) == [f"qingbo/{task}"]
    script = imported(snippet("js", "listPage"), "api.js").replace("user:7", f"user:{user}")
    script = script.replace(EVERYWHERE, scene.bridge.url)
    process = await asyncio.create_subprocess_exec(
        *(needed("node"), "--input-type=module", "-e", script),
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | {"BRIDGE_TOKEN": BACKEND},
    )
    out, err = await process.communicate()
    assert (out, err) == (b"1 0\n", b"")


@pytest.mark.parametrize("word", ["X-Task-Tags", "-X PUT"])
async def test_the_requests_can_be_pasted(scene: Scene, bridge: Bridge, word: str) -> None:
    needed("curl")
    task = scene.id()
    await scene.script("qingbo", task, qingbo(task, "processing", 40))
    text = snippet("sh", word).replace(EVERYWHERE, scene.bridge.url).replace("YOUR_TASK_ID", task)
    environment = os.environ | {"BRIDGE_TOKEN": BACKEND, "no_proxy": "*"}
    process = await asyncio.create_subprocess_shell(
        f"{text.strip()} -s", stdout=PIPE, stderr=PIPE, env=environment
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    ref = json.loads(out)["state"]["task"]
    assert ref in [state.task async for state in bridge.list(tag="user:7")]


async def test_the_commands_of_a_batch_can_be_typed(scene: Scene) -> None:
    group = scene.id()
    environment = os.environ | {"BRIDGE_TOKEN": BACKEND, "BRIDGE_URL": scene.bridge.url}
    program = str(Path(os.environ.get("VIRTUAL_ENV", ROOT / ".venv")) / "bin" / "taskbridge")
    printed: list[str] = []
    for line in snippet("sh", "close-group").replace("import-17", group).splitlines():
        process = await asyncio.create_subprocess_shell(
            line.replace("taskbridge", program, 1), stdout=PIPE, stderr=PIPE, env=environment
        )
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")
        printed.append(out.decode())
        if line.startswith("taskbridge submit"):
            await complete(scene, out.decode().strip())
    ref = printed[0].strip()
    assert printed[1].startswith(f"group {group} closed; ")
    assert printed[2].splitlines()[-1] == f"group {group} done: 1 completed"
    assert printed[2].splitlines()[-2].startswith(f"{ref} completed 100%")
