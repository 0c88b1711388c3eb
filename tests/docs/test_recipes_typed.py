"""The page of the recipes, typed literally: every command, in an empty directory, with what it installs.

First with the bridge of the quickstart, which asks for nothing, then with tokens; what can be served in two
ways is typed once with each.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import orjson
import pytest
from playwright.async_api import Browser, Page

from tests.browser.chromium import launch_chromium
from tests.chaos.proxy import free_port
from tests.docs.browsing import visited
from tests.docs.pages import PAGES, ROOT
from tests.docs.programs import Program, started
from tests.docs.recipes import RECIPES, needed
from tests.e2e.scene import until
from tests.harness import PATIENCE

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]  # packages come over the network

PAGE = "docs/recipes/README.md"
BEFORE, TOKENS = "Before the first one", "With tokens"
FINAL = "completed|failed|cancelled|lost"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SUBMITTED = '"prompt": "a lighthouse at night"'
OUTCOME = SUBMITTED + ', "sim": {{"outcome": "{}", "queue_seconds": 2, "run_seconds": 20}}'
INSTALL_SECONDS = 200.0
MODES = ["nobody asks", "with tokens"]

typed: set[str] = set()


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def blocks(heading: str, language: str = "sh") -> list[list[str]]:
    """The blocks of a section of the page, as commands."""
    text = PAGES[PAGE].partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = [body for kind, body in FENCE.findall(text) if kind == language]
    assert found, heading
    return [body.replace("\\\n", "").splitlines() for body in found]


@dataclass
class Reader:
    """A reader's machine.

    Attributes:
        folder: Where they type; the environment of the page is in `home`.
        outcome: How the tasks that they submit end.
    """

    folder: Path
    home: Path
    bridge: int = field(default_factory=free_port)
    provider: int = field(default_factory=free_port)
    web: int = field(default_factory=free_port)
    task: str = "YOUR_TASK_ID"
    outcome: str = "completed"
    variables: dict[str, str] = field(default_factory=dict)

    def read(self, text: str) -> str:
        """A text of the page, with what differs here put in."""
        for written, here in (
            ("8080", self.bridge),
            ("9090", self.provider),
            ("5173", self.web),
            ("9099", self.web),
        ):
            text = text.replace(written, str(here))
        text = re.sub(r"\b[83]000\b", str(self.web), text)
        text = text.replace(SUBMITTED, OUTCOME.format(self.outcome))
        return text.replace("YOUR_TASK_ID", self.task)

    def one_of(self, first: str, second: str) -> str:
        """What is there in two ways: the first where the bridge asks for nothing, the second with tokens."""
        return second if "BRIDGE_TOKEN" in self.variables else first

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.home / '.venv' / 'bin'}:{Path('/usr/bin')}:{Path('/bin')}:{_PATH}",
            "BRIDGE_URL": f"http://127.0.0.1:{self.bridge}",
            "PIP_CONSTRAINT": str(self.home / "constraints.txt"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "NEXT_TELEMETRY_DISABLED": "1",
            "NO_COLOR": "1",
            **self.variables,
        }

    async def types(self, *commands: str, codes: Sequence[int] = (0,)) -> list[str]:
        """Type commands into one shell, and wait for their end; what they printed."""
        typed.update(commands)
        script = "\n".join(["set -e", *map(self.read, commands)])
        async with (
            started("bash", "-c", script, environment=self.environment, cwd=self.folder) as program,
            asyncio.timeout(INSTALL_SECONDS),
        ):
            code = await program.process.wait()
        assert code in codes, (commands, program.out, program.err)
        assert not any("Traceback" in line for line in program.err), program.err
        return program.out

    @asynccontextmanager
    async def leaves_running(self, command: str, more: str = "", url: str = "") -> AsyncIterator[Program]:
        """Type a command that stays, and wait until it answers."""
        typed.add(command)
        line = f"{self.read(command)} {more}"
        async with started("bash", "-c", line, environment=self.environment, cwd=self.folder) as program:
            await answers(url or f"http://127.0.0.1:{self.web}/", program)
            yield program
            assert not any("Traceback" in line for line in (*program.out, *program.err)), program.err

    def copies(self, recipe: str, place: Path) -> None:
        """Copy the folder of a recipe into an empty one, and go there; its addresses are those of here."""
        shutil.copytree(RECIPES / recipe, place, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        for path in place.rglob("*.*"):
            if path.suffix in {".html", ".js", ".jsx", ".vue"}:
                path.write_text(path.read_text("utf-8").replace("8080", str(self.bridge)), "utf-8")
        self.folder = place

    async def submits(self, outcome: str = "completed") -> str:
        """Submit a task as the page says."""
        self.outcome = outcome
        (submit,) = blocks(BEFORE)[3]
        (ref,) = await self.types(submit)
        self.task = ref.removeprefix("qingbo/")
        return ref


_PATH = ":".join(str(Path(found).parent) for found in map(shutil.which, ("node", "go")) if found)


async def answers(url: str, program: Program) -> None:
    """Wait until a server answers, whatever it says."""
    async with asyncio.timeout(PATIENCE * 2), aiohttp.ClientSession() as http:
        while True:
            assert program.process.returncode is None, (program.out, program.err)
            try:
                async with http.get(url):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The empty directory of the page, its first commands typed; what they install is built here."""
    folder = tmp_path_factory.mktemp("reader")
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder / "dist"]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = (folder / "dist").iterdir()
    (folder / "constraints.txt").write_text(f"task-event-bridge @ {wheel.as_uri()}\n")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    machine = Reader(folder, folder, variables={"PATH": path})
    asyncio.run(machine.types(*blocks(BEFORE)[0]))
    return folder


