"""The recipes for pages do what they say, in a real browser with the real bridge."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from playwright.async_api import Browser, Page

from tests.browser.chromium import launch_chromium
from tests.chaos.proxy import free_port
from tests.docs.browsing import bundled, has_said, shell, shows, site, visited
from tests.docs.programs import Program, started
from tests.docs.recipes import RECIPES, needed
from tests.e2e.scene import QUICK, Scene, path_of, stage, until
from tests.fakes.credentials import TOKEN_SETTINGS, bearer, token
from tests.harness import (
    Provider,
    answer,
    qingbo,
    qingbo_done,
    running_bridge,
    running_simulator,
    upstreams_of,
)

pytestmark = pytest.mark.anyio

OPEN: dict[str, Any] = {"allowed_origins": '["*"]'}
PAGES = ("page", "react", "vue")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
async def browser(anyio_backend: str) -> AsyncIterator[Browser]:
    async with launch_chromium() as made:
        yield made


@pytest.fixture(scope="module")
async def scene(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(**OPEN) as made:
        yield made


@pytest.fixture(scope="module")
async def pages(scene: Scene, built: Path) -> AsyncIterator[str]:
    async with site(built, lambda: scene.bridge.url) as url:
        yield url


@pytest.mark.parametrize("kind", PAGES)
async def test_a_page_shows_a_task_to_its_end(scene: Scene, browser: Browser, pages: str, kind: str) -> None:
    task = scene.id("a/b")
    ref = await scene.script("qingbo", task, qingbo(task, "queued"), qingbo(task, "processing", 40))
    async with visited(browser, f"{pages}/{kind}?task={ref}") as (page, _):
        await shows(page, "processing")
        assert await page.locator("progress").get_attribute("value") == "40" or kind == "page"
        assert await page.evaluate("document.querySelector('progress').value") == 40
        await scene.then("qingbo", task, qingbo_done(task))
        await shows(page, "completed")
        # The link leads nowhere, as an expired one: no dead player is left, but the link and a sentence.
        await shows(page, "This video cannot be shown here.")
        assert await page.locator("video").count() == 0
        assert await page.locator("a").get_attribute("href") == "https://cdn.example/v.mp4"
        await scene.reaches('bridge_connections{delivery="sse"}', 0)


@pytest.mark.parametrize("kind", PAGES)
async def test_a_page_says_why_a_task_failed(scene: Scene, browser: Browser, pages: str, kind: str) -> None:
    task = scene.id()
    error = {"code": "nsfw", "message": "<b>not that</b>"}
    ref = await scene.script("qingbo", task, qingbo(task, "failed", 5, error=error))
    async with visited(browser, f"{pages}/{kind}?task={ref}") as (page, _):
        await shows(page, "<b>not that</b>")
        assert await page.locator("b").count() == 0


@pytest.mark.parametrize("kind", ["react", "vue"])
async def test_a_component_that_goes_away_or_changes_its_task_closes_its_connection(
    scene: Scene, browser: Browser, pages: str, kind: str
) -> None:
    one, other = scene.id(), scene.id()
    first = await scene.script("qingbo", one, qingbo(one, "processing", 10))
    second = await scene.script("qingbo", other, qingbo(other, "processing", 20))
    async with visited(browser, f"{pages}/{kind}?task={first}") as (page, _):
        value = "document.querySelector('progress')?.value"
        await page.wait_for_function(f"{value} === 10")
        await scene.reaches('bridge_connections{delivery="sse"}', 1)
        await page.evaluate("(task) => show(task)", second)
        await page.wait_for_function(f"{value} === 20")
        await scene.reaches('bridge_connections{delivery="sse"}', 1)
        await page.evaluate("show(null)")
        await page.wait_for_function(f"{value} === undefined")
        await scene.reaches('bridge_connections{delivery="sse"}', 0)


@pytest.mark.parametrize("kind", ["react", "vue"])
async def test_a_component_says_that_there_is_no_such_task(
    scene: Scene, browser: Browser, pages: str, kind: str
) -> None:
    ref = await scene.script("qingbo", "nobody", answer({"code": "task_not_exist"}, status=404))
    async with visited(browser, f"{pages}/{kind}?task={ref}") as (page, _):
        await page.wait_for_selector("[role=alert]")


async def test_the_plain_page_follows_many_tasks_on_one_connection(
    scene: Scene, browser: Browser, pages: str
) -> None:
    ids = [scene.id() for _ in range(8)]
    refs = [await scene.script("qingbo", task, qingbo(task, "processing", 7)) for task in ids]
    nobody = await scene.script("qingbo", "not-there", answer({"code": "task_not_exist"}, status=404))
    query = "&".join(f"task={ref}" for ref in (*refs, nobody))
    async with visited(browser, f"{pages}/page?{query}") as (page, _):
        await page.wait_for_function("document.querySelectorAll('section').length === 8")
        await scene.reaches('bridge_connections{delivery="sse"}', 1)
        await has_said(page, f"{nobody}: ")
        for task in ids:
            await scene.then("qingbo", task, qingbo_done(task))
        await page.wait_for_function("document.querySelectorAll('section a').length === 8")
        await scene.reaches('bridge_connections{delivery="sse"}', 0)


async def test_every_page_survives_a_kill_of_the_bridge(
    browser: Browser, built: Path, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    wishes: dict[str, Any] = {"port": free_port(), "journal": f"sqlite:{tmp_path}/bridge.db", **OPEN}
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(running_simulator())
        provider = Provider(simulator, "qingbo", http)
        ref = await provider.script("one", qingbo("one", "processing", 10))
        upstreams = upstreams_of(simulator, **QUICK)
        url = await stack.enter_async_context(site(built, lambda: f"http://127.0.0.1:{wishes['port']}"))
        first = await stack.enter_async_context(running_bridge(upstreams, **wishes))
        shown = [
            (await stack.enter_async_context(visited(browser, f"{url}/{kind}?task={ref}")))[0]
            for kind in PAGES
        ]
        for page in shown:
            await page.wait_for_function("document.querySelector('progress')?.value === 10")
        await first.stop(signal.SIGKILL)
        await provider.then("one", qingbo_done("one"))
        await stack.enter_async_context(running_bridge(upstreams, **wishes))
        for page in shown:
            await shows(page, "completed")


# -- with sign-in


@pytest.fixture(scope="module")
async def guarded(anyio_backend: str) -> AsyncIterator[Scene]:
    async with stage(**OPEN, **TOKEN_SETTINGS) as made:
        yield made


def uvicorn(folder: str) -> tuple[Any, ...]:
    """What serves an app of the recipes, with lines that a test can wait for."""
    return (sys.executable, "-m", "uvicorn", "app:app", "--port", "0", "--app-dir", RECIPES / folder)


@asynccontextmanager
async def backend(guarded: Scene, **more: str) -> AsyncIterator[tuple[str, Program]]:
    """The FastAPI backend that submits."""
    credential = token("qingbo/*", scope="read submit")
    environment = {"BRIDGE_URL": guarded.bridge.url, "BRIDGE_TOKEN": credential, **more}
    async with started(*uvicorn("fastapi-backend"), environment=environment) as program:
        yield address(await program.line("Uvicorn running on ")), program


def address(line: str) -> str:
    return line.partition("running on ")[2].split()[0]


@pytest.fixture(scope="module")
async def fastapi(guarded: Scene) -> AsyncIterator[tuple[str, Program]]:
    async with backend(guarded) as made:
        yield made


async def signed_in(http: aiohttp.ClientSession, url: str, user: str) -> dict[str, str]:
    """The cookies of a user of a recipe."""
    async with http.post(url, json={"user": user}) as said:
        assert said.status in {200, 204}, await said.text()
        return {"session": said.cookies["session"].value}


async def both(guarded: Scene, url: str) -> tuple[dict[str, str], dict[str, str]]:
    """The cookies of Ada and of Bob."""
    http = guarded.http
    return await signed_in(http, f"{url}/sign-in", "ada"), await signed_in(http, f"{url}/sign-in", "bob")


async def clicks(page: Page) -> None:
    """Sign in and render, as a reader does."""
    await page.click("#render button")
    await shows(page, "sign in first")
    await page.click("#sign-in button")
    await shows(page, "Signed in as ada.")
    await page.click("#render button")


IT_IS_OVER = "!/queued|processing/.test(document.querySelector('p').textContent)"


def streams_of(page: Page) -> list[str]:
    """The addresses of the streams a page asks for, as it does so."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/events" in request.url else None)
    return asked


