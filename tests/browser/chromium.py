"""The distribution's Chromium and the origin of its pages: what every test with a browser starts with."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.conftest import missing
from tests.harness import PATIENCE

CHROMIUM = "chromium"
HOST = "127.0.0.1"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@asynccontextmanager
async def launch_chromium(*arguments: str) -> AsyncIterator[Browser]:
    """One browser for many pages, with further arguments."""
    program = shutil.which(CHROMIUM)
    if program is None:
        missing(CHROMIUM)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=program, headless=True, args=[*ARGUMENTS, *arguments]
        )
        try:
            yield browser
        finally:
            await browser.close()


async def new_page(context: BrowserContext, init_script: str | None = None) -> tuple[Page, list[str]]:
    """A page that waits as long as all tests do, and the errors its scripts will raise."""
    page, errors = await context.new_page(), []
    page.set_default_timeout(PATIENCE * 1000)
    if init_script is not None:
        await page.add_init_script(init_script)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page, errors


@asynccontextmanager
async def origin(app: web.Application) -> AsyncIterator[str]:
    """Serve pages from another origin than the bridge's; its URL, without a slash at the end."""
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def one_page(file: Path) -> web.Application:
    """An app that serves this file at `/`."""

    async def serve(_: web.Request) -> web.FileResponse:
        return web.FileResponse(file)

    app = web.Application()
    app.router.add_get("/", serve)
    return app