@pytest.fixture(scope="module")
def package(home: Path) -> str:
    """What `npm install` installs by the name of our package: what `npm pack` makes."""
    pack = [needed("npm"), "pack", "--silent", "--ignore-scripts", "--pack-destination", home / "dist"]
    packed = subprocess.run(pack, cwd=ROOT / "clients" / "js", capture_output=True, text=True, check=False)
    assert packed.returncode == 0, packed.stderr
    (tarball,) = (home / "dist").glob("*.tgz")
    return f"file:{tarball}"


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with launch_chromium() as made:
        yield made


@pytest.fixture(scope="module", params=MODES)
async def reader(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Reader]:
    """A reader whose bridge runs."""
    place = home / request.param.replace(" ", "-")
    place.mkdir()
    machine = Reader(place, home)
    tokens = request.param == "with tokens"
    (lines,) = blocks(TOKENS if tokens else BEFORE, "toml")
    (place / "bridge.toml").write_text(machine.read("\n".join(lines)))
    _, (simulate,), (serve,), _ = blocks(BEFORE)
    settings = {"BRIDGE_PORT": str(machine.bridge), "BRIDGE_ADMIN_PORT": str(free_port())}
    provider, bridge = (f"http://127.0.0.1:{port}/" for port in (machine.provider, machine.bridge))
    async with machine.leaves_running(simulate, f"--port {machine.provider} --speed 20", provider):
        machine.variables = settings
        async with machine.leaves_running(serve, url=bridge):
            machine.variables = {}
            if tokens:
                ((export,),) = blocks(TOKENS)
                (minted,) = await machine.types(export, "printenv BRIDGE_TOKEN")
                machine.variables = {"BRIDGE_TOKEN": minted}
            yield machine


@pytest.fixture
def here(reader: Reader, tmp_path: Path) -> Reader:
    """The reader, in an empty directory."""
    return replace(reader, folder=tmp_path, web=free_port(), variables=dict(reader.variables))


async def ends_well_or_says_why(page: Page) -> None:
    """The page shows the end of its task: a result that plays, or a sentence, and no dead player."""
    await page.wait_for_function(f"/{FINAL}|blocked|rejected|error/i.test(document.body.innerText)")
    alive = "[...document.querySelectorAll('video, audio')].every((one) => one.readyState > 0)"
    await page.wait_for_function(alive)


