"""The hooks in apps that Vite builds, in Chromium, against the running bridge."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page

from tests.browser.chromium import new_page, origin
from tests.docs.recipes import RECIPES
from tests.e2e.scene import Scene, stage
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.harness import answer, qingbo, qingbo_done
from tests.packages.projects import Project

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

STREAMS = 'bridge_connections{delivery="sse"}'
OPENED = 'bridge_connections_total{delivery="sse"}'
KINDS = ["react", "react18", "vue"]
WAITING, TEN, DONE = "- - - -", "processing 10 - -", "completed 100 - -"


@pytest.fixture(scope="module")
def vite(project: Callable[[str], Project]) -> Project:
    """The app, type-checked and built with both versions of React."""
    made = project("vite")
    shutil.copy(RECIPES / "tanstack-query" / "taskQuery.js", made.folder / "src")
    made.run(made.bin("tsc"), "--project", ".")
    made.run(made.bin("vite"), "build")
    made.run(made.bin("vite"), "build", environment={"REACT": "18"})
    return made


@pytest.fixture(scope="module")
async def pages(anyio_backend: str, vite: Project) -> AsyncIterator[dict[str, str]]:
    """Where the app is served, by kind."""
    app = web.Application()
    app.router.add_static("/18/", vite.folder / "dist18")
    app.router.add_static("/assets/", vite.folder / "dist" / "assets")
    app.router.add_static("/", vite.folder / "dist")
    older = web.Application()
    older.router.add_static("/", vite.folder / "dist18")
    async with origin(app) as url, origin(older) as url18:
        yield {
            "react": f"{url}/react.html",
            "react18": f"{url18}/react.html",
            "vue": f"{url}/vue.html",
            "query": f"{url}/query.html",
        }


@asynccontextmanager
async def opened(browser: Browser, url: str) -> AsyncIterator[Page]:
    """A page whose scripts must not fail, nor complain."""
    context = await browser.new_context()
    page, errors = await new_page(context)
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    await page.goto(url)
    await page.wait_for_function("() => !!window.show")
    yield page
    await context.close()
    # the browser itself reports a response that is an error
    assert [one for one in errors if "Failed to load resource" not in one] == []


async def show(page: Page, **props: Any) -> None:
    """Render the app with these."""
    await page.evaluate("(props) => show(props)", props)


async def lists(page: Page, *texts: str) -> None:
    """Wait until the components show this."""
    rows = "[...document.querySelectorAll('li')].map((one) => one.innerText.trim())"
    shown = f"(texts) => {rows}.join() === texts.join()"
    try:
        await page.wait_for_function(shown, arg=list(texts), polling=20)
    except Exception as error:
        raise AssertionError(f"not {texts} but {await page.inner_text('body')}") from error


async def begun(scene: Scene, progress: int = 10) -> tuple[str, str]:
    """A task under way; its id and ref."""
    task = scene.id()
    return task, await scene.script("qingbo", task, qingbo(task, "processing", progress))


@pytest.mark.parametrize("kind", KINDS)
async def test_a_task_is_followed_to_its_end(
    scene: Scene, browser: Browser, pages: dict[str, str], kind: str
) -> None:
    task, ref = await begun(scene)
    async with opened(browser, pages[kind]) as page:
        await show(page, bridge=scene.bridge.url, tasks=[None, ref])
        await lists(page, WAITING, TEN)
        await scene.then("qingbo", task, qingbo_done(task))
        await lists(page, WAITING, DONE)
        await scene.reaches(STREAMS, 0)
        assert await page.evaluate("opened") == 1
        assert await page.evaluate(
            "heard.filter(([kind]) => kind === 'state').map(([,, status]) => status)"
        ) == [
            "processing",
            "completed",
        ]
        if kind != "vue":
            version = await page.inner_text("h1")
            assert version.startswith("18." if kind == "react18" else "19.")


@pytest.mark.parametrize("kind", KINDS)
async def test_components_share_one_connection_and_new_options_do_not_reconnect(
    scene: Scene, browser: Browser, pages: dict[str, str], kind: str
) -> None:
    (task, ref), (_, other) = await begun(scene), await begun(scene, 20)
    async with opened(browser, pages[kind]) as page:
        asked = {"bridge": scene.bridge.url, "tasks": [ref, other, ref]}
        await show(page, **asked)
        await lists(page, TEN, "processing 20 - -", TEN)
        for _ in range(5):
            await show(page, **asked)  # with new callbacks and a new list each time
        await scene.reaches(STREAMS, 1)
        assert await page.evaluate("opened") == 1
        await scene.then("qingbo", task, qingbo_done(task))
        await lists(page, DONE, "processing 20 - -", DONE)
        await show(page, **asked | {"tasks": [ref, other]})  # what ended needs no other connection
        await lists(page, DONE, "processing 20 - -")
        assert await page.evaluate("opened") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_a_component_that_comes_later_knows_and_is_told_what_is_known(
    scene: Scene, browser: Browser, pages: dict[str, str], kind: str
) -> None:
    task, ref = await begun(scene)
    await scene.then("qingbo", task, qingbo_done(task))
    async with opened(browser, pages[kind]) as page:
        await show(page, bridge=scene.bridge.url, tasks=[ref])
        await lists(page, DONE)
        await show(page, bridge=scene.bridge.url, tasks=[ref, ref])
        await lists(page, DONE, DONE)
        await page.wait_for_function("heard.filter(([, , what]) => what === 'completed').length >= 2")
        assert await page.evaluate("opened") == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_no_longer_shown_is_no_longer_followed(
    scene: Scene, browser: Browser, pages: dict[str, str], kind: str
) -> None:
    (_, ref), (_, other) = await begun(scene), await begun(scene, 20)
    async with opened(browser, pages[kind]) as page:
        await show(page, bridge=scene.bridge.url, tasks=[ref])
        await lists(page, TEN)
        await show(page, bridge=scene.bridge.url, tasks=[other])
        await lists(page, "processing 20 - -")
        await scene.reaches(STREAMS, 1)
        assert await page.evaluate("opened") == 2
        await show(page, bridge=scene.bridge.url, tasks=[])
        await scene.reaches(STREAMS, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_more_tasks_than_a_browser_allows_connections(
    scene: Scene, browser: Browser, pages: dict[str, str], kind: str
) -> None:
    refs = [(await begun(scene, progress))[1] for progress in range(1, 9)]
    async with opened(browser, pages[kind]) as page:
        for number in range(1, 9):  # one after the other, as a page submits them
            await show(page, bridge=scene.bridge.url, tasks=refs[:number])
            await lists(page, *[f"processing {progress} - -" for progress in range(1, number + 1)])
        await scene.reaches(STREAMS, 1)
        await show(page, bridge=scene.bridge.url, tasks=[])
        await scene.reaches(STREAMS, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_another_task_never_shows_the_state_of_the_one_before(
    scene: Scene, browser: Browser, pages: dict[str, str], kind: str
) -> None:
    (_, ref), (_, other) = await begun(scene), await begun(scene, 20)
    async with opened(browser, pages[kind]) as page:
        await show(page, bridge=scene.bridge.url, tasks=[ref])
        await lists(page, TEN)
        drawn = """async (props) => {
            const li = document.querySelector("li");
            show(props);
            await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
            return li.innerText;
        }"""
        assert await page.evaluate(drawn, {"bridge": scene.bridge.url, "tasks": [other]}) != TEN
        await lists(page, "processing 20 - -")
        await show(page, bridge=scene.bridge.url, tasks=[None])
        await lists(page, WAITING)
        await scene.reaches(STREAMS, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_one_task_that_cannot_be_followed_does_not_hide_the_others(
    scene: Scene, browser: Browser, pages: dict[str, str], kind: str
) -> None:
    _, ref = await begun(scene)
    nobody = await scene.script("qingbo", scene.id(), answer({"code": "task_not_exist"}, status=404))
    async with opened(browser, pages[kind]) as page:
        await show(page, bridge=scene.bridge.url, tasks=["nonsense", ref, nobody, "nowhere/x"])
        await lists(page, "- - - BridgeError", TEN, "- - - BridgeError", "- - - BridgeError")
        await show(page, bridge=scene.bridge.url, tasks=[])
        await scene.reaches(STREAMS, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_encoded_refs_and_failures_are_states(
    scene: Scene, browser: Browser, pages: dict[str, str], kind: str
) -> None:
    task = scene.id("a/50%/ü")
    error = {"code": "nsfw", "message": "not that"}
    ref = await scene.script("qingbo", task, qingbo(task, "failed", 5, error=error))
    encoded = "qingbo/" + ref.partition("/")[2].replace("/", "%2F").replace("ü", "%C3%BC")
    async with opened(browser, pages[kind]) as page:
        await show(page, bridge=scene.bridge.url, tasks=[ref, encoded])
        await lists(page, "failed 5 - -", "failed 5 - -")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_token_function_is_called_for_each_connection(
    browser: Browser, pages: dict[str, str], kind: str
) -> None:
    async with stage(allowed_origins='["*"]', **TOKEN_SETTINGS) as guarded:
        task, ref = await begun(guarded)
        async with opened(browser, pages[kind]) as page:
            await show(page, bridge=guarded.bridge.url, tasks=[ref], token=token(ref))
            await lists(page, TEN)
            await guarded.then("qingbo", task, qingbo_done(task))
            await lists(page, DONE)
            await show(page, bridge=guarded.bridge.url, tasks=["qingbo/other"], token=token(ref))
            await lists(page, "- - - BridgeError")


@pytest.mark.parametrize("kind", ["react", "react18"])
async def test_a_component_follows_a_list(
    scene: Scene, browser: Browser, pages: dict[str, str], kind: str
) -> None:
    (task, ref), (_, other) = await begun(scene), await begun(scene, 20)
    async with opened(browser, pages[kind]) as page:
        asked = {"bridge": scene.bridge.url, "tasks": [ref]}
        await show(page, **asked, list=[other, ref, other])
        await page.wait_for_selector(f"p:has-text('processing 20 - -, {TEN}, processing 20 - -')")
        await scene.then("qingbo", task, qingbo_done(task))
        await page.wait_for_selector(f"p:has-text('processing 20 - -, {DONE}, processing 20 - -')")
        await lists(page, DONE)
        assert await page.evaluate("opened") == 1


async def test_the_recipe_fills_the_cache_of_tanstack_query(
    scene: Scene, browser: Browser, pages: dict[str, str]
) -> None:
    task, ref = await begun(scene)
    bad = scene.id()
    failed = await scene.script(
        "qingbo", bad, qingbo(bad, "failed", 5, error={"code": "x", "message": "not that"})
    )
    async with opened(browser, pages["query"]) as page:
        await show(page, bridge=scene.bridge.url, tasks=[ref, ref])
        await lists(page, f"{TEN} fetching", f"{TEN} fetching")
        await scene.reaches(STREAMS, 1)
        await scene.then("qingbo", task, qingbo_done(task))
        await lists(page, f"{DONE} idle", f"{DONE} idle")
        await show(page, bridge=scene.bridge.url, tasks=[failed, ref])
        await lists(page, "failed 5 - TaskFailed idle", f"{DONE} idle")
        _, third = await begun(scene)
        await show(page, bridge=scene.bridge.url, tasks=[third])
        await lists(page, f"{TEN} fetching")
        await show(page, bridge=scene.bridge.url, tasks=[])
        await scene.reaches(STREAMS, 0)
