"""The pages of the recipes in the distribution's Chromium."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from playwright.async_api import Browser, Page

from tests.browser.chromium import new_page, origin
from tests.conftest import missing
from tests.docs.pages import ROOT
from tests.docs.recipes import RECIPES, needed

HERE = Path(__file__).parent
SHELL = "<!doctype html><main></main><script>BRIDGE = '{}'</script><script type=module src={}></script>"
WRITTEN_IN_THE_PAGE = "http://127.0.0.1:8080"


def bundled(folder: Path) -> Path:
    """The recipes that need a build, built."""
    if not (ROOT / "tests" / "tools" / "node_modules" / "esbuild").is_dir():
        missing("npm esbuild")
    command = [needed("node"), str(HERE / "bundle.mjs"), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def shell(bridge: str, script: str) -> str:
    """The page an app puts a component into."""
    return SHELL.format(bridge, script)


_REMEMBER = """
    window.said = [];
    new MutationObserver((changes) => {
        for (const change of changes) window.said.push(change.target.textContent ?? "");
    }).observe(document, { subtree: true, childList: true, characterData: true });
"""


@asynccontextmanager
async def visited(
    browser: Browser, url: str, cookies: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Page, list[str]]]:
    """A page, as a visitor of its own; and what went wrong in its scripts, which must stay nothing."""
    context = await browser.new_context()
    try:
        for name, value in (cookies or {}).items():
            await context.add_cookies([{"name": name, "value": value, "url": url}])
        page, errors = await new_page(context, _REMEMBER)
        await page.goto(url)
        yield page, errors
    finally:
        await context.close()
    assert errors == []


@asynccontextmanager
async def site(folder: Path, bridge: Callable[[], str]) -> AsyncIterator[str]:
    """Where the pages are: another origin than the bridge's."""

    async def plain(_: web.Request) -> web.Response:
        text = (RECIPES / "page" / "index.html").read_text("utf-8")
        assert WRITTEN_IN_THE_PAGE in text
        return web.Response(text=text.replace(WRITTEN_IN_THE_PAGE, bridge()), content_type="text/html")

    async def component(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return web.Response(text=shell(bridge(), f"/{name}.js"), content_type="text/html")

    app = web.Application()
    app.router.add_get("/page", plain)
    app.router.add_get("/{name:react|vue}", component)
    app.router.add_static("/", folder)
    async with origin(app) as url:
        yield url


async def has_said(page: Page, text: str) -> None:
    """Wait until the page says this, or has said it before: one line for all notices shows the newest."""
    said = "(text) => window.said.some((one) => one.includes(text))"
    await page.wait_for_function(said, arg=text, polling=20)


async def shows(page: Page, text: str) -> None:
    """Wait until the page says this."""
    await page.wait_for_function("(text) => document.body.innerText.includes(text)", arg=text, polling=20)