async def test_the_page_of_the_backend_renders_and_shows_the_result(
    guarded: Scene, browser: Browser, fastapi: tuple[str, Program]
) -> None:
    url, program = fastapi
    async with visited(browser, url) as (page, _):
        asked = streams_of(page)
        await clicks(page)
        await shows(page, "queued")
        guarded.advance(100_000)
        await page.wait_for_function(IT_IS_OVER)
        completed = await page.locator("p").inner_text() == "completed"
        assert await page.locator("#outputs > *").count() == completed
        assert len(asked) == 1
    said = "".join((*program.out, *program.err, *guarded.bridge.log))
    assert "/stream" in said
    assert "eyJ" not in said
    assert "ticket" not in said


async def test_a_page_whose_ticket_is_over_gets_another(guarded: Scene, browser: Browser) -> None:
    async with backend(guarded, TICKET_SECONDS="1") as (url, _), visited(browser, url) as (page, _):
        asked = streams_of(page)
        await clicks(page)
        await shows(page, "queued")
        await until(lambda: _different(asked), 2)
        assert re.search(r"last_event_id=[\w-]+-\d+$", asked[-1])
        guarded.advance(100_000)
        await page.wait_for_function(IT_IS_OVER)


async def _different(urls: list[str]) -> int:
    return min(2, len({re.search("ticket=([^&]+)", url)[1] for url in urls}))


