"""The npm package in an app of Next.js: on the server and in the page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.async_api import Browser

from tests.browser.chromium import new_page
from tests.chaos.proxy import free_port
from tests.docs.programs import started
from tests.e2e.scene import Scene
from tests.harness import qingbo, qingbo_done
from tests.packages.projects import Project

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def app(project: Callable[[str], Project]) -> Project:
    """The app, built for production."""
    made = project("next")
    made.run(made.bin("next"), "build")
    return made


async def test_a_page_is_rendered_on_the_server_and_follows_its_task_in_the_browser(
    app: Project, scene: Scene, browser: Browser
) -> None:
    one, other = scene.id(), scene.id()
    ref = await scene.script("qingbo", one, qingbo(one, "processing", 10))
    done = await scene.script("qingbo", other, qingbo_done(other))
    port = str(free_port())
    environment = {"BRIDGE_URL": scene.bridge.url, "NEXT_TELEMETRY_DISABLED": "1"}
    command = (app.bin("next"), "start", "--hostname", "127.0.0.1", "--port", port)
    async with started(*command, environment=environment, cwd=app.folder) as server:
        await server.line("Ready in")
        url = f"http://127.0.0.1:{port}/?task={ref}&done={done}"
        async with scene.http.get(url, headers={"Accept-Encoding": "identity"}) as page:
            html = await page.text()
        assert '<p id="task">loading</p>' in html
        assert '<p id="done">completed</p>' in html
        await scene.reaches('bridge_connections{delivery="sse"}', 0)
        context = await browser.new_context()
        tab, errors = await new_page(context)
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        await tab.goto(url)
        await tab.wait_for_selector("#task:has-text('processing')")
        await scene.then("qingbo", one, qingbo_done(one))
        await tab.wait_for_selector("#task:has-text('completed')")
        await scene.reaches('bridge_connections{delivery="sse"}', 0)
        await context.close()
        assert [one for one in errors if "favicon" not in one and "404" not in one] == []
