"""README and quickstart, followed literally: every command is typed, every snippet is run."""

from __future__ import annotations

import ast
import inspect
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser

from task_event_bridge import Bridge
from tests.browser.chromium import launch_chromium
from tests.docs.browsing import visited
from tests.docs.desk import BIN, Desk, commands, runs
from tests.docs.pages import ROOT, Snippet, snippets
from tests.docs.programs import ran, started
from tests.docs.recipes import needed
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

QUICKSTART, README, CLIENT = "docs/quickstart.md", "README.md", "docs/client.md"
THREE_PROVIDERS = """
[upstreams.qingbo]
base_url = "http://127.0.0.1:9090/qingbo"
api_key = "any"

[upstreams.vapi]
base_url = "http://127.0.0.1:9090/vapi"
api_key = "any"

[upstreams.bytespike]
base_url = "http://127.0.0.1:9090/bytespike"
api_key = "any"
"""
VAPI_CALL = "vapi?endpoint=minimax/v1/video_generation"
LANGUAGES = ("sh", "toml", "html", "python", "")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with launch_chromium() as made:
        yield made


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A folder in which `.venv/bin/taskbridge` is what the page means."""
    needed("curl")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(BIN)
    return Desk(tmp_path)


def only(language: str, page: str) -> Snippet:
    (found,) = snippets(language, page=page)
    return found


async def test_the_quickstart_from_top_to_bottom(
    desk: Desk, browser: Browser, http: aiohttp.ClientSession
) -> None:
    simulate, serve, submit, follow, watch, both, saved = commands(QUICKSTART)[1:]
    async with AsyncExitStack() as stack:
        await runs(stack, desk, simulate, f"--port {desk.provider} --speed 20")
        (desk.folder / "bridge.toml").write_text(desk.read(only("toml", QUICKSTART).text))
        await runs(stack, desk, serve)
        answered = "".join(await desk.types(submit))
        desk.task = re.search(r'"task":"qingbo/([^"]+)"', answered)[1]

        shown = desk.folder / "page.html"
        shown.write_text(desk.read(only("html", QUICKSTART).text))
        page, _ = await stack.enter_async_context(visited(browser, shown.as_uri()))
        await page.wait_for_function("document.querySelector('output').textContent !== ''")

        told = "\n".join(await desk.types(follow))
        assert re.search(r'"status":"(completed|failed)"', told)
        assert told.rstrip().endswith('event: end\ndata: {"tasks":1}')
        await page.wait_for_function("/completed|failed/.test(document.querySelector('output').textContent)")
        await page.wait_for_function("source.readyState === EventSource.CLOSED")
        async with http.get(desk.read("http://127.0.0.1:8080/metrics")) as metrics:
            assert (
                'resumes_total{delivery="sse",result="ended"} 0.0' in await metrics.text()
            )  # it closed by itself
        async with http.get(desk.read("http://127.0.0.1:8080/")) as inspector:
            assert (inspector.status, inspector.content_type) == (200, "text/html")

        for command in (watch, both):
            out = await desk.types(f"{command} || [ $? = 1 ]")  # 1: the task failed, as some do
            desk.typed[-1] = command
            assert out[0].startswith("qingbo/")
            assert re.search("completed|failed", out[-1])
        script = desk.folder / "script.py"
        script.write_text(desk.read(only("python", QUICKSTART).text))
        code, out, err = await ran(sys.executable, script)
        assert code == 0, err
        assert re.match("(completed|failed) ", out[-1])
        counted = "\n".join(await desk.types(saved))
        assert 'bridge_polls_saved_total{upstream="qingbo"}' in counted
    assert desk.typed == commands(QUICKSTART)[1:]


async def test_the_readme_from_top_to_bottom(
    desk: Desk, browser: Browser, http: aiohttp.ClientSession
) -> None:
    # The first screen: tests/release/test_first_command.py and the repository's own checks run these.
    first, *wanted = (one for one in commands(README) if one not in {"make demo", "make test"})
    assert first == "uvx task-event-bridge demo"
    init, make_serve, *rest = wanted
    assert "BRIDGE_UPSTREAMS__QINGBO__API_KEY" in "".join(await desk.types(init))
    (desk.folder / "bridge.toml").write_text(only("toml", README).text)  # the shortest that works
    desk.more = {
        "BRIDGE_UPSTREAMS__QINGBO__BASE_URL": f"http://127.0.0.1:{desk.provider}/qingbo",
        "BRIDGE_ALLOWED_ORIGINS": '["*"]',
    }
    async with AsyncExitStack() as stack:
        await runs(stack, desk, "taskbridge simulate", f"--port {desk.provider} --speed 20")
        await runs(stack, desk, made("serve"))
        desk.typed[1:] = [make_serve]
        wish = {"model": "veo3", "prompt": "x", "sim": {"queue_seconds": 4, "run_seconds": 8}}
        wish["sim"]["outcome"] = "completed"
        async with http.post(desk.read("http://127.0.0.1:8080/v1/tasks/qingbo"), json=wish) as answer:
            assert answer.status == 201
            desk.task = (await answer.json())["state"]["task_id"]

        shown = desk.folder / "page.html"
        html = desk.read(only("html", README).text)
        shown.write_text(re.sub(r'const task = "[^"]+"', f'const task = "qingbo/{desk.task}"', html))
        page, _ = await stack.enter_async_context(visited(browser, shown.as_uri()))
        for command in rest:
            out = await desk.types(f"{command} || [ $? = 1 ]")  # 1: the task failed, as some do
            desk.typed[-1] = command
            assert re.search("completed|failed", "".join(out)), command
        await page.wait_for_function("/completed 100%/.test(document.querySelector('pre').textContent)")
        script = desk.folder / "script.py"
        script.write_text(desk.read(only("python", README).text))
        code, out, err = await ran(sys.executable, script)
        assert code == 0, err
        assert out[-1].startswith("completed 100")
    assert desk.typed == wanted


async def test_the_page_of_the_client_from_top_to_bottom(desk: Desk, http: aiohttp.ClientSession) -> None:
    install, watch_json, submit_once = commands(CLIENT)
    assert install == "pip install task-event-bridge"  # tests/docs/test_recipes_typed.py types it
    (desk.folder / "bridge.toml").write_text(desk.read(THREE_PROVIDERS))
    url = desk.read("http://127.0.0.1:8080")
    async with AsyncExitStack() as stack:
        await runs(stack, desk, "taskbridge simulate", f"--port {desk.provider} --speed 20")
        await runs(stack, desk, "taskbridge serve", "--config bridge.toml")
        sim = {"sim": {"outcome": "completed", "queue_seconds": 1, "run_seconds": 20}}

        async def submitted(upstream: str, **more: object) -> str:
            body = {"model": "veo3", "prompt": "x"} | sim | more
            async with http.post(f"{url}/v1/tasks/{upstream}", json=body) as answer:
                assert answer.status == 201, await answer.text()
                return str((await answer.json())["state"]["task"])

        one, other = await submitted("qingbo"), await submitted(VAPI_CALL)
        await submitted("bytespike", out_task_id="my-own-id")

        def here(text: str) -> str:
            return desk.read(text).replace("qingbo/task-1", one).replace("vapi/task-2", other)

        (shown,) = snippets("console", page=CLIENT)
        out = await desk.types(here(shown.text.splitlines()[0].removeprefix("$ ")))
        assert [line.split()[0] for line in out if "completed" in line] == [one, other]
        assert (await desk.types(here(watch_json)))[-1] == "completed"
        (desk.folder / "order-1017.json").write_text('{"model": "veo3", "prompt": "x"}')
        first, again = [(await desk.types(submit_once))[-1] for _ in range(2)]
        assert first == again, "paid once"
        for number, snippet in enumerate(snippets("python", page=CLIENT)):
            text = here(snippet.text).replace('("qingbo", "task-1")', repr(tuple(one.split("/", 1))))
            if "asyncio.run(" in text or "SyncBridge(" in text:
                path = desk.folder / f"script{number}.py"
                path.write_text(text)
                code, out, err = await ran(sys.executable, path, environment=desk.environment)
                assert (code, list(err)) == (0, []), (text, err)
                assert re.search("completed|failed|http://", out[-1]), out
            else:  # lines of a program that has a client
                async with Bridge(url) as bridge:
                    await run_in(text, bridge)


async def test_the_first_commands_of_troubleshooting(desk: Desk, http: aiohttp.ClientSession) -> None:
    text = snippets("sh", page="docs/troubleshooting.md")[0].text
    (desk.folder / "bridge.toml").write_text(desk.read(only("toml", QUICKSTART).text))
    async with AsyncExitStack() as stack:
        await runs(stack, desk, "taskbridge simulate", f"--port {desk.provider} --speed 20")
        await runs(stack, desk, "taskbridge serve", "--config bridge.toml")
        wish = {"model": "veo3", "prompt": "x", "sim": {"queue_seconds": 1, "run_seconds": 4}}
        async with http.post(desk.read("http://127.0.0.1:8080/v1/tasks/qingbo"), json=wish) as answer:
            desk.task = (await answer.json())["state"]["task_id"]
        told = "\n".join(await desk.types(f"set -e\n{text}"))
    for part in (
        "event: end",
        '"state":"VALID"',
        'bridge_disconnects_total{delivery="sse"',
        "upstreams.qingbo",
    ):
        assert part in told, part


async def run_in(text: str, bridge: Bridge) -> None:
    """Run lines that use `await` and a client."""
    code = compile(text, CLIENT, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, {"bridge": bridge})
    if inspect.isawaitable(running):
        await running


async def test_the_script_of_the_quickstart_outlives_a_restart_of_the_bridge(desk: Desk) -> None:
    simulate, serve = commands(QUICKSTART)[1:3]
    (desk.folder / "bridge.toml").write_text(desk.read(only("toml", QUICKSTART).text))
    script = desk.folder / "script.py"
    script.write_text(desk.read(only("python", QUICKSTART).text))
    async with AsyncExitStack() as stack:
        await runs(stack, desk, simulate, f"--port {desk.provider} --speed 2")
        async with AsyncExitStack() as first:
            bridge = await runs(first, desk, serve)
            program = await stack.enter_async_context(started(sys.executable, "-u", script))
            await program.line("queued ")
            assert await bridge.told(signal.SIGINT) == 0  # Ctrl-C
        await runs(stack, desk, serve)
        assert await program.ends() == 0
        assert (program.err, re.match("(completed|failed) ", program.out[-1]) is not None) == ([], True)


def made(target: str) -> str:
    """What `make` would run in the end; it is not asked to set up a second environment."""
    told = subprocess.run(
        [needed("make"), "--no-print-directory", "--dry-run", "--assume-old=pyproject.toml", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.rstrip().splitlines()[-1]


@pytest.mark.parametrize(
    ("target", "runs"),
    [
        ("demo", ".venv/bin/taskbridge demo"),
        ("serve", ".venv/bin/taskbridge serve --config bridge.toml"),
        ("test", ".venv/bin/python -m pytest"),
    ],
)
def test_make_runs_what_the_pages_say(target: str, runs: str) -> None:
    assert made(target).startswith(runs)


@pytest.mark.parametrize("page", [README, QUICKSTART])
def test_no_snippet_is_of_a_kind_that_nobody_runs(page: str) -> None:
    fences = re.findall(r"^```", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    assert len(snippets(*LANGUAGES, page=page)) == len(fences) / 2