async def test_the_backend_shows_nobody_the_renders_of_others(
    guarded: Scene, fastapi: tuple[str, Program]
) -> None:
    url, _ = fastapi
    http = guarded.http
    ada, bob = await both(guarded, url)
    async with http.post(f"{url}/renders", json={"prompt": "x"}) as said:
        assert said.status == 401
    async with http.post(f"{url}/renders", json={"prompt": ""}, cookies=ada) as said:
        assert said.status == 422
    async with http.post(f"{url}/renders", json={"prompt": "x"}, cookies=ada) as said:
        assert said.status == 201
        task = (await said.json())["task"]
    async with http.post(f"{url}/renders/{task}/stream", cookies=bob) as said:
        assert said.status == 404
    async with http.post(f"{url}/renders/{task}/stream", cookies=ada) as said:
        assert said.headers["cache-control"] == "no-store"
        given = await said.json()
    assert list(given) == ["events"]
    async with http.get(given["events"], headers={"Accept": "application/x-ndjson"}) as stream:
        assert stream.status == 200
    async with http.get(given["events"].replace(task, "qingbo/other")) as stream:
        assert stream.status == 403


async def test_the_backend_passes_on_what_the_provider_says(
    guarded: Scene, fastapi: tuple[str, Program]
) -> None:
    url, _ = fastapi
    ada, _ = await both(guarded, url)
    await guarded.faults(qingbo=[{"name": "402", "calls": ["submit"]}])
    try:
        async with guarded.http.post(f"{url}/renders", json={"prompt": "x"}, cookies=ada) as said:
            assert said.status == 502
            assert "bridge" not in (await said.json())["detail"]
    finally:
        await guarded.faults(qingbo=[])


async def test_a_backend_without_a_bridge_says_so(guarded: Scene) -> None:
    async with backend(guarded, BRIDGE_URL=f"http://127.0.0.1:{free_port()}") as (url, _):
        ada, _ = await both(guarded, url)
        async with guarded.http.post(f"{url}/renders", json={"prompt": "x"}, cookies=ada) as said:
            assert said.status == 503


async def test_a_bridge_that_refuses_the_backend_is_no_fault_of_the_user(guarded: Scene) -> None:
    async with backend(guarded, BRIDGE_TOKEN="wrong") as (url, _):
        ada, _ = await both(guarded, url)
        async with guarded.http.post(f"{url}/renders", json={"prompt": "x"}, cookies=ada) as said:
            assert (said.status, (await said.json())["detail"]) == (
                502,
                "the bridge rejected this backend: unauthenticated",
            )


# -- the route handlers of Next.js


@asynccontextmanager
async def next_server(guarded: Scene, built: Path, **more: str) -> AsyncIterator[tuple[str, Program]]:
    page = built / "next.html"
    page.write_text(shell("", "/next.js"))
    command = (
        needed("node"),
        Path(__file__).with_name("next_server.mjs"),
        built / "routes.mjs",
        page,
        built / "next.js",
    )
    credential = token("qingbo/*", scope="read submit")
    environment = {"BRIDGE_URL": guarded.bridge.url, "BRIDGE_TOKEN": credential, **more}
    async with started(*command, environment=environment) as program:
        yield (await program.line("listening on ")).partition("listening on ")[2], program


async def rendered(guarded: Scene, url: str, cookies: dict[str, str]) -> str:
    """A task that this user submitted through the handlers."""
    async with guarded.http.post(f"{url}/api/renders", json={"prompt": "x"}, cookies=cookies) as said:
        assert said.status == 201, await said.text()
        return str((await said.json())["task"])


