"""README and quickstart, followed literally: every command is typed, every snippet is run."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser

from tests.browser.chromium import launch_chromium
from tests.docs.browsing import visited
from tests.docs.desk import BIN, Desk, commands, runs
from tests.docs.pages import ROOT, Snippet, snippets
from tests.docs.programs import ran
from tests.docs.recipes import needed
from tests.harness import PATIENCE

pytestmark = pytest.mark.anyio

QUICKSTART, README = "docs/quickstart.md", "README.md"
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
    wanted = [one for one in commands(README) if one not in {"make demo", "make test"}]
    copy, make_serve, *rest = wanted
    (desk.folder / "bridge.example.toml").write_text((ROOT / "bridge.example.toml").read_text("utf-8"))
    await desk.types(copy)
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
