"""Requests can be tried at `/docs`: with a token, below a prefix, and with nothing from another host."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from playwright.async_api import Browser, Locator, expect

from tests.browser.chromium import origin
from tests.browser.inspecting import GONE, Inspector, inspecting, shared_browser, shared_loop
from tests.e2e.scene import Scene, stage
from tests.e2e.test_ops_address import apart
from tests.fakes.credentials import TOKEN_SETTINGS, token
from tests.harness import qingbo

pytestmark = pytest.mark.anyio

anyio_backend, browser = shared_loop, shared_browser


@asynccontextmanager
async def stripping(scene: Scene, prefix: str) -> AsyncIterator[str]:
    """A proxy before the bridge that leaves out a prefix and names it; its URL with the prefix."""

    async def forward(request: web.Request) -> web.Response:
        path = request.raw_path.removeprefix(prefix)
        headers = {name: text for name, text in request.headers.items() if name != "Host"}
        headers["X-Forwarded-Prefix"] = prefix
        async with scene.http.request(request.method, scene.bridge.url + path, headers=headers) as answer:
            kept = {name: text for name, text in answer.headers.items() if name != "Content-Length"}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    app = web.Application()
    app.router.add_route("*", prefix + "/{path:.*}", forward)
    async with origin(app) as url:
        yield url + prefix


async def task(scene: Scene) -> str:
    name = scene.id()
    await scene.script("qingbo", name, qingbo(name, "processing", 30))
    return name


async def tried(seen: Inspector, name: str) -> Locator:
    """The response to `GET /v1/tasks/qingbo/NAME`, tried in the page."""
    operation = seen.page.locator("#operations-tasks-getTask")
    if not await operation.locator(".opblock-body").count():
        await operation.locator(".opblock-summary-control").click()
    await operation.locator("[data-param-name=upstream] input").fill("qingbo")
    await operation.locator("[data-param-name=task_id] input").fill(name)
    await operation.get_by_role("button", name="Execute").click()
    return operation.locator(".live-responses-table")


async def test_a_request_is_tried_below_a_prefix_and_nothing_comes_from_elsewhere(browser: Browser) -> None:
    async with (
        stage(trusted_proxies=["127.0.0.1"]) as scene,
        stripping(scene, "/base") as url,
        inspecting(browser) as seen,
    ):
        name = await task(scene)
        await seen.page.goto(f"{url}/docs")
        response = await tried(seen, name)
        await expect(response).to_contain_text(f'"task": "qingbo/{name}"')
        assert f"{url}/v1/tasks/qingbo/{name}" in {asked.url for asked in seen.asked}
        assert all(asked.url.startswith((url, "data:")) for asked in seen.asked)
        await seen.page.emulate_media(color_scheme="dark")
        await expect(seen.page.locator("html.dark-mode")).to_have_count(1)


async def test_a_token_is_sent_once_it_was_given(browser: Browser, free_tcp_port: int) -> None:
    """Where tokens are required, the page is on the admin address, and the bridge allows it by its origin."""
    settings = TOKEN_SETTINGS | {"allowed_origins": ["*"]}
    async with apart(port=free_tcp_port, **settings) as (scene, operations):
        name = await task(scene)
        async with inspecting(browser, expected=[GONE]) as seen:
            await seen.page.goto(f"{operations}/docs")
            await expect(await tried(seen, name)).to_contain_text("401")
            await seen.page.get_by_role("button", name="Authorize").first.click()
            await seen.page.locator(".auth-container input").first.fill(token("*"))
            await seen.page.locator(".auth-btn-wrapper .authorize").first.click()
            await seen.page.locator(".btn-done").first.click()
            await expect(await tried(seen, name)).to_contain_text(f'"task": "qingbo/{name}"')