async def plays(page: Page) -> None:
    """The page shows the video of its task, which this browser can play."""
    await page.wait_for_function("document.querySelector('video')?.readyState > 0")


@pytest.mark.parametrize("outcome", ["completed", "failed"])
async def test_the_plain_page(here: Reader, browser: Browser, tmp_path: Path, outcome: str) -> None:
    await here.submits(outcome)
    here.copies("page", tmp_path / "page")
    (serve,), ticket = blocks("Plain page")
    async with here.leaves_running(serve):
        url = here.read("http://127.0.0.1:8000/?task=qingbo/YOUR_TASK_ID")
        if "BRIDGE_TOKEN" in here.variables:
            answered = orjson.loads("".join(await here.types(*ticket)))
            url += f"#ticket={answered['ticket']}"
        async with visited(browser, url) as (page, _):
            await page.wait_for_function("/lighthouse|qingbo/.test(document.body.innerText)")
            await (plays(page) if outcome == "completed" else ends_well_or_says_why(page))


async def test_the_python_script(here: Reader, tmp_path: Path) -> None:
    here.copies("python", tmp_path / "python")
    ((render, resume),) = blocks("Python script")
    for outcome, code in (("completed", 0), ("failed", 1)):
        here.outcome = outcome
        ref, *files = await here.types(render, codes=(code,))
        here.task = ref.removeprefix("qingbo/")
        assert len(files) == (outcome == "completed")
        assert all((here.folder / name).stat().st_size > 0 for name in files)
        assert await here.types(resume, codes=(code,)) == [ref, *files]


async def test_the_shell_script(here: Reader, tmp_path: Path) -> None:
    needed("jq")
    here.copies("shell", tmp_path / "shell")
    ((wait,),) = blocks("Shell script")
    for outcome, code in (("completed", 0), ("failed", 1)):
        await here.submits(outcome)
        await here.types(wait, codes=(code,))
        (line,) = (here.folder / "ended.ndjson").read_text().splitlines()
        assert orjson.loads(line)["status"] == outcome


async def test_the_servers_in_go_and_node(here: Reader, tmp_path: Path) -> None:
    language = here.one_of("go", "node")
    needed(language)
    here.copies(language, tmp_path / language)
    (go,), (node,), (follow, show) = blocks("Go and Node servers")
    async with here.leaves_running(go if language == "go" else node):
        for outcome in ("completed", "failed"):
            ref = await here.submits(outcome)
            await here.types(follow)

            async def status(ref: str = ref) -> str:
                return str(orjson.loads("".join(await here.types(show)))[ref]["status"])

            await until(status, outcome)


@pytest.mark.parametrize("language", ["python", "node"])
async def test_the_webhook_receivers(home: Path, tmp_path: Path, language: str) -> None:
    needed("node")
    machine = Reader(tmp_path, home)
    (lines,) = blocks("Webhook receivers", "toml")
    (tmp_path / "bridge.toml").write_text(machine.read("\n".join(lines)))
    _, (simulate,), (serve,), _ = blocks(BEFORE)
    (install_python, python), (install_node, node), (show,) = blocks("Webhook receivers")
    provider, bridge = (f"http://127.0.0.1:{port}/" for port in (machine.provider, machine.bridge))
    there = replace(machine, variables={})
    there.copies(f"webhook-{language}", tmp_path / "receiver")
    await there.types(install_python if language == "python" else install_node)
    async with (
        machine.leaves_running(simulate, f"--port {machine.provider} --speed 20", provider),
        there.leaves_running(python if language == "python" else node) as receiver,
    ):
        machine.variables = {"BRIDGE_PORT": str(machine.bridge)}
        async with machine.leaves_running(serve, url=bridge):
            machine.variables = {}
            for outcome in ("completed", "failed"):
                ref = await machine.submits(outcome)
                await receiver.line(f"task.final {ref} {outcome}")
                shown = orjson.loads("".join(await there.types(show)))
                assert shown[ref]["status"] == outcome