async def test_the_route_handlers_let_a_page_see_the_tasks_of_its_user(
    guarded: Scene, browser: Browser, built: Path
) -> None:
    async with next_server(guarded, built) as (url, program):
        ada, bob = await both(guarded, f"{url}/api")
        ref = await rendered(guarded, url, ada)
        async with visited(browser, f"{url}/?task={ref}", ada) as (page, _):
            await shows(page, "queued")
            guarded.advance(100_000)
            await page.wait_for_function("!/queued|processing/.test(document.body.innerText)")
        async with visited(browser, f"{url}/?task={ref}", bob) as (page, _):
            await page.wait_for_selector("[role=alert]")
        assert program.out[1:] == program.err == []


async def test_the_route_handlers_answer_strangers_and_nonsense(guarded: Scene, built: Path) -> None:
    async with next_server(guarded, built) as (url, _):
        ada, bob = await both(guarded, f"{url}/api")
        ref = await rendered(guarded, url, ada)
        for path, cookies, body, status in (
            ("sign-in", {}, "nonsense", 400),
            ("renders", {}, '{"prompt": "x"}', 401),
            ("renders", ada, "{}", 400),
            ("stream", {}, f'{{"task": "{ref}"}}', 401),
            ("stream", ada, "nonsense", 400),
            ("stream", ada, "null", 400),
            ("stream", ada, f'{{"task": ["{ref}"]}}', 400),
            ("stream", ada, '{"task": "qingbo/of-bob"}', 404),
            ("stream", bob, f'{{"task": "{ref}"}}', 404),
            ("stream", ada, f'{{"task": "{ref}"}}', 200),
        ):
            async with guarded.http.post(f"{url}/api/{path}", data=body, cookies=cookies) as said:
                assert said.status == status, (path, cookies, body)
                assert said.headers["cache-control"] == "no-store"
                given = await said.json()
        assert list(given) == ["events"]
    for more, status in (
        ({"BRIDGE_TOKEN": "wrong"}, 502),
        ({"BRIDGE_URL": f"http://127.0.0.1:{free_port()}"}, 503),
    ):
        async with next_server(guarded, built, **more) as (url, program):
            ada, _ = await both(guarded, f"{url}/api")
            async with guarded.http.post(f"{url}/api/renders", json={"prompt": "x"}, cookies=ada) as said:
                assert said.status == status
            assert "wrong" not in "".join(program.err)


# -- the bridge inside an app


async def test_the_mounted_bridge_shows_each_user_their_own_and_ends_with_the_app(
    scene: Scene, http: aiohttp.ClientSession
) -> None:
    upstreams = {"qingbo": {"base_url": f"{scene.simulator.url}/qingbo", "api_key": "test-key", **QUICK}}
    environment = {"BRIDGE_JOURNAL": "memory", "BRIDGE_UPSTREAMS": orjson.dumps(upstreams).decode()}
    async with started(*uvicorn("fastapi-mounted"), environment=environment) as program:
        url = address(await program.line("Uvicorn running on "))
        ada, bob = [await signed_in(http, f"{url}/sign-in", user) for user in ("ada", "bob")]
        async with http.get(url) as said:
            assert said.content_type == "text/html"
        async with http.post(f"{url}/renders", json={"prompt": "x"}) as said:
            assert said.status == 401
        async with http.post(f"{url}/renders", json={"prompt": "x"}, cookies=ada) as said:
            assert said.status == 201, await said.text()
            made = await said.json()
        assert made["events"] == f"/bridge{path_of(made['task'])}/events"
        for cookies, status in (({}, 401), (bob, 403)):
            async with http.get(url + made["events"], cookies=cookies) as said:
                assert said.status == status
        foreign = bearer("qingbo/*")
        for cookies, status in (({}, 401), (bob, 403), (ada, 200)):
            async with http.get(url + made["events"], headers=foreign, cookies=cookies) as said:
                assert said.status == status  # the session counts, and no token from outside
        async with http.post(f"{url}/bridge/v1/tasks/qingbo", json={"prompt": "x"}, cookies=ada) as said:
            assert said.status == 403
        async with http.get(url + made["events"], cookies=ada) as stream:
            assert stream.status == 200
            seen = b""
            while b'"status":"queued"' not in seen:
                seen += await stream.content.readany()
            program.process.send_signal(signal.SIGTERM)
            assert b'"reason":"drain"' in await stream.content.read()
        assert await program.ends() in {0, -signal.SIGTERM}
        assert not any("Traceback" in line for line in program.err)