async def test_the_fastapi_backend(here: Reader, browser: Browser, tmp_path: Path) -> None:
    here.copies("fastapi-backend", tmp_path / "app")
    (install, serve), (sign_in, render, stream) = blocks("FastAPI backend")
    await here.types(install)
    async with here.leaves_running(serve):
        await here.types(sign_in)
        here.task = orjson.loads("".join(await here.types(render)))["task"].removeprefix("qingbo/")
        events = orjson.loads("".join(await here.types(stream)))["events"]
        assert ("ticket=" in events) == ("BRIDGE_TOKEN" in here.variables)
        async with visited(browser, here.read("http://127.0.0.1:8000/")) as (page, _):
            await renders(page)


async def renders(page: Page) -> None:
    """Sign in, render, and see the end."""
    await page.click("#sign-in button")
    await page.wait_for_function("document.body.innerText.includes('Signed in as ada.')")
    await page.click("#render button")
    await page.wait_for_function("/queued|processing/.test(document.body.innerText)")
    await ends_well_or_says_why(page)


async def test_the_bridge_inside_an_app(here: Reader, browser: Browser, tmp_path: Path) -> None:
    here.copies("fastapi-mounted", tmp_path / "app")
    (lines,) = blocks(BEFORE, "toml")
    (here.folder / "bridge.toml").write_text(here.read("\n".join(lines)))
    (install, serve), commands = blocks("FastAPI with the bridge inside")
    await here.types(install)
    async with here.leaves_running(serve):
        await signs_in_renders_and_follows(here, commands)
        async with visited(browser, here.read("http://127.0.0.1:8000/")) as (page, _):
            await renders(page)


async def signs_in_renders_and_follows(here: Reader, commands: Sequence[str]) -> None:
    """Type the lines of `curl` of a backend; the last ones are about the task of the one before."""
    *first, render = commands[: next(n for n, line in enumerate(commands) if "/renders" in line) + 1]
    answered = (await here.types(*first, render))[-1]
    here.task = orjson.loads(answered)["task"].removeprefix("qingbo/")
    told = "".join(await here.types(*commands[len(first) + 1 :]))
    assert re.search(rf'"status": ?"({FINAL})"', told), told


async def test_flask(here: Reader, browser: Browser, tmp_path: Path) -> None:
    here.copies("flask", tmp_path / "app")
    (install, serve), commands = blocks("Flask")
    await here.types(install)
    async with here.leaves_running(serve, here.one_of("", "--preload --workers 2")):
        await signs_in_renders_and_follows(here, commands)
        async with visited(browser, here.read("http://127.0.0.1:8000/")) as (page, _):
            await renders(page)


async def test_django(here: Reader, browser: Browser, tmp_path: Path) -> None:
    here.copies("django", tmp_path / "app")
    (install, wsgi), (asgi,), commands = blocks("Django")
    await here.types(install)
    async with here.leaves_running(here.one_of(wsgi, asgi)):
        await signs_in_renders_and_follows(here, commands)
        async with visited(browser, here.read("http://127.0.0.1:8000/")) as (page, _):
            await renders(page)


async def test_the_apps_of_vite(here: Reader, browser: Browser, tmp_path: Path, package: str) -> None:
    needed("npm")
    recipe = here.one_of("vue", "react")
    here.copies(recipe, tmp_path / recipe)
    installs_ours(here.folder, package)
    ((install, serve),) = blocks(recipe.capitalize())
    await here.types(install)
    async with here.leaves_running(serve, f"-- --port {here.web} --strictPort"):
        for outcome in ("completed", "failed"):
            await here.submits(outcome)
            url = here.read("http://127.0.0.1:8000/?task=qingbo/YOUR_TASK_ID")
            if "BRIDGE_TOKEN" in here.variables:
                answered = orjson.loads("".join(await here.types(*blocks("Plain page")[1])))
                url += f"#ticket={answered['ticket']}"
            async with visited(browser, url) as (page, _):
                await page.wait_for_selector("progress")
                await (plays(page) if outcome == "completed" else ends_well_or_says_why(page))


@pytest.mark.parametrize("reader", MODES[1:], indirect=True)  # it builds for a minute
async def test_the_app_of_next(here: Reader, browser: Browser, tmp_path: Path, package: str) -> None:
    needed("npm")
    here.copies("react", tmp_path / "react")
    here.copies("nextjs", tmp_path / "nextjs")
    installs_ours(here.folder, package)
    ((*install, serve),) = blocks("Next.js")
    await here.types(*install)
    async with (
        here.leaves_running(serve, f"-- --port {here.web}"),
        visited(browser, here.read("http://127.0.0.1:8000/")) as (page, _),
    ):
        await page.wait_for_load_state("networkidle")  # until then the form is not React's
        await page.click("#sign-in button")
        await page.wait_for_function("document.body.innerText.includes('Signed in as ada.')")
        await page.click("#render button")
        await page.wait_for_selector("progress")
        await ends_well_or_says_why(page)


@pytest.mark.parametrize("recipe", ["flask", "wsgi", "asgi"])
async def test_a_stream_of_a_backend_outlives_a_kill_of_the_bridge(
    home: Path, tmp_path: Path, recipe: str
) -> None:
    (lines,) = blocks(BEFORE, "toml")
    _, (simulate,), (serve,), _ = blocks(BEFORE)
    machine = Reader(tmp_path, home)
    (tmp_path / "bridge.toml").write_text(machine.read("\n".join(lines)))
    machine.variables = {"BRIDGE_PORT": str(machine.bridge), "PYTHONUNBUFFERED": "1"}
    app = Reader(tmp_path, home, bridge=machine.bridge)
    app.copies("flask" if recipe == "flask" else "django", tmp_path / "app")
    typed_there = {"flask": blocks("Flask")[0], "wsgi": blocks("Django")[0], "asgi": blocks("Django")[1]}
    *install, start = typed_there[recipe]
    await app.types(*(install or blocks("Django")[0][:1]))
    provider, bridge = (f"http://127.0.0.1:{port}/" for port in (machine.provider, machine.bridge))
    async with (
        machine.leaves_running(simulate, f"--port {machine.provider} --speed 2", provider),
        app.leaves_running(start),
    ):
        *begin, render, follow, _ = blocks("Flask")[1] if recipe == "flask" else blocks("Django")[2]
        async with machine.leaves_running(serve, url=bridge) as first:
            answered = (await app.types(*begin, render))[-1]
            app.task = orjson.loads(answered)["task"].removeprefix("qingbo/")
            stream = await asyncio.create_subprocess_exec(
                "bash", "-c", app.read(follow), cwd=app.folder, stdout=subprocess.PIPE
            )
            assert b"data: " in await stream.stdout.readuntil(b"\n\n")
            os.killpg(first.process.pid, signal.SIGKILL)
            await first.process.wait()
        async with machine.leaves_running(serve, url=bridge), asyncio.timeout(PATIENCE * 3):
            told, _ = await stream.communicate()
            assert re.search(rf'"status": ?"({FINAL})"', told.decode().split("\n\n")[-2])


def installs_ours(folder: Path, package: str) -> None:
    """Until the release no registry has our package."""
    path = folder / "package.json"
    wanted = orjson.loads(path.read_text("utf-8"))
    assert wanted["dependencies"]["task-event-bridge"]
    wanted["dependencies"]["task-event-bridge"] = package
    path.write_bytes(orjson.dumps(wanted))


def test_every_command_of_the_page_is_typed_above() -> None:
    source = Path(__file__).read_text("utf-8")
    headings = re.findall(r"^## (.+)$", PAGES[PAGE], re.MULTILINE)
    text = PAGES[PAGE].split("\n## ")[1:]
    with_commands = [head for head, body in zip(headings, text, strict=True) if "```sh" in body]
    named = [head for head in with_commands if f'"{head}"' in source or head in ("React", "Vue")]
    assert named == with_commands
